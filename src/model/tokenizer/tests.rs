use std::path::PathBuf;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// A model's folder made by `tests/reference/logits.py`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

pub(crate) const MODELS: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// `reference.json`.
#[derive(Deserialize)]
pub(crate) struct Reference {
    pub(crate) answers: Vec<RefAnswer>,
    texts: Vec<RefText>,
    pub(crate) chats: Vec<RefChat>,
}

#[derive(Deserialize)]
pub(crate) struct RefAnswer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) greedy: Vec<u32>,
    pub(crate) decoded: String,
}

#[derive(Deserialize)]
struct RefText {
    text: String,
    plain: Vec<u32>,
    special: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
pub(crate) struct RefChat {
    pub(crate) messages: Vec<crate::model::chat::Message>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) text: Option<String>,
}

pub(crate) fn reference(name: &str) -> Reference {
    serde_json::from_str(&std::fs::read_to_string(fixture(name).join("reference.json")).unwrap()).unwrap()
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    for name in MODELS {
        let tokenizer = Tokenizer::load(&fixture(name)).unwrap();
        for t in reference(name).texts {
            assert_eq!(tokenizer.encode(&t.text, false).unwrap(), t.plain, "{name} {:?}", t.text);
            assert_eq!(tokenizer.encode(&t.text, true).unwrap(), t.special, "{name} {:?}", t.text);
            assert_eq!(tokenizer.encode_open(&t.text).unwrap(), t.special, "{name} {:?}", t.text);
            assert_eq!(tokenizer.decode(&t.special).unwrap(), t.decoded, "{name} {:?}", t.text);
        }
    }
}

#[test]
fn a_stream_gives_the_text_of_the_whole_and_no_half_characters() {
    for name in MODELS {
        let tokenizer = Tokenizer::load(&fixture(name)).unwrap();
        let mut samples: Vec<Vec<u32>> = reference(name).answers.into_iter().map(|a| a.greedy).collect();
        samples.push(tokenizer.encode("Café 日本語 🙂 done", false).unwrap());
        for ids in samples {
            let mut stream = TextStream::new(&tokenizer);
            let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            let text = pieces.concat() + &stream.finish().unwrap();
            assert_eq!(text, tokenizer.decode(&ids).unwrap(), "{name}");
        }
    }
    let tokenizer = Tokenizer::load(&fixture("mistral")).unwrap();
    let mut stream = TextStream::new(&tokenizer);
    for id in tokenizer.encode("日🙂", false).unwrap() {
        assert!(!stream.push(id).unwrap().contains('\u{fffd}'));
    }
}

#[test]
fn generation_ends_at_the_tokens_of_all_configuration_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::copy(fixture("qwen2").join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(Tokenizer::load(dir.path()).unwrap().eos(), &[] as &[u32]);
    write("config.json", r#"{"eos_token_id": 0}"#);
    write("tokenizer_config.json", r#"{"eos_token": {"content": "<|im_end|>"}}"#);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.end()), (&[0, 2][..], Some(2)));
    write("generation_config.json", r#"{"eos_token_id": [2]}"#);
    assert_eq!(Tokenizer::load(dir.path()).unwrap().eos(), [2]);
}

#[test]
fn complaints_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let say = || Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(say().contains("tokenizer.json"));
    std::fs::write(dir.path().join("tokenizer.model"), "x").unwrap();
    assert!(say().contains("tokenizer.model"));
    let nested = format!("{{\"model\":{}", "[".repeat(200_000));
    for text in ["", "{}", "null", "{\"model\":{\"type\":\"BPE\"}}", &nested, "\u{0}"] {
        std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        assert!(say().contains("tokenizer.json"), "{text:.40}");
    }
    std::fs::copy(fixture("qwen2").join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": 3}"#).unwrap();
    assert!(say().contains("`eos_token`"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn a_stream_of_any_ids_gives_the_text_of_the_whole(ids in prop::collection::vec(0_u32..380, 0..40)) {
        let tokenizer = Tokenizer::load(&fixture("mistral")).unwrap();
        let mut stream = TextStream::new(&tokenizer);
        let mut text = String::new();
        for &id in &ids {
            text += &stream.push(id).unwrap();
        }
        text += &stream.finish().unwrap();
        prop_assert_eq!(text, tokenizer.decode(&ids).unwrap());
    }
}
