//! Which rows make up which step.
//!
//! The order is a function of the seed, the epoch, the number of rows and the weights that they have had from which step on,
//! so a step's rows can be named before, during and after it, and a resumed run takes exactly those that it would have taken.

use crate::domain::rng::SplitMix64;
use crate::domain::settings::TrainSettings;

/// Products such as 0.1 * 30 = 3.0000000000000004 are not rounded up.
pub(super) const ROUNDING: f64 = 1e-9;

/// The steps of a run over `rows` examples. Every epoch is a shuffle of its own; its last step takes what is left, so that
/// every example is visited exactly once per epoch and no step spans two epochs.
///
/// With weights an epoch has as many places as before, and its rows are drawn for them by systematic sampling (Madow 1949):
/// of `n` places, a row of weight `w` gets `n w / sum(w)`, rounded up or down by chance. A change in mid-epoch fills the places
/// that are left from the rows that the epoch's shuffle has for them, so that what was seen already does not come again soon.
#[derive(Clone, Debug)]
pub struct Order {
    rows: usize,
    rows_per_step: usize,
    batch_size: usize,
    seed: u64,
    total_steps: u64,
    /// Each row's weight from a step on, oldest first.
    weights: Vec<(u64, Vec<f64>)>,
    /// The epoch (from 0) last asked for, and its order.
    known: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// `rows` is at least 1.
    pub fn new(rows: usize, settings: &TrainSettings) -> Self {
        let batch_size = settings.batch_size.max(1);
        let rows_per_step = batch_size.saturating_mul(settings.accumulate.max(1));
        let steps_per_epoch = rows.div_ceil(rows_per_step).max(1);
        let mut total_steps = ((settings.epochs * steps_per_epoch as f64 - ROUNDING).ceil() as u64).max(1);
        if let Some(limit) = settings.max_steps {
            total_steps = total_steps.min(limit.max(1));
        }
        Self {
            rows,
            rows_per_step,
            batch_size,
            seed: settings.seed,
            total_steps,
            weights: Vec::new(),
            known: None,
        }
    }

    /// From step `step` on, each row is drawn as often as its weight says. Weights are not negative, and not all 0.
    pub fn weigh(&mut self, step: u64, weights: Vec<f64>) {
        self.weights.retain(|(from, _)| *from < step);
        self.weights.push((step, weights));
        self.known = None;
    }

    pub const fn total_steps(&self) -> u64 {
        self.total_steps
    }

    pub const fn steps_per_epoch(&self) -> u64 {
        let steps = self.rows.div_ceil(self.rows_per_step) as u64;
        if steps == 0 { 1 } else { steps }
    }

    /// Epochs done after `steps` steps.
    pub fn epochs_after(&self, steps: u64) -> f64 {
        let (epoch, taken) = self.position_after(steps);
        epoch as f64 + taken as f64 / self.rows.max(1) as f64
    }

    /// Where the data stands after `steps` steps: the epoch, from 0, and how many of its rows are taken.
    pub fn position_after(&self, steps: u64) -> (u64, usize) {
        let taken = (steps % self.steps_per_epoch()) as usize * self.rows_per_step;
        (steps / self.steps_per_epoch(), taken)
    }

    /// The rows of step `step` (from 1) in micro-batches of rows of like length. Which rows form a step is left to chance
    /// alone: sorting by length beyond the step would make steps of short and steps of long rows.
    /// `length` gives a row's tokens.
    pub fn step(&mut self, step: u64, length: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
        let (epoch, first) = self.position_after(step - 1);
        let order = match self.known.take() {
            Some((of, order)) if of == epoch => order,
            _ => self.epoch(epoch),
        };
        let last = (first + self.rows_per_step).min(self.rows);
        let mut rows = order.get(first..last).unwrap_or_default().to_vec();
        self.known = Some((epoch, order));
        rows.sort_by_key(|&row| (length(row), row));
        rows.chunks(self.batch_size).map(<[usize]>::to_vec).collect()
    }

