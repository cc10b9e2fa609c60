//! Text to token ids and back: `tokenizer.json`, with the special tokens that the configuration files name.

mod bytes;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::SpecialIds;
use super::{ModelError, files};

pub use bytes::TokenBytes;

/// A tokenizer and its model's special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    /// `bos_token`, `eos_token`, ... to their text, as chat templates see them.
    special: BTreeMap<String, String>,
    /// Tokens that end generation.
    eos: Vec<u32>,
    /// Tokens that decoding leaves out.
    silent: BTreeSet<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("file", &self.file).field("eos", &self.eos).finish_non_exhaustive()
    }
}

/// What the named special tokens are called in `tokenizer_config.json` and `special_tokens_map.json`.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// Reads `tokenizer.json` of the folder.
    ///
    /// Generation ends at the tokens of `generation_config.json`, else of `config.json`, and at the `eos_token` of
    /// `tokenizer_config.json` (fine-tunes often name their end of turn only there).
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let file = dir.join("tokenizer.json");
        let Some(text) = files::read_text(dir, "tokenizer.json")? else {
            let message = if dir.join("tokenizer.model").exists() {
                "is missing; only fast tokenizers are read, and this folder has tokenizer.model alone"
            } else {
                "is missing"
            };
            return Err(ModelError::file(&file, message));
        };
        let mut inner: tokenizers::Tokenizer = text
            .parse()
            .map_err(|e: tokenizers::Error| ModelError::file(&file, format!("is not a tokenizer: {e}")))?;
        // Both are settings of whoever wrote the file; a prompt is never cut or padded in silence.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| ModelError::file(&file, format!("is not a tokenizer: {e}")))?;

        let mut special = BTreeMap::new();
        // The later file goes before the earlier one.
        for name in ["special_tokens_map.json", "tokenizer_config.json"] {
            let Some(config) = files::read_json(dir, name)? else { continue };
            for key in NAMED {
                let text = match config.get(key) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Object(token)) => match token.get("content").and_then(Value::as_str) {
                        Some(text) => text.to_owned(),
                        None => return Err(ModelError::key(&dir.join(name), key, "has no `content`")),
                    },
                    None | Some(Value::Null) => continue,
                    Some(other) => {
                        return Err(ModelError::key(&dir.join(name), key, format!("{other} is not a token")));
                    }
                };
                special.insert(key.to_owned(), text);
            }
        }
        let of = |name: &str| SpecialIds::of_file(dir, name).map(Option::unwrap_or_default);
        let mut eos = of("generation_config.json")?.eos;
        if eos.is_empty() {
            eos = of("config.json")?.eos;
        }
        if let Some(id) = special.get("eos_token").and_then(|t| inner.token_to_id(t))
            && !eos.contains(&id)
        {
            eos.push(id);
        }
        let silent = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, t)| t.special)
            .map(|(id, _)| id)
            .collect();
        Ok(Self { inner, file, special, eos, silent })
    }

    /// Ids of `text`. `special`: with what the tokenizer puts around a text by itself (a beginning token, say).
    /// Special tokens that stand in the text are always read as such, as transformers does.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, ModelError> {
        Ok(self.encoding(text, special)?.get_ids().to_vec())
    }

    /// As [`Tokenizer::encode`] with special tokens, but those that the tokenizer puts *after* the text: it goes on.
    pub fn encode_open(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.encoding(text, true)?;
        let added = encoding.get_special_tokens_mask().iter().rev().take_while(|&&m| m == 1).count();
        let mut ids = encoding.get_ids().to_vec();
        // Of an empty text everything is added, and nothing tells before from after but the end tokens.
        let after = if added == ids.len() {
            ids.iter().rev().take_while(|id| self.eos.contains(id)).count()
        } else {
            added
        };
        ids.truncate(ids.len() - after);
        Ok(ids)
    }

    fn encoding(&self, text: &str, special: bool) -> Result<tokenizers::Encoding, ModelError> {
        self.inner
            .encode_fast(text, special)
            .map_err(|e| ModelError::file(&self.file, format!("cannot encode a text: {e}")))
    }

    /// Text of the ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner
            .decode(ids, true)
            .map_err(|e| ModelError::file(&self.file, format!("cannot decode tokens: {e}")))
    }

    /// Number of ids, with added tokens.
    pub fn vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Tokens that end generation; empty when the model names none.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The token that ends an answer where no chat template says so: `eos_token`, else the first that ends generation.
    pub fn end(&self) -> Option<u32> {
        self.special.get("eos_token").and_then(|t| self.id(t)).or(self.eos.first().copied())
    }

    /// `bos_token`, `eos_token`, ... and their text.
    pub fn special(&self) -> &BTreeMap<String, String> {
        &self.special
    }

    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// Decodes a growing list of tokens into pieces of text.
///
/// A piece is given out once it cannot change any more: bytes of an unfinished character are held back, and so is a run of
/// byte tokens (`<0xE6>`), all of which decode to replacement characters if one of them turns out wrong. Only the last
/// few tokens are decoded at each step, so that the cost does not grow with the length.
#[derive(Debug)]
pub struct TextStream<T> {
    tokenizer: T,
    ids: Vec<u32>,
    /// Decoding starts here, so that what depends on the token before (a leading space) comes out as in the whole.
    from: usize,
    /// Tokens before this one have been given out.
    given: usize,
}

/// Over a tokenizer that is borrowed or shared.
impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    pub const fn new(tokenizer: T) -> Self {
        Self { tokenizer, ids: Vec::new(), from: 0, given: 0 }
    }

    /// The text that became certain with this token; often empty.
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        // Were they kept, a run of bytes would seem to end at them.
        if self.tokenizer.silent.contains(&id) {
            return Ok(String::new());
        }
        self.ids.push(id);
        let byte = |token: String| token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        if self.tokenizer.token(id).is_some_and(byte) {
            return Ok(String::new());
        }
        let (before, now) = self.texts()?;
        if now.len() <= before.len() || now.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        let piece = now.get(before.len()..).unwrap_or_default().to_owned();
        self.from = self.given;
        self.given = self.ids.len();
        Ok(piece)
    }

    /// What was held back.
    pub fn finish(self) -> Result<String, ModelError> {
        let (before, now) = self.texts()?;
        Ok(now.get(before.len()..).unwrap_or_default().to_owned())
    }

    fn texts(&self) -> Result<(String, String), ModelError> {
        let before = self.tokenizer.decode(self.ids.get(self.from..self.given).unwrap_or_default())?;
        let now = self.tokenizer.decode(self.ids.get(self.from..).unwrap_or_default())?;
        Ok((before, now))
    }
}

#[cfg(test)]
pub(crate) mod tests;
