//! The bytes that each token stands for, as decoding joins them.

use serde_json::Value;

use super::Tokenizer;
use crate::model::ModelError;

/// The bytes of every token, and what happens to the first of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBytes {
    /// By id; empty where there is no such token or where decoding leaves it out.
    pub bytes: Vec<Vec<u8>>,
    /// Decoding takes one space from the beginning of a text.
    pub strips_space: bool,
}

/// What a decoder does, in order.
enum Step {
    /// Each character stands for a byte (GPT-2).
    ByteLevel,
    /// `<0xE6>` stands for a byte.
    ByteFallback,
    Replace(String, String),
}

impl Tokenizer {
    /// The bytes of every token.
    ///
    /// # Errors
    /// A decoder that does not join tokens byte by byte (word pieces, say).
    pub fn token_bytes(&self) -> Result<TokenBytes, ModelError> {
        let unknown = |what: &str| {
            ModelError::file(
                &self.file,
                format!(
                    "decoder {what}: only byte-level tokenizers and those with byte tokens are known byte by byte"
                ),
            )
        };
        let decoder = self.inner.get_decoder().ok_or_else(|| unknown("is missing"))?;
        let decoder = serde_json::to_value(decoder).map_err(|e| unknown(&e.to_string()))?;
        let (mut steps, mut strips_space) = (Vec::new(), false);
        read(&decoder, &mut steps, &mut strips_space).map_err(|what| unknown(&what))?;

        let vocab = self.inner.get_vocab(true);
        let size = vocab.values().max().map_or(0, |id| *id as usize + 1);
        let table = byte_level();
        let mut bytes = vec![Vec::new(); size];
        for (token, id) in vocab {
            if let Some(place) = bytes.get_mut(id as usize)
                && !self.silent.contains(&id)
            {
                *place = spelled(token, &steps, &table);
            }
        }
        Ok(TokenBytes { bytes, strips_space })
    }
}

fn read(decoder: &Value, steps: &mut Vec<Step>, strips_space: &mut bool) -> Result<(), String> {
    let text = |key: &str| decoder.get(key).and_then(Value::as_str);
    match text("type") {
        Some("Sequence") => {
            for part in decoder.get("decoders").and_then(Value::as_array).into_iter().flatten() {
                read(part, steps, strips_space)?;
            }
        }
        Some("ByteLevel") => steps.push(Step::ByteLevel),
        Some("ByteFallback") => steps.push(Step::ByteFallback),
        Some("Fuse") => {}
        Some("Replace") => {
            let from = decoder.pointer("/pattern/String").and_then(Value::as_str);
            let (Some(from), Some(to)) = (from, text("content")) else {
                return Err("replaces by a pattern".into());
            };
            steps.push(Step::Replace(from.to_owned(), to.to_owned()));
        }
        Some("Metaspace") => {
            let mark = text("replacement").unwrap_or("\u{2581}");
            steps.push(Step::Replace(mark.to_owned(), " ".to_owned()));
            *strips_space |= text("prepend_scheme") != Some("never");
        }
        Some("Strip") => {
            let number = |key: &str| decoder.get(key).and_then(Value::as_u64).unwrap_or(0);
            if text("content") != Some(" ") || number("start") > 1 || number("stop") > 0 {
                return Err("strips more than a leading space".into());
            }
            *strips_space |= number("start") == 1;
        }
        other => return Err(other.unwrap_or("without a type").to_owned()),
    }
    Ok(())
}

fn spelled(token: String, steps: &[Step], table: &[Option<u8>; 512]) -> Vec<u8> {
    let mut token = token;
    for step in steps {
        match step {
            Step::Replace(from, to) => token = token.replace(from.as_str(), to),
            Step::ByteFallback => {
                let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
                if let Some(byte) = hex.filter(|h| h.len() == 2).and_then(|h| u8::from_str_radix(h, 16).ok())
                {
                    return vec![byte];
                }
            }
            Step::ByteLevel => {
                let byte = |c: char| table.get(c as usize).copied().flatten();
                // A token with another character (an added one) is its own text.
                if let Some(bytes) = token.chars().map(byte).collect::<Option<Vec<u8>>>() {
                    return bytes;
                }
            }
        }
    }
    token.into_bytes()
}

/// GPT-2's characters for bytes: those that print stand for themselves, the others follow from U+0100 in order.
fn byte_level() -> [Option<u8>; 512] {
    let mut table = [None; 512];
    let mut next = 0x100;
    for byte in 0..=u8::MAX {
        let own = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let place = if own { byte as usize } else { next };
        if !own {
            next += 1;
        }
        table[place] = Some(byte);
    }
    table
}
