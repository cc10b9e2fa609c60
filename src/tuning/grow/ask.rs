//! What the maker is asked, and how its answer is read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::data::field;
use crate::domain::grow::{GrowSettings, Method, RowForm};
use crate::domain::row::RunRow;

/// Longest gold that is told with a paraphrase, in characters: a long one only invites copying.
const GOLD_TOLD: usize = 200;
/// Characters of a row that is shown.
const SHOWN: usize = 4_000;

/// Ways of saying something; which one is drawn by the seed, so that texts made of one row differ.
const MANNERS: [&str; 10] = [
    "Write it as somebody would who is in a hurry.",
    "Write it in a calm and friendly tone.",
    "Write it plainly, in everyday words.",
    "Write it politely and in whole sentences.",
    "Begin in another way than one would expect.",
    "Write it as somebody would who is a little annoyed.",
    "Write it a little shorter than usual.",
    "Write it with a detail or two more of why it is said, inventing no names or numbers.",
    "Write it as one writes on a phone, without slang that nobody knows.",
    "Write it with other verbs and nouns than the first that come to mind.",
];

/// One question for the maker.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Places among the run's rows; the first gives all fields that are not written.
    pub parents: Vec<usize>,
    pub text: String,
    /// Tells drawings of one question apart.
    pub sample: u32,
}

