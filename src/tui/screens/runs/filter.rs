//! What the filter language ([`crate::domain::filter`]) means of a run: `kind:train -state:failed lr>1e-4 accuracy>=.8 word`.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::complete::Suggestion;
use crate::domain::filter::{ANY, Filter, Op, Term, Test, number};
use crate::domain::run::RunRecord;
use crate::domain::words::counted;
use crate::tui::screens::short_key;

pub fn admits(filter: &Filter, run: &RunRecord) -> bool {
    filter.terms.iter().all(|term| holds(term, run) != term.negated)
}

/// The short forms that people type.
fn is_called(key: &str, name: &str) -> bool {
    let short = short_key(key);
    key == name || short == name || (name == "lr" && short == "learning_rate")
}

fn holds(term: &Term, run: &RunRecord) -> bool {
    let has = |text: &str, word: &str| text.to_lowercase().contains(&word.to_lowercase());
    match &term.test {
        Test::Key { key, op, values } => {
            values.is_empty() || values.iter().any(|value| fits(run, &key.to_lowercase(), *op, value))
        }
        // Anywhere in name, candidate, settings and last words.
        Test::Word(word) => {
            has(&run.run, word)
                || has(run.kind.name(), word)
                || run.candidate.as_deref().is_some_and(|c| has(c, word))
                || run.message.as_deref().is_some_and(|m| has(m, word))
                || run.settings.iter().any(|(k, v)| has(k, word) || has(v, word))
        }
    }
}

/// One value of a key: kind and state by how they begin, a setting by what it reads, settings and metrics by size.
fn fits(run: &RunRecord, key: &str, op: Op, value: &str) -> bool {
    let begins = |text: &str| value == ANY || text.starts_with(&value.to_lowercase());
    match key {
        "kind" => return begins(run.kind.name()),
        "state" => return begins(run.state.name()),
        _ => {}
    }
    let setting = run.settings.iter().find(|(k, _)| is_called(k, key)).map(|(_, v)| v.as_str());
    let metric = || run.metrics.iter().find(|(k, _)| is_called(k, key)).map(|(_, v)| *v);
    if value == ANY {
        return setting.is_some() || metric().is_some();
    }
    let same = setting.is_some_and(|v| v.eq_ignore_ascii_case(value));
    let got = setting.and_then(number).or_else(metric);
    let by_size = got.zip(number(value)).is_some_and(|(got, wanted)| op.holds(got, wanted));
    by_size || !op.orders() && same
}

/// Keys that the runs have: `kind`, `state`, settings by their short names, metrics.
pub fn keys(runs: &[RunRecord]) -> Vec<Suggestion> {
    let named = |text: &str, aside: &str| Suggestion { text: text.to_owned(), aside: aside.to_owned() };
    let mut keys = vec![named("kind", "what the run does"), named("state", "how far it is")];
    let settings: BTreeSet<&str> =
        runs.iter().flat_map(|r| r.settings.iter().map(|(key, _)| short_key(key))).collect();
    let metrics: BTreeSet<&str> =
        runs.iter().flat_map(|r| r.metrics.keys().map(|key| short_key(key))).collect();
    if settings.contains("learning_rate") {
        keys.push(named("lr", "the learning rate"));
    }
    keys.extend(settings.iter().map(|key| named(key, "a setting")));
    keys.extend(metrics.difference(&settings).map(|key| named(key, "a figure")));
    keys
}

/// The values of a key among the runs, the most common first.
pub fn values(runs: &[RunRecord], key: &str) -> Vec<Suggestion> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for run in runs {
        let value = match key {
            "kind" => Some(run.kind.name().to_owned()),
            "state" => Some(run.state.name().to_owned()),
            _ => run.settings.iter().find(|(k, _)| is_called(k, key)).map(|(_, v)| v.clone()),
        };
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            *counts.entry(value).or_default() += 1;
        }
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    counts.into_iter().map(|(text, n)| Suggestion { text, aside: counted(n, "run") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::run::{RunKind, RunState};
    use crate::tui::sample;

    #[test]
    fn terms_hold_together_and_negate() {
        let mut run = sample::run("lora-12", RunKind::Train, RunState::Done);
        run.settings = vec![
            ("tuning.train.learning_rate".into(), "2e-4".into()),
            ("tuning.train.prompt".into(), "bare".into()),
        ];
        run.metrics.insert("accuracy".into(), 0.9);
        for (text, want) in [
            ("", true),
            ("kind:train", true),
            ("kind:eval", false),
            ("-kind:eval", true),
            ("state:done lr>1e-4", true),
            ("lr>2e-4", false),
            ("lr>=2e-4", true),
            ("learning_rate<1", true),
            ("accuracy>.8 -state:failed", true),
            ("missing>0", false),
            ("prompt=BARE", true),
            ("prompt=same", false),
            ("prompt:bare,same", true),
            ("accuracy:*", true),
            ("accuracy>80%", true),
            ("LORA", true),
            ("-lora", false),
            ("-", true),
            ("kind:train eval", false),
        ] {
            assert_eq!(admits(&Filter::parse(text), &run), want, "{text}");
        }
    }
}
