//! Task, input, gold and dimensions, guessed from a sample of rows; each guess says why.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::shape::{Shape, as_text};
use crate::domain::words::counted;
use crate::workspace::config::Task;

/// Rows of a sample.
const SAMPLE_ROWS: usize = 1000;

/// Longer rows are not sampled, so that a sample stays small.
pub(super) const SAMPLE_ROW_BYTES: usize = 64 << 10;

/// Rows chosen evenly from all that were offered (Vitter's algorithm R, with a fixed seed).
#[derive(Debug, Default)]
pub struct Sample {
    pub rows: Vec<Map<String, Value>>,
    offered: u64,
    state: u64,
}

impl Sample {
    /// Where the next row is to be put, if it is chosen.
    pub(super) fn choose(&mut self) -> Option<usize> {
        self.offered += 1;
        if self.rows.len() < SAMPLE_ROWS {
            return Some(self.rows.len());
        }
        // splitmix64 (Steele, Lea, Flood 2014).
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let place = (z ^ (z >> 31)) % self.offered;
        usize::try_from(place).ok().filter(|p| *p < SAMPLE_ROWS)
    }

    /// Rows of another file, as many as fit.
    pub fn merge(&mut self, other: Self) {
        // Shares by the number of rows offered would be fairer; a guess does not need that.
        self.rows.extend(other.rows);
        self.offered += other.offered;
    }

    pub(super) fn put(&mut self, place: usize, row: Map<String, Value>) {
        match self.rows.get_mut(place) {
            Some(slot) => *slot = row,
            None => self.rows.push(row),
        }
    }
}

/// What rows seem to mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    pub shape: Shape,
    pub task: Task,
    /// Template for the input; none: the shape's own.
    pub input: Option<String>,
    /// Field with the gold; none: the shape's own, or none at all.
    pub gold: Option<String>,
    pub dimensions: Vec<String>,
    /// Labels in the sample, commonest first, where the task is classification.
    pub labels: Vec<String>,
    /// One sentence per guess.
    pub why: Vec<String>,
}

const INPUTS: [&str; 17] = [
    "text",
    "message",
    "input",
    "question",
    "prompt",
    "query",
    "utterance",
    "sentence",
    "content",
    "body",
    "document",
    "description",
    "review",
    "comment",
    "email",
    "ticket",
    "title",
];
const GOLDS: [&str; 21] = [
    "gold",
    "label",
    "labels",
    "category",
    "class",
    "target",
    "intent",
    "answer",
    "ground_truth",
    "output",
    "completion",
    "response",
    "expected",
    "team",
    "queue",
    "sentiment",
    "topic",
    "reference",
    "summary",
    "tag",
    "y",
];

/// What is known of one field.
#[derive(Default)]
struct Field<'a> {
    present: usize,
    values: BTreeMap<String, usize>,
    characters: usize,
    nested: usize,
    name: &'a str,
}

impl Field<'_> {
    fn mean_length(&self) -> usize {
        self.characters / self.present.max(1)
    }

    /// Few, short values that come again.
    fn is_categorical(&self, rows: usize) -> bool {
        let n = self.values.len();
        let often = if rows < 40 { rows.div_ceil(2) } else { rows / 4 };
        n >= 2 && n <= often.clamp(2, 300) && self.mean_length() <= 40 && self.nested == 0
    }
}

