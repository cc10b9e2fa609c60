use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::tokenizer::tests::{MODELS, fixture};
use super::*;

/// Every tokenizer of the repository.
fn tokenizers() -> Vec<(PathBuf, Tokenizer)> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/demo/model");
    let dirs = MODELS.iter().map(|name| fixture(name)).chain([demo]);
    dirs.map(|dir| (dir.clone(), Tokenizer::load(&dir).unwrap())).collect()
}

fn text_of(bytes: &TokenBytes, ids: &[u32]) -> String {
    let all: Vec<u8> = ids.iter().flat_map(|id| bytes.bytes[*id as usize].clone()).collect();
    let text = String::from_utf8_lossy(&all).into_owned();
    match text.strip_prefix(' ') {
        Some(rest) if bytes.strips_space => rest.to_owned(),
        _ => text,
    }
}

/// Answers as a model would that likes each token by chance; ends where the constraint does. None: too long.
fn babble(grammars: &Grammars, tokenizer: &Tokenizer, constraint: &Constraint, seed: u64) -> Option<String> {
    use rand::{Rng as _, SeedableRng as _};
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut matcher = grammars.matcher(constraint).ok()?;
    let mut ids = Vec::new();
    for _ in 0..200 {
        let mut scores: Vec<f32> = (0..tokenizer.vocab() + 3).map(|_| rng.random()).collect();
        if let Err(e) = matcher.mask(&mut scores) {
            // The small tokenizers cannot write every character.
            assert!(e.to_string().contains("vocabulary"), "{e}");
            return None;
        }
        // No model has learnt to end; where it may, it does.
        if let Some(end) = tokenizer.eos().iter().find(|&&id| scores[id as usize] > f32::NEG_INFINITY) {
            assert!(matcher.accepts());
            assert!(matcher.take(*end).unwrap());
            return Some(tokenizer.decode(&ids).unwrap());
        }
        let id = crate::ops::vocabulary::argmax(&scores).unwrap() as u32;
        ids.push(id);
        if matcher.take(id).unwrap() {
            assert!(matcher.accepts());
            return Some(tokenizer.decode(&ids).unwrap());
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_bytes_of_the_tokens_of_a_text_are_the_text(text in "(\\PC|[ \n\t]|[a-z ]{1,8}){0,12}") {
        for (dir, tokenizer) in tokenizers() {
            let bytes = tokenizer.token_bytes().unwrap();
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(text_of(&bytes, &ids), tokenizer.decode(&ids).unwrap(), "{}", dir.display());
        }
    }
}

#[test]
fn end_and_other_special_tokens_are_none_of_the_text() {
    for (dir, tokenizer) in tokenizers() {
        let bytes = tokenizer.token_bytes().unwrap();
        let plain = Grammars::new(&tokenizer).unwrap();
        let mut matcher = plain.matcher(&Constraint::Regex("(?s:.*)".into())).unwrap();
        let mut scores = vec![0.0; tokenizer.vocab()];
        matcher.mask(&mut scores).unwrap();
        for (id, score) in scores.iter().enumerate() {
            let may = *score > f32::NEG_INFINITY;
            let end = tokenizer.eos().contains(&(id as u32));
            let text = !bytes.bytes[id].is_empty();
            assert!(may || !end, "{}: {id} ends", dir.display());
            assert!(!may || end || text, "{}: {id} is special", dir.display());
        }
    }
}

#[test]
fn answers_have_the_required_form_whatever_the_model_would_say() {
    let schema = json!({
        "type": "object",
        "properties": {
            "team": { "enum": ["cards", "fraud", "été"] },
            "urgent": { "type": "boolean" },
            "count": { "type": "integer", "minimum": 0, "maximum": 99 },
            "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" }, "maxItems": 2 }
        },
        "required": ["team", "urgent", "count", "tags"],
        "additionalProperties": false,
        "$defs": { "tag": { "type": "string", "pattern": "^[a-z]{2,4}$" } }
    });
    type Is = fn(&str) -> bool;
    let regexes: [(&str, Is); 6] = [
        ("[a-c]{2,5}", |t| (2..=5).contains(&t.len()) && t.bytes().all(|b| (b'a'..=b'c').contains(&b))),
        ("^(yes|no)$", |t| ["yes", "no"].contains(&t)),
        ("[0-9]{2}-[0-9]", |t| {
            let digits = t.bytes().enumerate().all(|(i, b)| i == 2 || b.is_ascii_digit());
            t.len() == 4 && t.as_bytes()[2] == b'-' && digits
        }),
        ("[éß]{1,3}x", |t| {
            let n = t.chars().count();
            t.ends_with('x') && (2..=4).contains(&n) && t.chars().take(n - 1).all(|c| "éß".contains(c))
        }),
        (r" ?a\$", |t| ["a$", " a$"].contains(&t)),
        ("a{3}|b", |t| ["aaa", "b"].contains(&t)),
    ];
    for (dir, tokenizer) in tokenizers() {
        let grammars = Grammars::new(&tokenizer).unwrap();
        let mut done = 0;
        for seed in 0..8 {
            for (regex, is) in regexes {
                let constraint = Constraint::Regex(regex.into());
                if let Some(text) = babble(&grammars, &tokenizer, &constraint, seed) {
                    assert!(is(&text), "{}: {text:?} of {regex}", dir.display());
                    done += 1;
                }
            }
            if let Some(text) = babble(&grammars, &tokenizer, &Constraint::Schema(schema.clone()), seed) {
                let value: Value = serde_json::from_str(&text).unwrap();
                assert!(["cards", "fraud", "été"].contains(&value["team"].as_str().unwrap()), "{text}");
                assert!(value["urgent"].is_boolean() && value["count"].as_u64().unwrap() < 100, "{text}");
                assert!(value["tags"].as_array().unwrap().len() <= 2, "{text}");
                done += 1;
            }
            if let Some(text) = babble(&grammars, &tokenizer, &Constraint::Json, seed) {
                assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
                done += 1;
            }
        }
        let least = if dir.ends_with("workspaces/demo/model") { 52 } else { 24 };
        assert!(done >= least, "{}: {done}", dir.display());
    }
}

