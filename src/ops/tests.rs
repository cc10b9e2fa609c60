//! Every operation's value and gradients against candle's autograd in f64.

use candle_core::{D, DType, Device, Tensor, Var};

use super::*;

/// Numbers in ±scale, the same for the same seed.
fn noise(n: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            scale * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect()
}

fn tensor(values: &[f32], rows: usize, cols: usize) -> Tensor {
    Tensor::from_slice(&values[..rows * cols], (rows, cols), &Device::Cpu)
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
}

/// Output, and gradients of `sum(output * seed)` for every input.
fn autograd(
    inputs: &[Tensor],
    seed: &[f32],
    f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap().flatten_all().unwrap();
    let seed = Tensor::from_slice(&seed[..y.elem_count()], y.elem_count(), &Device::Cpu).unwrap();
    let store = (&y * seed.to_dtype(DType::F64).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = |v: &Var| store.get(v).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (y.to_vec1().unwrap(), vars.iter().map(gradient).collect())
}

fn assert_close(found: &[f32], wanted: &[f64], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let norm = wanted.iter().map(|w| w * w).sum::<f64>().sqrt();
    let off = found.iter().zip(wanted).map(|(f, w)| (f64::from(*f) - w).powi(2)).sum::<f64>().sqrt();
    assert!(norm > 1e-3 && off <= 2e-6 * norm, "{what}: off by {off:e} of {norm:e}");
}

fn rms(x: &Tensor, w: &Tensor, eps: f64) -> candle_core::Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?)?.broadcast_mul(w)
}

#[test]
fn rms_norm_agrees_with_autograd() {
    for (n, h) in [(1, 7), (3, 32), (70, 50)] {
        let (x, w, dy) = (noise(n * h, 1, 2.0), noise(h, 2, 1.0), noise(n * h, 3, 1.0));
        let (y, grads) = autograd(&[tensor(&x, n, h), tensor(&w, 1, h)], &dy, |t| rms(&t[0], &t[1], 1e-5));
        for par in [Par::SERIAL, Par::threads(3)] {
            let (mut out, mut again, mut r) = (vec![0.0; n * h], vec![0.0; n * h], vec![0.0; n]);
            rms_norm(Mat::new(&x, n, h), &w, 1e-5, MatMut::new(&mut out, n, h), &mut r, par);
            assert_close(&out, &y, "y");
            rms_norm_again(Mat::new(&x, n, h), &w, &r, MatMut::new(&mut again, n, h), par);
            assert_eq!(out, again);
            let (mut dx, mut dw) = (vec![f32::NAN; n * h], vec![0.0; h]);
            let dy = Mat::new(&dy, n, h);
            rms_norm_backward(Mat::new(&x, n, h), &w, &r, dy, MatMut::new(&mut dx, n, h), false, par);
            assert_close(&dx, &grads[0], "dx");
            rms_norm_backward(Mat::new(&x, n, h), &w, &r, dy, MatMut::new(&mut dx, n, h), true, par);
            assert_close(&dx, &grads[0].iter().map(|g| 2.0 * g).collect::<Vec<_>>(), "dx added");
            rms_norm_weight_backward(Mat::new(&x, n, h), &r, dy, &mut dw);
            assert_close(&dw, &grads[1], "dw");
        }
    }
}

#[test]
fn rms_norm_of_heads_agrees_with_autograd() {
    let (n, heads, dim) = (5, 3, 10);
    let (x, w, dy) = (noise(n * heads * dim, 1, 2.0), noise(dim, 2, 1.0), noise(n * heads * dim, 3, 1.0));
    let inputs = [tensor(&x, n * heads, dim), tensor(&w, 1, dim)];
    let (y, grads) = autograd(&inputs, &dy, |t| rms(&t[0], &t[1], 1e-6));
    let (mut out, mut r) = (x.clone(), vec![0.0; n * heads]);
    rms_norm_heads(MatMut::new(&mut out, n, heads * dim), &w, 1e-6, &mut r);
    assert_close(&out, &y, "y");
    let (mut d, mut dw) = (dy, vec![0.0; dim]);
    rms_norm_heads_backward(
        Mat::new(&x, n, heads * dim),
        &w,
        &r,
        MatMut::new(&mut d, n, heads * dim),
        Some(&mut dw),
    );
    assert_close(&d, &grads[0], "dx");
    assert_close(&dw, &grads[1], "dw");
}

