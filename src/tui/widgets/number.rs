//! Numbers as people read them: short, aligned, honest about what is not known.

/// Three to four significant digits: `0.000214` as `2.14e-4`, `1234567` as `1.23M`.
pub fn short(value: f64) -> String {
    let a = value.abs();
    if !value.is_finite() {
        if value.is_nan() { "nan".into() } else { format!("{value}") }
    } else if a == 0.0 {
        "0".into()
    } else if a < 1e-3 {
        let text = format!("{value:.2e}");
        text.replace(".00e", "e")
    } else if a < 10.0 {
        format!("{value:.3}")
    } else if a < 100.0 {
        format!("{value:.2}")
    } else if a < 1000.0 {
        format!("{value:.1}")
    } else if a < 1e4 {
        format!("{value:.0}")
    } else if a < 1e6 {
        format!("{:.1}k", value / 1e3)
    } else if a < 1e9 {
        format!("{:.2}M", value / 1e6)
    } else {
        format!("{:.2}G", value / 1e9)
    }
}

/// A round number beside an axis: `2.5`, `500`, `20k`, `2e-4`.
pub fn tick(value: f64) -> String {
    let a = value.abs();
    if a == 0.0 {
        "0".into()
    } else if a < 1e-3 {
        short(value)
    } else if a < 1e4 {
        let text = format!("{value:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        let (value, unit) = if a < 1e6 { (value / 1e3, "k") } else { (value / 1e6, "M") };
        let text = format!("{value:.2}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A share of 0..1 as `.93`, with three digits `.931`.
pub fn share(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    let text = format!("{value:.digits$}");
    text.strip_prefix('0').map(str::to_owned).unwrap_or_else(|| match text.strip_prefix("-0") {
        Some(rest) => format!("-{rest}"),
        None => text,
    })
}

/// A difference with its sign: `+.296`.
pub fn signed_share(value: f64, digits: usize) -> String {
    let text = share(value, digits);
    if text.starts_with('-') || !value.is_finite() { text } else { format!("+{text}") }
}

/// `p < .001`, `p = .034`.
pub fn p_value(p: f64) -> String {
    if p.is_nan() {
        "p unknown".into()
    } else if p < 0.001 {
        "p < .001".into()
    } else {
        format!("p = {}", share(p, 3))
    }
}

/// `3m12`, `41s`, `2h05`, `3d`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}", s / 3600, s % 3600 / 60),
        _ => format!("{}d", s / 86_400),
    }
}

/// How long ago: `now`, `4m`, `2h`, `3d`.
pub fn age(then_ms: u64, now_ms: u64) -> String {
    let s = now_ms.saturating_sub(then_ms) / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m", s / 60),
        3600..86_400 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// `12ms`, `1.2s`.
pub fn millis(ms: f64) -> String {
    if !ms.is_finite() {
        "-".into()
    } else if ms < 10.0 {
        format!("{ms:.1}ms")
    } else if ms < 1000.0 {
        format!("{ms:.0}ms")
    } else {
        format!("{:.1}s", ms / 1000.0)
    }
}

/// `1,204`
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(short(2e-4), "2e-4");
        assert_eq!(short(0.000214), "2.14e-4");
        assert_eq!(short(0.4123), "0.412");
        assert_eq!(short(21_345.0), "21.3k");
        assert_eq!(short(f64::NAN), "nan");
        assert_eq!(
            [2.5, 500.0, 0.05, 0.0, 2e-4, 12_500.0, 1e6].map(tick),
            ["2.5", "500", "0.05", "0", "2e-4", "12.5k", "1M"]
        );
        assert_eq!(share(0.931, 2), ".93");
        assert_eq!(share(1.0, 2), "1.00");
        assert_eq!(share(-0.05, 3), "-.050");
        assert_eq!(signed_share(0.296, 3), "+.296");
        assert_eq!(p_value(0.0004), "p < .001");
        assert_eq!(p_value(0.034), "p = .034");
        assert_eq!(duration(192_000), "3m12");
        assert_eq!(duration(7_500_000), "2h05");
        assert_eq!(age(0, 7_500_000), "2h");
        assert_eq!(age(5, 0), "0s");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(millis(1234.0), "1.2s");
    }
}
