//! What a classifier that has not seen a row says of the row's gold, and how surely that gold is wrong.
//!
//! Multinomial logistic regression on the tf-idf weighed words, pairs of words and character n-grams of the input (those of the built-in
//! embedder), fitted by stochastic gradient descent in [`FOLDS`] folds: a row is told by the fit that its fold was kept out of, and what says
//! nearly the same is in one fold.
//!
//! The logits z become a probability of being wrong by a mixture with two parameters, a temperature T and the share e of golds that were
//! drawn by lot among the K labels (the symmetric noise of Angluin and Laird 1988, "Learning from noisy examples"):
//!
//! ```text
//! p(l) = softmax(z / T)(l)        P(gold = g) = (1 - e) p(g) + e / K        P(by lot | g) = (e / K) / P(gold = g)
//! ```
//!
//! T and e are the most likely ones for the golds as they stand: T by a search, e by expectation maximization. Golds that a classifier
//! cannot tell from the inputs give an e near 1, and are not doubted.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::{Column, DataError, Dataset, Of};
use crate::domain::rng::SplitMix64;
use crate::embed::Terms;

use super::Scan;

const VERSION: u32 = 1;
const FOLDS: usize = 5;
const SEED: u64 = 7;
/// Passes of the descent over its rows; their rate falls linearly from [`RATE`] to 0.
const EPOCHS: usize = 12;
const RATE: f32 = 1.0;
/// Inverse strength of the L2 penalty: the loss is the mean cross-entropy + |W|² / (2 · STRENGTH · n).
const STRENGTH: f32 = 20.0;
/// More rows that say nearly the same, or more than one of so many of all, are a template and no repetition: only copies stay together.
const REPEATED: usize = 20;
/// The features are those of so many rows, spread evenly.
const FIT_TERMS: usize = 20_000;
/// Numbers of one fit's weights, features times labels, at most.
const WEIGHTS: usize = 6_000_000;
/// Features of all rows that are learned from together: a row more is not worth its 8 bytes each.
const ENTRIES: usize = 8_000_000;
/// Entries times labels times passes that a fit may take.
const WORK: usize = 20_000_000_000;
const WINDOW: usize = 8_192;
/// Labels beyond are no classes.
pub const LABELS: usize = 1_000;
/// Other labels that are kept of a row.
const OTHERS: usize = 3;
/// Rows whose own gold has more than this are not suspected by anything.
const KEPT_BELOW: f32 = 0.25;
/// So many golds in a thousand are taken to be wrong where the rows do not show it.
const LEAST_BY_LOT: f64 = 0.001;
/// Golds of which more than this look drawn by lot are not told by the inputs.
const MOST_BY_LOT: f64 = 0.4;

/// How the golds of the data can be told from the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// Share of golds that are the likeliest label, held out.
    pub accuracy: f64,
    /// Share of golds that look as if they were drawn by lot.
    pub by_lot: f64,
    pub labels: usize,
    temperature: f32,
}

impl Fit {
    /// Share of golds that look wrong: some by lot are right.
    pub fn wrong(&self) -> f64 {
        self.by_lot * (1.0 - 1.0 / self.labels.max(1) as f64)
    }

    /// The inputs tell the golds, so that one that they do not tell is worth a look.
    pub fn tells(&self) -> bool {
        self.by_lot <= MOST_BY_LOT
    }
}

/// What is said of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Probability of the row's gold, and of the likeliest other labels, the first the likeliest.
    pub own: f32,
    pub others: Vec<(String, f32)>,
}

