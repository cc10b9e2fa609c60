//! Samples: how rows are drawn, why each was, and which train rows a run learns from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::row::Part;

/// Seed of draws where none is given.
pub const SEED: u64 = 7;

/// How rows are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// So many rows of every stratum.
    #[default]
    PerStratum,
    /// So many rows in all, each stratum by its size.
    Proportional,
    /// So many rows in all, each stratum by its size and by how often the best candidate is wrong there.
    Weak,
    /// So many rows in all: those that candidates are unsure of or disagree on, of strata that are small in train, of strata with many errors.
    Active,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::PerStratum, Self::Proportional, Self::Weak, Self::Active];

    pub const fn name(self) -> &'static str {
        match self {
            Self::PerStratum => "per-stratum",
            Self::Proportional => "proportional",
            Self::Weak => "weak",
            Self::Active => "active",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| {
            format!("`{text}` is no way to draw rows; expected {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// What is drawn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    pub mode: Mode,
    /// Rows; of every stratum, by [`Mode::PerStratum`].
    pub n: usize,
    pub seed: u64,
    /// Only rows that it admits.
    pub filter: String,
    pub part: Option<Part>,
}

/// A sample, and what is to be done with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SampleAsk {
    #[serde(flatten)]
    pub wanted: Wanted,
    /// Written there: an absolute path.
    pub out: Option<String>,
    /// What is there may be replaced.
    pub force: bool,
    /// The rows get this mark.
    pub mark: Option<String>,
}

/// A row that was drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Picked {
    pub id: String,
    /// Name of its stratum.
    pub stratum: String,
    /// Why this one.
    pub why: String,
}

/// What was drawn of a stratum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drawn {
    pub stratum: String,
    /// Rows that could be drawn.
    pub rows: usize,
    pub drawn: usize,
    /// Share of right answers of the best candidate, on so many rows.
    pub accuracy: Option<f64>,
    pub scored: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    pub mode: Mode,
    /// As many as fit a message.
    pub rows: Vec<Picked>,
    pub total: usize,
    /// Strata with a row that could be drawn.
    pub strata: Vec<Drawn>,
    /// What was done with the rows, in words.
    pub done: Vec<String>,
}

/// `[tuning.train] rows`: which train rows a run learns from.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainRows {
    All,
    /// Those that a trajectory run's store is made of or turned to gold.
    Store(String),
    /// Those that a filter admits.
    Where(String),
    Sample(Wanted),
    /// The first of all rows in an order in which every stratum is spread evenly: a larger share only adds rows.
    Share {
        /// Above 0, at most 1.
        share: f64,
        seed: u64,
    },
}

/// What may stand there.
pub const TRAIN_ROWS: &str =
    "all, store:RUN of a trajectory run, where:FILTER, sample:MODE:N[:SEED] [FILTER], or share:25%[:SEED]";

impl FromStr for TrainRows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (kind, rest) = text.split_once(':').map_or((text, ""), |(kind, rest)| (kind, rest.trim()));
        let seed_of = |text: Option<&str>| match text {
            None => Ok(SEED),
            Some(seed) => seed.parse().map_err(|_| format!("`{seed}` is no seed, a whole number")),
        };
        match kind {
            "" | "all" if rest.is_empty() => Ok(Self::All),
            "store" if !rest.is_empty() => Ok(Self::Store(rest.to_owned())),
            "where" if !rest.is_empty() => Ok(Self::Where(rest.to_owned())),
            "sample" => {
                let (how, filter) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                let mut words = how.split(':');
                let mode: Mode = words.next().unwrap_or_default().parse()?;
                let n = words.next().unwrap_or_default();
                let n =
                    n.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("`{n}` is no number of rows"))?;
                let seed = seed_of(words.next())?;
                let filter = filter.trim().to_owned();
                Ok(Self::Sample(Wanted { mode, n, seed, filter, part: Some(Part::Train) }))
            }
            "share" => {
                let (share, seed) = rest.split_once(':').map_or((rest, None), |(s, seed)| (s, Some(seed)));
                let number = match share.trim().strip_suffix('%') {
                    Some(percent) => percent.parse::<f64>().map(|p| p / 100.0),
                    None => share.trim().parse(),
                };
                let share = number
                    .ok()
                    .filter(|share| *share > 0.0 && *share <= 1.0)
                    .ok_or_else(|| format!("`{share}` is no share above 0% and up to 100%"))?;
                Ok(Self::Share { share, seed: seed_of(seed)? })
            }
            _ => Err(format!("`{text}`: write {TRAIN_ROWS}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn train_rows_are_read_as_written() {
        let wanted = |mode, n, seed, filter: &str| {
            TrainRows::Sample(Wanted { mode, n, seed, filter: filter.into(), part: Some(Part::Train) })
        };
        for (text, want) in [
            ("all", TrainRows::All),
            ("", TrainRows::All),
            ("store:trajectory-1", TrainRows::Store("trajectory-1".into())),
            ("where:base:wrong len>40", TrainRows::Where("base:wrong len>40".into())),
            ("sample:weak:500", wanted(Mode::Weak, 500, 7, "")),
            ("sample:per-stratum:5:9 -mark:bad \"a b\"", wanted(Mode::PerStratum, 5, 9, "-mark:bad \"a b\"")),
            ("share:25%", TrainRows::Share { share: 0.25, seed: 7 }),
            ("share:0.5:3", TrainRows::Share { share: 0.5, seed: 3 }),
        ] {
            assert_eq!(text.parse::<TrainRows>(), Ok(want), "{text}");
        }
        for bad in [
            "some",
            "store:",
            "where:",
            "sample:weak",
            "sample:odd:3",
            "sample:weak:0",
            "share:0",
            "share:120%",
            "share:x",
        ] {
            assert!(bad.parse::<TrainRows>().is_err(), "{bad}");
        }
    }
}
