//! Rows to sequences: the prompt as the candidate will be asked, the answer as it should be given; and the mask gate, which
//! looks at what came out before anything is trained on it.

use anyhow::{Context as _, bail, ensure};

use super::fit::{Example, list};
use super::subject::Subject;
use crate::domain::row::RunRow;
use crate::domain::settings::TrainedTurns;
use crate::domain::words::steers;
use crate::model::chat::{ChatTemplate, Message, conversation_tokens, reply_tokens};
use crate::model::tokenizer::Tokenizer;
use crate::model::trainable::Sequence;

/// How a model reads and ends a text.
#[derive(Debug)]
pub struct Language {
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
}

/// The examples of one part, and the rows that could not become one.
#[derive(Debug, Default)]
pub struct Built {
    pub examples: Vec<Example>,
    pub without_gold: Vec<String>,
    /// The stage's `when` does not hold on them.
    pub not_asked: Vec<String>,
    /// Longer than the limit, with their tokens.
    pub too_long: Vec<(String, usize)>,
    /// Rows whose text could not be made, with the first one's reason.
    pub failed: Vec<String>,
    pub first_failure: Option<String>,
}

impl Built {
    /// What is left out of `part`, for people; none where nothing is.
    pub fn warnings(&self, part: &str, max_length: usize) -> Vec<String> {
        let mut warnings = Vec::new();
        let left_out =
            [&self.without_gold, &self.not_asked, &self.failed].map(Vec::len).iter().sum::<usize>();
        let total = self.examples.len() + self.too_long.len() + left_out;
        let mut warn = |rows: Vec<&str>, why: String| {
            if !rows.is_empty() {
                warnings.push(format!(
                    "{} of {total} {part} rows are left out: {why} ({})",
                    rows.len(),
                    list(&rows)
                ));
            }
        };
        warn(self.without_gold.iter().map(String::as_str).collect(), "they have no gold".into());
        let not_asked = self.not_asked.iter().map(String::as_str).collect();
        warn(not_asked, "the stage is not asked there (its `when` does not hold)".into());
        let longest = self.too_long.iter().map(|r| r.1).max().unwrap_or_default();
        warn(
            self.too_long.iter().map(|r| r.0.as_str()).collect(),
            format!("they are longer than max_length = {max_length} tokens, the longest has {longest}"),
        );
        warn(
            self.failed.iter().map(String::as_str).collect(),
            self.first_failure.clone().unwrap_or_default(),
        );
        warnings
    }
}

/// One row as a sequence: the tokens that it is asked with, then the answer's, of which each is trained, the end token too.
///
/// With `turns` the assistant's earlier turns are trained as well, as far as the template writes them as it would have them
/// answered (some leave out what was thought aloud in earlier turns).
pub fn sequence(
    language: &Language,
    messages: &[Message],
    answer: &str,
    turns: TrainedTurns,
) -> anyhow::Result<Sequence> {
    let Language { tokenizer, template } = language;
    let mut tokens = conversation_tokens(tokenizer, template.as_ref(), messages)?;
    ensure!(
        !tokens.is_empty(),
        "the prompt has no token, and the first token of an answer needs one before it"
    );
    let answer = reply_tokens(tokenizer, template.as_ref(), messages, answer)?;
    let mut trained = vec![false; tokens.len()];
    if let (TrainedTurns::All, Some(template)) = (turns, template) {
        for (i, turn) in messages.iter().enumerate().skip(1).filter(|(_, m)| m.role == "assistant") {
            let before = &messages[..i];
            let asked = conversation_tokens(tokenizer, Some(template), before)?;
            let Ok(reply) = reply_tokens(tokenizer, Some(template), before, &turn.content) else { continue };
            let rest = tokens.strip_prefix(asked.as_slice());
            if rest.is_some_and(|rest| rest.starts_with(&reply)) {
                trained[asked.len()..asked.len() + reply.len()].fill(true);
            }
        }
    }
    trained.resize(tokens.len() + answer.len(), true);
    tokens.extend(answer);
    Ok(Sequence { tokens, trained })
}

