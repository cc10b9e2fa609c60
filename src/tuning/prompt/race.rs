//! Racing: new versions run against the best incumbent on rows in a random order, and those that lose leave early.
//!
//! The test is a bet on each row that the incumbent beats the newcomer (testing by betting: Waudby-Smith and Ramdas 2024, "Estimating
//! means of bounded random variables by betting"; without replacement: section 5). For one newcomer let `d` be the incumbent's score minus its own on a
//! row, -1 to 1, and let the null hypothesis be that over all `N` rows of the race the newcomer would do at least as well: `sum d <= 0`.
//! Rows are drawn one by one without replacement, the telling ones (on which survivors differ) likelier: row `i` with probability
//! `p_i` among the `R` that are left, and counted as `x = d / (R p_i)`, whose expectation is the mean of `d` over the rows left whatever the
//! probabilities (importance weights; Shekhar et al. 2023, "Risk-limiting financial audits via weighted sampling without replacement").
//! Under the null that mean is at most `C = -(sum of d so far) / R`, so that each factor `1 + b (x - C)` of the bet has expectation at most 1 and
//! the wealth is a supermartingale. By Ville's inequality it ever reaches `1 / ALPHA` with probability at most [`ALPHA`]: **a newcomer that would match the
//! incumbent over the race's rows is dropped with probability at most 5%, however often one looks.** The wealth is a mixture
//! over several stakes. A newcomer also leaves when it could not come among the survivors if it were right on every row left; that cannot err.

use crate::domain::rng::SplitMix64;

/// Chance that a newcomer which would match the incumbent is dropped.
pub const ALPHA: f64 = 0.05;
/// How much likelier a telling row is drawn.
const TELLING: f64 = 3.0;
/// Stakes as shares of the largest that cannot lose more than all.
const STAKES: [f64; 5] = [0.1, 0.25, 0.45, 0.65, 0.85];

/// A row of the race: its place, and `1 / (R p)`, its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    pub row: usize,
    pub weight: f64,
    /// Bound of all weights possible at this draw.
    pub most: f64,
}

/// The order of the race: rows drawn without replacement, telling ones likelier.
pub fn order(rows: &[(usize, bool)], rng: &mut SplitMix64) -> Vec<Drawn> {
    let mut left = rows.to_vec();
    let mut drawn = Vec::with_capacity(rows.len());
    while !left.is_empty() {
        let chance = |telling: bool| if telling { TELLING } else { 1.0 };
        let total: f64 = left.iter().map(|(_, telling)| chance(*telling)).sum();
        let mut at = rng.unit() * total;
        let place = left.iter().position(|(_, telling)| {
            at -= chance(*telling);
            at < 0.0
        });
        let place = place.unwrap_or(left.len() - 1);
        let of = |telling: bool| total / (left.len() as f64 * chance(telling));
        let most = left.iter().map(|(_, telling)| of(*telling)).fold(0.0, f64::max);
        let weight = of(left[place].1);
        drawn.push(Drawn { row: left.swap_remove(place).0, weight, most });
    }
    drawn
}

/// The wealth of the bet against one newcomer.
#[derive(Clone, Debug)]
pub struct Bet {
    /// Rows of the race.
    n: usize,
    seen: usize,
    sum: f64,
    wealth: [f64; STAKES.len()],
    lost: bool,
}

impl Bet {
    pub fn new(n: usize) -> Self {
        Self { n, seen: 0, sum: 0.0, wealth: [1.0; STAKES.len()], lost: false }
    }

    /// The incumbent's score minus the newcomer's on the next row.
    pub fn see(&mut self, d: f64, drawn: Drawn) {
        let left = self.n.saturating_sub(self.seen) as f64;
        if left < 1.0 {
            return;
        }
        // The null's mean of what is left, and the largest stake that keeps every factor above 0 for x >= -most.
        let null = -self.sum / left;
        let worst = drawn.most + null;
        let x = d.clamp(-1.0, 1.0) * drawn.weight;
        for (wealth, share) in self.wealth.iter_mut().zip(STAKES) {
            let stake = if worst > 1e-9 { share / worst } else { 0.0 };
            *wealth *= (1.0 + stake * (x - null)).max(0.0);
        }
        self.sum += d;
        self.seen += 1;
        let mean = self.wealth.iter().sum::<f64>() / STAKES.len() as f64;
        // Or so far behind that it would lose even if it won every row left.
        self.lost |= mean >= 1.0 / ALPHA || self.sum > left - 1.0;
    }

