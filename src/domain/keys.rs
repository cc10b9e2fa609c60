//! Keys of endpoints: values of environment variables, in memory only, each for one origin.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::candidate::{Candidate, ModelRef, ModelSource};
use super::judge::Judge;

/// Bytes that all keys of a run have together: they fit the pipe to its worker.
pub const KEYS_MAX: usize = 32 << 10;

/// A key that somebody must give: the value of a variable, to go to an origin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyNeed {
    /// Scheme, host and port, as [`Address::origin`] has it.
    pub origin: String,
    /// The environment variable.
    pub variable: String,
}

impl KeyNeed {
    /// What a model needs; none where it has a path, or an endpoint that asks for no key.
    pub fn of(model: &ModelRef) -> Option<Self> {
        let ModelSource::Endpoint { endpoint, api_key_env: Some(variable), .. } = &model.source else {
            return None;
        };
        let origin = Address::parse(endpoint).ok()?.origin();
        Some(Self { origin, variable: variable.clone() })
    }

    /// What goes there can be read on the way.
    pub fn is_open(&self) -> bool {
        Address::parse(&self.origin).is_ok_and(|address| address.is_open())
    }

    /// What the stages of a candidate need, with the embedders of their examples, each once.
    pub fn of_candidate(candidate: &Candidate) -> Vec<Self> {
        Self::of_models(candidate, &[], None)
    }

    /// The same with those who judge its answers, and other models beside them.
    pub fn of_models<'a>(
        candidate: &'a Candidate,
        judges: &'a [Judge],
        beside: impl IntoIterator<Item = &'a ModelRef>,
    ) -> Vec<Self> {
        let mut needs: Vec<Self> = models(candidate, judges).chain(beside).filter_map(Self::of).collect();
        needs.sort();
        needs.dedup();
        needs
    }
}

/// Who answers, who embeds its examples, who judges it.
pub fn models<'a>(candidate: &'a Candidate, judges: &'a [Judge]) -> impl Iterator<Item = &'a ModelRef> {
    let embedders = candidate.stages.iter().filter_map(|s| s.examples.as_ref()?.embedder.as_ref()?.model());
    candidate.stages.iter().map(|s| &s.model).chain(embedders).chain(judges.iter().map(|j| &j.model))
}

impl fmt::Display for KeyNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key in the environment variable {} (for {})", self.variable, self.origin)
    }
}

/// Values by origin and variable. Never shown, never written to a file; serialized only to go from process to process.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(Arc<BTreeMap<String, BTreeMap<String, String>>>);

impl Keys {
    pub fn new(values: impl IntoIterator<Item = (KeyNeed, String)>) -> Self {
        let mut keys: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (need, value) in values {
            keys.entry(need.origin).or_default().insert(need.variable, value);
        }
        Self(Arc::new(keys))
    }

    /// The value, where it may go to that origin.
    pub fn get(&self, need: &KeyNeed) -> Option<&str> {
        self.0.get(&need.origin)?.get(&need.variable).map(String::as_str)
    }

    /// Those that are needed, and no others.
    pub fn only(&self, needs: &[KeyNeed]) -> Self {
        Self::new(needs.iter().filter_map(|need| Some((need.clone(), self.get(need)?.to_owned()))))
    }

    /// These and others; where both have a value, the other's.
    pub fn and(&self, other: &Self) -> Self {
        let all = [self, other].into_iter().flat_map(|keys| keys.0.iter());
        Self::new(all.flat_map(|(origin, of)| {
            of.iter().map(|(variable, value)| {
                (KeyNeed { origin: origin.clone(), variable: variable.clone() }, value.clone())
            })
        }))
    }

    /// The needs that these keys do not meet.
    pub fn missing(&self, needs: &[KeyNeed]) -> Vec<KeyNeed> {
        needs.iter().filter(|need| self.get(need).is_none()).cloned().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of all values together.
    pub fn bytes(&self) -> usize {
        self.0.values().flatten().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().flat_map(|(origin, of)| of.keys().map(move |name| (name, origin)));
        f.debug_map().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(origin: &str) -> KeyNeed {
        KeyNeed { origin: origin.into(), variable: "CRITIC_KEY".into() }
    }

    #[test]
    fn a_key_is_never_shown_and_goes_to_its_origin_only() {
        let keys = Keys::new([(need("https://a"), "sk-hush".to_owned())]);
        assert_eq!(format!("{keys:?}"), r#"{"CRITIC_KEY": "https://a"}"#);
        assert_eq!(keys.get(&need("https://a")), Some("sk-hush"));
        assert_eq!(keys.get(&need("https://b")), None);
        assert_eq!(keys.missing(&[need("https://a"), need("https://b")]), [need("https://b")]);
        assert!(keys.only(&[need("https://b")]).is_empty());
        let sent: Keys = serde_json::from_str(&serde_json::to_string(&keys).unwrap()).unwrap();
        assert_eq!(sent, keys);
    }
}
