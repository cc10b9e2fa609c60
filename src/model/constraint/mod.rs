//! Answers of a required form: a regular expression, a JSON schema or any JSON object, as masks over the next token.
//!
//! The grammars are those of llguidance: an Earley parser over a lexer of regular derivatives, walked over a trie of the
//! vocabulary's bytes. A grammar is compiled once for a tokenizer and shared by all answers; each answer has a [`Matcher`].
//! Every tokenization of a permitted text is permitted: the model's own probabilities choose among them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::{ParserFactory, regex_to_lark};
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use super::ModelError;
use super::tokenizer::{TokenBytes, Tokenizer};
use crate::domain::candidate::Constraint;

/// Longest regular expression, and longest JSON text of a schema, in bytes.
const MAX_REGEX: usize = 1 << 16;
const MAX_SCHEMA: usize = 1 << 20;
/// Compiled grammars that are kept; a run has one for a stage.
const KEPT: usize = 64;
/// Between two parts of JSON there may be one space: a weak model that may set more goes on with it for ever.
const WHITE_SPACE: &str = r"\x20";

/// Compiles constraints for one tokenizer.
pub struct Grammars {
    factory: ParserFactory,
    strips_space: bool,
    /// By the constraint's JSON.
    compiled: Mutex<HashMap<String, llguidance::Matcher>>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("strips_space", &self.strips_space).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Of a tokenizer; takes a fraction of a second for a large vocabulary.
    ///
    /// # Errors
    /// A tokenizer whose tokens are not known byte by byte.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, ModelError> {
        let TokenBytes { bytes, strips_space } = tokenizer.token_bytes()?;
        let failed =
            |e: String| ModelError::file(tokenizer.file(), format!("cannot be used for constraints: {e}"));
        // Ids have 24 bits in the trie.
        if bytes.is_empty() || bytes.len() >= 1 << 24 {
            return Err(failed(format!("it has {} tokens", bytes.len())));
        }
        let known = |id: &&u32| (**id as usize) < bytes.len();
        let eos: Vec<u32> = tokenizer.eos().iter().filter(known).copied().collect();
        let env = guarded(|| {
            let info = TokRxInfo::new(bytes.len() as u32, eos.first().copied().unwrap_or(INVALID_TOKEN));
            // An end token is none of the text even where decoding shows it.
            let mut words = bytes;
            for &id in &eos {
                if let Some(word) = words.get_mut(id as usize) {
                    *word = format!("?<end {id}>").into_bytes();
                    word[0] = TokTrie::SPECIAL_TOKEN_MARKER;
                }
            }
            let mut trie = TokTrie::from(&info, &words);
            if !eos.is_empty() {
                trie = trie.with_eos_tokens(&eos);
            }
            Ok(trie)
        })
        .map_err(failed)?;
        Self::over(env, strips_space).map_err(failed)
    }

    fn over(trie: TokTrie, strips_space: bool) -> Result<Self, String> {
        let env: TokEnv = std::sync::Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = guarded(|| {
            let slices = llguidance::earley::SlicedBiasComputer::general_slices();
            ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
        })?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(Self { factory, strips_space, compiled: Mutex::new(HashMap::new()) })
    }

    /// The constraint of one answer.
    ///
    /// # Errors
    /// A constraint that is wrong or too large, by what is wrong in it.
    pub fn matcher(&self, constraint: &Constraint) -> Result<Matcher, ModelError> {
        let key = json!(constraint).to_string();
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = compiled.get(&key) {
            return Ok(Matcher { inner: known.clone() });
        }
        let fresh = self.compile(constraint)?;
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert(key, fresh.clone());
        Ok(Matcher { inner: fresh })
    }

    fn compile(&self, constraint: &Constraint) -> Result<llguidance::Matcher, ModelError> {
        let wrong = |e: String| ModelError::Request(format!("{}: {e}", describe(constraint)));
        let mut bare = self.build(grammar(constraint, Lead::None).map_err(wrong)?).map_err(wrong)?;
        if !self.strips_space {
            return Ok(bare);
        }
        // The first token of an answer usually begins with the space that decoding takes away; where the text itself may begin
        // with one, it must.
        let empty = bare.is_accepting().unwrap_or(false);
        let own = bare.try_consume_tokens(&self.spaces()).unwrap_or(0) > 0;
        let lead = match (own, empty) {
            (false, _) => Lead::May,
            (true, false) => Lead::Must,
            (true, true) => Lead::MustUnlessEmpty,
        };
        self.build(grammar(constraint, lead).map_err(wrong)?).map_err(wrong)
    }

    /// The token of a single space, if there is one.
    fn spaces(&self) -> Vec<u32> {
        self.factory.tok_env().tok_trie().token_id(b" ").into_iter().collect()
    }

    fn build(&self, grammar: TopLevelGrammar) -> Result<llguidance::Matcher, String> {
        let parser = guarded(|| self.factory.create_parser(grammar))?;
        let mut matcher = llguidance::Matcher::new(Ok(parser));
        // A grammar that nothing fulfils is told here rather than at the first token.
        matcher.compute_mask().map_err(|e| short(&e))?;
        Ok(matcher)
    }
}