    /// The rows of an epoch, in order.
    fn epoch(&self, epoch: u64) -> Vec<usize> {
        let shuffled = shuffle(self.rows, self.seed, epoch);
        let first_step = epoch * self.steps_per_epoch() + 1;
        let steps = first_step..first_step + self.steps_per_epoch();
        let at_start = self.weights.iter().rev().find(|(step, _)| *step <= first_step);
        let within = self.weights.iter().filter(|(step, _)| *step > first_step && steps.contains(step));
        let mut order = shuffled.clone();
        for (step, weights) in at_start.into_iter().chain(within) {
            let from = if *step <= first_step { 0 } else { self.position_after(step - 1).1 };
            let places = shuffled.get(from..).unwrap_or_default();
            let mut rng =
                SplitMix64::new(self.seed ^ mixed(epoch) ^ mixed(from as u64).rotate_left(17) ^ 0x57EE);
            order.truncate(from);
            order.extend(draw(places, &shuffled, weights, &mut rng));
        }
        order
    }
}

/// As many rows as `places` has, from those rows; from `all` where none of those has a weight.
fn draw(places: &[usize], all: &[usize], weights: &[f64], rng: &mut SplitMix64) -> Vec<usize> {
    let weight = |row: usize| weights.get(row).copied().unwrap_or(1.0);
    let total = |rows: &[usize]| rows.iter().map(|&row| weight(row)).sum::<f64>();
    let from = if total(places) > 0.0 { places } else { all };
    let first = from.first().map_or(1.0, |&row| weight(row));
    if from.iter().all(|&row| weight(row).to_bits() == first.to_bits()) {
        return from.iter().take(places.len()).copied().collect();
    }
    let per_weight = places.len() as f64 / total(from);
    let (start, mut reached, mut drawn) = (rng.unit(), 0.0, Vec::with_capacity(places.len()));
    for &row in from {
        reached += weight(row) * per_weight;
        while drawn.len() < places.len() && drawn.len() as f64 + start < reached {
            drawn.push(row);
        }
    }
    // The last place is missed by no more than rounding.
    if let Some(&last) = from.iter().rfind(|&&row| weight(row) > 0.0) {
        drawn.resize(places.len(), last);
    }
    rng.shuffle(&mut drawn);
    drawn
}

/// A permutation of `0..n`.
fn shuffle(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..n).collect();
    SplitMix64::new(seed ^ mixed(epoch)).shuffle(&mut rows);
    rows
}

