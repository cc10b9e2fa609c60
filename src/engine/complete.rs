//! Completing a filter over rows: keys that there are, and the values of a key by how many rows have them.
//!
//! Values of a field come from its column. However many rows there are, only so many different values are told apart, and those of a key
//! whose values are all known are counted once per state of the data.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::candidates;
use super::filter::{FIELD, Finder, KEYS, ROW, YIELD};
use super::rows::{self, Loaded};
use super::state::Engine;
use crate::domain::api::Failure;
use crate::domain::complete::{Completion, Place, SUGGESTED, Suggestion, What, fitting, place};
use crate::domain::filter::{Filter, Test, misread};
use crate::domain::words::{counted, steers};

/// Different values that one thread tells apart; beyond, only those it knows already are counted.
const DISTINCT: usize = 20_000;
/// Characters of a value; a longer one is a text that nobody types.
const VALUE: usize = 120;

pub fn complete(engine: &Engine, filter: &str, at: usize) -> Result<Completion, Failure> {
    let (stamp, loaded) = rows::shown(engine)?;
    let finder = Finder::new(engine, &loaded);
    let error = Filter::parse(filter).terms.iter().find_map(|term| wrong(&finder, &term.test));
    let error = error.or_else(|| misread(filter));
    let Some(place) = place(filter, at) else { return Ok(Completion { items: Vec::new(), error }) };
    let items = match &place.what {
        What::Key { typed } => fitting(keys(engine, &loaded), typed),
        // What is no key has no values.
        What::Value { key, .. } if finder.find(key).is_err() => Vec::new(),
        What::Value { key, typed, .. } => match few(&loaded, &finder, key) {
            Some(items) => fitting(items, typed),
            None => fitting(common(engine, &stamp, &finder, &loaded, key, &place)?, typed),
        },
    };
    Ok(Completion { items, error })
}

/// What is wrong with a term, as looking for rows would say it.
fn wrong(finder: &Finder<'_>, test: &Test) -> Option<String> {
    let Test::Key { key, op, values } = test else { return None };
    if let Err(error) = finder.find(key) {
        return Some(error.message);
    }
    values.iter().find_map(|value| finder.check(key, *op, value).err()).map(|error| error.message)
}

fn keys(engine: &Engine, loaded: &Loaded) -> Vec<Suggestion> {
    let suggestion = |text: String, aside: &str| Suggestion { text, aside: aside.to_owned() };
    let yields = |name: &str| YIELD.contains(&name) && loaded.dataset.fields().iter().any(|f| f == name);
    let own = |name: &str| !yields(name) && KEYS.iter().any(|(key, _)| *key == name);
    let named = |key: &str| if yields(key) { format!("{ROW}{key}") } else { key.to_owned() };
    let mut keys: Vec<Suggestion> = KEYS.iter().map(|(key, means)| suggestion(named(key), means)).collect();
    keys.extend(loaded.dataset.fields().iter().filter(|f| !f.chars().any(steers)).map(|field| {
        let name = if own(field) { format!("{FIELD}{field}") } else { field.clone() };
        suggestion(name, "a field of the data")
    }));
    keys.extend(
        candidates::known(engine)
            .iter()
            .map(|k| suggestion(k.candidate.name.clone(), "a candidate's outcome")),
    );
    keys
}

/// The values of keys that have few, known without looking at rows.
fn few(loaded: &Loaded, finder: &Finder<'_>, key: &str) -> Option<Vec<Suggestion>> {
    let plain = |names: &[&str]| {
        let named = |text: &&str| Suggestion { text: (*text).to_owned(), aside: String::new() };
        names.iter().map(named).collect()
    };
    match key {
        "len" => Some(Vec::new()),
        "stratum" => Some(loaded.strata.as_ref().map(|s| s.names()).unwrap_or_default()),
        _ => finder.words(key).map(|words| plain(&words)),
    }
}

