use super::*;
use proptest::prelude::*;

fn decoding(temperature: f32, top_k: Option<usize>, top_p: Option<f32>, seed: u64) -> Decoding {
    Decoding { temperature, top_k, top_p, seed, ..Decoding::default() }
}

fn chooser(decoding: &Decoding, prompt: &[u32]) -> Chooser {
    Chooser::new(decoding, prompt, None, None).unwrap()
}

/// How often each token comes in `n` draws.
fn shares(decoding: &Decoding, logits: &[f32], n: u32) -> Vec<f64> {
    let mut counts = vec![0.0; logits.len()];
    let mut chooser = chooser(decoding, &[1, 2]);
    for _ in 0..n {
        counts[chooser.next(logits).unwrap().id as usize] += 1.0 / f64::from(n);
    }
    counts
}

#[test]
fn temperature_zero_takes_the_first_of_the_likeliest() {
    let mut chooser = chooser(&decoding(0.0, None, None, 0), &[]);
    assert_eq!(chooser.next(&[0.0, 3.0, -1.0, 3.0]).unwrap().id, 1);
    assert_eq!(chooser.next(&[f32::NEG_INFINITY, -5.0]).unwrap().id, 1);
}

#[test]
fn draws_follow_the_softmax() {
    // Probabilities 0.5, 0.3, 0.15, 0.05.
    let logits = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln);
    let close = |got: Vec<f64>, want: [f64; 4]| {
        // Four deviations of a share of 20,000 draws.
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.0142), "{got:?} {want:?}");
    };
    close(shares(&decoding(1.0, None, None, 3), &logits, 20_000), [0.5, 0.3, 0.15, 0.05]);
    close(shares(&decoding(1.0, Some(2), None, 3), &logits, 20_000), [0.625, 0.375, 0.0, 0.0]);
    close(
        shares(&decoding(1.0, None, Some(0.81), 3), &logits, 20_000),
        [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0],
    );
    close(shares(&decoding(1.0, None, Some(0.1), 3), &logits, 200), [1.0, 0.0, 0.0, 0.0]);
    // Half the temperature squares the odds.
    let z = 0.25 + 0.09 + 0.0225 + 0.0025;
    let want = [0.25 / z, 0.09 / z, 0.0225 / z, 0.0025 / z];
    close(shares(&decoding(0.5, None, None, 3), &logits, 20_000), want);
}

#[test]
fn the_same_seed_and_prompt_draw_the_same() {
    let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
    let draw = |seed: u64, prompt: &[u32]| -> Vec<u32> {
        let mut chooser = chooser(&decoding(1.0, None, None, seed), prompt);
        (0..20).map(|_| chooser.next(&logits).unwrap().id).collect()
    };
    assert_eq!(draw(1, &[4]), draw(1, &[4]));
    assert_ne!(draw(1, &[4]), draw(2, &[4]));
    assert_ne!(draw(1, &[4]), draw(1, &[5]));
}

#[test]
fn settings_and_logits_that_make_no_sense_are_errors() {
    for bad in [
        decoding(-1.0, None, None, 0),
        decoding(f32::NAN, None, None, 0),
        decoding(1.0, Some(0), None, 0),
        decoding(1.0, None, Some(0.0), 0),
        decoding(1.0, None, Some(1.5), 0),
        Decoding { min_p: Some(1.5), ..Decoding::default() },
        Decoding { min_p: Some(f32::NAN), ..Decoding::default() },
        Decoding { repetition_penalty: Some(0.0), ..Decoding::default() },
        Decoding { stop: vec!["a".into(), String::new()], ..Decoding::default() },
    ] {
        assert!(Chooser::new(&bad, &[], None, None).is_err(), "{bad:?}");
    }
    let mut chooser = chooser(&decoding(1.0, None, None, 0), &[]);
    for logits in [&[0.0, f32::NAN][..], &[f32::INFINITY], &[], &[f32::NEG_INFINITY]] {
        assert!(chooser.next(logits).is_err());
    }
}

/// `tests/fixtures/sampling.json`, made by `tests/reference/sampling.py`.
#[derive(serde::Deserialize)]
struct Reference {
    logits: Vec<Vec<f32>>,
    log_softmax: Vec<Vec<f64>>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    settings: Settings,
    row: usize,
    tokens: Vec<u32>,
    probabilities: Vec<f64>,
    greedy: u32,
}

