//! Keys of endpoints: values of environment variables, in memory only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Values by the name of their variable. Never shown, never written to a file; serialized only to go from process to process.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(Arc<BTreeMap<String, String>>);

impl Keys {
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self(Arc::new(values))
    }

    pub fn get(&self, variable: &str) -> Option<&str> {
        self.0.get(variable).map(String::as_str)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let keys = Keys::new(BTreeMap::from([("CRITIC_KEY".to_owned(), "sk-hush".to_owned())]));
        assert_eq!(format!("{keys:?}"), r#"{"CRITIC_KEY"}"#);
        assert_eq!(keys.get("CRITIC_KEY"), Some("sk-hush"));
    }
}