/// The examples of `rows`, as the stage under training is asked and should answer.
pub fn build<'a>(
    rows: impl IntoIterator<Item = &'a RunRow>,
    subject: &Subject<'_>,
    max_length: usize,
    turns: TrainedTurns,
) -> Built {
    let mut built = Built::default();
    for row in rows {
        let Some(answer) = subject.gold(row) else {
            built.without_gold.push(row.id.clone());
            continue;
        };
        let made = match subject.messages(row) {
            Ok(None) => {
                built.not_asked.push(row.id.clone());
                continue;
            }
            Ok(Some(messages)) => sequence(&subject.language, &messages, &answer, turns),
            Err(e) => Err(e),
        };
        match made {
            Ok(sequence) if sequence.tokens.len() > max_length => {
                built.too_long.push((row.id.clone(), sequence.tokens.len()));
            }
            Ok(sequence) => {
                built.examples.push(Example { row: row.id.clone(), stratum: row.stratum.clone(), sequence });
            }
            Err(e) => {
                built.failed.push(row.id.clone());
                built.first_failure.get_or_insert(format!("row {}: {e:#}", row.id));
            }
        }
    }
    built
}

/// The mask gate: refuses what would train nothing, or something other than what the model is asked later.
/// Returns a rendering of a sample, with the trained tokens marked.
///
/// # Errors
/// No example is left; an example has no trained token, or does not end in a trained token that ends generation, or its
/// tokens do not begin with those that the row is asked with.
pub fn mask_gate(built: &Built, rows: &[RunRow], subject: &Subject<'_>) -> anyhow::Result<Vec<String>> {
    let language = &subject.language;
    const SHOWN: usize = 2;
    if built.examples.is_empty() {
        let reason = match (&built.first_failure, built.too_long.first(), built.without_gold.first()) {
            (Some(failure), ..) => failure.clone(),
            (None, Some((row, length)), _) => format!("row {row} has {length} tokens, more than max_length"),
            (None, None, Some(row)) => format!("row {row} has no gold"),
            (None, None, None) => "there are no rows in the train part".into(),
        };
        bail!("mask gate: no row can be trained on: {reason}");
    }
    for example in &built.examples {
        let Sequence { tokens, trained } = &example.sequence;
        ensure!(trained.contains(&true), "mask gate: row {}: no token is trained", example.row);
        let ends = tokens.last().is_some_and(|t| language.tokenizer.eos().contains(t))
            && trained.last() == Some(&true);
        ensure!(
            ends,
            "mask gate: row {}: the token that ends the answer is not trained, so the model would never learn to stop",
            example.row
        );
    }
    let mut lines = Vec::new();
    for example in built.examples.iter().take(SHOWN) {
        let row = rows
            .iter()
            .find(|r| r.id == example.row)
            .with_context(|| format!("row {} is gone", example.row))?;
        let messages = subject.messages(row)?.unwrap_or_default();
        let asked = conversation_tokens(&language.tokenizer, language.template.as_ref(), &messages)?;
        let prompt = example.sequence.prompt();
        ensure!(
            prompt == asked.as_slice(),
            "mask gate: row {}: training and answering read the prompt as different tokens:\n  trained on {}\n  asked with {}",
            example.row,
            render(language, prompt, |_| false),
            render(language, &asked, |_| false)
        );
        let Sequence { tokens, trained } = &example.sequence;
        lines.push(format!(
            "mask gate: row {}, {} tokens, {} trained: {}",
            example.row,
            tokens.len(),
            example.sequence.targets(),
            render(language, tokens, |i| trained.get(i) == Some(&true))
        ));
    }
    Ok(lines)
}

/// Tokens with a dot between, the marked ones within brackets; what controls a terminal is written as its escape.
fn render(language: &Language, tokens: &[u32], marked: impl Fn(usize) -> bool) -> String {
    let mut text = String::new();
    let mut open = false;
    for (i, &token) in tokens.iter().enumerate() {
        if marked(i) != open {
            open = !open;
            text.push(if open { '⟦' } else { '⟧' });
        } else if i > 0 {
            text.push('·');
        }
        let mut piece = language.tokenizer.decode(&[token]).unwrap_or_default();
        if piece.is_empty() {
            piece = language.tokenizer.token(token).unwrap_or_else(|| format!("<{token}>"));
        }
        for c in piece.chars() {
            if steers(c) { text.extend(c.escape_default()) } else { text.push(c) }
        }
    }
    if open {
        text.push('⟧');
    }
    text
}