const fn mixed(n: u64) -> u64 {
    n.wrapping_add(1).wrapping_mul(0xD1B5_4A32_D192_ED03)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(rows: usize, batch_size: usize, accumulate: usize, epochs: f64, seed: u64) -> Order {
        Order::new(rows, &TrainSettings { epochs, batch_size, accumulate, seed, ..TrainSettings::default() })
    }

    proptest! {
        #[test]
        fn every_example_is_visited_exactly_once_per_epoch(
            rows in 1usize..80, batch in 1usize..9, accumulate in 1usize..4, epochs in 1u64..4, seed: u64,
        ) {
            let mut order = order(rows, batch, accumulate, epochs as f64, seed);
            prop_assert_eq!(order.total_steps(), epochs * order.steps_per_epoch());
            for epoch in 0..epochs {
                let mut seen = vec![0; rows];
                for step in 1..=order.steps_per_epoch() {
                    let micro_batches = order.step(epoch * order.steps_per_epoch() + step, |row| row % 7);
                    prop_assert!(micro_batches.len() <= accumulate);
                    for batch_rows in micro_batches {
                        prop_assert!(!batch_rows.is_empty() && batch_rows.len() <= batch);
                        for row in batch_rows {
                            seen[row] += 1;
                        }
                    }
                }
                prop_assert!(seen.iter().all(|&n| n == 1));
            }
        }

        #[test]
        fn a_step_has_the_same_rows_whoever_asks_first(rows in 1usize..60, seed: u64, step in 1u64..40) {
            let mut fresh = order(rows, 3, 2, 20.0, seed);
            let mut used = order(rows, 3, 2, 20.0, seed);
            (1..step).for_each(|s| { used.step(s, |row| row); });
            prop_assert_eq!(fresh.step(step, |row| row), used.step(step, |row| row));
        }

        #[test]
        fn micro_batches_hold_rows_of_like_length(rows in 1usize..60, seed: u64) {
            let mut order = order(rows, 4, 3, 1.0, seed);
            let lengths: Vec<usize> = order.step(1, |row| row * 31 % 17).concat().iter().map(|row| row * 31 % 17).collect();
            prop_assert!(lengths.is_sorted());
        }
    }

    /// Every row of an epoch as often as it comes.
    fn counts(order: &mut Order, epoch: u64, rows: usize) -> Vec<usize> {
        let steps = order.steps_per_epoch();
        let mut counts = vec![0; rows];
        for step in 1..=steps {
            order.step(epoch * steps + step, |row| row).concat().iter().for_each(|&row| counts[row] += 1);
        }
        counts
    }

    proptest! {
        #[test]
        fn a_row_comes_as_often_as_its_weight_says(
            rows in 2usize..60, batch in 1usize..7, seed: u64, odd in 0.0..4.0f64, from in 1u64..40,
        ) {
            let mut order = order(rows, batch, 1, 9.0, seed);
            let weights: Vec<f64> = (0..rows).map(|row| if row % 2 == 1 { odd } else { 1.0 }).collect();
            let total: f64 = weights.iter().sum();
            order.weigh(from, weights.clone());
            let epoch = (from - 1).div_ceil(order.steps_per_epoch());
            for epoch in epoch..epoch + 2 {
                let got = counts(&mut order, epoch, rows);
                prop_assert_eq!(got.iter().sum::<usize>(), rows);
                for (count, weight) in got.iter().zip(&weights) {
                    let want = rows as f64 * weight / total;
                    prop_assert!((*count as f64 - want).abs() < 1.0 + 1e-9, "{count} for {want}");
                }
            }
        }

        #[test]
        fn a_change_in_mid_epoch_leaves_what_came_before_and_keeps_the_number_of_rows(
            rows in 2usize..60, batch in 1usize..7, seed: u64, from in 1u64..30,
        ) {
            let mut plain = order(rows, batch, 1, 9.0, seed);
            let mut changed = plain.clone();
            changed.weigh(from, (0..rows).map(|row| f64::from(u8::from(row % 3 == 0))).collect());
            for step in 1..30 {
                let (was, is) = (plain.step(step, |row| row), changed.step(step, |row| row));
                prop_assert_eq!(was.concat().len(), is.concat().len());
                if step < from {
                    prop_assert_eq!(was, is);
                } else {
                    prop_assert!(is.concat().iter().all(|row| row % 3 == 0), "weight 0 never comes");
                }
            }
            changed.weigh(from, vec![2.0; rows]);
            for step in 1..30 {
                prop_assert_eq!(plain.step(step, |row| row), changed.step(step, |row| row), "equal weights change nothing");
            }
        }
    }

    #[test]
    fn epochs_and_seeds_shuffle_differently() {
        let orders: Vec<_> =
            [(7, 0), (7, 1), (8, 0)].into_iter().map(|(seed, epoch)| shuffle(50, seed, epoch)).collect();
        assert!(orders[0] != orders[1] && orders[0] != orders[2] && orders[1] != orders[2]);
        assert_ne!(orders[0], (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn the_shuffle_of_a_seed_never_changes() {
        // Frozen: a run that is resumed by a later version must find its order again.
        assert_eq!(shuffle(8, 7, 0), [2, 4, 7, 6, 0, 1, 5, 3]);
    }

    #[test]
    fn the_run_ends_by_epochs_or_by_steps() {
        assert_eq!(order(10, 4, 1, 0.5, 0).total_steps(), 2, "half of three steps, rounded up");
        assert_eq!(order(3, 8, 2, 4.0, 0).total_steps(), 4);
        assert_eq!(order(30, 1, 1, 0.1, 0).total_steps(), 3);
        let settings =
            TrainSettings { batch_size: 1, epochs: 4.0, max_steps: Some(5), ..TrainSettings::default() };
        assert_eq!(Order::new(10, &settings).total_steps(), 5);
    }

    #[test]
    fn positions_count_rows_of_the_epoch() {
        let order = order(10, 4, 1, 3.0, 0);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|s| order.position_after(s)),
            [(0, 0), (0, 4), (0, 8), (1, 0), (1, 4)]
        );
        assert_eq!(order.epochs_after(4), 1.4);
    }
}
