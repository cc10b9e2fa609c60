//! Resident runs: models that stay loaded and answer whoever asks. `serve` answers over HTTP, the playground over a socket of its own
//! ([`super::play`]).

use serde::{Deserialize, Serialize};

use super::candidate::{AdapterRef, Candidate, ModelRef};

/// A model by the name that clients ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    pub name: String,
    pub model: ModelRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterRef>,
}

/// How much a resident may take on, and take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Answers under way at once.
    pub at_once: usize,
    /// Questions that may wait beside them; more are refused.
    pub waiting: usize,
    /// Memory for keys and values of the answers under way, in MiB; none: chosen from what is free.
    pub cache_mib: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { at_once: 16, waiting: 64, cache_mib: None }
    }
}

/// Settings of a `serve` run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServeSettings {
    pub models: Vec<Served>,
    /// 0: any free one.
    pub port: u16,
    #[serde(default)]
    pub bounds: Bounds,
}

/// Settings of a playground's worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaySettings {
    /// Loaded at the start; others follow when they are asked.
    pub candidates: Vec<Candidate>,
    pub bounds: Bounds,
    /// It leaves when nobody asked for so long.
    pub idle_s: u64,
}

/// Idle time after which a playground leaves.
pub const PLAY_IDLE_S: u64 = 600;

/// The last words of a `serve` run that answers: where, and which models.
pub fn address(url: &str, models: &[&str]) -> String {
    format!("{url} answers as {}", models.join(", "))
}

/// What [`address`] was made of.
pub fn url_of(message: &str) -> Option<(&str, Vec<&str>)> {
    let (url, models) = message.split_once(" answers as ")?;
    url.starts_with("http://").then(|| (url, models.split(", ").collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_again_from_the_words_that_tell_it() {
        let said = address("http://127.0.0.1:8080/v1", &["base", "train-1"]);
        assert_eq!(url_of(&said), Some(("http://127.0.0.1:8080/v1", vec!["base", "train-1"])));
        assert_eq!(url_of("waits for train-1 to end"), None);
    }
}