impl Told {
    /// Probability that the gold was drawn by lot, and the label that is likelier, with its share of all that speaks for any.
    ///
    /// `witness`: somebody else's answer, and the share of rows that he has right. Given the true label his answer is that label as often,
    /// and else any other alike. He and the classifier stumble over the same rows, so that he counts half (the root of his likelihood).
    pub fn doubt(&self, fit: &Fit, witness: Option<(&str, f64)>, gold: &str) -> Option<(f64, &str, f64)> {
        let k = fit.labels as f64;
        let by_lot = fit.by_lot.max(LEAST_BY_LOT);
        let likelihood = |label: &str| match witness {
            None => 1.0,
            Some((answer, right)) if answer == label => right.sqrt(),
            Some((_, right)) => ((1.0 - right) / (k - 1.0).max(1.0)).sqrt(),
        };
        let known: f64 = f64::from(self.own) + self.others.iter().map(|(_, p)| f64::from(*p)).sum::<f64>();
        let all = f64::from(self.own) * likelihood(gold)
            + self.others.iter().map(|(label, p)| f64::from(*p) * likelihood(label)).sum::<f64>()
            + (1.0 - known).max(0.0) * witness.map_or(1.0, |(_, right)| ((1.0 - right) / (k - 1.0)).sqrt());
        let stands = (1.0 - by_lot) * f64::from(self.own) * likelihood(gold);
        let wrong = by_lot / k * all;
        let (label, p) = self
            .others
            .iter()
            .map(|(label, p)| (label.as_str(), f64::from(*p) * likelihood(label) / all))
            .max_by(|a, b| a.1.total_cmp(&b.1))?;
        (all > 0.0).then_some((wrong / (stands + wrong), label, p))
    }
}

/// What was kept: on the first line the fit, too.
#[derive(Default, Serialize, Deserialize)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fit: Option<Fit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<Told>,
}

/// Of all rows, kept with the index.
#[derive(Debug)]
pub struct HeldOut {
    kept: std::sync::Arc<Column>,
    /// None where golds are no classes.
    pub fit: Option<Fit>,
}

impl HeldOut {
    /// What was kept, or found now, of the golds as they stand in the files. `label` gives a row's place in `names`. `tell` is told how
    /// many rows have been looked at.
    ///
    /// # Errors
    /// Data that has changed meanwhile.
    pub fn of(
        data: &Dataset,
        scan: &Scan,
        names: &[String],
        label: &(dyn Fn(usize) -> Option<u32> + Sync),
        tell: &dyn Fn(usize),
    ) -> Result<Self, DataError> {
        // What counts as nearly the same decides the folds.
        let alike = (0..scan.len()).filter(|at| scan.near(*at).is_some()).count();
        let name = format!("golds {VERSION} {} {alike}", names.len());
        let read = |kept: std::sync::Arc<Column>| {
            let first = kept.get(0).and_then(|line| serde_json::from_str::<Line>(line).ok());
            Self { fit: first.and_then(|line| line.fit), kept }
        };
        if let Some(kept) = data.found(&name) {
            return Ok(read(kept));
        }
        let inputs = data.columns(&[Of::Input])?;
        let text = |at: usize| inputs.first().and_then(|inputs| inputs.get(at)).unwrap_or_default();
        let mut sizes: HashMap<u32, usize> = HashMap::new();
        for near in (0..scan.len()).filter_map(|at| scan.near(at)) {
            *sizes.entry(near).or_default() += 1;
        }
        let repeats = |near: &u32| sizes.get(near).is_some_and(|n| *n <= REPEATED.min(scan.len() / REPEATED));
        let fold = |at: usize| {
            let group = scan.near(at).filter(repeats).or_else(|| scan.same(at)).unwrap_or(at as u32);
            SplitMix64::stream(SEED, u64::from(group)).below(FOLDS)
        };
        let labelled: Vec<(usize, u32)> =
            (0..data.len()).filter_map(|at| label(at).map(|label| (at, label))).collect();
        let folds = Folds::learn(&labelled, names.len(), &text, &fold);
        let fit = folds.fit;
        let mut lines: Vec<Option<String>> = vec![None; data.len()];
        // Where the inputs do not tell the golds nothing is doubted.
        for window in labelled.chunks(WINDOW).filter(|_| fit.tells()) {
            tell(window.first().map_or(0, |(at, _)| *at));
            let told: Vec<Option<Told>> =
                window.par_iter().map(|&(at, label)| folds.told(text(at), label, fold(at), names)).collect();
            for (&(at, _), told) in window.iter().zip(told) {
                lines[at] =
                    told.and_then(|told| serde_json::to_string(&Line { fit: None, told: Some(told) }).ok());
            }
        }
        if let Some(first) = lines.first_mut() {
            let told = first.as_deref().and_then(|line| serde_json::from_str::<Line>(line).ok()?.told);
            *first = serde_json::to_string(&Line { fit: Some(fit), told }).ok();
        }
        data.keep(&name, lines.into_iter()).map(read)
    }

