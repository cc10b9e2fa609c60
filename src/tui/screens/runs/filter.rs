//! The filter language of the runs: `kind:train -state:failed lr>1e-4 accuracy>=.8 word`. All terms must hold; `-` negates one.

use crate::domain::run::RunRecord;
use crate::tui::screens::short_key;

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Kind(String),
    State(String),
    /// A setting or metric against a number.
    Number {
        name: String,
        op: Op,
        value: f64,
    },
    /// A setting that reads so.
    Setting {
        name: String,
        value: String,
    },
    /// Anywhere in name, candidate, settings and last words.
    Word(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// Terms, each with whether it is negated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter(Vec<(bool, Test)>);

impl Filter {
    /// Reads a filter. What is no term of the language is a word, so that everything typed means something.
    pub fn parse(text: &str) -> Self {
        let term = |raw: &str| {
            let (negated, term) =
                raw.strip_prefix('-').filter(|t| !t.is_empty()).map_or((false, raw), |t| (true, t));
            (negated, test(&term.to_lowercase()))
        };
        Self(text.split_whitespace().map(term).collect())
    }

    pub fn admits(&self, run: &RunRecord) -> bool {
        self.0.iter().all(|(negated, test)| holds(test, run) != *negated)
    }
}

fn test(term: &str) -> Test {
    if let Some(kind) = term.strip_prefix("kind:") {
        return Test::Kind(kind.into());
    }
    if let Some(state) = term.strip_prefix("state:") {
        return Test::State(state.into());
    }
    for (sign, op) in [(">=", Op::GreaterEqual), ("<=", Op::LessEqual), (">", Op::Greater), ("<", Op::Less)] {
        if let Some((name, value)) = term.split_once(sign)
            && let (false, Ok(value)) = (name.is_empty(), value.parse())
        {
            return Test::Number { name: name.into(), op, value };
        }
    }
    match term.split_once('=') {
        Some((name, value)) if !name.is_empty() => Test::Setting { name: name.into(), value: value.into() },
        _ => Test::Word(term.into()),
    }
}

/// The short forms that people type.
fn is_called(key: &str, name: &str) -> bool {
    let short = short_key(key);
    key == name || short == name || (name == "lr" && short == "learning_rate")
}

fn holds(test: &Test, run: &RunRecord) -> bool {
    match test {
        Test::Kind(kind) => run.kind.name().starts_with(kind.as_str()),
        Test::State(state) => run.state.name().starts_with(state.as_str()),
        Test::Number { name, op, value } => {
            let setting = run
                .settings
                .iter()
                .find(|(k, _)| is_called(k, name))
                .and_then(|(_, v)| v.parse::<f64>().ok());
            let metric = || run.metrics.iter().find(|(k, _)| is_called(k, name)).map(|(_, v)| *v);
            setting.or_else(metric).is_some_and(|got| match op {
                Op::Less => got < *value,
                Op::LessEqual => got <= *value,
                Op::Greater => got > *value,
                Op::GreaterEqual => got >= *value,
            })
        }
        Test::Setting { name, value } => {
            run.settings.iter().any(|(k, v)| is_called(k, name) && v.to_lowercase() == *value)
        }
        Test::Word(word) => {
            let has = |text: &str| text.to_lowercase().contains(word.as_str());
            has(&run.run)
                || has(run.kind.name())
                || run.candidate.as_deref().is_some_and(has)
                || run.message.as_deref().is_some_and(has)
                || run.settings.iter().any(|(k, v)| has(k) || has(v))
        }
    }
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
            ("LORA", true),
            ("-lora", false),
            ("-", true),
            ("kind:train eval", false),
        ] {
            assert_eq!(Filter::parse(text).admits(&run), want, "{text}");
        }
    }
}