/// Checks a constraint without a model: that it is well formed, within the limits, and can be fulfilled.
///
/// # Errors
/// What is wrong in it.
pub fn check(constraint: &Constraint) -> Result<(), ModelError> {
    if let Constraint::Labels(labels) = constraint {
        return match labels.iter().find(|l| l.trim().is_empty()) {
            _ if labels.is_empty() => Err(ModelError::Request(
                "no set of labels is known: there are no golden answers, or too many different ones".into(),
            )),
            Some(_) => Err(ModelError::Request("a label is empty".into())),
            None => Ok(()),
        };
    }
    let bytes: Vec<Vec<u8>> = (0..=u8::MAX).map(|b| vec![b]).chain([b"\xff<end>".to_vec()]).collect();
    let trie = guarded(|| Ok(TokTrie::from(&TokRxInfo::new(257, 256), &bytes)));
    let grammars = trie.and_then(|trie| Grammars::over(trie, false)).map_err(ModelError::Request)?;
    grammars.compile(constraint).map(|_| ())
}

fn describe(constraint: &Constraint) -> &'static str {
    match constraint {
        Constraint::Labels(_) => "the labels",
        Constraint::Regex(_) => "the regular expression",
        Constraint::Schema(_) => "the JSON schema",
        Constraint::Json => "JSON",
    }
}

/// The space that decoding takes away from the beginning of an answer.
#[derive(Clone, Copy, PartialEq)]
enum Lead {
    None,
    May,
    Must,
    MustUnlessEmpty,
}

fn grammar(constraint: &Constraint, lead: Lead) -> Result<TopLevelGrammar, String> {
    let json = |schema: &Value| {
        let mut schema = schema.clone();
        // Settings of the compiler inside of a schema would undo those made here.
        if let Some(keys) = schema.as_object_mut() {
            keys.insert("x-guidance".into(), json!({ "whitespace_pattern": WHITE_SPACE }));
        }
        let schema =
            GrammarWithLexer { name: Some("json".into()), ..GrammarWithLexer::from_json_schema(schema) };
        let start = match lead {
            Lead::None => return TopLevelGrammar::from_grammar(schema),
            Lead::May => "start: / ?/ @json",
            // JSON is never empty.
            Lead::Must | Lead::MustUnlessEmpty => "start: / / @json",
        };
        let first = GrammarWithLexer::from_lark(start.to_owned());
        TopLevelGrammar { grammars: vec![first, schema], max_tokens: None }
    };
    match constraint {
        Constraint::Labels(_) => Err("are scored, not matched".into()),
        Constraint::Regex(text) if text.len() > MAX_REGEX => {
            Err(format!("has {} bytes, at most {MAX_REGEX} are read", text.len()))
        }
        Constraint::Regex(text) => {
            let text = whole(text);
            let text = match lead {
                Lead::None => text.to_owned(),
                Lead::May => format!(" ?(?:{text})"),
                Lead::Must => format!(" (?:{text})"),
                Lead::MustUnlessEmpty => format!("(?: (?:{text}))?"),
            };
            Ok(TopLevelGrammar::from_lark(format!("start: /{}/", regex_to_lark(&text, ""))))
        }
        Constraint::Schema(schema) => {
            if !schema.is_object() && !schema.is_boolean() {
                return Err("is not a JSON object".into());
            }
            let size = schema.to_string().len();
            if size > MAX_SCHEMA {
                return Err(format!("has {size} bytes, at most {MAX_SCHEMA} are read"));
            }
            Ok(json(schema))
        }
        Constraint::Json => Ok(json(&json!({ "type": "object" }))),
    }
}

