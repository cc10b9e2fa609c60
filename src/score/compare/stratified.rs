//! The difference as the whole eval part would have it, from the differences within strata.

use std::collections::BTreeMap;

use super::super::distributions::{Z95, normal_two_sided};
use crate::domain::board::Stratified;

/// Differences of one stratum's rows.
#[derive(Clone, Debug, Default)]
struct Cell {
    n: f64,
    sum: f64,
    squares: f64,
    weight: f64,
}

impl Cell {
    fn mean(&self) -> f64 {
        self.sum / self.n
    }

    /// Of the rows' differences, with n - 1 degrees of freedom.
    fn variance(&self) -> f64 {
        ((self.squares - self.sum * self.sum / self.n) / (self.n - 1.0)).max(0.0)
    }

    fn add(&mut self, other: &Self) {
        self.n += other.n;
        self.sum += other.sum;
        self.squares += other.squares;
        self.weight += other.weight;
    }
}

/// The stratum of each row.
#[derive(Clone, Copy, Debug)]
pub struct Strata<'a> {
    pub names: &'a [&'a str],
    /// By row: a place in `names`.
    pub of: &'a [u32],
}

/// Post-stratified difference (Holt and Smith 1979, Journal of the Royal Statistical Society A 142:33-46): sum of W_h d_h over strata h, W_h the
/// stratum's share of the eval part, d_h its mean difference; variance sum of W_h^2 s_h^2 / n_h given how many rows each has. With clusters
/// that of the sums over clusters of the linearized values W_h / n_h (d - d_h), by G / (G - 1). Strata with one row have no variance of their own:
/// they are one stratum together, or go with the smallest other. None where fewer than two strata remain.
///
/// `cluster` by row; `part` counts the eval part's rows by stratum.
pub fn stratified(
    differences: &[f64],
    strata: Strata<'_>,
    part: &BTreeMap<String, usize>,
    cluster: Option<(&[usize], usize)>,
) -> Option<Stratified> {
    let mut counted = vec![Cell::default(); strata.names.len()];
    for (difference, stratum) in differences.iter().zip(strata.of) {
        if let Some(cell) = counted.get_mut(*stratum as usize) {
            cell.add(&Cell { n: 1.0, sum: *difference, squares: difference * difference, weight: 0.0 });
        }
    }
    let counted = strata.names.iter().copied().zip(counted).filter(|(_, cell)| cell.n > 0.0);
    let mut cells: BTreeMap<&str, Cell> = counted.collect();
    let all: usize = part.values().sum();
    for (name, cell) in &mut cells {
        // A comparison on rows of which the eval part knows nothing weighs them as they are.
        cell.weight = if all == 0 { cell.n } else { part.get(*name).copied().unwrap_or(0) as f64 };
    }
    let weight: f64 = cells.values().map(|c| c.weight).sum();
    if weight <= 0.0 {
        return None;
    }
    let covered = if all == 0 { 1.0 } else { weight / all as f64 };
    for cell in cells.values_mut() {
        cell.weight /= weight;
    }

    // Cells by place, and each stratum's place: small ones share one.
    let mut places = BTreeMap::<&str, usize>::new();
    let mut merged: Vec<Cell> = Vec::new();
    let (single, several): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(_, c)| c.n < 2.0);
    for (name, cell) in several {
        places.insert(name, merged.len());
        merged.push(cell);
    }
    if !single.is_empty() {
        let place = if single.len() > 1 {
            merged.push(Cell::default());
            merged.len() - 1
        } else {
            (0..merged.len()).min_by(|a, b| merged[*a].n.total_cmp(&merged[*b].n))?
        };
        for (name, cell) in single {
            merged[place].add(&cell);
            places.insert(name, place);
        }
    }
    if merged.len() < 2 {
        return None;
    }

    let delta: f64 = merged.iter().map(|c| c.weight * c.mean()).sum();
    let variance = match cluster {
        None => merged.iter().map(|c| c.weight * c.weight * c.variance() / c.n).sum::<f64>(),
        Some((cluster, clusters)) => {
            let mut sums = vec![0.0; clusters];
            let places: Vec<Option<usize>> =
                strata.names.iter().map(|name| places.get(name).copied()).collect();
            let cell = |stratum: u32| merged.get((*places.get(stratum as usize)?)?);
            for ((difference, stratum), at) in differences.iter().zip(strata.of).zip(cluster) {
                if let (Some(cell), Some(sum)) = (cell(*stratum), sums.get_mut(*at)) {
                    *sum += cell.weight / cell.n * (difference - cell.mean());
                }
            }
            let clusters = clusters as f64;
            clusters / (clusters - 1.0).max(1.0) * sums.iter().map(|s| s * s).sum::<f64>()
        }
    };
    let se = variance.sqrt();
    let p_value = match (se > 0.0, delta == 0.0) {
        (true, _) => normal_two_sided(delta / se),
        (false, true) => 1.0,
        // Every stratum's rows differ by the same: no noise that could be measured.
        (false, false) => return None,
    };
    Some(Stratified {
        strata: merged.len(),
        covered,
        delta,
        se,
        ci95: [delta - Z95 * se, delta + Z95 * se],
        p_value,
    })
}