    /// Of a row with gold that the classifier does not rather agree with.
    pub fn told(&self, at: usize) -> Option<Told> {
        serde_json::from_str::<Line>(self.kept.get(at)?).ok()?.told
    }
}

/// A classifier for each fold, which has not seen it.
struct Folds {
    terms: Terms,
    labels: usize,
    /// (features + 1, labels) each; the last row is the bias.
    weights: Vec<Vec<f32>>,
    fit: Fit,
}

impl Folds {
    fn learn<'t>(
        labelled: &[(usize, u32)],
        labels: usize,
        text: &(dyn Fn(usize) -> &'t str + Sync),
        fold: &(dyn Fn(usize) -> usize + Sync),
    ) -> Self {
        let n = labelled.len();
        let spread = |count: usize| (0..count.min(n)).map(move |i| labelled[i * n / count.min(n).max(1)]);
        let corpus: Vec<&str> = spread(FIT_TERMS).map(|(at, _)| text(at)).collect();
        let terms = Terms::fit(&corpus, WEIGHTS / labels.max(1));
        let entries = ENTRIES.min(WORK / (EPOCHS * labels.max(1)));
        let first: Vec<usize> = spread(1_000).map(|(at, _)| terms.row(text(at)).len()).collect();
        let mean = first.iter().sum::<usize>() / first.len().max(1) + 1;
        let learned: Vec<(usize, u32)> = spread(entries / mean).collect();
        let rows: Vec<Vec<(u32, f32)>> = learned.par_iter().map(|(at, _)| terms.row(text(*at))).collect();
        let folds: Vec<usize> = learned.iter().map(|(at, _)| fold(*at)).collect();
        let weights: Vec<Vec<f32>> = (0..FOLDS)
            .into_par_iter()
            .map(|out| {
                let of_fold: Vec<(&[(u32, f32)], u32)> = rows
                    .iter()
                    .zip(&learned)
                    .zip(&folds)
                    .filter(|(_, fold)| **fold != out)
                    .map(|((row, (_, label)), _)| (row.as_slice(), *label))
                    .collect();
                descend(&of_fold, terms.len(), labels, SEED + out as u64)
            })
            .collect();
        let logits: Vec<Vec<f32>> = rows
            .par_iter()
            .zip(&folds)
            .map(|(row, fold)| {
                let mut z = vec![0.0; labels];
                product(&weights[*fold], row, &mut z);
                z
            })
            .collect();
        let golds: Vec<usize> = learned.iter().map(|(_, label)| *label as usize).collect();
        let fit = calibrated(&logits, &golds, labels);
        Self { terms, labels, weights, fit }
    }

    fn told(&self, text: &str, label: u32, fold: usize, names: &[String]) -> Option<Told> {
        let mut p = vec![0.0; self.labels];
        product(self.weights.get(fold)?, &self.terms.row(text), &mut p);
        softmax(&mut p, self.fit.temperature);
        let own = *p.get(label as usize)?;
        let mut order: Vec<usize> = (0..p.len()).filter(|l| *l != label as usize).collect();
        order.sort_unstable_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
        let others = order.into_iter().take(OTHERS).filter_map(|l| Some((names.get(l)?.clone(), p[l])));
        (own < KEPT_BELOW).then(|| Told { own, others: others.collect() })
    }
}