/// The most common values of a key.
fn common(
    engine: &Engine,
    stamp: &rows::Stamp,
    finder: &Finder<'_>,
    loaded: &Arc<Loaded>,
    key: &str,
    place: &Place,
) -> Result<Vec<Suggestion>, Failure> {
    let typed = place.what.typed();
    let found = rows::values(engine, stamp, key, || {
        let looked = finder.key(key)?;
        let (values, all) = tally(loaded, &looked, "");
        // Too many to keep: those that fit what was typed.
        let values = if all || typed.is_empty() { values } else { tally(loaded, &looked, typed).0 };
        Ok((Arc::new(values), all))
    })?;
    let lower = typed.to_lowercase();
    let fit = found.iter().filter(|(value, _)| lower.is_empty() || value.to_lowercase().contains(&lower));
    // Those that begin so come first later on, so that more than are shown are kept.
    let items = fit.take(if lower.is_empty() { SUGGESTED } else { DISTINCT });
    Ok(items.map(|(value, n)| Suggestion { text: value.clone(), aside: counted(*n, "row") }).collect())
}

/// Values that contain `typed` with their rows, the most common first; and whether these are all.
fn tally(loaded: &Loaded, key: &super::filter::Key, typed: &str) -> (Vec<(String, usize)>, bool) {
    let lower = typed.to_lowercase();
    let fits = |value: &str| {
        !value.is_empty()
            && value.len() <= VALUE * 4
            && value.chars().nth(VALUE).is_none()
            && (lower.is_empty() || value.to_lowercase().contains(&lower))
            && !value.chars().any(steers)
    };
    let places: Vec<usize> = (0..loaded.dataset.len()).step_by(4096).collect();
    let (counts, all) = places
        .into_par_iter()
        .fold(
            || (HashMap::<Box<str>, usize>::new(), true),
            |(mut counts, mut all), from| {
                for at in from..loaded.dataset.len().min(from + 4096) {
                    key.each(loaded, at, &mut |value| {
                        if let Some(n) = counts.get_mut(value) {
                            *n += 1;
                        } else if counts.len() >= DISTINCT {
                            all = false;
                        } else if fits(value) {
                            counts.insert(value.into(), 1);
                        }
                    });
                }
                (counts, all)
            },
        )
        .reduce(
            || (HashMap::new(), true),
            |(a, in_a), (b, in_b)| {
                let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
                let mut all = in_a && in_b;
                for (value, n) in small {
                    if let Some(sum) = large.get_mut(&value) {
                        *sum += n;
                    } else if large.len() >= DISTINCT {
                        all = false;
                    } else {
                        large.insert(value, n);
                    }
                }
                (large, all)
            },
        );
    let mut values: Vec<(String, usize)> =
        counts.into_iter().map(|(value, n)| (String::from(value), n)).collect();
    values.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    (values, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_come_from_the_data_and_mistakes_are_named() {
        let dir = crate::workspace::tests::sample();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join(".tunebench")).unwrap();
        let rows: String = (0..90)
            .map(|i| {
                let team =
                    ["card arrival", "cards", "money"][usize::from(i % 3 == 0) + usize::from(i % 9 == 0)];
                format!("{{\"id\":\"r{i}\",\"message\":\"hello {i}\",\"team\":\"{team}\"}}\n")
            })
            .collect();
        std::fs::write(root.join("data/tickets.jsonl"), rows).unwrap();
        let engine = Engine::open(&root, "unused".into()).unwrap();
        let found = |filter: &str| complete(&engine, filter, filter.len()).unwrap();
        let texts = |filter: &str| -> Vec<(String, String)> {
            found(filter).items.into_iter().map(|s| (s.text, s.aside)).collect()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(texts("len>4 -tea"), [pair("team", "a field of the data")]);
        assert_eq!(
            texts("team:"),
            [pair("card arrival", "60 rows"), pair("cards", "20 rows"), pair("money", "10 rows")]
        );
        assert_eq!(texts("team:\"CARD"), [pair("card arrival", "60 rows"), pair("cards", "20 rows")]);
        assert_eq!(texts("part:eva"), [pair("eval", "")]);
        assert_eq!(texts("gold:mon"), [pair("money", "10 rows")]);
        assert_eq!(texts("len:"), []);
        let error = found("teem:cards ").error.unwrap();
        assert!(error.contains("`teem`") && error.contains("`team`"), "{error}");
        assert!(found("len>long").error.unwrap().contains("number of characters"));
        assert_eq!(found("team:cards \"http://x\"").error, None);
        // Values are counted again when somebody decided something.
        let gold = crate::domain::api::Decision::Gold { row: "r1".into(), gold: Some("monetary".into()) };
        engine.decided(engine.store.decide(1, gold).unwrap());
        assert_eq!(texts("gold:mon"), [pair("money", "10 rows"), pair("monetary", "1 row")]);
    }
}