/// Without `^` at its beginning and `$` at its end: the whole answer must match in any case, and the compiler knows no anchors.
fn whole(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        // Behind an odd number of backslashes it is a dollar sign.
        Some(rest) if rest.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 0 => rest,
        _ => regex,
    }
}

/// Runs code of the compiler; its panics are errors.
fn guarded<T>(work: impl FnOnce() -> anyhow::Result<T>) -> Result<T, String> {
    llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|e| short(&e))
}

/// An error in one line, without the compiler's own state.
fn short(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    if text.contains("NoExtension") {
        return "the model's vocabulary has no token for what must come next".into();
    }
    let text = text.split("\n<").next().unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    // Of a regular expression the cause is enough; around it the compiler shows a grammar that nobody wrote.
    let cause = lines.iter().find_map(|l| l.strip_prefix("error: ")).filter(|_| text.contains("start: /"));
    cause.map_or_else(|| lines.join(" "), str::to_owned).chars().take(400).collect()
}

/// How far one answer has come in its grammar.
pub struct Matcher {
    inner: llguidance::Matcher,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("stopped", &self.inner.is_stopped()).finish_non_exhaustive()
    }
}

impl Matcher {
    /// Sets the scores of tokens that may not come next to negative infinity. End tokens may come where the text is complete.
    ///
    /// # Errors
    /// A grammar beyond its limits at this place.
    pub fn mask(&mut self, scores: &mut [f32]) -> Result<(), ModelError> {
        let mask = self.inner.compute_mask_or_eos().map_err(|e| failed(&e))?;
        let words = mask.as_slice();
        for (i, part) in scores.chunks_mut(u32::BITS as usize).enumerate() {
            match words.get(i).copied().unwrap_or(0) {
                0 => part.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                word => {
                    for (bit, score) in part.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *score = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What may come next of a vocabulary: one bit a token.
    ///
    /// # Errors
    /// As [`Matcher::mask`].
    pub fn permitted(&mut self, vocab: usize) -> Result<Vec<u32>, ModelError> {
        let mask = self.inner.compute_mask_or_eos().map_err(|e| failed(&e))?;
        let mut words = mask.as_slice().to_vec();
        words.resize(vocab.div_ceil(u32::BITS as usize), 0);
        Ok(words)
    }

    /// Goes on by a token; true when nothing may follow but an end token.
    ///
    /// # Errors
    /// A token that may not come here.
    pub fn take(&mut self, id: u32) -> Result<bool, ModelError> {
        if !self.inner.is_stopped() {
            self.inner.consume_token(id).map_err(|e| failed(&e))?;
        }
        Ok(self.inner.is_stopped())
    }

    /// Whether the text so far fulfils the constraint.
    pub fn accepts(&mut self) -> bool {
        self.inner.is_accepting().unwrap_or(false)
    }
}

fn failed(error: &anyhow::Error) -> ModelError {
    ModelError::Request(format!("the answer's constraint: {}", short(error)))
}

#[cfg(test)]
mod tests;