/// Guesses from a sample; `input` (a template) and `gold` (a field) are what the person has already said.
pub fn guess(sample: &Sample, input: Option<&str>, gold: Option<&str>) -> Guess {
    let rows = &sample.rows;
    let mut shapes: BTreeMap<Shape, usize> = BTreeMap::new();
    let mut fields: BTreeMap<&str, Field<'_>> = BTreeMap::new();
    for row in rows {
        *shapes.entry(Shape::of(row)).or_default() += 1;
        for (name, value) in row {
            let Some(text) = as_text(value) else { continue };
            let field = fields.entry(name).or_insert_with(|| Field { name, ..Field::default() });
            field.present += 1;
            field.characters += text.chars().count();
            field.nested += usize::from(value.is_array() || value.is_object());
            if field.values.len() <= SAMPLE_ROWS && text.len() <= 200 {
                *field.values.entry(text).or_default() += 1;
            } else {
                // Long texts are all different for our purposes.
                field.values.insert(format!("{}", field.present), 1);
            }
        }
    }
    let shape = shapes.iter().max_by_key(|(_, n)| **n).map_or(Shape::Records, |(s, _)| *s);
    let mut guess = Guess { shape, ..Guess::default() };
    if shape != Shape::Records {
        guess.why.push(format!("shape: {} (by the names of the fields)", shape.name()));
    }
    guess.gold = guess_gold(&mut guess.why, gold, shape, rows.len(), &fields, input);
    guess.input = guess_input(&mut guess.why, input, shape, guess.gold.as_deref(), &fields);
    guess_task(&mut guess, rows);
    let taken: BTreeSet<&str> = [guess.gold.as_deref(), Some("id")].into_iter().flatten().collect();
    let in_input = |name: &str| guess.input.as_deref().is_some_and(|t| t.contains(name));
    let dimensions: Vec<String> = fields
        .values()
        .filter(|f| !taken.contains(f.name) && !in_input(f.name))
        .filter(|f| f.is_categorical(rows.len()) && f.values.len() <= 20 && f.present * 10 >= rows.len() * 8)
        .map(|f| f.name.to_owned())
        .take(3)
        .collect();
    if !dimensions.is_empty() {
        guess.why.push(format!("dimensions: {} (few values each)", dimensions.join(", ")));
    }
    guess.dimensions = dimensions;
    guess
}

fn guess_gold(
    why: &mut Vec<String>,
    given: Option<&str>,
    shape: Shape,
    rows: usize,
    fields: &BTreeMap<&str, Field<'_>>,
    input: Option<&str>,
) -> Option<String> {
    if let Some(given) = given {
        why.push(format!("gold: {given} (as told)"));
        return Some(given.to_owned());
    }
    if !matches!(shape, Shape::Records | Shape::Text) {
        return None;
    }
    let free = |name: &str| !input.is_some_and(|t| t.contains(name));
    let lower: BTreeMap<String, &str> = fields.keys().map(|k| (k.to_lowercase(), *k)).collect();
    let named = GOLDS.iter().find_map(|name| lower.get(*name).filter(|n| free(n)));
    if let Some(name) = named {
        why.push(format!("gold: {name} (by its name)"));
        return Some((*name).to_owned());
    }
    let only: Vec<&Field<'_>> = fields.values().filter(|f| f.is_categorical(rows) && free(f.name)).collect();
    if let [field] = only[..] {
        why.push(format!("gold: {} (the one field with few values: {})", field.name, field.values.len()));
        return Some(field.name.to_owned());
    }
    why.push("gold: none found (say it with --gold FIELD)".into());
    None
}

fn guess_input(
    why: &mut Vec<String>,
    given: Option<&str>,
    shape: Shape,
    gold: Option<&str>,
    fields: &BTreeMap<&str, Field<'_>>,
) -> Option<String> {
    if let Some(given) = given {
        why.push(format!("input: {given} (as told)"));
        return Some(given.to_owned());
    }
    if shape != Shape::Records {
        return None;
    }
    let free = |name: &str| Some(name) != gold && name != "id";
    let lower: BTreeMap<String, &str> = fields.keys().map(|k| (k.to_lowercase(), *k)).collect();
    if let Some(name) = INPUTS.iter().find_map(|name| lower.get(*name).filter(|n| free(n))) {
        why.push(format!("input: {name} (by its name)"));
        return Some(template_of(name));
    }
    let longest = fields.values().filter(|f| free(f.name)).max_by_key(|f| f.mean_length())?;
    why.push(format!("input: {} (the longest text)", longest.name));
    Some(template_of(longest.name))
}

/// A field's name as a template that shows the field.
pub fn template_of(field: &str) -> String {
    let plain = field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && field.chars().next().is_some_and(|c| !c.is_ascii_digit());
    if plain {
        format!("{{{{ {field} }}}}")
    } else {
        format!("{{{{ row[{}] }}}}", serde_json::Value::from(field))
    }
}

