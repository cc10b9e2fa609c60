//! How often values occur among rows: the frequency table of a key, or of several crossed.

use serde::{Deserialize, Serialize};

/// Keys as words, without the signs between them: a lone `x` between two is one; at an end it is a key of that name.
pub fn crossed(words: Vec<String>) -> Vec<String> {
    let last = words.len().saturating_sub(1);
    let sign = |(i, word): &(usize, String)| {
        (matches!(word.as_str(), "x" | "X") && 0 < *i && *i < last) || matches!(word.as_str(), "×" | "*")
    };
    words.into_iter().enumerate().filter(|w| !sign(w)).map(|(_, word)| word).collect()
}

/// Values asked for at most, and told at most.
pub const GROUPS_MAX: usize = 1000;

/// A frequency table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// What was counted: `stratum`, `len/20`.
    pub by: Vec<String>,
    /// Rows that were counted.
    pub rows: usize,
    /// Different values, or combinations of them.
    pub distinct: usize,
    /// The most common first; of numbers in bins, the smallest.
    pub groups: Vec<Group>,
    /// Names of baseline and best candidate, where there are.
    pub base: Option<String>,
    pub best: Option<String>,
}

/// Rows that share a value of each key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    /// In the order of `by`; none where a row has no value.
    pub values: Vec<Option<String>>,
    pub rows: usize,
    /// Rows that the baseline answered right, of those that it has a right-or-wrong outcome of.
    pub base: (usize, usize),
    pub best: (usize, usize),
}

/// A key, or a key in bins: `len/20` counts 0 to 19, 20 to 39 and so on, named by where a bin begins.
pub fn bins(written: &str) -> (&str, Option<f64>) {
    let width = |(_, width): &(&str, &str)| width.parse::<f64>().ok().filter(|w| w.is_finite() && *w > 0.0);
    match written.rsplit_once('/').and_then(|parts| Some((parts.0, width(&parts)?))) {
        Some((key, width)) if !key.is_empty() => (key, Some(width)),
        _ => (written, None),
    }
}

/// Ends a key whose bins are chosen by its numbers.
pub const AUTO: &str = "/auto";

/// Bins of an automatic histogram, about.
const BINS: f64 = 20.0;

/// A round width for bins over so wide a range: 1, 2 or 5 times a power of ten.
pub fn round_width(low: f64, high: f64) -> f64 {
    let raw = (high - low) / BINS;
    if !(raw.is_finite() && raw > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| step * power >= raw * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

/// Where the bin of a number begins. Floor of the quotient, so that bins below 0 are as wide as the others.
pub fn bin_of(value: f64, width: f64) -> f64 {
    let start = (value / width).floor() * width;
    // 3 x 0.05 is 0.15000000000000002: six digits more than the width's first one are kept.
    let scale = 10_f64.powf((6.0 - width.log10().floor()).max(0.0));
    let rounded = (start * scale).round() / scale;
    if rounded.is_finite() { rounded + 0.0 } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_round_and_give_at_most_about_twenty_bins() {
        assert_eq!(
            [(0.0, 20.0), (3.0, 103.0), (0.0, 1.0), (5.0, 5.0)].map(|(a, b)| round_width(a, b)),
            [1.0, 5.0, 0.05, 1.0]
        );
        assert_eq!(round_width(0.0, f64::INFINITY), 1.0);
    }

    #[test]
    fn a_width_is_a_positive_number_behind_the_last_slash() {
        assert_eq!(bins("len/20"), ("len", Some(20.0)));
        assert_eq!(bins("a/b/0.5"), ("a/b", Some(0.5)));
        for plain in ["len", "a/b", "len/0", "len/-1", "/20", "len/inf", ""] {
            assert_eq!(bins(plain), (plain, None));
        }
        assert_eq!([0.0, 19.9, 20.0, -1.0].map(|v| bin_of(v, 20.0)), [0.0, 0.0, 20.0, -20.0]);
    }

    #[test]
    fn bins_begin_at_round_numbers() {
        let told = |value: f64, width: f64| bin_of(value, width).to_string();
        assert_eq!([0.16, 0.31, 0.37].map(|v| told(v, 0.05)), ["0.15", "0.3", "0.35"]);
        assert_eq!(told(-0.0, 0.05), "0");
        assert_eq!(told(1e300, 2.0), 1e300.to_string());
    }
}