    /// The newcomer is worse, by the test.
    pub fn lost(&self) -> bool {
        self.lost
    }
}

/// A newcomer with `sum` over `seen` of `n` rows cannot reach a mean of `least`.
pub fn is_out_of_reach(sum: f64, seen: usize, n: usize, least: f64) -> bool {
    sum + n.saturating_sub(seen) as f64 + 1e-9 < least * n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a newcomer is dropped, and after how many rows, when it is right with `p` on rows on which the incumbent is with `q`.
    fn dropped(p: f64, q: f64, n: usize, exactly_equal: bool) -> (f64, f64) {
        let mut rng = SplitMix64::new(11);
        let (mut out, mut after) = (0, 0);
        const RUNS: usize = 2_000;
        for _ in 0..RUNS {
            let mut d: Vec<f64> = (0..n)
                .map(|_| {
                    let (a, b) = (rng.unit() < q, rng.unit() < p);
                    f64::from(u8::from(a)) - f64::from(u8::from(b))
                })
                .collect();
            if exactly_equal {
                // The least favourable null: the sum over the rows is 0.
                for i in 0..n {
                    let sum: f64 = d.iter().sum();
                    if sum == 0.0 {
                        break;
                    }
                    if d[i] == sum.signum() {
                        d[i] = 0.0;
                    }
                }
            }
            let rows: Vec<(usize, bool)> = (0..n).map(|i| (i, d[i] != 0.0 || rng.unit() < 0.2)).collect();
            let mut bet = Bet::new(n);
            for (seen, drawn) in order(&rows, &mut rng).into_iter().enumerate() {
                bet.see(d[drawn.row], drawn);
                if bet.lost() {
                    out += 1;
                    after += seen + 1;
                    break;
                }
            }
        }
        (f64::from(out) / RUNS as f64, after as f64 / f64::from(out.max(1)))
    }

    #[test]
    fn an_equal_newcomer_is_dropped_in_at_most_one_race_of_twenty() {
        for n in [20, 60] {
            let (share, _) = dropped(0.6, 0.6, n, true);
            assert!(share <= 0.06, "{n}: {share}");
        }
    }

    #[test]
    fn a_bad_newcomer_leaves_early() {
        let (share, rows) = dropped(0.05, 0.9, 60, false);
        assert!(share > 0.99 && rows < 16.0, "{share} {rows}");
        let (share, _) = dropped(0.3, 0.7, 60, false);
        assert!(share > 0.7, "{share}");
    }

    #[test]
    fn every_row_is_drawn_once_and_telling_ones_come_first_on_average() {
        let rows: Vec<(usize, bool)> = (0..40).map(|i| (i, i < 10)).collect();
        let (mut sum, mut rng) = (0, SplitMix64::new(3));
        for _ in 0..200 {
            let drawn = order(&rows, &mut rng);
            let mut ids: Vec<usize> = drawn.iter().map(|d| d.row).collect();
            sum += ids.iter().position(|row| *row == 0).unwrap();
            ids.sort_unstable();
            assert_eq!(ids, (0..40).collect::<Vec<_>>());
            assert!(drawn.iter().all(|d| d.weight <= d.most + 1e-12));
        }
        assert!(sum / 200 < 16, "{}", sum / 200);
    }

    #[test]
    fn who_cannot_reach_the_last_survivor_is_out() {
        assert!(is_out_of_reach(1.0, 10, 20, 0.6));
        assert!(!is_out_of_reach(2.0, 10, 20, 0.6));
    }
}