/// z = x W + bias.
fn product(weights: &[f32], row: &[(u32, f32)], z: &mut [f32]) {
    let labels = z.len();
    if let Some(bias) = weights.len().checked_sub(labels).and_then(|from| weights.get(from..)) {
        z.copy_from_slice(bias);
    }
    for &(column, x) in row {
        for (z, w) in z.iter_mut().zip(&weights[column as usize * labels..]) {
            *z += x * w;
        }
    }
}

fn softmax(z: &mut [f32], temperature: f32) {
    let most = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for z in z.iter_mut() {
        *z = ((*z - most) / temperature).exp();
        sum += *z;
    }
    for z in z.iter_mut() {
        *z /= sum;
    }
}

/// Weights (features + 1, labels). The penalty is a factor that stands beside the weights and is multiplied in now and then (Bottou 2012,
/// "Stochastic gradient descent tricks", section 5.1).
fn descend(rows: &[(&[(u32, f32)], u32)], features: usize, labels: usize, seed: u64) -> Vec<f32> {
    let mut weights = vec![0.0_f32; (features + 1) * labels];
    let penalty = 1.0 / (STRENGTH * rows.len().max(1) as f32);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let mut rng = SplitMix64::new(seed);
    let mut z = vec![0.0_f32; labels];
    let (mut factor, mut step, total) = (1.0_f32, 0.0_f32, (EPOCHS * rows.len()) as f32);
    for _ in 0..EPOCHS {
        rng.shuffle(&mut order);
        for (row, label) in order.iter().map(|at| rows[*at]) {
            product(&weights, row, &mut z);
            for z in &mut z {
                *z *= factor;
            }
            softmax(&mut z, 1.0);
            z[label as usize] -= 1.0;
            let rate = RATE * (1.0 - step / total);
            step += 1.0;
            factor *= 1.0 - rate * penalty;
            if factor < 1e-4 {
                for w in &mut weights {
                    *w *= factor;
                }
                factor = 1.0;
            }
            for &(column, x) in row.iter().chain(std::iter::once(&(features as u32, 1.0))) {
                let by = rate * x / factor;
                for (w, z) in weights[column as usize * labels..].iter_mut().zip(&z) {
                    *w -= by * z;
                }
            }
        }
    }
    for w in &mut weights {
        *w *= factor;
    }
    weights
}

