//! Saved views: a query over rows under a name, kept in the journal.

use serde::{Deserialize, Serialize};

use super::api::RowQuery;
use super::filter::Filter;

/// Characters of a view's name.
pub const NAME_MAX: usize = 60;

/// Filter, order and scope of rows, without the place in them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedView {
    pub query: RowQuery,
    /// What the rows are called on the screen.
    pub scope: String,
}

impl SavedView {
    pub fn new(query: &RowQuery, scope: &str) -> Self {
        Self { query: RowQuery { offset: 0, count: 0, ..query.clone() }, scope: scope.to_owned() }
    }

    /// The rows of the view that a further filter admits, in another order where one is given.
    pub fn with(self, filter: &str, sort: Option<String>) -> RowQuery {
        let sort = sort.unwrap_or_else(|| self.query.sort.clone());
        RowQuery { text: joined(&self.query.text, filter), sort, ..self.query }
    }
}

/// Two filters of which both must hold.
pub fn joined(a: &str, b: &str) -> String {
    // A quote left open in the first would swallow the second.
    let closed = if b.trim().is_empty() { a.trim().to_owned() } else { Filter::parse(a).to_string() };
    [closed.as_str(), b.trim()].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A name that a view can have, or what is wrong with it.
pub fn name(name: &str) -> Result<&str, String> {
    let name = name.trim();
    match name.chars().count() {
        0 => Err("a view needs a name".into()),
        1..=NAME_MAX if !name.chars().any(super::words::steers) => Ok(name),
        1..=NAME_MAX => Err("a view's name is one line without control characters".into()),
        n => Err(format!("a view's name has at most {NAME_MAX} characters, and this has {n}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_filters_hold_even_where_the_first_leaves_a_quote_open() {
        assert_eq!(joined("base:wrong", " len>4"), "base:wrong len>4");
        assert_eq!(joined("\"lost card", "len>4"), "\"lost card\" len>4");
        assert_eq!(joined("", "len>4"), "len>4");
        assert_eq!(joined("\"open", ""), "\"open");
    }

    #[test]
    fn names_are_one_short_line() {
        assert_eq!(name(" hard ones "), Ok("hard ones"));
        assert!(name(" ").is_err() && name("a\nb").is_err() && name(&"x".repeat(61)).is_err());
    }
}
