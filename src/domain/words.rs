//! Words as people read them: counts with their noun, and the name that was meant.

/// `1 row`, `5 rows`. `one` is the noun for one; its plural ends in `s`.
pub fn counted(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {}", plural(one)) }
}

/// The noun alone, for a number that is written in its own way.
pub fn noun(n: usize, one: &str) -> String {
    if n == 1 { one.to_owned() } else { plural(one) }
}

fn plural(one: &str) -> String {
    match one {
        "stratum" => "strata".into(),
        _ => format!("{one}s"),
    }
}

/// `1.4 GiB`
pub fn bytes(n: u64) -> String {
    let mib = n as f64 / f64::from(1 << 20);
    match mib {
        m if m >= 1024.0 => format!("{:.1} GiB", m / 1024.0),
        m if m >= 10.0 => format!("{m:.0} MiB"),
        m => format!("{m:.1} MiB"),
    }
}

/// `40 s`, `4 min 7 s`, `2 h 5 min`; rounded up.
pub fn duration(ms: u64) -> String {
    let s = ms.div_ceil(1000);
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
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
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "row")), ["0 rows", "1 row", "2 rows"]);
        assert_eq!([1, 2].map(|n| counted(n, "stratum")), ["1 stratum", "2 strata"]);
        assert_eq!([1, 2].map(|n| noun(n, "eval row")), ["eval row", "eval rows"]);
    }

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
}
