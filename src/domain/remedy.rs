//! One wrong row, three remedies: what each is likely to fix, what it takes, and what it is started with.

use serde::{Deserialize, Serialize};

use super::row::Part;
use super::run::RunKind;
use super::words::{counted, duration};

/// A row as a candidate answered it, and what could be done about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remedies {
    pub row: String,
    pub part: Option<Part>,
    pub stratum: Option<String>,
    pub candidate: String,
    pub answer: Option<String>,
    pub gold: Option<String>,
    /// None where the candidate was not scored on the row.
    pub right: Option<bool>,
    pub stage: Option<FailedStage>,
    /// Rows of the stratum (of all, where there are no strata) on which the candidate was scored, and how many of them are wrong.
    pub scored: usize,
    pub wrong: usize,
    /// Rows in any stratum on which it says this answer for this gold, this one among them.
    pub same_mistake: usize,
    /// Other candidates that have the row right.
    pub right_by: Vec<String>,
    /// In the order of the ladder; empty where nothing is to be mended.
    pub remedies: Vec<Remedy>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// The stage to mend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStage {
    pub stage: String,
    /// How that is known.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remedy {
    pub kind: RunKind,
    /// What is done, in words.
    pub what: String,
    /// None: no run of this kind was scored yet.
    pub expected: Option<Expected>,
    pub price: Price,
    /// What the run is started with.
    pub set: Vec<(String, String)>,
    /// Why it cannot be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Flips to expect, from what earlier runs of the kind did on rows that chose nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Of the wrong rows: how many become right, with the 95% interval of the share that earlier runs fixed.
    pub fixed: f64,
    pub fixed95: [f64; 2],
    /// Of the right rows: how many become wrong.
    pub broken: f64,
    /// Rows that were wrong before earlier runs, and how many of these each made right in the mean.
    pub seen_wrong: usize,
    pub seen_fixed: f64,
    pub seen_right: usize,
    pub seen_broken: f64,
    /// The evidence is of this stratum alone; else of all rows, since too few of the stratum were wrong.
    pub of_stratum: bool,
    /// Earlier runs, the newest first.
    pub runs: Vec<String>,
}

/// How figures are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    #[default]
    About,
    AtMost,
    AtLeast,
}

/// What a run takes. What is not known is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Price {
    pub bound: Bound,
    pub seconds: Option<f64>,
    /// Questions to models.
    pub calls: Option<u64>,
    pub tokens: Option<u64>,
    pub usd: Option<f64>,
    /// Where the figures come from.
    pub from: String,
}

/// A count that is an estimate: `4`, `0.4`.
fn about(n: f64) -> String {
    if n >= 3.0 || n == 0.0 { format!("{n:.0}") } else { format!("{n:.1}") }
}

impl Expected {
    /// Of `wrong` rows now.
    pub fn short(&self, wrong: usize) -> String {
        let [low, high] = self.fixed95;
        format!("about {} of {wrong} ({} to {})", about(self.fixed), about(low), about(high))
    }

    /// Of `wrong` and `right` rows now.
    pub fn line(&self, wrong: usize, right: usize) -> String {
        let of = if self.of_stratum { "of this stratum" } else { "of all strata (too few of this one)" };
        format!(
            "{}, breaking {} of {right}; {} made {} of {} wrong rows {of} right",
            self.short(wrong),
            about(self.broken),
            self.runs.join(", "),
            about(self.seen_fixed),
            self.seen_wrong,
        )
    }
}

impl Price {
    pub fn line(&self) -> String {
        match self.short() {
            Some(short) => format!("{short}; {}", self.from),
            None => format!("not known: {}", self.from),
        }
    }

    /// Without where it comes from.
    pub fn short(&self) -> Option<String> {
        let mut parts = Vec::new();
        parts.extend(self.seconds.map(|s| duration((s * 1e3) as u64)));
        parts.extend(self.calls.map(|n| counted(n as usize, "call")));
        parts.extend(self.tokens.map(|n| counted(n as usize, "token")));
        parts.extend(self.usd.map(|usd| format!("${usd:.2}")));
        if parts.is_empty() {
            return None;
        }
        let bound = match self.bound {
            Bound::About => "about",
            Bound::AtMost => "at most",
            Bound::AtLeast => "at least",
        };
        Some(format!("{bound} {}", parts.join(", ")))
    }
}

