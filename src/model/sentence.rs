//! What sentence-transformers' files say of a folder: how a text is read, and how its vector is made of its tokens' states.
//!
//! ```text
//! modules.json                          the modules, in their order: Transformer, Pooling, Normalize
//! 1_Pooling/config.json                 mean over all tokens, or the first one's (CLS)
//! sentence_bert_config.json             max_seq_length, do_lower_case
//! config_sentence_transformers.json     a prompt before each text: refused
//! ```
//! Without them the mean over all tokens is taken, as sentence-transformers does. Vectors always get length 1, with a Normalize or without:
//! what counts here is their direction.

use std::path::Path;

use serde_json::Value;

use super::tokenizer::Tokenizer;
use super::{ModelError, files};

/// The name hangs on the kind of the model that the folder was made with.
const OF_TRANSFORMER: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// How a text's vector is made of its tokens'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Of all tokens, those that the tokenizer adds among them.
    Mean,
    /// The first token's.
    Cls,
}

/// A folder's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    pub pooling: Pooling,
    /// Longest text in tokens, those that the tokenizer adds among them.
    pub longest: usize,
    /// Texts are read in lower case, whatever the tokenizer does.
    pub lower: bool,
}

impl Sentence {
    /// Of a model that takes `most` tokens.
    ///
    /// # Errors
    /// A module, a pooling or a prompt that cannot be honoured, no room for a text.
    pub fn load(dir: &Path, most: usize) -> Result<Self, ModelError> {
        let mut asked = None;
        let mut lower = false;
        for name in OF_TRANSFORMER {
            if let Some(config) = files::read_json(dir, name)? {
                asked = config["max_seq_length"].as_u64();
                lower = config["do_lower_case"].as_bool() == Some(true);
                break;
            }
        }
        if asked.is_none() {
            // The tokenizer's, as far as it says one: without one it stands at some 10^30.
            let config = files::read_json(dir, "tokenizer_config.json")?.unwrap_or_default();
            asked = config["model_max_length"].as_u64();
        }
        let longest = asked.map_or(most, |asked| usize::try_from(asked).unwrap_or(most).min(most));
        if longest < 3 {
            let message =
                format!("leaves no room for a text: {longest} tokens with those that the tokenizer adds");
            return Err(ModelError::file(&dir.join("config.json"), message));
        }
        no_prompt(dir)?;
        Ok(Self { pooling: pooling_of(dir)?, longest, lower })
    }

    /// Ids of a text, cut to the longest: what the tokenizer puts around it stays.
    ///
    /// # Errors
    /// A text that the tokenizer does not take.
    pub fn tokens(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ModelError> {
        let low = if self.lower { text.to_lowercase() } else { String::new() };
        let text = if self.lower { &low } else { text };
        let mut ids = tokenizer.encode(text, true)?;
        if ids.len() > self.longest {
            let end = ids.split_off(tokenizer.encode_open(text)?.len().min(ids.len()));
            ids.truncate(self.longest.saturating_sub(end.len()));
            ids.extend(end);
            ids.truncate(self.longest);
        }
        Ok(ids)
    }
}

/// Scales a vector to length 1; one of zeros stays.
pub fn to_length_one(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        for x in vector {
            *x /= norm;
        }
    }
}

fn pooling_of(dir: &Path) -> Result<Pooling, ModelError> {
    let mut found = Pooling::Mean;
    let file = dir.join("modules.json");
    let Some(text) = files::read_text(dir, "modules.json")? else { return Ok(found) };
    let modules: Vec<Value> = serde_json::from_str(&text)
        .map_err(|e| ModelError::file(&file, format!("is no list of modules: {e}")))?;
    for module in &modules {
        let (kind, path) =
            (module["type"].as_str().unwrap_or_default(), module["path"].as_str().unwrap_or_default());
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" if path.is_empty() || path == "." => {}
            "Transformer" => {
                let message =
                    format!("the Transformer stands in `{path}`; only one beside modules.json is read");
                return Err(ModelError::file(&file, message));
            }
            "Normalize" => {}
            "Pooling" => {
                let path = if path.is_empty() { "1_Pooling" } else { path };
                let config = files::read_json(dir, &format!("{path}/config.json"))?;
                found = pooling(&dir.join(path).join("config.json"), config.as_ref())?;
            }
            _ => {
                let message =
                    format!("`{kind}` is no module known here: Transformer, Pooling and Normalize are");
                return Err(ModelError::file(&file, message));
            }
        }
    }
    Ok(found)
}

