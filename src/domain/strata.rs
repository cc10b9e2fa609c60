//! What people decide about strata: cut one up, put some together, name one. A decision holds on to rows, not to a cluster's number, so that it
//! is found again after the strata were built anew (the rule: `crate::strata::hand`).

use serde::{Deserialize, Serialize};

use super::words::listed;

/// Rows that stand for a larger set of rows, at most this many.
pub const WITNESSES: usize = 48;

/// One of the sets of rows that a decision was made on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kin {
    /// What it was called then, or is to be called.
    pub name: String,
    /// Rows drawn from it, by id.
    pub rows: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<String>,
}

/// What a name is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Clusters that are close to each other.
    Group,
    Cluster,
    /// A cluster x values of the dimensions.
    Stratum,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// These rows apart from those.
    Split { parts: Vec<Kin> },
    /// These belong together.
    Merge { of: Vec<Kin> },
    /// `by`: the model that found the name; none: a person did.
    Name {
        level: Level,
        of: Kin,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
}

/// What became of a decision on the strata as they stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActTold {
    pub number: u64,
    /// `split "card arrival" into "delivery" and "tracking"`.
    pub what: String,
    pub state: ActState,
    /// What has the name now: the id of a group, cluster or stratum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// Why it could not be applied, or that there was nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActState {
    Applied,
    /// The clusters are that way by themselves now.
    Stands,
    /// The rows that it was made on are gone or scattered.
    Failed,
}

impl Act {
    /// In words.
    pub fn words(&self) -> String {
        let names = |kin: &[Kin]| {
            let quoted: Vec<String> = kin.iter().map(|k| format!("\"{}\"", k.name)).collect();
            listed(&quoted)
        };
        match self {
            Self::Split { parts } => format!("split into {}", names(parts)),
            Self::Merge { of } => format!("merge of {}", names(of)),
            Self::Name { level, of, by } => {
                let level = match level {
                    Level::Group => "group",
                    Level::Cluster => "cluster",
                    Level::Stratum => "stratum",
                };
                let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
                format!("name \"{}\" of a {level}{by}", of.name)
            }
        }
    }
}

/// What is asked about strata by hand. `id` is an id (`c3`, `c3/channel=mail`, `g1`) or a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hand", rename_all = "snake_case")]
pub enum ByHand {
    Split {
        id: String,
        into: usize,
    },
    Merge {
        a: String,
        b: String,
    },
    /// An empty name takes the name given by hand away.
    Rename {
        id: String,
        name: String,
    },
    /// Names of clusters by their ids, found by a model: one decision. Those that a person named keep their names.
    Names {
        names: Vec<(String, String)>,
        by: String,
    },
}
