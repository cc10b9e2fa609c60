use super::*;

#[test]
fn lookup_finds_what_followed_the_last_tokens_the_last_time() {
    let lookup = Lookup { ngram: 3, tokens: 8 };
    assert_eq!(lookup.guess(&[1, 2, 3, 9, 1, 2, 3, 7, 7, 1, 2, 3], 3), [7, 7, 1]);
    // The longest run counts, then the latest place.
    assert_eq!(lookup.guess(&[4, 2, 3, 8, 5, 2, 3, 6, 4, 2, 3], 1), [8]);
    // It may go on into itself.
    assert_eq!(lookup.guess(&[5, 5, 5, 5], 4), [5]);
    assert_eq!(lookup.guess(&[1, 2, 3, 4], 4), [] as [u32; 0]);
    assert_eq!(lookup.guess(&[1], 4), [] as [u32; 0]);
}

#[test]
fn guesses_grow_while_they_are_right_and_stop_while_they_are_wrong() {
    let mut drafter = Drafter::new(8);
    assert_eq!(drafter.wants(), 4);
    drafter.learn(4, 4);
    assert_eq!(drafter.wants(), 8);
    for _ in 0..3 {
        let n = drafter.wants();
        drafter.learn(n, 0);
    }
    assert_eq!((0..PAUSE).map(|_| drafter.wants()).sum::<usize>(), 0);
    assert!(drafter.wants() > 0);
}