#[test]
fn swiglu_agrees_with_autograd_far_out_too() {
    for (n, ffn) in [(1, 5), (40, 33)] {
        let (gate_up, dm) = (noise(n * 2 * ffn, 4, 30.0), noise(n * ffn, 5, 1.0));
        let (m, grads) = autograd(&[tensor(&gate_up, n, 2 * ffn)], &dm, |t| {
            t[0].narrow(1, 0, ffn)?.silu()? * t[0].narrow(1, ffn, ffn)?
        });
        for par in [Par::SERIAL, Par::threads(2)] {
            let mut out = vec![0.0; n * ffn];
            swiglu(Mat::new(&gate_up, n, 2 * ffn), MatMut::new(&mut out, n, ffn), par);
            assert_close(&out, &m, "m");
            let (mut d_gate_up, mut d) = (gate_up.clone(), dm.clone());
            swiglu_backward(MatMut::new(&mut d_gate_up, n, 2 * ffn), MatMut::new(&mut d, n, ffn), par);
            assert_close(&d_gate_up, &grads[0], "d gate|up");
            assert_close(&d, &m, "m again");
        }
    }
}

#[test]
fn a_rotation_and_its_backward_are_inverse_and_turn_by_the_position() {
    let (n, heads, dim) = (70, 2, 6);
    let rope = Rope { frequencies: vec![1.0, 0.1, 0.01] };
    let mut table = RopeTable::default();
    table.cover(&rope, 10);
    table.cover(&rope, 200);
    let positions: Vec<u32> = (0..n as u32).map(|i| i * 2 + 3).collect();
    let x = noise(n * heads * dim, 6, 1.0);
    let mut y = x.clone();
    rotate(MatMut::new(&mut y, n, heads * dim), dim, &table, &positions, false, Par::threads(2));
    for (i, position) in positions.iter().enumerate() {
        for head in 0..heads {
            for (j, f) in rope.frequencies.iter().enumerate() {
                let at = i * heads * dim + head * dim + j;
                let (sin, cos) = (f64::from(*position) * f64::from(*f)).sin_cos();
                let (low, high) = (f64::from(x[at]), f64::from(x[at + dim / 2]));
                assert!((f64::from(y[at]) - (low * cos - high * sin)).abs() < 1e-4);
                assert!((f64::from(y[at + dim / 2]) - (high * cos + low * sin)).abs() < 1e-4);
            }
        }
    }
    rotate(MatMut::new(&mut y, n, heads * dim), dim, &table, &positions, true, Par::SERIAL);
    assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-5));
}

/// Plain attention of packed rows.
fn plain_attention(
    shape: &AttentionShape,
    qkv: &Tensor,
    rows: &[std::ops::Range<usize>],
) -> candle_core::Result<Tensor> {
    let mut out = Vec::new();
    for row in rows {
        let (n, dim) = (row.len(), shape.dim);
        let qkv = qkv.narrow(0, row.start, n)?;
        let seen = |q: usize, k: usize| k <= q && shape.window.is_none_or(|w| q - k < w);
        let mask: Vec<f64> = (0..n * n).map(|i| if seen(i / n, i % n) { 0.0 } else { -1e30 }).collect();
        let mask = Tensor::from_vec(mask, (n, n), &Device::Cpu)?;
        let mut heads = Vec::new();
        for head in 0..shape.heads {
            let kv = head / (shape.heads / shape.kv_heads);
            let q = qkv.narrow(1, head * dim, dim)?.contiguous()?;
            let k = qkv.narrow(1, shape.q_cols() + kv * dim, dim)?.contiguous()?;
            let v = qkv.narrow(1, shape.q_cols() + shape.kv_cols() + kv * dim, dim)?.contiguous()?;
            let scores = ((q.matmul(&k.t()?)? / (dim as f64).sqrt())? + &mask)?;
            heads.push(candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?);
        }
        out.push(Tensor::cat(&heads, 1)?);
    }
    Tensor::cat(&out, 0)
}

