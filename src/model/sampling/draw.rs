//! Drawing a token after temperature, top-k, top-p and min-p.
//!
//! Each cut is that of transformers' warpers of the same name: top-k keeps ties of the k-th; top-p keeps the token that crosses
//! the line; min-p leaves out what is less likely than its share of the likeliest.

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::domain::candidate::Decoding;
use crate::ops::vocabulary::{BLOCK, exp_blocks, exp_total};

/// What is drawn from.
#[derive(Debug)]
pub struct Cuts {
    pub temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    /// Tokens that are left by the cuts, with score or weight.
    kept: Vec<(f64, u32)>,
    /// Sums of the blocks of weights, where nothing is cut.
    sums: Vec<f64>,
}

impl Cuts {
    pub fn new(decoding: &Decoding) -> Self {
        Self {
            temperature: decoding.temperature,
            top_k: decoding.top_k.unwrap_or(usize::MAX),
            top_p: decoding.top_p.unwrap_or(1.0),
            min_p: decoding.min_p.unwrap_or(0.0),
            kept: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// Draws from `scores`, the largest of which stands at `best`; they are overwritten. Negative infinity is never drawn.
    pub fn draw(&mut self, scores: &mut [f32], best: usize, rng: &mut StdRng) -> u32 {
        self.draw_at(scores, best, rng.random())
    }

    /// Temperature, top-p, min-p and top-k (0: all), as the GPU's kernel takes them.
    pub fn settings(&self, vocab: usize) -> ([f32; 3], u32) {
        let top_k = if self.top_k >= vocab { 0 } else { self.top_k as u32 };
        // Its reciprocal is a number.
        let temperature =
            if self.temperature > 0.0 { self.temperature.max(f32::MIN_POSITIVE) } else { self.temperature };
        ([temperature, self.top_p, self.min_p], top_k)
    }

    /// As [`Cuts::draw`] with the number from [0, 1): drawn is the first id at which the sum of the weights, by id, passes its share.
    pub fn draw_at(&mut self, scores: &mut [f32], best: usize, draw: f64) -> u32 {
        if self.top_k >= scores.len() && self.top_p >= 1.0 && self.min_p == 0.0 {
            return self.draw_of_all(scores, best, draw);
        }
        self.cut(scores, best);
        let total: f64 = self.kept.iter().map(|(w, _)| w).sum();
        let mut left = draw * total;
        for &(w, id) in &self.kept {
            left -= w;
            if left < 0.0 {
                return id;
            }
        }
        // Rounding may leave a crumb.
        best as u32
    }

    fn draw_of_all(&mut self, scores: &mut [f32], best: usize, draw: f64) -> u32 {
        let largest = scores[best];
        exp_blocks(scores, largest, self.temperature.recip().min(f32::MAX), &mut self.sums);
        let mut left = draw * self.sums.iter().sum::<f64>();
        for (at, (sum, weights)) in self.sums.iter().zip(scores.chunks(BLOCK)).enumerate() {
            if left >= *sum {
                left -= sum;
                continue;
            }
            for (i, w) in weights.iter().enumerate() {
                left -= f64::from(*w);
                if left < 0.0 {
                    return (at * BLOCK + i) as u32;
                }
            }
        }
        best as u32
    }

    /// Leaves in `kept` the tokens that may be drawn with their weights, the likeliest's being 1.
    pub fn cut(&mut self, scores: &[f32], best: usize) {
        let largest = scores[best];
        let (temperature, kept) = (f64::from(self.temperature), &mut self.kept);
        let weight = |score: f64| ((score - f64::from(largest)) / temperature).exp();
        kept.clear();
        let total = if self.top_k < scores.len() {
            top(scores, self.top_k, kept);
            None
        } else {
            // What is below this weight cannot stay: min-p itself; for top-p, all tokens below have less than 1 - p together.
            let mut floor = f64::from(self.min_p);
            let mut total = None;
            if self.top_p < 1.0 {
                let sum = exp_total(scores, largest, self.temperature.recip().min(f32::MAX));
                floor = floor.max((1.0 - f64::from(self.top_p)) * 0.999 * sum / scores.len() as f64);
                total = Some(sum);
            }
            // Rounded away from what is to stay.
            let least = f64::from(largest) + temperature * floor.ln() - 1e-4 * temperature;
            let may = |s: f32| f64::from(s) >= least && s > f32::NEG_INFINITY;
            kept.extend(
                scores.iter().enumerate().filter(|(_, s)| may(**s)).map(|(i, &s)| (f64::from(s), i as u32)),
            );
            total
        };
        for (w, _) in kept.iter_mut() {
            *w = weight(*w);
        }
        if self.top_p < 1.0 {
            kept.sort_unstable_by(likelier);
            let total = total.unwrap_or_else(|| kept.iter().map(|(w, _)| w).sum());
            let mut sum = 0.0;
            // The token that crosses the line stays, so that at least one does.
            let enough = kept.iter().position(|(w, _)| {
                sum += w;
                sum >= f64::from(self.top_p) * total
            });
            kept.truncate(enough.map_or(kept.len(), |at| at + 1));
        }
        if self.top_p < 1.0 || self.top_k < scores.len() {
            // Drawn by id, as on a GPU.
            kept.sort_unstable_by_key(|(_, id)| *id);
        }
        if self.min_p > 0.0 {
            kept.retain(|(w, _)| *w >= f64::from(self.min_p));
        }
    }

    #[cfg(test)]
    pub fn kept(&self) -> &[(f64, u32)] {
        &self.kept
    }
}

/// Larger first; of equals the first.
fn likelier(a: &(f64, u32), b: &(f64, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Puts the `k` largest scores into `kept`, with all that equal the k-th, in no order; negative infinity is left out.
fn top(scores: &[f32], k: usize, kept: &mut Vec<(f64, u32)>) {
    kept.clear();
    if k == 0 {
        return;
    }
    let mut floor = f32::NEG_INFINITY;
    let mut room = 2 * k + 64;
    let narrow = |kept: &mut Vec<(f64, u32)>| {
        if kept.len() > k {
            let (_, kth, _) = kept.select_nth_unstable_by(k - 1, likelier);
            let kth = kth.0;
            kept.retain(|(s, _)| *s >= kth);
            kth as f32
        } else {
            f32::NEG_INFINITY
        }
    };
    for (i, &score) in scores.iter().enumerate() {
        if score >= floor && score > f32::NEG_INFINITY {
            kept.push((f64::from(score), i as u32));
            if kept.len() >= room {
                floor = narrow(kept);
                // Many ties may stay; the next look waits until as many came again.
                room = room.max(2 * kept.len());
            }
        }
    }
    narrow(kept);
}

/// The `n` largest, largest first, of equals the first.
pub fn likeliest(logits: &[f32], n: usize) -> Vec<u32> {
    let mut kept = Vec::new();
    top(logits, n, &mut kept);
    kept.sort_unstable_by(likelier);
    kept.truncate(n);
    kept.into_iter().map(|(_, id)| id).collect()
}