fn guess_task(guess: &mut Guess, rows: &[Map<String, Value>]) {
    let mut golds: BTreeMap<String, usize> = BTreeMap::new();
    let (mut json, mut length, mut n) = (0, 0, 0);
    for row in rows {
        let value = match &guess.gold {
            Some(name) => row.get(name).and_then(as_text),
            None => guess.shape.gold(row),
        };
        let Some(text) = value else { continue };
        n += 1;
        length += text.chars().count();
        json += usize::from(
            matches!(text.trim().as_bytes().first(), Some(b'{' | b'['))
                && serde_json::from_str::<Value>(&text).is_ok(),
        );
        if text.len() <= 200 {
            *golds.entry(text).or_default() += 1;
        } else {
            golds.insert(format!("{n}"), 1);
        }
    }
    let calls = matches!(guess.shape, Shape::Sharegpt | Shape::Messages)
        && rows.iter().any(|r| r.get("tools").and_then(as_text).is_some_and(|t| t != "[]"));
    let kinds = golds.len();
    let (task, because) = if calls {
        (Task::Agent, "the conversations call tools".to_owned())
    } else if n == 0 {
        (Task::Generation, "there is no gold".to_owned())
    } else if json * 10 >= n * 9 {
        (Task::Extraction, "the gold is JSON".to_owned())
    } else if kinds >= 2 && length / n <= 40 && (kinds * 4 <= n || (n < 40 && kinds * 2 <= n)) {
        guess.labels = labels(golds);
        (
            Task::Classification,
            format!("the gold has {} in {}", counted(kinds, "short value"), counted(n, "row")),
        )
    } else {
        (Task::Generation, format!("the gold is text, {} on the average", counted(length / n, "character")))
    };
    guess.task = task;
    guess.why.push(format!("task: {} ({because})", task.name()));
}

fn labels(golds: BTreeMap<String, usize>) -> Vec<String> {
    let mut by_count: Vec<(String, usize)> = golds.into_iter().collect();
    by_count.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    by_count.into_iter().map(|(label, _)| label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Guess {
        let mut sample = Sample::default();
        for line in lines.iter().cycle().take(lines.len() * 20) {
            let place = sample.choose().unwrap();
            sample.put(place, serde_json::from_str(line).unwrap());
        }
        guess(&sample, None, None)
    }

    #[test]
    fn a_table_of_messages_and_labels_is_classification() {
        let g = of(&[
            r#"{"id":1,"message":"where is my card","channel":"chat","team":"cards"}"#,
            r#"{"id":2,"message":"refund please","channel":"mail","team":"money"}"#,
        ]);
        assert_eq!(
            (g.task, g.input.as_deref(), g.gold.as_deref()),
            (Task::Classification, Some("{{ message }}"), Some("team"))
        );
        assert_eq!(g.dimensions, ["channel"]);
        assert_eq!(g.labels, ["cards", "money"]);
    }

    #[test]
    fn json_golds_are_extraction_and_texts_generation() {
        let g = of(&[r#"{"text":"a","output":{"x":1}}"#, r#"{"text":"b","output":{"x":2}}"#]);
        assert_eq!(g.task, Task::Extraction);
        let long: Vec<String> = (0..100)
            .map(|i| format!(r#"{{"prompt":"q{i}","completion":"a long answer number {i}, all its own"}}"#))
            .collect();
        let lines: Vec<&str> = long.iter().map(String::as_str).collect();
        let mut sample = Sample::default();
        for line in lines {
            let place = sample.choose().unwrap();
            sample.put(place, serde_json::from_str(line).unwrap());
        }
        let g = guess(&sample, None, None);
        assert_eq!(
            (g.shape, g.task, g.input, g.gold),
            (Shape::PromptCompletion, Task::Generation, None, None)
        );
    }

    #[test]
    fn a_sample_is_drawn_from_the_whole_and_stays_small() {
        let mut sample = Sample::default();
        for i in 0..100_000 {
            if let Some(place) = sample.choose() {
                sample.put(place, serde_json::from_str(&format!("{{\"i\":{i}}}")).unwrap());
            }
        }
        let mean = sample.rows.iter().filter_map(|r| r["i"].as_f64()).sum::<f64>() / sample.rows.len() as f64;
        assert_eq!(sample.rows.len(), SAMPLE_ROWS);
        assert!((40_000.0..60_000.0).contains(&mean), "{mean}");
    }

    #[test]
    fn names_that_are_no_identifiers_are_looked_up_in_the_row() {
        assert_eq!(template_of("text"), "{{ text }}");
        assert_eq!(template_of("my \"text\""), r#"{{ row["my \"text\""] }}"#);
        assert_eq!(template_of("{{ a }}"), r#"{{ row["{{ a }}"] }}"#);
    }
}