#[test]
fn attention_agrees_with_autograd_for_any_grouping_window_and_packing() {
    for (heads, kv_heads, window) in
        [(2, 2, None), (4, 2, Some(3)), (6, 2, Some(100)), (3, 1, None), (4, 4, Some(64))]
    {
        let shape = AttentionShape { heads, kv_heads, dim: 8, window };
        // Shorter and longer than a block of queries, and exactly one.
        let rows = [0..1, 1..65, 65..195, 195..200];
        let n = 200;
        let (qkv, d_out) = (noise(n * shape.qkv_cols(), 7, 3.0), noise(n * shape.q_cols(), 8, 1.0));
        let input = tensor(&qkv, n, shape.qkv_cols());
        let (y, grads) = autograd(&[input], &d_out, |t| plain_attention(&shape, &t[0], &rows));
        for par in [Par::SERIAL, Par::threads(3)] {
            let (mut out, mut lse) = (vec![0.0; n * shape.q_cols()], vec![0.0; n * heads]);
            let input = Mat::new(&qkv, n, shape.qkv_cols());
            attention(&shape, input, &rows, MatMut::new(&mut out, n, shape.q_cols()), &mut lse, par);
            assert_close(&out, &y, "out");
            let mut d_qkv = vec![f32::NAN; n * shape.qkv_cols()];
            let (out, d_out) = (Mat::new(&out, n, shape.q_cols()), Mat::new(&d_out, n, shape.q_cols()));
            let d = MatMut::new(&mut d_qkv, n, shape.qkv_cols());
            attention_backward(&shape, input, &rows, out, &lse, d_out, d, par);
            assert_close(&d_qkv, &grads[0], &format!("d q|k|v of {shape:?}"));
        }
    }
}

#[test]
fn linear_cross_entropy_agrees_with_autograd_over_several_chunks() {
    let (n, h, vocab, scale) = (300, 12, 45, 0.5);
    let (x, head) = (noise(n * h, 9, 3.0), noise(vocab * h, 10, 3.0));
    let targets: Vec<u32> = (0..n as u32).map(|i| i * 7 % vocab as u32).collect();
    let inputs = [tensor(&x, n, h), tensor(&head, vocab, h)];
    let (loss, grads) = autograd(&inputs, &[scale], |t| {
        let targets = Tensor::new(targets.as_slice(), &Device::Cpu)?;
        candle_nn::loss::cross_entropy(&t[0].matmul(&t[1].t()?)?, &targets)? * n as f64
    });
    for par in [Par::SERIAL, Par::threads(2)] {
        let (mut logits, mut d_x, mut d_head) = (Vec::new(), vec![f32::NAN; n * h], vec![0.0; vocab * h]);
        let mut each = vec![f32::NAN; n];
        let (x, head) = (Mat::new(&x, n, h), Mat::new(&head, vocab, h));
        let (into, weights) = (MatMut::new(&mut d_x, n, h), MatMut::new(&mut d_head, vocab, h));
        let found = linear_cross_entropy_backward(
            x,
            head,
            &targets,
            scale,
            &mut each,
            &mut logits,
            into,
            Some(weights),
            par,
        );
        assert!((found - loss[0]).abs() < 1e-6 * loss[0]);
        let sum: f64 = each.iter().map(|l| f64::from(*l)).sum();
        assert!((sum - loss[0]).abs() < 1e-6 * loss[0]);
        let mut again = vec![f32::NAN; n];
        let found = linear_cross_entropy(x, head, &targets, &mut again, &mut logits, par);
        assert!((found - loss[0]).abs() < 1e-6 * loss[0]);
        assert_eq!(again, each);
        assert_close(&d_x, &grads[0], "d hidden");
        assert_close(&d_head, &grads[1], "d head");
    }
}