#[test]
fn an_answer_is_complete_where_nothing_may_follow() {
    let tokenizer = Tokenizer::load(&fixture("qwen2")).unwrap();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let ids = tokenizer.encode("yes", false).unwrap();
    let mut matcher = grammars.matcher(&Constraint::Regex("yes".into())).unwrap();
    let complete: Vec<bool> = ids.iter().map(|id| matcher.take(*id).unwrap()).collect();
    assert_eq!(complete.last(), Some(&true));
    assert!(complete[..ids.len() - 1].iter().all(|c| !c));
    // What could go on is not.
    let mut matcher = grammars.matcher(&Constraint::Regex("(yes)+".into())).unwrap();
    assert!(ids.iter().all(|id| !matcher.take(*id).unwrap()));
    assert!(matcher.accepts());
}

#[test]
fn a_token_that_may_not_come_is_an_error() {
    let tokenizer = Tokenizer::load(&fixture("qwen2")).unwrap();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let mut matcher = grammars.matcher(&Constraint::Regex("a".into())).unwrap();
    let error = matcher.take(tokenizer.encode("b", false).unwrap()[0]).unwrap_err().to_string();
    assert!(error.contains("constraint") && !error.contains('<'), "{error}");
}

#[test]
fn a_text_that_begins_with_a_space_keeps_it_where_decoding_takes_one_away() {
    let tokenizer = Tokenizer::load(&fixture("mistral")).unwrap();
    assert!(tokenizer.token_bytes().unwrap().strips_space);
    let grammars = Grammars::new(&tokenizer).unwrap();
    for (regex, want) in [(" a", " a"), ("a", "a"), (" ?b", "b")] {
        for seed in 0..10 {
            let text = babble(&grammars, &tokenizer, &Constraint::Regex(regex.into()), seed).unwrap();
            assert!(text == want || (regex == " ?b" && text == " b"), "{regex:?}: {text:?}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_constraint_is_said() {
    let regex = |text: &str| Constraint::Regex(text.into());
    let schema = |value: Value| Constraint::Schema(value);
    for (bad, says) in [
        (regex("(a"), "regular expression: unclosed group"),
        (regex("a(?=b)"), "regular expression: look-around"),
        (regex("[z-a]"), "regular expression: invalid character class range"),
        (regex(&"a".repeat(MAX_REGEX + 1)), "65536"),
        (schema(json!([1])), "not a JSON object"),
        (schema(json!({ "type": "objekt" })), "objekt"),
        (schema(json!({ "$ref": "#/$defs/none" })), "none"),
        (schema(json!({ "$ref": "http://example.org/s.json" })), "example.org"),
        (schema(json!(false)), "JSON schema"),
        (schema(json!({ "type": "string", "pattern": "(" })), "JSON schema"),
        (Constraint::Labels(Vec::new()), "no set of labels"),
        (Constraint::Labels(vec!["a".into(), " ".into()]), "empty"),
    ] {
        let error = check(&bad).unwrap_err().to_string();
        assert!(error.contains(says) && error.len() < 500, "{says}: {error}");
    }
    for good in [regex("^a+$"), schema(json!(true)), Constraint::Json, Constraint::Labels(vec!["a".into()])] {
        check(&good).unwrap();
    }
}

#[test]
fn hostile_constraints_are_refused_or_answered_within_their_limits() {
    let deep =
        (0..60).fold(json!({ "type": "string" }), |inner, _| json!({ "type": "array", "items": inner }));
    let wide: serde_json::Map<String, Value> =
        (0..20_000).map(|i| (format!("key{i}"), json!({ "type": "string", "minLength": i % 50 }))).collect();
    let choices: Vec<Value> = (0..2_000)
        .map(|i| json!({ "type": "object", "properties": { (format!("p{i}")): { "type": "integer" } } }))
        .collect();
    let hostile = [
        Constraint::Regex("(((a{1000}){1000}){1000}){1000}".into()),
        Constraint::Regex("(.*a.*){40}b{3,900}".into()),
        Constraint::Regex(format!("(a|b)*a{}", "(a|b)".repeat(60))),
        Constraint::Regex(format!("{}a{}", "(".repeat(5_000), ")".repeat(5_000))),
        Constraint::Regex(format!("(?i){}", "\\w".repeat(2_000))),
        Constraint::Schema(deep),
        Constraint::Schema(json!({ "type": "object", "properties": wide })),
        Constraint::Schema(json!({ "anyOf": choices })),
        Constraint::Schema(json!({ "allOf": [{ "$ref": "#" }, { "$ref": "#" }] })),
        Constraint::Schema(json!({ "type": "array", "minItems": 1_000_000_000_u64, "items": {} })),
        Constraint::Schema(json!({ "type": "string", "minLength": 1_000_000_000_u64 })),
        Constraint::Schema(json!({ "type": "string", "pattern": "(a{1000}){1000}" })),
        Constraint::Schema(json!({ "type": "object", "x-guidance": { "whitespace_pattern": "(" } })),
    ];
    let (_, tokenizer) = tokenizers().pop().unwrap();
    // The stack of a thread of the worker.
    let work = move || {
        let grammars = Grammars::new(&tokenizer).unwrap();
        for (i, constraint) in hostile.iter().enumerate() {
            let (mut said, mut steps) = (check(constraint).err(), 0);
            match grammars.matcher(constraint) {
                Err(e) => said = Some(e),
                Ok(mut matcher) => {
                    for _ in 0..20 {
                        let mut scores: Vec<f32> =
                            (0..tokenizer.vocab()).map(|i| (i * 7 % 31) as f32).collect();
                        if let Err(e) = matcher.mask(&mut scores) {
                            said = Some(e);
                            break;
                        }
                        let best = crate::ops::vocabulary::argmax(&scores).unwrap();
                        steps += 1;
                        match matcher.take(best as u32) {
                            Ok(false) => {}
                            Ok(true) => break,
                            Err(e) => {
                                said = Some(e);
                                break;
                            }
                        }
                    }
                }
            }
            eprintln!("{i}: {steps} steps, {said:?}");
            assert!(steps > 0 || said.is_some_and(|e| e.to_string().len() < 600), "{i}");
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}