/// Temperature and share of golds by lot under which the golds are likeliest.
fn calibrated(logits: &[Vec<f32>], golds: &[usize], labels: usize) -> Fit {
    let likeliest = |z: &[f32]| (0..z.len()).max_by(|a, b| z[*a].total_cmp(&z[*b]).then(b.cmp(a)));
    let right = logits.iter().zip(golds).filter(|(z, gold)| likeliest(z) == Some(**gold)).count();
    let any = 1.0 / labels.max(1) as f64;
    let mut best = (f64::INFINITY, 1.0, 0.0);
    for temperature in (0..64).map(|i| 0.02 * 1.1_f32.powi(i)) {
        let own: Vec<f64> = logits
            .par_iter()
            .zip(golds)
            .map(|(z, gold)| {
                let mut p = z.clone();
                softmax(&mut p, temperature);
                f64::from(p[*gold])
            })
            .collect();
        let mut by_lot = 0.05;
        for _ in 0..50 {
            let lot = |p: &f64| by_lot * any / ((1.0 - by_lot) * p + by_lot * any);
            by_lot = own.iter().map(lot).sum::<f64>() / own.len().max(1) as f64;
        }
        let loss = -own.iter().map(|p| ((1.0 - by_lot) * p + by_lot * any).max(1e-300).ln()).sum::<f64>();
        if loss < best.0 {
            best = (loss, temperature, by_lot);
        }
    }
    let (_, temperature, by_lot) = best;
    Fit { accuracy: right as f64 / golds.len().max(1) as f64, by_lot, labels, temperature }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of three matters; of these golds some are then drawn by lot.
    fn rows(n: usize, by_lot: f64) -> (Vec<String>, Vec<(usize, u32)>, Vec<bool>) {
        let about = ["my card has not arrived", "please refund the purchase", "the app crashes at login"];
        let extra = ["today", "again", "since monday", "and nobody answers", "thank you", "what now"];
        let mut rng = SplitMix64::new(3);
        let (mut texts, mut golds, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..n {
            let (true_label, a, b) = (rng.below(3), rng.below(6), rng.below(6));
            texts.push(format!("{} {} {} {}", extra[a], about[true_label], extra[b], rng.below(50)));
            let gold = if rng.unit() < by_lot { rng.below(3) } else { true_label };
            golds.push((at, gold as u32));
            wrong.push(gold != true_label);
        }
        (texts, golds, wrong)
    }

    fn learned(texts: &[String], golds: &[(usize, u32)]) -> Folds {
        let fold = |at: usize| SplitMix64::stream(SEED, at as u64).below(FOLDS);
        Folds::learn(golds, 3, &|at| texts[at].as_str(), &fold)
    }

    #[test]
    fn golds_by_lot_are_found_and_the_share_of_them_is_told() {
        let (texts, golds, wrong) = rows(600, 0.09);
        let folds = learned(&texts, &golds);
        assert!((folds.fit.by_lot - 0.09).abs() < 0.05, "{:?}", folds.fit);
        let names: Vec<String> = ["cards", "refunds", "app"].map(String::from).to_vec();
        let doubted: Vec<bool> = golds
            .iter()
            .map(|&(at, label)| {
                let fold = SplitMix64::stream(SEED, at as u64).below(FOLDS);
                let told = folds.told(&texts[at], label, fold, &names);
                told.is_some_and(|told| {
                    told.doubt(&folds.fit, None, &names[label as usize]).is_some_and(|(sure, ..)| sure > 0.5)
                })
            })
            .collect();
        let hits = doubted.iter().zip(&wrong).filter(|(doubted, wrong)| **doubted && **wrong).count();
        let [of, listed] = [&wrong, &doubted].map(|all| all.iter().filter(|yes| **yes).count());
        assert!(
            hits * 5 >= of * 3 && hits * 20 >= listed * 19,
            "{hits} of {of} found, {listed} listed, {:?}",
            folds.fit
        );
    }

    #[test]
    fn golds_that_the_inputs_do_not_tell_are_all_by_lot() {
        let (texts, golds, _) = rows(400, 1.0);
        assert!(!learned(&texts, &golds).fit.tells());
        let (texts, golds, _) = rows(400, 0.0);
        assert!(learned(&texts, &golds).fit.tells());
    }

    #[test]
    fn threads_change_nothing() {
        let (texts, golds, _) = rows(200, 0.1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| learned(&texts, &golds)).weights, learned(&texts, &golds).weights);
    }

    #[test]
    fn a_witness_moves_the_doubt_and_one_who_agrees_with_the_gold_ends_it() {
        let fit = Fit { accuracy: 0.9, by_lot: 0.02, labels: 5, temperature: 1.0 };
        let told =
            Told { own: 0.01, others: vec![("a".into(), 0.9), ("b".into(), 0.05), ("c".into(), 0.02)] };
        let (alone, label, share) = told.doubt(&fit, None, "g").unwrap();
        // (0.02 / 5) / (0.98 · 0.01 + 0.02 / 5)
        assert!((alone - 0.004 / 0.0138).abs() < 1e-6 && label == "a" && (share - 0.9).abs() < 1e-6);
        let (against, label, _) = told.doubt(&fit, Some(("a", 0.95)), "g").unwrap();
        assert!(against > 0.7 && label == "a", "{against}");
        let (with, ..) = told.doubt(&fit, Some(("g", 0.95)), "g").unwrap();
        assert!(with < alone / 3.0, "{with}");
    }
}
