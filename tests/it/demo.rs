//! The bundled demo: its data, its base model, and how far both are from the pretraining text.

#[allow(dead_code)]
#[path = "../../examples/make_demo/desk.rs"]
mod desk;
#[allow(dead_code)]
#[path = "../../examples/make_demo/lessons.rs"]
mod lessons;
#[allow(dead_code)]
#[path = "../../examples/make_demo/lexicon.rs"]
pub mod lexicon;
#[allow(dead_code)]
#[path = "../../examples/make_demo/messages.rs"]
pub mod messages;
#[allow(dead_code)]
#[path = "../../examples/make_demo/random.rs"]
pub mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lexicon::{Lexicon, Rule};
use tunebench::model::Decoder;
use tunebench::model::chat::{ChatTemplate, Message, answer_tokens, prompt_tokens};
use tunebench::model::tokenizer::Tokenizer;
use tunebench::model::verify::{TOLERANCE, verify};
use tunebench::ops::Par;

fn demo() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/workspaces/demo"))
}

#[test]
fn the_committed_data_is_what_the_generator_makes() {
    let words = Lexicon::load().unwrap();
    let made = desk::jsonl(&desk::rows(&words), false).unwrap();
    let committed = std::fs::read_to_string(demo().join("data/messages.jsonl")).unwrap();
    assert!(made == committed, "run `cargo run --release --example make_demo -- data`");
    assert!(committed.len() < 1_500_000);
}

#[test]
fn most_rows_follow_the_name_some_a_convention_and_few_are_exceptions() {
    let words = Lexicon::load().unwrap();
    let rows = desk::rows(&words);
    let mut by_rule: BTreeMap<Rule, usize> = BTreeMap::new();
    let mut by_team: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        *by_rule.entry(row.rule).or_default() += 1;
        *by_team.entry(&row.team).or_default() += 1;
    }
    let share = |rule| by_rule[&rule] as f64 / rows.len() as f64;
    assert!((0.55..0.65).contains(&share(Rule::Named)), "{by_rule:?}");
    assert!((0.20..0.30).contains(&share(Rule::Convention)), "{by_rule:?}");
    assert!((0.10..0.18).contains(&share(Rule::Exception)), "{by_rule:?}");
    // Every answer is a word that the base can say, and none is too rare to be scored.
    assert!(by_team.keys().all(|t| words.topics.contains_key(*t) || words.problems.contains_key(*t)));
    assert!(by_team.values().all(|n| *n >= 80), "{by_team:?}");
    assert_eq!(by_team.len(), 11);
}

#[test]
fn the_pretraining_text_holds_no_message_and_no_combination_of_the_desk() {
    let words = Lexicon::load().unwrap();
    let desk: BTreeSet<String> = desk::rows(&words).into_iter().map(|row| row.message).collect();
    let cases: BTreeSet<_> = words.cases().iter().map(|c| c.kind).collect();
    assert!(words.pretraining_kinds().iter().all(|kind| !cases.contains(kind)));
    let mut teacher = lessons::Teacher::new(&words, 5);
    let mut seen = 0;
    for i in 0..6000 {
        let lesson = teacher.lesson(f64::from(i) / 6000.0);
        assert!(!lesson.messages.is_empty());
        for message in &lesson.messages {
            assert!(lesson.text().contains(message.as_str()));
            assert!(!desk.contains(message), "{message}");
            seen += 1;
        }
    }
    assert!(seen > 6000);
}

#[test]
fn a_lesson_is_the_same_every_time_and_ends_in_what_is_learned() {
    let words = Lexicon::load().unwrap();
    let (mut one, mut two) = (lessons::Teacher::new(&words, 3), lessons::Teacher::new(&words, 3));
    for i in 0..200 {
        let way = f64::from(i) / 200.0;
        let lesson = one.lesson(way);
        assert_eq!(lesson, two.lesson(way));
        let (text, answers) = (lesson.text(), lesson.answers());
        let last = answers.last().unwrap();
        assert_eq!(last.end, text.len());
        assert!(text[last.clone()].ends_with(lessons::END));
    }
}

#[test]
fn the_base_model_reads_its_lessons_as_its_chat_template_writes_them() {
    let dir = demo().join("model");
    let decoder = Decoder::load(&dir).unwrap();
    let tokenizer = Tokenizer::load(&dir).unwrap();
    let template = ChatTemplate::load(&dir).unwrap().unwrap();
    assert!((1_000_000..4_000_000).contains(&decoder.parameters()));

    let turns = [
        Message::user("topic: my card is late"),
        Message::assistant("cards"),
        Message::user("and the problem?"),
    ];
    let prompt = template.render(&turns, true).unwrap();
    assert_eq!(
        prompt,
        "<|user|>\ntopic: my card is late<|end|><|assistant|>\ncards<|end|>\n<|user|>\nand the problem?<|end|><|assistant|>\n"
    );
    let whole = template.render(&[&turns[..], &[Message::assistant("delays")]].concat(), false).unwrap();
    assert_eq!(whole, format!("{prompt}delays<|end|>"));

    let asked = prompt_tokens(&tokenizer, Some(&template), "my card is late").unwrap();
    let answer = answer_tokens(&tokenizer, Some(&template), "my card is late", "cards").unwrap();
    assert!(asked.iter().chain(&answer).all(|t| (*t as usize) < decoder.config.vocab));
    assert!(tokenizer.eos().contains(answer.last().unwrap()));
    assert_eq!(answer.len(), 2, "a label is one token, and the end another");
}

#[test]
fn the_base_model_says_what_transformers_says() {
    let decoder = Decoder::load(&demo().join("model")).unwrap();
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/demo/logits.safetensors");
    let verdict = verify(&decoder, None, Path::new(reference), TOLERANCE, Par::SERIAL).unwrap();
    assert!(verdict.pass && verdict.tokens >= 10, "{verdict:?}; see tests/reference/demo_model.py");
}

#[test]
fn the_bundled_model_stays_small() {
    let bytes: u64 =
        std::fs::read_dir(demo().join("model")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 10_000_000, "{bytes}");
}
