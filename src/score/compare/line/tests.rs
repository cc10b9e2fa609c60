use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::domain::judge::Judged;
use crate::domain::outcome::{Elsewhere, StageOutcome};

/// Texts with all that a line can have in it.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z ]{0,20}",
        "\\PC{0,12}",
        prop::collection::vec(
            select(vec!['"', '\\', '\n', '\t', '\u{1}', 'é', '😀', '\u{7f}', '/', 'a']),
            0..24
        )
        .prop_map(|chars| chars.into_iter().collect()),
    ]
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        select(vec![0.0, 1.0, -0.0, 0.5, 1e-7, 3.25e22, 1e300, f64::MIN_POSITIVE, f64::MAX, 11.5]),
        any::<f64>().prop_map(|x| if x.is_finite() { x } else { 0.25 }),
    ]
}

fn stage() -> impl Strategy<Value = StageOutcome> {
    let numbers = (any::<u64>(), 0..u64::MAX, number(), number(), any::<bool>(), any::<u32>());
    let rest =
        (any::<bool>(), 0..3u32, 0..3u32, select(vec![0.0, 12.5]), any::<bool>(), prop::option::of(number()));
    (text(), text(), numbers, rest).prop_map(|(stage, output, n, r)| StageOutcome {
        stage,
        output,
        tokens_in: n.0 >> 3,
        tokens_out: n.1,
        ttft_ms: n.2,
        ms: n.3,
        format_ok: n.4,
        retries: n.5,
        skipped: r.0,
        cached: r.1,
        masked: r.2,
        waited_ms: r.3,
        estimated: r.4,
        probability: r.5,
    })
}

/// Outcomes with all fields that there are.
pub fn outcome() -> impl Strategy<Value = Outcome> {
    let key = (select(vec!["r1", "r2", "r3", "a \"row\""]), select(vec!["h", "g"]), 0..3u32);
    let part = prop::option::of(select(Part::ALL.to_vec()));
    let scores = prop::collection::btree_map(select(vec!["accuracy", "json_fields", "x\"y"]), number(), 0..4);
    let unscored = prop::collection::btree_map(text(), text(), 0..2);
    let ends = (
        prop::option::of(number()),
        prop::option::of(text()),
        prop::option::weighted(0.1, Just(Elsewhere::default())),
        prop::collection::vec(
            Just(Judged { judge: "j".into(), right: Some(true), ..Judged::default() }),
            0..2,
        ),
    );
    let texts = (prop::option::of(text()), text(), prop::option::of(text()), prop::option::of(any::<bool>()));
    (key, part, texts, (scores, unscored), prop::collection::vec(stage(), 0..3), ends).prop_map(
        |(key, part, texts, (scores, unscored), stages, ends)| Outcome {
            row: key.0.into(),
            row_hash: key.1.into(),
            sample: key.2,
            part,
            stratum: texts.0,
            output: texts.1,
            gold: texts.2,
            correct: texts.3,
            scores: scores.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            unscored,
            stages,
            latency_ms: ends.0,
            error: ends.1,
            elsewhere: ends.2,
            judged: ends.3,
        },
    )
}

/// As a line is read that is not scanned.
fn whole(line: &[u8], metric: &Metric) -> Option<Fields<'static>> {
    let outcome: Outcome = serde_json::from_slice(line).ok()?;
    Some(Fields::of(&outcome, metric).into_owned())
}