#[test]
fn lora_agrees_with_autograd_where_a_layer_of_the_group_has_none() {
    // Outputs 0..4 with rank 2, 4..10 without an adapter, 10..13 with rank 3.
    let (n, inputs, outputs) = (9, 7, 13);
    let group = LoraGroup {
        inputs,
        rank: 5,
        a: 2,
        parts: vec![
            LoraPart { out: 0..4, ranks: 0..2, scale: 0.5, b: 2 + 35, magnitude: None },
            LoraPart { out: 10..13, ranks: 2..5, scale: 2.0, b: 2 + 35 + 8, magnitude: None },
        ],
    };
    let params = noise(2 + 35 + 8 + 9, 11, 1.0);
    let (x, dy) = (noise(n * inputs, 12, 1.0), noise(n * outputs, 13, 1.0));
    let sources = [
        tensor(&x, n, inputs),
        tensor(&params[2..], 5, inputs),
        tensor(&params[37..], 4, 2),
        tensor(&params[45..], 3, 3),
    ];
    let (y, grads) = autograd(&sources, &dy, |t| {
        let u = t[0].matmul(&t[1].t()?)?;
        let first = (u.narrow(1, 0, 2)?.contiguous()?.matmul(&t[2].t()?)? * 0.5)?;
        let last = (u.narrow(1, 2, 3)?.contiguous()?.matmul(&t[3].t()?)? * 2.0)?;
        Tensor::cat(&[first, Tensor::zeros((n, 6), DType::F64, &Device::Cpu)?, last], 1)
    });
    let (mut u, mut c) = (vec![0.0; n * 5], vec![0.0; n * 5]);
    let (mut out, mut dx, mut grad) =
        (vec![0.0; n * outputs], vec![0.0; n * inputs], vec![0.0; params.len()]);
    let x = Mat::new(&x, n, inputs);
    lora_forward(
        &group,
        &params,
        x,
        MatMut::new(&mut u, n, 5),
        MatMut::new(&mut out, n, outputs),
        Par::SERIAL,
    );
    assert_close(&out, &y, "y");
    let dy = Mat::new(&dy, n, outputs);
    lora_backward_x(
        &group,
        &params,
        dy,
        MatMut::new(&mut c, n, 5),
        Some(MatMut::new(&mut dx, n, inputs)),
        Par::SERIAL,
    );
    assert_close(&dx, &grads[0], "dx");
    lora_backward_weights(&group, &mut grad, dy, x, Mat::new(&u, n, 5), Mat::new(&c, n, 5), Par::SERIAL);
    assert_close(&grad[2..37], &grads[1], "dA");
    assert_close(&grad[37..45], &grads[2], "dB");
    assert_close(&grad[45..], &grads[3], "dB of the last");
    assert_eq!(grad[..2], [0.0, 0.0]);
}

#[test]
fn products_of_few_and_many_rows_agree() {
    for (m, n, k) in [(1, 700, 512), (3, 5, 1), (4, 64, 33), (5, 64, 33), (70, 20, 100)] {
        let (a, b) = (noise(m * k, 14, 1.0), noise(n * k, 15, 1.0));
        let (wanted, _) = autograd(&[tensor(&a, m, k), tensor(&b, n, k)], &vec![1.0; m * n], |t| {
            t[0].matmul(&t[1].t()?)? * 0.5
        });
        for par in [Par::SERIAL, Par::threads(3)] {
            let mut c = vec![f32::NAN; m * n];
            matmul(
                MatMut::new(&mut c, m, n),
                Write::Set,
                0.5,
                Mat::new(&a, m, k),
                Mat::new(&b, n, k).t(),
                par,
            );
            assert_close(&c, &wanted, "set");
            matmul(
                MatMut::new(&mut c, m, n),
                Write::Add,
                0.5,
                Mat::new(&a, m, k),
                Mat::new(&b, n, k).t(),
                par,
            );
            assert_close(&c, &wanted.iter().map(|w| 2.0 * w).collect::<Vec<_>>(), "added");
        }
    }
}

