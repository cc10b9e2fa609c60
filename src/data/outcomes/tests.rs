use std::io::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/outcomes").join(name)
}

fn all(path: &Path, options: &Options) -> Result<(Format, Vec<Made>), String> {
    let mut made = Vec::new();
    let read = read(path, "f", options, &mut |one| {
        made.push(one);
        Ok(())
    });
    read.map(|format| (format, made)).map_err(|e| e.to_string())
}

fn of(name: &str, text: &[u8]) -> Result<(Format, Vec<Made>), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    all(&path, &Options::default())
}

fn refused(name: &str, text: &[u8]) -> String {
    of(name, text).unwrap_err()
}

#[test]
fn plain_lines_keep_all_that_they_tell() {
    let (format, made) = of(
        "a.jsonl",
        b"\xef\xbb\xbf{\"id\": 7, \"output\": \"x\", \"correct\": true, \"latency_ms\": 12.5, \"tokens_in\": 3, \"tokens_out\": 4, \"usd\": 0.01}\r\n\n\
          {\"question\": \"q\", \"output\": {\"a\": 1}, \"score\": 0.25, \"sample\": 2, \"candidate\": \"m\"}",
    )
    .unwrap();
    assert_eq!(format, Format::Jsonl);
    let [a, b] = &made[..] else { panic!("{made:?}") };
    assert_eq!((a.id.as_deref(), a.correct, a.latency_ms), (Some("7"), Some(true), Some(12.5)));
    assert_eq!((a.tokens_in, a.tokens_out, a.usd, a.line), (Some(3), Some(4), Some(0.01), 1));
    assert_eq!((b.field("question").as_deref(), b.output.as_str()), (Some("q"), "{\"a\":1}"));
    assert_eq!((b.score, b.repeat, b.by.as_str(), b.line), (Some(0.25), Repeat::Number(2), "m", 3));
}

#[test]
fn a_table_says_the_same_as_lines() {
    let text = "id,output,correct,score,latency_ms\nr1,\"a, \"\"b\"\"\nc\",TRUE,,3.5\nr2,,no,0.5,\n";
    let (format, made) = of("a.csv", text.as_bytes()).unwrap();
    assert_eq!(format, Format::Csv);
    let told: Vec<_> =
        made.iter().map(|m| (m.id.as_deref().unwrap(), m.output.as_str(), m.correct, m.score)).collect();
    assert_eq!(told, [("r1", "a, \"b\"\nc", Some(true), None), ("r2", "", Some(false), Some(0.5))]);
    assert_eq!(made[1].line, 4);
    assert_eq!(made[0].latency_ms, Some(3.5));
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let ok = "{\"id\": 1, \"correct\": true}\n";
    for (line, says) in [
        ("nonsense", "not valid JSON"),
        ("[1]", "expected an object"),
        ("{\"id\": 1}", "`correct` or `score` is expected"),
        ("{\"id\": 1, \"correct\": \"perhaps\"}", "neither true nor false"),
        ("{\"id\": 1, \"correct\": 2}", "neither true nor false"),
        ("{\"id\": 1, \"score\": \"high\"}", "no finite number"),
        ("{\"id\": 1, \"score\": \"nan\"}", "no finite number"),
        ("{\"id\": 1, \"score\": 1e999}", "out of range"),
        ("{\"id\": 1, \"score\": 1, \"latency_ms\": -1}", "at least 0"),
        ("{\"id\": 1, \"score\": 1, \"tokens_in\": 1.5}", "whole number"),
        ("{\"id\": 1, \"score\": 1, \"sample\": 99999999999}", "too much"),
    ] {
        let said = refused("a.jsonl", format!("{ok}\n{line}\n").as_bytes());
        assert!(said.starts_with("f:3: ") && said.contains(says), "{line}: {said}");
    }
    let said = refused("a.jsonl", b"{\"id\": 1, \"correct\": true}\n{\"id\": \"\xff\", \"correct\": true}\n");
    assert!(said.starts_with("f:2: ") && said.contains("UTF-8"), "{said}");
    let long = format!("{ok}{{\"id\": 1, \"output\": \"{}\"}}\n", "x".repeat(5 << 20));
    assert!(refused("a.jsonl", long.as_bytes()).starts_with("f:2: the row is over 4 MiB"));
}

