//! Changes of a run while it runs, and where a run branched from.
//!
//! A change is one line of text wherever it goes (command line, control socket, events, trainer state), so that its numbers
//! read back to the same bits and a resumed run makes exactly the change that was made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest learning rate that a run takes.
pub const RATE_MAX: f64 = 10.0;
/// Most texts that are made of a row.
pub const PER_ROW_MAX: usize = 1000;
/// Largest weight of a stratum.
pub const WEIGHT_MAX: f64 = 1000.0;

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Change {
    /// `learning_rate=1e-4`: the schedule's peak is this from now on; its shape stays.
    LearningRate(f64),
    /// `learning_rate=x0.3`: the peak times this.
    LearningRateTimes(f64),
    /// `weight:STRATUM=2`: rows of the stratum are drawn this often relative to 1.
    Weight { stratum: String, weight: f64 },
    /// `hint=TEXT`: what a person knows goes into new versions, and to the critic.
    Hint(String),
    /// `pin=WORDS`: they must stay from now on.
    Pin(String),
    /// `kill=v7`: the version leaves the race.
    Kill(String),
    /// `budget.calls=8000`: so much in all.
    Budget(Limit),
    /// `lesson:v7=TEXT`: what was learned of the version, in a person's words; without any it is forgotten.
    Lesson { version: String, words: String },
    /// `per_row=4`: so many texts of each row are made in all.
    PerRow(usize),
}

/// A limit of a prompt run's budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    Calls(u64),
    Tokens(u64),
    Usd(f64),
    Seconds(u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calls(n) => write!(f, "budget.calls={n}"),
            Self::Tokens(n) => write!(f, "budget.tokens={n}"),
            Self::Usd(usd) => write!(f, "budget.usd={usd:?}"),
            Self::Seconds(n) => write!(f, "budget.seconds={n}"),
        }
    }
}

impl Change {
    /// It is a change of a prompt run; else of a training.
    pub const fn is_of_prompts(&self) -> bool {
        matches!(self, Self::Hint(_) | Self::Pin(_) | Self::Kill(_) | Self::Budget(_) | Self::Lesson { .. })
    }
}

/// Longest hint, pin or lesson, in bytes.
const WORDS_MAX: usize = 4_000;

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LearningRate(rate) => write!(f, "learning_rate={rate:?}"),
            Self::LearningRateTimes(factor) => write!(f, "learning_rate=x{factor:?}"),
            Self::Weight { stratum, weight } => write!(f, "weight:{stratum}={weight:?}"),
            Self::Hint(words) => write!(f, "hint={words}"),
            Self::Pin(words) => write!(f, "pin={words}"),
            Self::Kill(version) => write!(f, "kill={version}"),
            Self::Budget(limit) => write!(f, "{limit}"),
            Self::PerRow(n) => write!(f, "per_row={n}"),
            Self::Lesson { version, words } => write!(f, "lesson:{version}={words}"),
        }
    }
}

impl From<Change> for String {
    fn from(change: Change) -> Self {
        change.to_string()
    }
}

