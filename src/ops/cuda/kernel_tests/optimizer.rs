use super::*;
use crate::ops::{self, AdamW, Par};

/// Norm, clipping and update of one step, as the training does them.
fn step(
    d: &Device,
    w: &Buffer,
    g: &[f32],
    m: &Buffer,
    v: &Buffer,
    settings: &AdamW,
    t: i32,
    scale: f32,
    clip: f32,
) -> Vec<f32> {
    let (count, blocks) = (Arg::U64(g.len() as u64), 5);
    // Two floats hold a double.
    let (g, parts, state) = (d.f32(g), d.room(2 * blocks, Dtype::F32), d.room(3, Dtype::F32));
    d.launch("squared_norm", blocks, 64, &[at(&g), count, at(&parts)]);
    d.launch("clip", 1, 256, &[at(&parts), int(blocks), Arg::F32(scale), Arg::F32(clip), at(&state)]);
    let power = |beta: f32| 1.0 - f64::from(beta).powi(t);
    let factors = [
        1.0 - settings.lr * settings.weight_decay,
        settings.beta1,
        settings.beta2,
        (f64::from(settings.lr) / power(settings.beta1)) as f32,
        (1.0 / power(settings.beta2).sqrt()) as f32,
        settings.epsilon,
    ];
    let buffers = [at(w), at(&g), at(m), at(v), count];
    let args: Vec<Arg> = buffers.into_iter().chain(factors.map(Arg::F32)).chain([at(&state)]).collect();
    d.launch("adamw", 3, 64, &args);
    state.to_f32().unwrap()
}

#[test]
fn adamw_with_clipping_follows_the_cpu_over_steps() {
    let n = 1003;
    let settings = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
    let start = exact_noise(n, 1, 1.0);
    let gradient = |t: i32| exact_noise(n, 10 + t as u32, 3.0);
    // The first without clipping, the second below the bound, the others above.
    let clip = |t: i32| [0.0, 1e6, 1.0, 0.5][t as usize - 1];
    let Some(found) = in_all_orders(|d| {
        let (w, m, v) = (d.f32(&start), d.f32(&vec![0.0; n]), d.f32(&vec![0.0; n]));
        let states =
            (1..=4).flat_map(|t| step(d, &w, &gradient(t), &m, &v, &settings, t, 0.5, clip(t))).collect();
        vec![w.to_f32().unwrap(), m.to_f32().unwrap(), v.to_f32().unwrap(), states]
    }) else {
        return;
    };
    let (mut w, mut m, mut v, mut states) = (start, vec![0.0; n], vec![0.0; n], Vec::new());
    for t in 1..=4 {
        let (g, bound) = (gradient(t), f64::from(clip(t)));
        let norm = 0.5 * ops::squared_norm(&g).sqrt();
        let factor = if bound > 0.0 && norm > bound { 0.5 * bound / (norm + 1e-6) } else { 0.5 };
        ops::adamw(&settings, t as u64, factor as f32, &mut w, &g, &mut m, &mut v, Par::SERIAL);
        states.extend([norm as f32, factor as f32, 1.0]);
    }
    for (found, wanted) in found.iter().zip([w, m, v, states]) {
        assert_close(found, &wanted, F32, "weights, moments, norm and factor");
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing_and_says_so() {
    for bad in [f32::NAN, f32::INFINITY] {
        let Some(found) = in_all_orders(|d| {
            let mut g = vec![1.0; 70];
            g[69] = bad;
            let (w, m, v) = (d.f32(&[3.0; 70]), d.f32(&[0.5; 70]), d.f32(&[0.25; 70]));
            let state = step(d, &w, &g, &m, &v, &AdamW::default(), 1, 1.0, 1.0);
            vec![w.to_f32().unwrap(), m.to_f32().unwrap(), v.to_f32().unwrap(), state[1..].to_vec()]
        }) else {
            return;
        };
        assert_eq!(found, [vec![3.0; 70], vec![0.5; 70], vec![0.25; 70], vec![0.0, 0.0]]);
    }
}
