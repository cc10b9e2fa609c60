//! What is wrong with a workspace: file, line, what was expected, what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    pub file: String,
    /// From 1; 0 where the problem is with the file as a whole, or with a `--set`.
    pub line: u64,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{}: {}", self.file, line, self.message),
        }
    }
}

/// Everything that is wrong, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The whole of a file is at fault.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self(vec![Problem { file: file.into(), line: 0, message: message.into() }])
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Ok` when nothing is wrong.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// The nearest of `valid` to what was written, if any is near enough to be meant.
pub fn nearest<'a>(written: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Metrics on strings are quadratic: what is absurdly long was not a slip of the finger.
    if written.len() > 200 {
        return None;
    }
    let lower = written.to_lowercase();
    valid
        .into_iter()
        .map(|key| (strsim::normalized_damerau_levenshtein(&lower, key).max(part_of(&lower, key)), key))
        .filter(|(likeness, _)| *likeness >= 0.4)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

/// `lr_rate` and `rate` are not near by letters, but one stands in the other.
fn part_of(written: &str, key: &str) -> f64 {
    let contained = written.len() >= 3 && (key.contains(written) || written.contains(key));
    if contained { 0.5 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found_and_nonsense_has_none() {
        let keys = ["learning_rate", "rank", "alpha", "source"];
        assert_eq!(nearest("lerning_rate", keys), Some("learning_rate"));
        assert_eq!(nearest("soruce", keys), Some("source"));
        assert_eq!(nearest("Rank", keys), Some("rank"));
        assert_eq!(nearest("learn", keys), Some("learning_rate"));
        assert_eq!(nearest("xyzzy", keys), None);
        assert_eq!(nearest(&"a".repeat(1 << 20), keys), None);
    }

    #[test]
    fn problems_print_one_to_a_line_with_file_and_line() {
        let problems = Problems(vec![
            Problem { file: "workspace.toml".into(), line: 3, message: "a".into() },
            Problem { file: "--set".into(), line: 0, message: "b".into() },
        ]);
        assert_eq!(problems.to_string(), "workspace.toml:3: a\n--set: b");
    }
}
