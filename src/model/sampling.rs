//! Which token comes next: the likeliest, or one drawn after temperature, top-k and top-p, in the order of transformers.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::ModelError;
use crate::domain::candidate::Decoding;

/// Draws tokens from logits.
#[derive(Debug)]
pub struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    rng: StdRng,
}

impl Sampler {
    /// The drawing depends on the seed and the prompt alone, not on what was answered before or beside it.
    pub fn new(decoding: &Decoding, prompt: &[u32]) -> Result<Self, ModelError> {
        let wrong = |what: String| Err(ModelError::Request(what));
        if !(decoding.temperature >= 0.0 && decoding.temperature.is_finite()) {
            return wrong(format!("temperature {} is not a number from 0 upwards", decoding.temperature));
        }
        if decoding.top_k == Some(0) {
            return wrong("top_k 0 leaves no token; leave it out to keep all".into());
        }
        let top_p = decoding.top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            return wrong(format!("top_p {top_p} is not above 0 and at most 1"));
        }
        let mut hash = blake3::Hasher::new();
        hash.update(&decoding.seed.to_le_bytes());
        for id in prompt {
            hash.update(&id.to_le_bytes());
        }
        Ok(Self {
            temperature: decoding.temperature,
            top_k: decoding.top_k.unwrap_or(usize::MAX),
            top_p,
            rng: StdRng::from_seed(*hash.finalize().as_bytes()),
        })
    }

    /// The next token. Among equal logits the first counts as the likelier.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32, ModelError> {
        let best = greedy(logits)?;
        if self.temperature == 0.0 {
            return Ok(best as u32);
        }
        let max = logits[best];
        let weight = |l: f32| f64::from((l - max) / self.temperature).exp();
        let mut kept: Vec<(f64, u32)> =
            logits.iter().enumerate().map(|(i, &l)| (weight(l), i as u32)).collect();
        let likelier = |a: &(f64, u32), b: &(f64, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if self.top_k < kept.len() {
            kept.select_nth_unstable_by(self.top_k - 1, likelier);
            kept.truncate(self.top_k);
        }
        if self.top_p < 1.0 {
            kept.sort_unstable_by(likelier);
            let total: f64 = kept.iter().map(|(w, _)| w).sum();
            let mut sum = 0.0;
            // The token that crosses the line stays, so that at least one does.
            let enough = kept.iter().position(|(w, _)| {
                sum += w;
                sum >= f64::from(self.top_p) * total
            });
            kept.truncate(enough.map_or(kept.len(), |at| at + 1));
        }
        let total: f64 = kept.iter().map(|(w, _)| w).sum();
        let mut draw = self.rng.random::<f64>() * total;
        for &(w, id) in &kept {
            draw -= w;
            if draw < 0.0 {
                return Ok(id);
            }
        }
        // Rounding may leave a crumb.
        Ok(kept.last().map_or(best as u32, |&(_, id)| id))
    }
}

/// Index of the largest logit.
fn greedy(logits: &[f32]) -> Result<usize, ModelError> {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if l.is_nan() || *l == f32::INFINITY {
            let message =
                "the model computed something that is not a number; its weights or its adapter are broken";
            return Err(ModelError::Request(message.into()));
        }
        if *l > logits[best] {
            best = i;
        }
    }
    if logits.get(best).is_none_or(|l| !l.is_finite()) {
        return Err(ModelError::Request("the model gave no logits".into()));
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoding(temperature: f32, top_k: Option<usize>, top_p: Option<f32>, seed: u64) -> Decoding {
        Decoding { temperature, top_k, top_p, seed, ..Decoding::default() }
    }

    /// How often each token comes in `n` draws.
    fn shares(decoding: &Decoding, logits: &[f32], n: u32) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        let mut sampler = Sampler::new(decoding, &[1, 2]).unwrap();
        for _ in 0..n {
            counts[sampler.next(logits).unwrap() as usize] += 1.0 / f64::from(n);
        }
        counts
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_likeliest() {
        let mut sampler = Sampler::new(&decoding(0.0, None, None, 0), &[]).unwrap();
        assert_eq!(sampler.next(&[0.0, 3.0, -1.0, 3.0]).unwrap(), 1);
        assert_eq!(sampler.next(&[f32::NEG_INFINITY, -5.0]).unwrap(), 1);
    }

    #[test]
    fn draws_follow_the_softmax() {
        // Probabilities 0.5, 0.3, 0.15, 0.05.
        let logits = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln);
        let close = |got: Vec<f64>, want: [f64; 4]| {
            // Four deviations of a share of 20,000 draws.
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.0142), "{got:?} {want:?}");
        };
        close(shares(&decoding(1.0, None, None, 3), &logits, 20_000), [0.5, 0.3, 0.15, 0.05]);
        close(shares(&decoding(1.0, Some(2), None, 3), &logits, 20_000), [0.625, 0.375, 0.0, 0.0]);
        close(
            shares(&decoding(1.0, None, Some(0.81), 3), &logits, 20_000),
            [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0],
        );
        close(shares(&decoding(1.0, None, Some(0.1), 3), &logits, 200), [1.0, 0.0, 0.0, 0.0]);
        // Half the temperature squares the odds.
        let z = 0.25 + 0.09 + 0.0225 + 0.0025;
        let want = [0.25 / z, 0.09 / z, 0.0225 / z, 0.0025 / z];
        close(shares(&decoding(0.5, None, None, 3), &logits, 20_000), want);
    }

    #[test]
    fn the_same_seed_and_prompt_draw_the_same() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let draw = |seed: u64, prompt: &[u32]| -> Vec<u32> {
            let mut sampler = Sampler::new(&decoding(1.0, None, None, seed), prompt).unwrap();
            (0..20).map(|_| sampler.next(&logits).unwrap()).collect()
        };
        assert_eq!(draw(1, &[4]), draw(1, &[4]));
        assert_ne!(draw(1, &[4]), draw(2, &[4]));
        assert_ne!(draw(1, &[4]), draw(1, &[5]));
    }

    #[test]
    fn settings_and_logits_that_make_no_sense_are_errors() {
        for bad in [
            decoding(-1.0, None, None, 0),
            decoding(f32::NAN, None, None, 0),
            decoding(1.0, Some(0), None, 0),
            decoding(1.0, None, Some(0.0), 0),
            decoding(1.0, None, Some(1.5), 0),
        ] {
            assert!(Sampler::new(&bad, &[]).is_err(), "{bad:?}");
        }
        let mut sampler = Sampler::new(&decoding(1.0, None, None, 0), &[]).unwrap();
        for logits in [&[0.0, f32::NAN][..], &[f32::INFINITY], &[], &[f32::NEG_INFINITY]] {
            assert!(sampler.next(logits).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_draw_is_always_among_the_top_k(
            logits in prop::collection::vec(-20_f32..20.0, 1..40),
            k in 1_usize..10,
            p in 0.01_f32..1.0,
            seed: u64,
        ) {
            let mut sampler = Sampler::new(&decoding(1.3, Some(k), Some(p), seed), &[]).unwrap();
            let id = sampler.next(&logits).unwrap() as usize;
            let above = logits.iter().filter(|l| **l > logits[id]).count();
            prop_assert!(above < k);
        }
    }
}