#[test]
fn a_line_as_an_evaluation_writes_it_is_scanned() {
    let line = r#"{"row":"r1","row_hash":"ab","part":"eval","stratum":"a \"b\"","sample":2,"output":"x\ny\u00e9","gold":"x","correct":true,"scores":{"accuracy":1.0,"json_fields":2.5e-7},"stages":[{"stage":"s","output":"x","tokens_in":80,"tokens_out":3,"ttft_ms":11.5,"ms":21.25,"format_ok":true,"retries":0,"probability":0.5}],"latency_ms":12.0}"#;
    let got = scan(line, "json_fields").unwrap();
    assert_eq!((&*got.output, got.stratum.as_deref(), got.score), ("x\nyé", Some("a \"b\""), Some(2.5e-7)));
    assert_eq!(scan(line, "rouge_l"), None, "it is worked out from the answer");
    // What serde refuses, and what only it can tell.
    for (from, to) in [
        ("\"tokens_in\":80", "\"tokens_in\":080"),
        ("\"tokens_in\":80", "\"tokens_in\":-80"),
        ("\"ms\":21.25", "\"ms\":021.25"),
        ("\"ms\":21.25", "\"ms\":1e999"),
        ("\"ms\":21.25", "\"ms\":null"),
        ("\"sample\":2", "\"sample\":4294967296"),
        ("\\u00e9", "\\ud800"),
        ("\\u00e9", "\\x"),
        ("\\u00e9", "\t"),
        ("\"part\":\"eval\"", "\"part\":\"Eval\""),
        ("12.0}", "12.0} "),
        ("12.0}", "12.0}x"),
        ("12.0}", "12.0"),
        ("\"sample\":2,", ""),
    ] {
        let other = line.replace(from, to);
        assert_ne!(other, line);
        assert_eq!(scan(&other, "accuracy"), None, "{to}");
        let metric = Metric::find("accuracy").unwrap();
        assert_eq!(fields(other.as_bytes(), &metric), whole(other.as_bytes(), &metric), "{to}");
    }
}

proptest! {
    /// Every line that we write is scanned, judged answers and those made elsewhere aside, and says what the whole outcome says.
    #[test]
    fn the_scan_says_what_the_whole_line_says(outcome in outcome(), key in select(vec!["accuracy", "json_fields"])) {
        let metric = Metric::comparable(key).unwrap();
        let line = serde_json::to_string(&outcome).unwrap();
        let read: Outcome = serde_json::from_str(&line).unwrap();
        let scanned = scan(&line, key);
        let numbers = outcome.latency_ms.iter().chain(outcome.scores.values()).copied()
            .chain(outcome.stages.iter().flat_map(|s| [s.ttft_ms, s.ms, s.probability.unwrap_or(0.0)]));
        let odd = outcome.elsewhere.is_some() || !outcome.judged.is_empty() || outcome.scores.contains_key("x\"y")
            || outcome.stages.iter().any(|s| s.tokens_out >= 10_u64.pow(19))
            || numbers.into_iter().any(|n| n != 0.0 && !(1e-90..1e90).contains(&n.abs()));
        if outcome.scores.contains_key(key) && !odd {
            prop_assert!(scanned.is_some(), "{}", line);
        }
        if let Some(scanned) = scanned {
            prop_assert_eq!(scanned, Fields::of(&read, &metric));
        }
    }

    /// However a line is damaged: scanned or not, it is what the whole reading makes of it.
    #[test]
    fn damage_is_seen_as_the_whole_reading_sees_it(
        outcome in outcome(),
        at in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, select(b"\"\\{}[],:0019-.eEntu \x00\x1f\x7f\xc3\xff".to_vec())), 1..4),
    ) {
        let metric = Metric::comparable("accuracy").unwrap();
        let mut line = serde_json::to_vec(&outcome).unwrap();
        for (index, how, byte) in at {
            if line.is_empty() {
                break;
            }
            let at = index.index(line.len());
            match how {
                0 => line[at] = byte,
                1 => line.insert(at, byte),
                2 => { line.remove(at); }
                _ => line.truncate(at.max(1)),
            }
        }
        prop_assert_eq!(fields(&line, &metric), whole(&line, &metric));
    }

    #[test]
    fn the_first_special_byte_is_found(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let want = bytes.iter().position(|b| *b < 0x20 || *b == b'"' || *b == b'\\');
        prop_assert_eq!(special(&bytes), want);
    }
}