#[test]
fn files_of_other_kinds_are_refused_with_advice() {
    for (name, bytes, says) in [
        ("a.jsonl", &b""[..], "empty"),
        ("a.jsonl", b" \n\n", "empty"),
        ("a.jsonl", b"\x1f\x8b\x08rest", "gunzip"),
        ("a.jsonl", b"\xff\xfe{\x00", "UTF-16"),
        ("a.txt", b"hello", "no format known here"),
    ] {
        let said = refused(name, bytes);
        assert!(said.contains(says), "{name}: {said}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(all(dir.path(), &Options::default()).unwrap_err().contains("no regular file"));
    let big = dir.path().join("big.jsonl");
    std::fs::File::create(&big).unwrap().set_len(FILE_MAX + 1).unwrap();
    assert!(all(&big, &Options::default()).unwrap_err().contains("over 4 GiB"));
    let no_results = Options { format: Some(Format::Promptfoo), ..Options::default() };
    let path = dir.path().join("a.json");
    std::fs::write(&path, "{\n\"a\": {\"results\": [1]}\n}").unwrap();
    assert!(all(&path, &no_results).unwrap_err().contains("no array `results`"));
}

#[test]
fn samples_of_lm_eval_tell_documents_filters_and_answers() {
    let (format, made) = all(&fixture("samples_gsm8k.jsonl"), &Options::default()).unwrap();
    assert_eq!(format, Format::LmEval);
    let told: Vec<_> = made.iter().map(|m| (m.by.as_str(), m.output.as_str(), m.correct)).collect();
    let expected = [
        ("strict-match", "18", Some(true)),
        ("strict-match", "[invalid]", Some(false)),
        ("flexible-extract", "18", Some(true)),
        ("flexible-extract", "3", Some(true)),
    ];
    assert_eq!(told, expected);
    assert!(made[0].field("question").unwrap().starts_with("Janet"));
    assert_eq!(made[0].field("doc_id").as_deref(), Some("0"));
    assert_eq!(made[0].id, None, "the number of a document is no row's id");
    assert!(made[0].prompt.as_ref().unwrap().starts_with("Question: Janet"));
}

#[test]
fn of_choices_the_likeliest_is_the_answer() {
    let (_, made) = all(&fixture("samples_arc_easy.jsonl"), &Options::default()).unwrap();
    let told: Vec<_> = made.iter().map(|m| (m.id.as_deref().unwrap(), m.output.as_str(), m.score)).collect();
    assert_eq!(told, [("Mercury_1", "the Sun", Some(1.0)), ("Mercury_2", "a rock", Some(0.0))]);
    let norm = Options { score: Some("acc_norm".into()), ..Options::default() };
    let (_, made) = all(&fixture("samples_arc_easy.jsonl"), &norm).unwrap();
    assert_eq!(made.iter().map(|m| m.score).collect::<Vec<_>>(), [Some(0.0), Some(1.0)]);
    let unknown = Options { score: Some("bleu".into()), ..Options::default() };
    let said = all(&fixture("samples_arc_easy.jsonl"), &unknown).unwrap_err();
    assert!(said.contains("f:1: has no `bleu`") && said.contains("acc, acc_norm"), "{said}");
}

#[test]
fn filters_without_names_are_told_apart_by_their_round_and_repeats_are_samples() {
    let line = |doc: u32, responses: &str| {
        format!(
            "{{\"doc_id\": {doc}, \"doc\": {{\"q\": \"{doc}\"}}, \"target\": \"1\", \"resps\": [[\"r\"]], \"filtered_resps\": {responses}, \"exact_match\": 1.0}}\n"
        )
    };
    let text =
        [line(0, "[\"a\"]"), line(1, "[\"b\"]"), line(0, "[\"c\"]"), line(1, "[[\"d\", \"e\"]]")].concat();
    // Early versions wrote one array.
    let array = format!("[\n{}]", text.trim_end().replace('\n', ",\n"));
    for (name, text) in [("samples.jsonl", text.clone()), ("samples.json", array)] {
        let (format, made) = of(name, text.as_bytes()).unwrap();
        assert_eq!(format, Format::LmEval);
        let told: Vec<_> =
            made.iter().map(|m| (m.by.as_str(), m.output.as_str(), m.repeat, m.score)).collect();
        let first = Repeat::Number(0);
        let expected = [
            ("", "a", first, Some(1.0)),
            ("", "b", first, Some(1.0)),
            ("filter-2", "c", first, Some(1.0)),
            ("filter-2", "d", first, None),
            ("filter-2", "e", Repeat::Number(1), None),
        ];
        assert_eq!(told, expected, "{name}");
    }
}

#[test]
fn results_of_promptfoo_tell_each_provider_with_tokens_latency_and_price() {
    let (format, made) = all(&fixture("promptfoo.json"), &Options::default()).unwrap();
    assert_eq!(format, Format::Promptfoo);
    let told: Vec<_> = made.iter().map(|m| (m.by.as_str(), m.output.as_str(), m.correct)).collect();
    let expected = [
        ("openai:gpt-4o-mini", "cards", Some(true)),
        ("local", "loans", Some(false)),
        ("openai:gpt-4o-mini", "{\"team\":\"app\"}", Some(false)),
        ("local", "", Some(false)),
        ("openai:gpt-4o-mini prompt 2", "cards", Some(true)),
    ];
    assert_eq!(told, expected);
    let first = &made[0];
    assert_eq!((first.tokens_in, first.tokens_out), (Some(31), Some(2)));
    assert_eq!((first.usd, first.latency_ms), (Some(0.000_005_9), Some(412.0)));
    assert_eq!((first.repeat, first.field("message").as_deref()), (Repeat::Next, Some("my card is gone")));
    assert_eq!(first.error, None, "an assertion that failed is no failure of the test");
    let cached = &made[2];
    assert_eq!((cached.latency_ms, cached.tokens_in, cached.usd), (None, None, None), "from the cache");
    assert!(made[3].error.as_ref().unwrap().contains("503") && made[3].latency_ms.is_none());
    assert_eq!(made[1].id.as_deref(), Some("m1"), "of the test's metadata");
    let named = Options { score: Some("polite".into()), ..Options::default() };
    let said = all(&fixture("promptfoo.json"), &named).unwrap_err();
    assert!(said.contains("no score `polite`") && said.starts_with("f:"), "{said}");
}

#[test]
fn the_lines_of_promptfoo_and_its_older_files_read_the_same() {
    let text = std::fs::read_to_string(fixture("promptfoo.json")).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let results = whole["results"]["results"].as_array().unwrap();
    let plain = |made: Vec<Made>| -> Vec<Made> { made.into_iter().map(|m| Made { line: 0, ..m }).collect() };
    let (_, expected) = all(&fixture("promptfoo.json"), &Options::default()).unwrap();
    let expected = plain(expected);
    let lines: String = results.iter().map(|r| format!("{r}\n")).collect();
    let minified = whole.to_string();
    let older =
        json!({ "config": { "results": {} }, "version": 2, "results": results, "stats": {} }).to_string();
    for (name, text) in [("a.jsonl", lines), ("a.json", minified), ("b.json", older)] {
        let (format, made) = of(name, text.as_bytes()).unwrap();
        assert_eq!((format, plain(made)), (Format::Promptfoo, expected.clone()), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes: an answer or an error, never a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), name in "a\\.(json|jsonl|csv|txt)") {
        let _ = of(&name, &bytes);
    }

    /// However the JSON is laid out, the array is found where it is, and nowhere else.
    #[test]
    fn the_results_are_found_in_any_layout(before in "[a-z\\[\\]{}\\\\\"]{0,12}", n in 0usize..5, pretty in any::<bool>()) {
        let items: Vec<Value> = (0..n).map(|i| json!({ "vars": { "q": format!("[{i}") }, "success": true, "response": { "output": "}" } })).collect();
        let whole = json!({ "x": { "results": [{ "no": before }] }, before.clone(): [before], "results": { "a": { "results": 1 }, "results": items, "z": [1] } });
        let text = if pretty { serde_json::to_string_pretty(&whole) } else { serde_json::to_string(&whole) }.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        prop_assume!(before != "results" && before != "x");
        let (format, made) = all(&path, &Options::default()).unwrap();
        prop_assert_eq!((format, made.len()), (Format::Promptfoo, n));
    }
}
