//! Rows that say what is said nowhere else.

/// Rows from this score on are flagged (Leys et al. 2013, who recommend 2.5).
pub const FLAGGED: f32 = 2.5;

/// [`FLAGGED`] as people see it ([`shown`]).
pub const SHOWN_FLAGGED: f32 = 0.5;

/// Least unit of the scale: where most rows say the same, any other would be infinitely far out.
const LEAST_SPREAD: f32 = 0.02;

/// How far each row is out of the ordinary: the robust z-score (distance from the median in units of 1.4826 x the median absolute
/// deviation) of `unusual` among all rows.
pub fn scores(unusual: &[f32]) -> Vec<f32> {
    let median = |mut values: Vec<f32>| {
        values.sort_unstable_by(f32::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    let middle = median(unusual.to_vec());
    let spread = (1.4826 * median(unusual.iter().map(|u| (u - middle).abs()).collect())).max(LEAST_SPREAD);
    unusual.iter().map(|u| (u - middle) / spread).collect()
}

/// The z-score as people see it, 0 to 1: 0.5 at [`FLAGGED`], 0.8 some one and a half units beyond (the logistic function).
pub fn shown(score: f32) -> f32 {
    1.0 / (1.0 + (FLAGGED - score).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_are_flagged_and_the_rest_is_not() {
        let mut unusual: Vec<f32> = (0..99).map(|i| 0.4 + 0.002 * i as f32).collect();
        unusual.push(1.0);
        let got = scores(&unusual);
        assert!(got[99] >= FLAGGED && got[..99].iter().all(|s| *s < FLAGGED), "{got:?}");
        assert!(scores(&[0.3; 10]).iter().all(|s| *s == 0.0));
        assert!(scores(&[]).is_empty());
        assert!((shown(FLAGGED) - 0.5).abs() < 1e-6 && shown(4.0) > 0.8 && shown(0.0) < 0.1);
    }
}