impl TryFrom<String> for Change {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A change of a prompt run; none where it is not written like one. Its words may hold anything, `=` too.
fn of_prompts(text: &str) -> Option<Result<Change, String>> {
    let (key, value) = text.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let words = |value: &str, needed: bool| {
        if needed && value.is_empty() {
            return Err(format!("`{key}`: words are expected after the ="));
        }
        if value.len() > WORDS_MAX {
            return Err(format!("`{key}` has {} bytes of words; at most {WORDS_MAX} are taken", value.len()));
        }
        Ok(value.to_owned())
    };
    let version = |value: &str| {
        let is_one = value.strip_prefix('v').is_some_and(|n| n.parse::<usize>().is_ok());
        if is_one {
            Ok(value.to_owned())
        } else {
            Err(format!("`{text}`: a version is expected, such as v7"))
        }
    };
    let whole = |value: &str| {
        let number = value.parse::<u64>().ok().filter(|n| *n > 0);
        number.ok_or_else(|| format!("`{key}={value}`: a whole number of at least 1 is expected"))
    };
    Some(match key {
        "hint" => words(value, true).map(Change::Hint),
        "pin" => words(value, true).map(Change::Pin),
        "kill" => version(value).map(Change::Kill),
        "budget.calls" => whole(value).map(|n| Change::Budget(Limit::Calls(n))),
        "budget.tokens" => whole(value).map(|n| Change::Budget(Limit::Tokens(n))),
        "budget.seconds" => whole(value).map(|n| Change::Budget(Limit::Seconds(n))),
        "budget.usd" => {
            let usd = value.parse::<f64>().ok().filter(|usd| usd.is_finite() && *usd > 0.0);
            usd.map(|usd| Change::Budget(Limit::Usd(usd)))
                .ok_or_else(|| format!("`{key}={value}`: dollars above 0 are expected"))
        }
        _ => {
            let of = key.strip_prefix("lesson:")?;
            version(of.trim()).and_then(|version| Ok(Change::Lesson { version, words: words(value, false)? }))
        }
    })
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "expected learning_rate=1e-4, learning_rate=x0.3 or weight:STRATUM=2 for a training; hint=TEXT, pin=WORDS, kill=v7, budget.calls=8000 or lesson:v7=TEXT for a prompt run; budget.calls=8000 or per_row=4 for one that grows rows";
        if let Some(change) = of_prompts(text) {
            return change;
        }
        let (key, value) = text.rsplit_once('=').ok_or_else(|| format!("`{text}` is no change; {FORMS}"))?;
        let (key, value) = (key.trim(), value.trim());
        let number = |text: &str, what: &str, valid: &dyn Fn(f64) -> bool| {
            let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && valid(*n));
            number.ok_or_else(|| format!("`{key}={value}`: {what} is expected"))
        };
        if key == "per_row" {
            let n = value.parse::<usize>().ok().filter(|n| (1..=PER_ROW_MAX).contains(n));
            return n.map(Self::PerRow).ok_or_else(|| {
                format!("`{key}={value}`: a whole number from 1 to {PER_ROW_MAX} is expected")
            });
        }
        if key == "learning_rate" {
            return match value.strip_prefix('x') {
                Some(factor) => number(factor, "a factor above 0, such as x0.3", &|n| n > 0.0 && n <= 1000.0)
                    .map(Self::LearningRateTimes),
                None => {
                    number(value, "a learning rate above 0 and at most 10", &|n| n > 0.0 && n <= RATE_MAX)
                        .map(Self::LearningRate)
                }
            };
        }
        match key.strip_prefix("weight:").map(str::trim).filter(|stratum| !stratum.is_empty()) {
            Some(stratum) => Ok(Self::Weight {
                stratum: stratum.to_owned(),
                weight: number(value, "a weight from 0 to 1000", &|n| (0.0..=WEIGHT_MAX).contains(&n))?,
            }),
            None => Err(format!("`{key}` cannot be changed while a run runs; {FORMS}")),
        }
    }
}

/// What is said of a change.
pub fn told(step: u64, change: &Change, refused: Option<&str>) -> String {
    match refused {
        None => format!("step {step}: {change}"),
        Some(why) => format!("step {step}: {change} is not done: {why}"),
    }
}

/// A change and the first step that was taken with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    pub step: u64,
    pub change: Change,
}

/// The checkpoint that a run started from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub run: String,
    pub step: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.run, self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn changes_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Change>();
        assert_eq!(read("learning_rate=1e-4"), Ok(Change::LearningRate(1e-4)));
        assert_eq!(read("learning_rate = x0.3"), Ok(Change::LearningRateTimes(0.3)));
        let weight = |stratum: &str, weight| Ok(Change::Weight { stratum: stratum.into(), weight });
        assert_eq!(read("weight:card arrival=2"), weight("card arrival", 2.0));
        assert_eq!(read("weight:a=b=0"), weight("a=b", 0.0));
        assert_eq!(read("per_row= 4"), Ok(Change::PerRow(4)));
        for bad in [
            "",
            "per_row=0",
            "per_row=1e9",
            "rank=8",
            "weight:=1",
            "weight:a=-1",
            "weight:a=nan",
            "learning_rate=0",
        ] {
            assert!(read(bad).unwrap_err().contains("expected"), "{bad}");
        }
        assert!(read("rank=8").unwrap_err().contains("`rank` cannot be changed"));
    }

    #[test]
    fn changes_of_prompt_runs_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Change>();
        assert_eq!(read("hint=a refund = money back"), Ok(Change::Hint("a refund = money back".into())));
        assert_eq!(read("kill= v12"), Ok(Change::Kill("v12".into())));
        assert_eq!(read("budget.usd=2.5"), Ok(Change::Budget(Limit::Usd(2.5))));
        assert_eq!(read("lesson:v3="), Ok(Change::Lesson { version: "v3".into(), words: String::new() }));
        for bad in [
            "hint=",
            "pin= ",
            "kill=the worst",
            "budget.calls=0",
            "budget.usd=-1",
            "lesson:=x",
            "budget.rows=1",
        ] {
            assert!(read(bad).unwrap_err().contains("expected"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_change_reads_back_to_the_same_bits(rate in 1e-12..10.0f64, stratum in "[a-z][a-z =:]{0,8}[a-z]", weight in 0.0..1000.0f64) {
            let words = Change::Hint(format!("{stratum} = {stratum}"));
            let lesson = Change::Lesson { version: "v7".into(), words: stratum.clone() };
            for change in [words, lesson, Change::Budget(Limit::Usd(rate)), Change::LearningRate(rate), Change::LearningRateTimes(rate), Change::Weight { stratum, weight }] {
                let json = serde_json::to_string(&change).unwrap();
                prop_assert_eq!(serde_json::from_str::<Change>(&json).unwrap(), change);
            }
        }
    }
}