#[test]
fn embedding_and_bias_gradients_add_up_over_repeated_tokens() {
    let (ids, table) = ([2, 0, 2], noise(4 * 3, 16, 1.0));
    let mut y = vec![0.0; 9];
    embedding(Mat::new(&table, 4, 3), &ids, MatMut::new(&mut y, 3, 3));
    assert_eq!(y, [&table[6..9], &table[0..3], &table[6..9]].concat());
    let (dy, mut d, mut d_bias) =
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], vec![0.0; 12], vec![1.0; 3]);
    embedding_backward(Mat::new(&dy, 3, 3), &ids, MatMut::new(&mut d, 4, 3));
    assert_eq!(d, [4.0, 5.0, 6.0, 0.0, 0.0, 0.0, 8.0, 10.0, 12.0, 0.0, 0.0, 0.0]);
    bias_backward(Mat::new(&dy, 3, 3), &mut d_bias);
    assert_eq!(d_bias, [13.0, 16.0, 19.0]);
}

#[test]
fn adamw_follows_its_formula_over_many_steps_whatever_the_threads() {
    let n = 70_000;
    let settings = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
    let start = noise(n, 17, 1.0);
    let run = |par: Par| {
        let (mut w, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
        for t in 1..=20 {
            adamw(&settings, t, 0.5, &mut w, &noise(n, t as u32, 3.0), &mut m, &mut v, par);
        }
        w
    };
    let w = run(Par::SERIAL);
    assert_eq!(w, run(Par::threads(4)));
    for i in [0, 1, n / 2, n - 1] {
        let (mut x, mut m, mut v) = (f64::from(start[i]), 0.0, 0.0);
        for t in 1..=20 {
            let g = 0.5 * f64::from(noise(i + 1, t as u32, 3.0)[i]);
            x -= 0.01 * 0.1 * x;
            m = 0.9 * m + 0.1 * g;
            v = 0.95 * v + 0.05 * g * g;
            x -= 0.01 * (m / (1.0 - 0.9_f64.powi(t))) / ((v / (1.0 - 0.95_f64.powi(t))).sqrt() + 1e-8);
        }
        assert!((f64::from(w[i]) - x).abs() < 1e-5, "{} {x}", w[i]);
    }
}

#[test]
fn the_squared_norm_is_exact_over_many_elements() {
    let g = vec![0.1_f32; 1_000_003];
    let wanted = f64::from(0.1_f32).powi(2) * 1_000_003.0;
    assert!((squared_norm(&g) / wanted - 1.0).abs() < 1e-6);
}

/// DoRA's output in f64 with norms of their own, taken for constants.
fn plain_dora(
    x: &[f64],
    w: &[f64],
    a: &[f64],
    b: &[f64],
    m: &[f64],
    norms: &[f64],
    [n, inputs, outputs, rank]: [usize; 4],
    scale: f64,
) -> Vec<f64> {
    let mut y = Vec::new();
    for t in 0..n {
        for j in 0..outputs {
            let weight = |i: usize| {
                w[j * inputs + i]
                    + scale * (0..rank).map(|r| b[j * rank + r] * a[r * inputs + i]).sum::<f64>()
            };
            let v: f64 = (0..inputs).map(|i| x[t * inputs + i] * weight(i)).sum();
            y.push(m[j] / norms[j] * v);
        }
    }
    y
}

#[test]
fn dora_agrees_with_finite_differences_in_f64() {
    let (n, inputs, outputs, rank, scale) = (70, 9, 40, 3, 0.7_f32);
    let sizes = [n, inputs, outputs, rank];
    // Parameters: A, B, m; a column of the group's output before them has no adapter.
    let (b_at, m_at) = (rank * inputs, rank * (inputs + outputs));
    let part = LoraPart { out: 1..outputs + 1, ranks: 0..rank, scale, b: b_at, magnitude: Some(m_at) };
    let group = LoraGroup { inputs, rank, a: 0, parts: vec![part] };
    let params = noise(m_at + outputs, 21, 1.0);
    let (x, w) = (noise(n * inputs, 22, 1.0), noise((outputs + 1) * inputs, 23, 1.0));
    let dy = noise(n * (outputs + 1), 24, 1.0);

    let weight = Weight::F32(Mat::new(&w, outputs + 1, inputs));
    let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let (x64, w64, p64) = (wide(&x), wide(&w[inputs..]), wide(&params));
    let norms64: Vec<f64> = (0..outputs)
        .map(|j| {
            let row = (0..inputs).map(|i| {
                let low: f64 = (0..rank).map(|r| p64[b_at + j * rank + r] * p64[r * inputs + i]).sum();
                w64[j * inputs + i] + f64::from(scale) * low
            });
            row.map(|v| v * v).sum::<f64>().sqrt()
        })
        .collect();
    let output = |x: &[f64], p: &[f64]| {
        plain_dora(x, &w64, &p[..b_at], &p[b_at..m_at], &p[m_at..], &norms64, sizes, f64::from(scale))
    };
    let objective = |x: &[f64], p: &[f64]| -> f64 {
        let dy = dy.chunks(outputs + 1).flat_map(|row| &row[1..]);
        output(x, p).iter().zip(dy).map(|(y, dy)| y * f64::from(*dy)).sum()
    };
    // The output is linear in x, m and in A and B each: differences are exact but for rounding.
    let differences = |at: &dyn Fn(usize, f64) -> f64, len: usize| -> Vec<f64> {
        (0..len).map(|i| (at(i, 0.5) - at(i, -0.5)) / 1.0).collect()
    };
    let moved = |values: &[f64], i: usize, by: f64| {
        let mut values = values.to_vec();
        values[i] += by;
        values
    };

    for par in [Par::SERIAL, Par::threads(3)] {
        let mut norms = vec![-1.0; outputs + 1];
        dora_norms(&group, &params, weight, &mut norms, par);
        assert_eq!(norms[0], -1.0, "a layer without an adapter has no norm");
        assert_close(&norms[1..], &norms64, "norms");
        let gains = dora_gains(&group, &params, &norms);
        assert_eq!(gains[0], 1.0);

        let (mut u, mut v) = (vec![0.0; n * rank], vec![0.0; n * (outputs + 1)]);
        let mut y = vec![f32::NAN; n * (outputs + 1)];
        let x_mat = Mat::new(&x, n, inputs);
        linear(MatMut::new(&mut v, n, outputs + 1), Write::Set, x_mat, weight, par);
        let (u_mat, v_mat) = (MatMut::new(&mut u, n, rank), MatMut::new(&mut v, n, outputs + 1));
        lora_forward(&group, &params, x_mat, u_mat, v_mat, par);
        let v_mat = Mat::new(&v, n, outputs + 1);
        dora_forward(&gains, v_mat, MatMut::new(&mut y, n, outputs + 1), Write::Set, par);
        let found: Vec<f32> = y.chunks(outputs + 1).flat_map(|row| &row[1..]).copied().collect();
        assert_close(&found, &output(&x64, &p64), "y");
        dora_forward(&gains, v_mat, MatMut::new(&mut y, n, outputs + 1), Write::Add, par);
        assert!((y[1] - 2.0 * found[0]).abs() < 1e-5);

        let mut grad = vec![0.0; params.len()];
        let (mut c, mut dx) = (vec![0.0; n * rank], vec![0.0; n * inputs]);
        let dy_mat = Mat::new(&dy, n, outputs + 1);
        dora_backward(&group, &gains, &norms, &mut grad, dy_mat, MatMut::new(&mut v, n, outputs + 1), par);
        let d = Mat::new(&v, n, outputs + 1);
        // The column without an adapter is another layer's: its part of dx is taken off again.
        linear_backward_x(MatMut::new(&mut dx, n, inputs), d, weight, par);
        let others = Mat::new(&w, 1, inputs);
        matmul(MatMut::new(&mut dx, n, inputs), Write::Add, -1.0, dy_mat.cols(0..1), others, par);
        let c_mat = MatMut::new(&mut c, n, rank);
        lora_backward_x(&group, &params, d, c_mat, Some(MatMut::new(&mut dx, n, inputs)), par);
        let (u, c) = (Mat::new(&u, n, rank), Mat::new(&c, n, rank));
        lora_backward_weights(&group, &mut grad, d, x_mat, u, c, par);
        assert_close(&dx, &differences(&|i, by| objective(&moved(&x64, i, by), &p64), x.len()), "dx");
        let of_params = differences(&|i, by| objective(&x64, &moved(&p64, i, by)), params.len());
        for (what, range) in [("dA", 0..b_at), ("dB", b_at..m_at), ("dm", m_at..params.len())] {
            assert_close(&grad[range.clone()], &of_params[range], what);
        }
    }
}
