use proptest::prelude::*;

use super::*;

/// As another process sees it: not the one that this process has open.
fn cache(dir: &Path, limit: u64) -> Cache {
    files::private_dir(dir).unwrap();
    let cache = Cache { dir: dir.to_owned(), limit, state: Mutex::new(State::default()) };
    cache.refresh();
    cache
}

fn look_again(cache: &Cache) {
    cache.lock().looked = None;
    cache.refresh();
}

fn key(n: u64) -> Key {
    *blake3::hash(&n.to_le_bytes()).as_bytes().first_chunk().unwrap()
}

fn json(n: u64) -> Vec<u8> {
    format!("{{\"text\":\"answer {n}\"}}").into_bytes()
}

const LARGE: u64 = 1 << 30;

#[test]
fn processes_write_segments_of_their_own_and_read_each_others() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (cache(temp.path(), LARGE), cache(temp.path(), LARGE));
    a.put(key(1), &json(1));
    b.put(key(2), &json(2));
    a.put(key(3), &json(3));
    assert_eq!(list(temp.path()).unwrap().len(), 2);
    assert_eq!(b.get(&key(1)), None, "not looked for yet");
    look_again(&b);
    assert_eq!(b.get(&key(1)), Some(json(1)));
    assert_eq!(b.get(&key(3)), Some(json(3)));
    drop(a);
    // A segment without a writer is written on.
    let c = cache(temp.path(), LARGE);
    c.put(key(4), &json(4));
    assert_eq!(list(temp.path()).unwrap().len(), 2);
    look_again(&b);
    assert_eq!(b.get(&key(4)), Some(json(4)));
    assert_eq!(survey(temp.path()).unwrap().answers, 4);
}

#[test]
fn the_oldest_segments_go_when_the_limit_is_reached_and_a_writers_never() {
    let temp = tempfile::tempdir().unwrap();
    let limit = 16 << 10;
    let other = cache(temp.path(), limit);
    other.put(key(9_999), &json(9_999));
    let cache = cache(temp.path(), limit);
    for n in 0..2_000 {
        cache.put(key(n), &json(n));
    }
    let bytes: u64 = list(temp.path()).unwrap().iter().map(|(_, _, m)| m.len()).sum();
    assert!(bytes <= limit + limit / 8, "{bytes}");
    assert_eq!(cache.get(&key(0)), None);
    assert_eq!(cache.get(&key(1_999)), Some(json(1_999)));
    assert_eq!(other.get(&key(9_999)), Some(json(9_999)));
    look_again(&cache);
    assert_eq!(cache.get(&key(9_999)), Some(json(9_999)), "the oldest of all, but it is being written");
}

#[test]
fn damaged_lines_are_passed_over_counted_and_removed() {
    let temp = tempfile::tempdir().unwrap();
    let first = cache(temp.path(), LARGE);
    (0..3).for_each(|n| first.put(key(n), &json(n)));
    drop(first);
    let path = path_of(temp.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    bytes.extend_from_slice(b"\n\0\0\0\n{\"text\":");
    fs::write(&path, &bytes).unwrap();

    let later = cache(temp.path(), LARGE);
    assert_eq!([0, 1, 2].map(|n| later.get(&key(n)).is_some()), [true, false, true]);
    let seen = survey(temp.path()).unwrap();
    assert_eq!((seen.answers, seen.damaged), (2, 3));
    later.put(key(1), &json(1));
    assert_eq!(repair(temp.path()).unwrap(), 0, "it is being written");
    drop(later);
    assert_eq!(repair(temp.path()).unwrap(), 3);
    let seen = survey(temp.path()).unwrap();
    assert_eq!((seen.answers, seen.damaged), (3, 0));
    assert_eq!(clear(temp.path()).unwrap().1, 0);
    assert_eq!(survey(temp.path()).unwrap(), Survey::default());
}

#[test]
fn counts_of_several_processes_add_up() {
    let temp = tempfile::tempdir().unwrap();
    let caches = [cache(temp.path(), LARGE), cache(temp.path(), LARGE)];
    std::thread::scope(|scope| {
        for cache in &caches {
            scope.spawn(|| (0..50).for_each(|_| cache.count(2, 1)));
        }
    });
    assert_eq!(read_counts(temp.path()), (200, 100));
}

#[test]
fn a_link_in_place_of_a_segment_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    fs::write(&outside, line(&key(1), &json(1))).unwrap();
    let dir = temp.path().join("answers");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(&outside, path_of(&dir, 1)).unwrap();
    let cache = cache(&dir, LARGE);
    assert_eq!(cache.get(&key(1)), None);
    cache.put(key(2), &json(2));
    assert_eq!(fs::read(&outside).unwrap(), line(&key(1), &json(1)));
}

proptest! {
    /// Wherever a kill cuts a segment, the whole lines stay, the rest is lost, and writing goes on.
    #[test]
    fn a_cut_anywhere_loses_the_torn_line_only(count in 1u64..12, at in 0.0..1.0f64) {
        let temp = tempfile::tempdir().unwrap();
        let first = cache(temp.path(), LARGE);
        (0..count).for_each(|n| first.put(key(n), &json(n)));
        drop(first);
        let path = path_of(temp.path(), 1);
        let bytes = fs::read(&path).unwrap();
        let cut = (at * bytes.len() as f64) as usize;
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole = bytes[..cut].split(|b| *b == b'\n').count() as u64 - 1;
        let again = cache(temp.path(), LARGE);
        for n in 0..count {
            prop_assert_eq!(again.get(&key(n)), (n < whole).then(|| json(n)));
        }
        again.put(key(77), &json(77));
        let third = cache(temp.path(), LARGE);
        prop_assert_eq!(third.get(&key(77)), Some(json(77)));
        let seen = survey(temp.path()).unwrap();
        prop_assert_eq!((seen.answers as u64, seen.damaged), (whole + 1, 0));
    }
}
