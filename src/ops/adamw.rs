//! AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, in the form of torch.optim.AdamW).
//!
//! `w -= lr decay w; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)`.

use super::par::Par;
use super::simd::simd;

/// Settings of one optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// Decoupled: share of the weight that `lr` takes off.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamW {
    /// Of step `t` (from 1): what a weight keeps under decay, the rate with the first moment's correction, the root of the
    /// second's.
    pub fn factors(&self, t: u64) -> [f32; 3] {
        let power = |beta: f32| 1.0 - f64::from(beta).powf(t as f64);
        [
            1.0 - self.lr * self.weight_decay,
            (f64::from(self.lr) / power(self.beta1)) as f32,
            (1.0 / power(self.beta2).sqrt()) as f32,
        ]
    }
}

/// Factors of one step that are the same for all elements.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    root_correction: f32,
    epsilon: f32,
    grad_scale: f32,
}

/// Updates `w`, `m`, `v` by the gradient `grad_scale * g` in step `t` (from 1).
pub fn adamw(
    settings: &AdamW,
    t: u64,
    grad_scale: f32,
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    par: Par,
) {
    assert!(g.len() == w.len() && m.len() == w.len() && v.len() == w.len());
    let [keep, rate, root_correction] = settings.factors(t);
    let factors = Factors {
        keep,
        beta1: settings.beta1,
        beta2: settings.beta2,
        rate,
        root_correction,
        epsilon: settings.epsilon,
        grad_scale,
    };
    split(factors, w, g, m, v, par);
}

fn split(factors: Factors, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], par: Par) {
    let half = w.len() / 2;
    if par.is_serial() || half < 1 << 15 {
        return update(factors, w, g, m, v);
    }
    let ((w0, w1), (g0, g1)) = (w.split_at_mut(half), g.split_at(half));
    let ((m0, m1), (v0, v1)) = (m.split_at_mut(half), v.split_at_mut(half));
    let (p, q) = par.halves();
    rayon::join(|| split(factors, w0, g0, m0, v0, p), || split(factors, w1, g1, m1, v1, q));
}

simd! {
    fn update(factors: Factors, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let Factors { keep, beta1, beta2, rate, root_correction, epsilon, grad_scale } = factors;
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
            let g = g * grad_scale;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *w = *w * keep - rate * *m / (v.sqrt() * root_correction + epsilon);
        }
    }
}