fn pooling(file: &Path, config: Option<&Value>) -> Result<Pooling, ModelError> {
    let Some(config) = config else { return Err(ModelError::file(file, "is missing")) };
    let set: Vec<&str> = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with("pooling_mode_") && **value == Value::Bool(true))
        .map(|(key, _)| key.as_str())
        .chain(config["pooling_mode"].as_str())
        .collect();
    match set[..] {
        // The mean times the root of the number of tokens has the mean's direction.
        []
        | [
            "pooling_mode_mean_tokens"
            | "pooling_mode_mean_sqrt_len_tokens"
            | "mean"
            | "mean_sqrt_len_tokens",
        ] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token" | "cls"] => Ok(Pooling::Cls),
        _ => Err(ModelError::file(
            file,
            format!(
                "{} cannot be done; pooling_mode_mean_tokens or pooling_mode_cls_token can",
                set.join(" and ")
            ),
        )),
    }
}

/// sentence-transformers puts a default prompt before each text.
fn no_prompt(dir: &Path) -> Result<(), ModelError> {
    let name = "config_sentence_transformers.json";
    let config = files::read_json(dir, name)?.unwrap_or_default();
    match config["default_prompt_name"].as_str() {
        None => Ok(()),
        Some(prompt) => Err(ModelError::key(
            &dir.join(name),
            "default_prompt_name",
            format!(
                "the prompt `{prompt}` before each text cannot be honoured; set null to embed texts as they are"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::encoder::Encoder;
    use crate::ops::Par;

    /// The small BERT with other files beside its weights.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/encoders/bert");
        let temp = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(from.join(name), temp.path().join(name)).unwrap();
        }
        for (name, text) in files {
            let path = temp.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        temp
    }

    fn said(files: &[(&str, &str)]) -> Result<Sentence, String> {
        let temp = folder(files);
        Encoder::load(temp.path()).map(|e| e.sentence().clone()).map_err(|e| e.to_string())
    }

    const MODULES: &str = r#"[
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}]"#;

    fn pooled(config: &str) -> Result<Sentence, String> {
        said(&[("modules.json", MODULES), ("1_Pooling/config.json", config)])
    }

    #[test]
    fn pooling_is_what_its_file_says_and_another_one_is_refused() {
        for (config, pooling) in [
            (r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}"#, Pooling::Mean),
            (r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#, Pooling::Cls),
            (r#"{"pooling_mode_mean_sqrt_len_tokens": true}"#, Pooling::Mean),
            (r#"{"pooling_mode": "cls"}"#, Pooling::Cls),
            ("{}", Pooling::Mean),
        ] {
            assert_eq!(pooled(config).unwrap().pooling, pooling, "{config}");
        }
        for config in [
            r#"{"pooling_mode_max_tokens": true}"#,
            r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#,
            r#"{"pooling_mode_lasttoken": true}"#,
            r#"{"pooling_mode": "weightedmean"}"#,
        ] {
            let why = pooled(config).unwrap_err();
            assert!(why.contains("1_Pooling") && why.contains("cannot be done"), "{why}");
        }
        let why = said(&[("modules.json", MODULES)]).unwrap_err();
        assert!(why.contains("1_Pooling") && why.contains("missing"), "{why}");
        assert_eq!(said(&[]).unwrap().pooling, Pooling::Mean, "a folder of Hugging Face's");
    }

    #[test]
    fn a_dense_module_another_place_and_a_prompt_are_refused_by_name() {
        let dense = MODULES.replace("models.Normalize", "models.Dense");
        let mean = ("1_Pooling/config.json", r#"{"pooling_mode_mean_tokens": true}"#);
        let why = said(&[("modules.json", &dense), mean]).unwrap_err();
        assert!(why.contains("modules.json") && why.contains("models.Dense"), "{why}");
        let elsewhere = MODULES.replace(r#""path": """#, r#""path": "0_Transformer""#);
        assert!(said(&[("modules.json", &elsewhere), mean]).unwrap_err().contains("0_Transformer"));
        let prompt = r#"{"prompts": {"query": "query: "}, "default_prompt_name": "query"}"#;
        let why = said(&[("config_sentence_transformers.json", prompt)]).unwrap_err();
        assert!(why.contains("default_prompt_name") && why.contains("`query`"), "{why}");
        let none = prompt.replace(r#""default_prompt_name": "query""#, r#""default_prompt_name": null"#);
        assert!(said(&[("config_sentence_transformers.json", &none)]).is_ok());
    }

    #[test]
    fn the_longest_text_is_what_the_files_say_within_the_positions() {
        let longest = |files: &[(&str, &str)]| said(files).unwrap().longest;
        assert_eq!(longest(&[]), 40, "all positions");
        assert_eq!(longest(&[("sentence_bert_config.json", r#"{"max_seq_length": 12}"#)]), 12);
        assert_eq!(longest(&[("sentence_bert_config.json", r#"{"max_seq_length": 9999}"#)]), 40);
        assert_eq!(longest(&[("sentence_roberta_config.json", r#"{"max_seq_length": 13}"#)]), 13);
        let tokenizer = ("tokenizer_config.json", r#"{"model_max_length": 20}"#);
        assert_eq!(longest(&[tokenizer]), 20);
        assert_eq!(longest(&[tokenizer, ("sentence_bert_config.json", r#"{"max_seq_length": null}"#)]), 20);
        let endless = ("tokenizer_config.json", r#"{"model_max_length": 1000000000000000019884624838656}"#);
        assert_eq!(longest(&[endless]), 40);
        let none = said(&[("sentence_bert_config.json", r#"{"max_seq_length": 2}"#)]).unwrap_err();
        assert!(none.contains("no room"), "{none}");
    }

    #[test]
    fn normalize_changes_nothing_and_lower_case_is_read_where_it_is_asked_for() {
        let with = |files: &[(&str, &str)], text: &str| {
            let temp = folder(files);
            Encoder::load(temp.path()).unwrap().embed(&[text], Par::SERIAL).unwrap()
        };
        let mean = ("1_Pooling/config.json", r#"{"pooling_mode_mean_tokens": true}"#);
        let plain = MODULES.replace(
            ",\n        {\"type\": \"sentence_transformers.models.Normalize\", \"path\": \"2_Normalize\"}",
            "",
        );
        assert_ne!(plain, MODULES);
        let text = "where is my card";
        assert_eq!(
            with(&[("modules.json", MODULES), mean], text),
            with(&[("modules.json", &plain), mean], text)
        );
        let lower = ("sentence_bert_config.json", r#"{"max_seq_length": 32, "do_lower_case": true}"#);
        let temp = folder(&[lower]);
        let encoder = Encoder::load(temp.path()).unwrap();
        assert!(encoder.sentence().lower);
        // A tokenizer that tells capitals apart.
        let tokenizer = Tokenizer::load(&crate::model::tokenizer::tests::fixture("qwen3")).unwrap();
        let read = |text: &str, lower| {
            Sentence { pooling: Pooling::Mean, longest: 99, lower }.tokens(&tokenizer, text).unwrap()
        };
        assert_ne!(read("WHERE is My card", false), read("where is my card", false));
        assert_eq!(read("WHERE is My card", true), read("where is my card", false));
    }
}