impl Remedy {
    /// The rung that it climbs to.
    pub const fn name(&self) -> &'static str {
        match self.kind {
            RunKind::Prompt => "prompt edit",
            RunKind::Trajectory => "stored example",
            RunKind::Train => "training rows",
            other => other.name(),
        }
    }

    /// The command that starts it.
    pub fn command(&self) -> String {
        let set = self.set.iter().map(|(key, value)| {
            let both = format!("{key}={value}");
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.=/:@+,".contains(c);
            if both.chars().all(plain) {
                format!(" --set {both}")
            } else {
                format!(" --set '{}'", both.replace('\'', "'\\''"))
            }
        });
        format!("tunebench run {}{}", self.kind, set.collect::<String>())
    }
}

impl Remedies {
    /// The row and its like, before the remedies.
    pub fn head(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let said = match (&self.answer, self.right) {
            (Some(answer), Some(true)) => format!("says {answer}, which is right"),
            (Some(answer), Some(false)) => format!("says {answer}"),
            (Some(answer), None) => format!("says {answer}; nothing tells whether that is right"),
            (None, _) => "was not scored on this row".into(),
        };
        let gold = self.gold.as_ref().map_or_else(String::new, |gold| format!("; gold: {gold}"));
        lines.push(format!("{} {said}{gold}", self.candidate));
        let part = self.part.map_or("no part yet", Part::name);
        let place = match &self.stratum {
            Some(stratum) => format!("{part}, stratum {stratum}"),
            None => part.to_owned(),
        };
        let of = if self.stratum.is_some() { " of the stratum" } else { "" };
        lines.push(format!("{place}: {} of {} scored rows{of} are wrong", self.wrong, self.scored));
        if self.same_mistake > 1 {
            lines.push(format!("{} rows anywhere make this very mistake", self.same_mistake));
        }
        if let Some(stage) = &self.stage {
            lines.push(format!("stage {}: {}", stage.stage, stage.why));
        }
        if !self.right_by.is_empty() {
            lines.push(format!("right by {}", self.right_by.join(", ")));
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }

    /// What a remedy would fix.
    pub fn fixes(&self, remedy: &Remedy) -> String {
        match &remedy.expected {
            Some(expected) => expected.line(self.wrong, self.scored.saturating_sub(self.wrong)),
            None => format!("no evidence yet: no {} run was scored here", remedy.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_quotes_what_a_shell_would_take_apart() {
        let remedy = Remedy {
            kind: RunKind::Train,
            what: String::new(),
            expected: None,
            price: Price::default(),
            set: vec![
                ("candidate".into(), "lora-1".into()),
                ("tuning.train.weights".into(), "{ \"it's\" = 4 }".into()),
            ],
            refused: None,
        };
        assert_eq!(
            remedy.command(),
            "tunebench run train --set candidate=lora-1 --set 'tuning.train.weights={ \"it'\\''s\" = 4 }'"
        );
    }

    #[test]
    fn what_is_not_known_is_said_and_never_a_zero() {
        let price = Price { from: "no past run tells".into(), ..Price::default() };
        assert_eq!(price.line(), "not known: no past run tells");
        let price = Price {
            bound: Bound::AtMost,
            seconds: Some(61.2),
            calls: Some(1),
            from: "as prompt-1 took".into(),
            ..Price::default()
        };
        assert_eq!(price.line(), "at most 1 min 2 s, 1 call; as prompt-1 took");
    }

    #[test]
    fn expected_flips_come_with_their_evidence() {
        let expected = Expected {
            fixed: 4.2,
            fixed95: [0.9, 7.0],
            broken: 0.0,
            seen_wrong: 20,
            seen_fixed: 6.0,
            seen_right: 10,
            seen_broken: 0.0,
            of_stratum: true,
            runs: vec!["prompt-2".into(), "prompt-1".into()],
        };
        assert_eq!(
            expected.line(14, 6),
            "about 4 of 14 (0.9 to 7), breaking 0 of 6; prompt-2, prompt-1 made 6 of 20 wrong rows of this stratum right"
        );
    }
}
