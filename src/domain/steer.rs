//! Changes of a training run while it runs, and where a run branched from.
//!
//! A change is one line of text wherever it goes (command line, control socket, events, trainer state), so that its numbers
//! read back to the same bits and a resumed run makes exactly the change that was made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest learning rate that a run takes.
pub const RATE_MAX: f64 = 10.0;
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
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LearningRate(rate) => write!(f, "learning_rate={rate:?}"),
            Self::LearningRateTimes(factor) => write!(f, "learning_rate=x{factor:?}"),
            Self::Weight { stratum, weight } => write!(f, "weight:{stratum}={weight:?}"),
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

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "expected learning_rate=1e-4, learning_rate=x0.3 or weight:STRATUM=2";
        let (key, value) = text.rsplit_once('=').ok_or_else(|| format!("`{text}` is no change; {FORMS}"))?;
        let (key, value) = (key.trim(), value.trim());
        let number = |text: &str, what: &str, valid: &dyn Fn(f64) -> bool| {
            let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && valid(*n));
            number.ok_or_else(|| format!("`{key}={value}`: {what} is expected"))
        };
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
        for bad in ["", "rank=8", "weight:=1", "weight:a=-1", "weight:a=nan", "learning_rate=0"] {
            assert!(read(bad).unwrap_err().contains("expected"), "{bad}");
        }
        assert!(read("rank=8").unwrap_err().contains("`rank` cannot be changed"));
    }

    proptest! {
        #[test]
        fn a_change_reads_back_to_the_same_bits(rate in 1e-12..10.0f64, stratum in "[a-z][a-z =:]{0,8}[a-z]", weight in 0.0..1000.0f64) {
            for change in [Change::LearningRate(rate), Change::LearningRateTimes(rate), Change::Weight { stratum, weight }] {
                let json = serde_json::to_string(&change).unwrap();
                prop_assert_eq!(serde_json::from_str::<Change>(&json).unwrap(), change);
            }
        }
    }
}
