//! What this many rows can show.

use super::distributions::Z95;

/// The standard normal's 80% point: four real differences in five are found.
const Z_POWER: f64 = 0.841_621_233_572_914_3;

/// The smallest difference between two candidates that `n` paired rows show with 80% power at p < 0.05, when they disagree on the share
/// `discordant` of rows (Connor 1987, Biometrics 43:207-211): n = ((z_a sqrt(psi) + z_b sqrt(psi - d^2)) / d)^2.
/// None where not even a difference on all those rows would show.
pub fn smallest_difference(n: usize, discordant: f64) -> Option<f64> {
    let psi = discordant.clamp(0.0, 1.0);
    let rows = |d: f64| {
        let root = Z95 * psi.sqrt() + Z_POWER * (psi - d * d).max(0.0).sqrt();
        (root / d).powi(2)
    };
    if psi == 0.0 || rows(psi) > n as f64 {
        return None;
    }
    let (mut low, mut high) = (0.0, psi);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if rows(middle) > n as f64 {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rows_show_smaller_differences() {
        // Connor's formula by hand: psi 0.2, d 0.1 needs 154.6 rows.
        let at = |n| smallest_difference(n, 0.2).unwrap();
        assert!(at(154) > 0.1 && at(155) < 0.1, "{} {}", at(154), at(155));
        assert!(at(600) < at(100));
        assert_eq!(smallest_difference(5, 0.2), None);
        assert_eq!(smallest_difference(1000, 0.0), None);
    }
}
