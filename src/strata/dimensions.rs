//! Metadata dimensions: the value of a row's field as a slice's name.

use std::collections::HashMap;

use serde_json::Value;

use crate::domain::words::steers;

/// Distinct values that a dimension may have before it is cut into ranges (numbers) or its rare values are put together (names).
const MOST_VALUES: usize = 12;

/// Ranges of a dimension of numbers.
const RANGES: usize = 4;

/// Longest value shown, in characters.
const LONGEST: usize = 40;

const MISSING: &str = "(none)";
const OTHER: &str = "(other)";

/// The values of a dimension, and which of them each row has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sliced {
    pub values: Vec<String>,
    pub of: Vec<u32>,
}

/// [`values`], each kept once.
pub fn sliced(raw: &[Option<Value>]) -> Sliced {
    let mut known: HashMap<String, u32> = HashMap::new();
    let mut sliced = Sliced::default();
    for value in values(raw) {
        let at = known.get(&value).copied().unwrap_or_else(|| {
            let at = sliced.values.len() as u32;
            sliced.values.push(value.clone());
            known.insert(value, at);
            at
        });
        sliced.of.push(at);
    }
    sliced
}

/// The value of a dimension on each row: as it stands, where few are; quartile ranges of many numbers; the most common of many names, with
/// `(other)` for the rest and `(none)` where the field is missing.
fn values(raw: &[Option<Value>]) -> Vec<String> {
    let raw: Vec<Option<&Value>> = raw.iter().map(|v| v.as_ref().filter(|v| !v.is_null())).collect();
    let shown: Vec<String> = raw.iter().map(|value| value.map_or(MISSING.to_owned(), show)).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for value in &shown {
        *counts.entry(value).or_default() += 1;
    }
    if counts.len() <= MOST_VALUES {
        return shown;
    }
    let numbers: Vec<Option<f64>> = raw.iter().map(|value| value.and_then(number)).collect();
    if raw.iter().zip(&numbers).all(|(value, number)| value.is_none() || number.is_some()) {
        return ranges(&numbers);
    }
    let mut common: Vec<(&str, usize)> = counts.into_iter().filter(|(value, _)| *value != MISSING).collect();
    common.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let kept: std::collections::HashSet<String> =
        common.into_iter().take(MOST_VALUES - 1).map(|(value, _)| value.to_owned()).collect();
    shown
        .into_iter()
        .map(|value| if value == MISSING || kept.contains(&value) { value } else { OTHER.to_owned() })
        .collect()
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Between the quartiles, each range named by its ends.
fn ranges(numbers: &[Option<f64>]) -> Vec<String> {
    let mut sorted: Vec<f64> = numbers.iter().flatten().copied().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let mut cuts: Vec<f64> = (1..RANGES).map(|i| sorted[(sorted.len() - 1) * i / RANGES]).collect();
    cuts.dedup();
    // The top value itself is no cut: nothing lies above it.
    cuts.retain(|cut| sorted.last().is_some_and(|top| cut < top));
    let name = |value: f64| {
        let above = cuts.iter().rposition(|cut| value > *cut).map(|i| cuts[i]);
        let upto = cuts.iter().find(|cut| value <= **cut);
        match (above, upto) {
            (None, Some(upto)) => format!("<= {upto}"),
            (Some(above), None) => format!("> {above}"),
            (Some(above), Some(upto)) => format!("{above} to {upto}"),
            (None, None) => "any".to_owned(),
        }
    };
    numbers.iter().map(|value| value.map_or(MISSING.to_owned(), name)).collect()
}

/// On one line, without control characters.
fn show(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let clean: String = text.chars().map(|c| if steers(c) { ' ' } else { c }).collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    match clean.char_indices().nth(LONGEST) {
        _ if clean.is_empty() => MISSING.to_owned(),
        Some((cut, _)) => format!("{}…", &clean[..cut]),
        None => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(all: Vec<Value>) -> Vec<String> {
        let raw: Vec<Option<Value>> = all.into_iter().map(Some).collect();
        let sliced = sliced(&raw);
        let got: Vec<String> = sliced.of.iter().map(|at| sliced.values[*at as usize].clone()).collect();
        assert_eq!(got, values(&raw));
        got
    }

    #[test]
    fn few_values_stand_as_they_are() {
        assert_eq!(
            of(vec![json!("chat"), json!(2), json!(true), Value::Null, json!("a\u{1b}[2J b")]),
            ["chat", "2", "true", MISSING, "a [2J b"]
        );
    }

    #[test]
    fn many_numbers_become_ranges() {
        let got = of((1..=100).map(|i| json!(i)).collect());
        assert_eq!((got[0].as_str(), got[99].as_str()), ("<= 25", "> 75"));
        assert_eq!(got.iter().filter(|v| *v == "25 to 50").count(), 25);
        let skewed = of((0..100).map(|i| json!(if i < 80 { 1 } else { i })).collect());
        assert_eq!((skewed[0].as_str(), skewed[99].as_str()), ("<= 1", "> 1"));
    }

    #[test]
    fn many_names_keep_the_most_common() {
        let got = of((0..200)
            .map(|i| json!(if i % 2 == 0 { "often".to_owned() } else { format!("rare {i}") }))
            .collect());
        let distinct: std::collections::HashSet<&String> = got.iter().collect();
        assert_eq!(distinct.len(), MOST_VALUES);
        assert_eq!((got[0].as_str(), got.iter().filter(|v| *v == OTHER).count()), ("often", 90));
    }
}