/// A number that hangs on nothing but these words.
fn drawn(seed: u64, words: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for word in words {
        hasher.update(&(word.len() as u64).to_le_bytes()).update(word.as_bytes());
    }
    hasher.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The questions, in their order: first one for each of the first `from` rows, then the second of each, and so on, so that a run that ends
/// early has something of all of them.
pub fn slots(settings: &GrowSettings, form: &RowForm, rows: &[RunRow], from: usize) -> Vec<Slot> {
    let from = from.min(rows.len());
    let mut alike: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    if settings.method == Method::SelfPlay {
        for (at, row) in rows.iter().enumerate() {
            alike.entry(of_kind(row)).or_default().push(at);
        }
    }
    let mut all = Vec::with_capacity(from * settings.per_row);
    for number in 0..settings.per_row {
        for (at, row) in rows.iter().enumerate().take(from) {
            let mut parents = vec![at];
            if settings.method == Method::SelfPlay {
                let turn = number.to_string();
                let mut others: Vec<usize> = alike.get(&of_kind(row)).cloned().unwrap_or_default();
                others.retain(|other| *other != at);
                others.sort_by_cached_key(|other| {
                    let id = rows.get(*other).map_or("", |row| row.id.as_str());
                    drawn(settings.seed, &[&row.id, id, &turn])
                });
                parents.extend(others.into_iter().take(settings.shown.saturating_sub(1)));
            }
            let shown: Vec<&RunRow> = parents.iter().filter_map(|at| rows.get(*at)).collect();
            let manner = MANNERS.get(
                ((drawn(settings.seed, &["manner", &row.id]) as usize) % MANNERS.len() + number)
                    % MANNERS.len(),
            );
            let text = question(settings, form, &shown, manner.copied().unwrap_or_default());
            all.push(Slot { parents, text, sample: number as u32 });
        }
    }
    all
}

/// Rows that may stand for each other: of one stratum, with one gold.
pub fn of_kind(row: &RunRow) -> (&str, &str) {
    (row.stratum.as_deref().unwrap_or_default(), row.gold.as_deref().unwrap_or_default().trim())
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// A row as it is shown: what is to be written, as it is to be written.
fn shown(form: &RowForm, row: &RunRow) -> String {
    let value = |name: &String| field(&row.fields, name).cloned().unwrap_or(Value::Null);
    match form.fields.as_slice() {
        [only] => match value(only) {
            Value::String(text) => cut(&text),
            _ => cut(&row.input),
        },
        many => {
            let object: Map<String, Value> = many.iter().map(|name| (name.clone(), value(name))).collect();
            cut(&Value::Object(object).to_string())
        }
    }
}

fn question(settings: &GrowSettings, form: &RowForm, rows: &[&RunRow], manner: &str) -> String {
    let Some(row) = rows.first() else { return String::new() };
    let gold = row.gold.as_deref().unwrap_or_default().trim();
    let meaning = settings.meanings.get(gold).map(|text| text.trim()).filter(|text| !text.is_empty());
    let mut text = String::new();
    match settings.method {
        Method::Paraphrase => {
            text.push_str(
                "Rewrite the message below as another person would write it who means exactly the same. Keep its language and every fact, name and number in it. Change the wording and the order, and do not answer it.\n",
            );
            if !gold.is_empty() && gold.chars().count() <= GOLD_TOLD {
                let _ = writeln!(text, "The right answer to it is and must stay: {gold}");
                tell_meaning(&mut text, meaning);
            }
            let _ = write!(text, "{manner}\n\nMessage:\n{}\n", shown(form, row));
        }
        Method::SelfPlay => {
            text.push_str("These messages were written by different people:\n");
            for (i, row) in rows.iter().enumerate() {
                let _ = writeln!(text, "\n{}. {}", i + 1, shown(form, row));
            }
            let _ = writeln!(text, "\nThe right answer to each of them is: {}", cut(gold));
            tell_meaning(&mut text, meaning);
            let _ = writeln!(
                text,
                "Play another person, in another situation, who writes another message with the same right answer. Do not reword one of those above; keep to their language and to about their length. {manner}"
            );
        }
        Method::Reverse => {
            let _ = writeln!(
                text,
                "Somebody wrote a message. This was the right answer to it:\n\n{}\n",
                cut(gold)
            );
            tell_meaning(&mut text, meaning);
            let _ = writeln!(
                text,
                "Write the message that this answers, of about {} characters, without giving the answer away. {manner}",
                row.input.chars().count().max(20)
            );
        }
    }
    match form.fields.as_slice() {
        [] | [_] => text.push_str(
            "\nWrite the new message only: no introduction, no quotation marks around it, no explanation.\n",
        ),
        many => {
            let names: Vec<String> = many.iter().map(|name| format!("\"{name}\"")).collect();
            let _ = writeln!(
                text,
                "\nWrite the new message only, as one JSON object whose fields {} hold texts.",
                names.join(", ")
            );
        }
    }
    text
}

fn tell_meaning(text: &mut String, meaning: Option<&str>) {
    if let Some(meaning) = meaning {
        let _ = writeln!(text, "What that answer means: {meaning}");
    }
}

/// What the maker is asked of a text that it made: to say what it means, so that it can be held against its parents.
pub fn restate(input: &str) -> String {
    format!(
        "Say in one or two plain sentences what the writer of this message means, in the writer's own place (\"I ...\"), with every fact in it. Write nothing else.\n\nMessage:\n{}\n",
        cut(input)
    )
}

/// The fields that an answer gives, or why it gives none.
pub fn read(form: &RowForm, answer: &str) -> Result<Vec<(String, String)>, String> {
    let answer = bare(answer);
    match form.fields.as_slice() {
        [] => Err("no field is to be written".into()),
        [only] => Ok(vec![(only.clone(), answer.to_owned())]),
        many => {
            let object = answer
                .find('{')
                .zip(answer.rfind('}'))
                .and_then(|(from, to)| answer.get(from..=to))
                .and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok())
                .ok_or_else(|| "the answer is no JSON object".to_owned())?;
            many.iter()
                .map(|name| match object.get(name) {
                    Some(Value::String(text)) => Ok((name.clone(), text.trim().to_owned())),
                    _ => Err(format!("the answer has no text in the field `{name}`")),
                })
                .collect()
        }
    }
}

/// Without fences and quotation marks around the whole.
fn bare(answer: &str) -> &str {
    let mut text = answer.trim();
    if let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) {
        // The first line may name a language.
        let first = inner.split_once('\n');
        text = first.filter(|(head, _)| !head.trim().contains(' ')).map_or(inner, |(_, rest)| rest).trim();
    }
    for (open, close) in [('"', '"'), ('\u{201c}', '\u{201d}'), ('\u{ab}', '\u{bb}')] {
        let inner = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        if let Some(inner) = inner.filter(|inner| !inner.contains(open) && !inner.contains(close)) {
            return inner.trim();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::row;

    fn form(fields: &[&str]) -> RowForm {
        RowForm { fields: fields.iter().map(|f| (*f).to_owned()).collect(), ..RowForm::default() }
    }

    #[test]
    fn answers_are_read_without_what_models_put_around_them() {
        let one = |answer: &str| read(&form(&["message"]), answer).unwrap().remove(0).1;
        assert_eq!(one("  Where is it?\n"), "Where is it?");
        assert_eq!(one("\"Where is it?\""), "Where is it?");
        assert_eq!(one("```text\nWhere is it?\n```"), "Where is it?");
        assert_eq!(one("\"a\" and \"b\""), "\"a\" and \"b\"", "quotation marks that belong to it stay");
        let two = form(&["subject", "body"]);
        let read_two = |answer: &str| read(&two, answer);
        assert_eq!(
            read_two("Sure: {\"subject\": \"s\", \"body\": \"b\"}"),
            Ok(vec![("subject".into(), "s".into()), ("body".into(), "b".into())])
        );
        assert!(read_two("no").unwrap_err().contains("no JSON object"));
        assert!(read_two("{\"subject\": \"s\"}").unwrap_err().contains("`body`"));
    }

    fn of(id: &str, gold: &str) -> RunRow {
        RunRow { gold: Some(gold.into()), stratum: Some(gold.into()), ..row(id, &format!("text of {id}")) }
    }

    #[test]
    fn self_play_shows_rows_of_the_same_stratum_and_gold_and_the_same_seed_shows_the_same() {
        let rows: Vec<RunRow> = (0..12).map(|i| of(&format!("r{i}"), ["a", "b"][i % 2])).collect();
        let settings =
            GrowSettings { method: Method::SelfPlay, per_row: 2, shown: 4, ..GrowSettings::default() };
        let all = slots(&settings, &form(&["message"]), &rows, 3);
        assert_eq!(all.len(), 6);
        for slot in &all {
            assert_eq!(slot.parents.len(), 4);
            assert!(slot.parents[0] < 3, "only of the first rows");
            assert!(slot.parents.iter().all(|at| rows[*at].gold == rows[slot.parents[0]].gold));
        }
        assert_eq!(all, slots(&settings, &form(&["message"]), &rows, 3));
        assert_ne!(all[0].text, all[3].text, "the second of a row is another question");
    }

    #[test]
    fn reverse_shows_the_gold_and_what_it_means_and_not_the_input() {
        let settings = GrowSettings {
            method: Method::Reverse,
            meanings: [("a".to_owned(), "a lost card".to_owned())].into(),
            ..GrowSettings::default()
        };
        let all = slots(&settings, &form(&["message"]), &[of("r0", "a")], 1);
        assert!(
            all[0].text.contains("a lost card") && !all[0].text.contains("text of r0"),
            "{}",
            all[0].text
        );
    }
}
