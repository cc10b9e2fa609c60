//! The few statistics that the rules need. All give 0 where there is nothing to say.

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match (sorted.get(n / 2), sorted.get(n.saturating_sub(1) / 2)) {
        (Some(a), Some(b)) => f64::midpoint(*a, *b),
        _ => 0.0,
    }
}

/// Standard deviation by the median absolute deviation (1.4826 of it for normal values): a few spikes do not count.
pub fn spread(values: &[f64]) -> f64 {
    let middle = median(values);
    1.4826 * median(&values.iter().map(|v| (v - middle).abs()).collect::<Vec<_>>())
}

/// A straight line through values that stand one step apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slope {
    pub per_step: f64,
    /// Standard error of `per_step`.
    pub error: f64,
    intercept: f64,
}

/// Least squares.
pub fn slope(values: &[f64]) -> Slope {
    let n = values.len() as f64;
    if n < 3.0 {
        return Slope::default();
    }
    let (mx, my) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let points = || values.iter().enumerate().map(|(i, y)| (i as f64 - mx, y - my));
    let xx: f64 = points().map(|(x, _)| x * x).sum();
    let per_step = points().map(|(x, y)| x * y).sum::<f64>() / xx;
    let residual: f64 = points().map(|(x, y)| (y - per_step * x).powi(2)).sum();
    Slope { per_step, error: (residual / (n - 2.0) / xx).sqrt(), intercept: my - per_step * mx }
}

/// Correlation of each value with the next, around their straight line: -1 when they alternate.
pub fn autocorrelation(values: &[f64]) -> f64 {
    let line = slope(values);
    let rest: Vec<f64> =
        values.iter().enumerate().map(|(i, y)| y - line.intercept - line.per_step * i as f64).collect();
    let all: f64 = rest.iter().map(|r| r * r).sum();
    let next: f64 = rest.iter().zip(rest.iter().skip(1)).map(|(a, b)| a * b).sum();
    if all > 0.0 { next / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_with_its_error_and_what_alternates_is_minus_one() {
        let line: Vec<f64> = (0..50).map(|i| 3.0 - 0.1 * f64::from(i)).collect();
        let found = slope(&line);
        assert!((found.per_step + 0.1).abs() < 1e-12 && found.error < 1e-9, "{found:?}");
        // scipy.stats.linregress([1, 2, 1, 3, 2, 4]): slope 0.4857142857, stderr 0.1965692137
        let found = slope(&[1.0, 2.0, 1.0, 3.0, 2.0, 4.0]);
        assert!(
            (found.per_step - 0.485_714_285_7).abs() < 1e-9 && (found.error - 0.196_569_213_7).abs() < 1e-9,
            "{found:?}"
        );
        let zigzag: Vec<f64> = (0..40).map(|i| if i % 2 == 0 { 1.0 } else { 2.0 }).collect();
        assert!(autocorrelation(&zigzag) < -0.9);
        assert_eq!((median(&[]), median(&[3.0, 1.0]), spread(&[2.0, 2.0, 9.0])), (0.0, 2.0, 0.0));
    }
}