#[derive(Clone, Copy, Debug, serde::Deserialize)]
struct Settings {
    #[serde(default)]
    temperature: f32,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

fn reference() -> Reference {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sampling.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

impl Case {
    fn chooser(&self, temperature: f32) -> Chooser {
        let Settings { top_k, top_p, min_p, repetition_penalty, .. } = self.settings;
        let decoding =
            Decoding { temperature, top_k, top_p, min_p, repetition_penalty, ..Decoding::default() };
        chooser(&decoding, &self.tokens)
    }
}

#[test]
fn what_is_left_to_draw_from_is_what_the_warpers_of_transformers_leave() {
    let reference = reference();
    let mut drawn = 0;
    for case in reference.cases.iter().filter(|c| c.settings.temperature > 0.0) {
        let mut chooser = case.chooser(case.settings.temperature);
        let best = chooser.score(&reference.logits[case.row]).unwrap();
        chooser.cuts.cut(&chooser.scores, best);
        let mut got = vec![0.0; case.probabilities.len()];
        let total: f64 = chooser.cuts.kept().iter().map(|(w, _)| w).sum();
        for (w, id) in chooser.cuts.kept() {
            got[*id as usize] = w / total;
        }
        for (got, want) in got.iter().zip(&case.probabilities) {
            assert!((got - want).abs() < 1e-6, "{:?}: {got} {want}", case.settings);
        }
        drawn += 1;
    }
    assert!(drawn > 10);
}

#[test]
fn the_likeliest_after_the_penalty_is_that_of_transformers() {
    let reference = reference();
    for case in &reference.cases {
        let got = case.chooser(0.0).next(&reference.logits[case.row]).unwrap().id;
        assert_eq!(got, case.greedy, "{:?}", case.settings);
    }
}

#[test]
fn tokens_of_the_answer_are_penalized_too() {
    let decoding = Decoding { repetition_penalty: Some(3.0), ..Decoding::default() };
    let mut chooser = chooser(&decoding, &[0]);
    let logits = [2.0, 1.0, 0.9, -0.5];
    let made: Vec<u32> = (0..4).map(|_| chooser.next(&logits).unwrap().id).collect();
    assert_eq!(made, [1, 2, 0, 0]);
}

#[test]
fn log_probabilities_are_those_of_the_logits_whatever_is_drawn() {
    let reference = reference();
    for (logits, want) in reference.logits.iter().zip(&reference.log_softmax) {
        let decoding = Decoding {
            temperature: 2.0,
            top_k: Some(3),
            repetition_penalty: Some(1.5),
            seed: 5,
            ..Decoding::default()
        };
        let mut chooser = Chooser::new(&decoding, &[1, 2, 3], None, Some(4)).unwrap();
        let mut order: Vec<usize> = (0..want.len()).collect();
        order.sort_by(|&a, &b| want[b].total_cmp(&want[a]).then(a.cmp(&b)));
        for _ in 0..5 {
            let chosen = chooser.next(logits).unwrap();
            assert!((chosen.logprob.unwrap() - want[chosen.id as usize]).abs() < 1e-5);
            let ids: Vec<usize> = chosen.top.iter().map(|(id, _)| *id as usize).collect();
            assert_eq!(ids, order[..4]);
            assert!(chosen.top.iter().all(|(id, p)| (p - want[*id as usize]).abs() < 1e-5));
        }
    }
}

#[test]
fn plain_greedy_decoding_keeps_no_copy_of_the_logits() {
    let mut greedy = chooser(&Decoding::default(), &[3]);
    assert!(greedy.is_greedy());
    greedy.next(&vec![0.5; 150_000]).unwrap();
    assert_eq!((greedy.scores.capacity(), greedy.seen.capacity()), (0, 0));
    for other in [
        Decoding { temperature: 0.1, ..Decoding::default() },
        Decoding { repetition_penalty: Some(1.1), ..Decoding::default() },
    ] {
        assert!(!chooser(&other, &[3]).is_greedy());
    }
    assert!(chooser(&Decoding { repetition_penalty: Some(1.0), ..Decoding::default() }, &[3]).is_greedy());
}

#[test]
fn cuts_over_a_large_vocabulary_leave_what_sorting_it_leaves() {
    let logits: Vec<f32> =
        (0..30_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 6000.0).collect();
    let mut order: Vec<u32> = (0..30_000).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    let best = order[0] as usize;
    let mut cuts = Cuts::new(&decoding(0.5, Some(300), None, 0));
    cuts.cut(&logits, best);
    let mut got: Vec<u32> = cuts.kept().iter().map(|(_, id)| *id).collect();
    let last = logits[order[299] as usize];
    got.sort_unstable();
    let mut want: Vec<u32> = (0..30_000).filter(|&i| logits[i as usize] >= last).collect();
    want.sort_unstable();
    assert_eq!(got, want);
    assert_eq!(draw::likeliest(&logits, 7), order[..7]);

    let mut cuts = Cuts::new(&decoding(0.5, None, Some(0.9), 0));
    cuts.cut(&logits, best);
    let weight = |id: u32| f64::from((logits[id as usize] - logits[best]) / 0.5).exp();
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let mut sum = 0.0;
    let want = 1 + order
        .iter()
        .position(|&id| {
            sum += weight(id);
            sum >= 0.9 * total
        })
        .unwrap();
    let got = cuts.kept().len();
    assert!(got.abs_diff(want) <= 1, "{got} {want}");
    assert!(want > 100);
}

proptest! {
    #[test]
    fn a_draw_is_always_among_the_top_k(
        logits in prop::collection::vec(-20_f32..20.0, 1..40),
        k in 1_usize..10,
        p in 0.01_f32..1.0,
        seed: u64,
    ) {
        let mut chooser = chooser(&decoding(1.3, Some(k), Some(p), seed), &[]);
        let id = chooser.next(&logits).unwrap().id as usize;
        let above = logits.iter().filter(|l| **l > logits[id]).count();
        prop_assert!(above < k);
    }
}
