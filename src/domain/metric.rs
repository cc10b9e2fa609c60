//! The registry of metrics: every name that may stand in `workspace.toml`, on the board and in comparisons.
//! How they are computed is `score`'s.

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// What is known of a metric without computing it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    /// `share` (0 to 1), `ms`, `tokens`, `usd`.
    pub unit: &'static str,
    pub better: Direction,
    /// Has a value for each row, so that it can be primary and compared in pairs.
    pub per_row: bool,
    /// A row is right when its value reaches this.
    pub threshold: f64,
    pub about: &'static str,
}

const fn share(name: &'static str, about: &'static str) -> Metric {
    Metric { name, unit: "share", better: Direction::Up, per_row: true, threshold: 1.0, about }
}

const fn figure(name: &'static str, unit: &'static str, better: Direction, about: &'static str) -> Metric {
    Metric { name, unit, better, per_row: false, threshold: 1.0, about }
}

/// All metrics.
pub const METRICS: &[Metric] = &[
    share("accuracy", "the answer is the gold, read as the last stage's kind of output"),
    figure("macro_f1", "share", Direction::Up, "mean over the labels of their F1"),
    figure("macro_precision", "share", Direction::Up, "mean over the labels of their precision"),
    figure("macro_recall", "share", Direction::Up, "mean over the labels of their recall"),
    share("exact_match", "the answer's text is the gold's, letter by letter"),
    share("normalized_match", "the same but for case, punctuation and spaces"),
    share("json_valid", "the answer is JSON"),
    share("json_fields", "share of the gold's JSON fields that the answer has right"),
    figure(
        "format_error_rate",
        "share",
        Direction::Down,
        "answers that could not be read as the stage's kind of output",
    ),
    figure("error_rate", "share", Direction::Down, "rows that failed"),
    figure("latency_p50_ms", "ms", Direction::Down, "what half of the users wait at most"),
    figure("latency_p90_ms", "ms", Direction::Down, "what nine of ten users wait at most"),
    figure("latency_p95_ms", "ms", Direction::Down, "what 95 of 100 users wait at most"),
    figure("latency_p99_ms", "ms", Direction::Down, "what 99 of 100 users wait at most"),
    figure("tokens_in", "tokens", Direction::Down, "mean tokens read per row"),
    figure("tokens_out", "tokens", Direction::Down, "mean tokens written per row"),
    figure("usd_per_1k", "usd", Direction::Down, "US dollars per thousand rows"),
];

/// The metric of this name.
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_shares_are_per_row_or_not_by_name() {
        let mut names: Vec<_> = METRICS.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        assert!(find("accuracy").is_some_and(|m| m.per_row));
        assert!(find("macro_f1").is_some_and(|m| !m.per_row));
        assert!(find("accurracy").is_none());
    }
}
