use std::ops::Range;

use super::*;
use crate::ops::cuda::{AttentionKernels, attention_tiles};
use crate::ops::{self, AttentionShape, Mat, MatMut, Par};

/// Probabilities and their gradients are rounded to bf16 between the products.
const ROUNDED_TWICE: f64 = 5e-3;

fn agrees(shape: &AttentionShape, rows: &[Range<usize>]) -> bool {
    let n = rows.last().unwrap().end;
    let (qkv, d_out) = (noise(n * shape.qkv_cols(), 7, 3.0), noise(n * shape.q_cols(), 8, 1.0));
    let (tiles, kernels) = (attention_tiles(rows), AttentionKernels::of(shape.dim).unwrap());
    let Some(found) = in_all_orders(|d| {
        let (x, dy, t) = (d.bf16(&qkv), d.bf16(&d_out), d.u32(&tiles));
        let (out, d_qkv) = (d.room(d_out.len(), Dtype::Bf16), d.room(qkv.len(), Dtype::Bf16));
        let (lse, delta) = (d.room(shape.heads * n, Dtype::F32), d.room(shape.heads * n, Dtype::F32));
        let (heads, kv_heads, dim) = (int(shape.heads), int(shape.kv_heads), int(shape.dim));
        let sizes = [int(n), heads, kv_heads, dim, int(shape.window.map_or(0, |w| w.min(i32::MAX as usize)))];
        let (name, shared) = kernels.forward;
        let args = [&[at(&x), at(&t), at(&out), at(&lse)][..], &sizes].concat();
        d.try_launch(name, [tiles.len() / 4, shape.heads], [128, 1], shared, &args).unwrap();
        let grid = (n * shape.heads).div_ceil(8);
        d.launch("attention_delta", grid, 256, &[at(&out), at(&dy), at(&delta), int(n), heads, dim]);
        let args = [&[at(&x), at(&t), at(&dy), at(&lse), at(&delta), at(&d_qkv)][..], &sizes].concat();
        for ((name, shared), heads) in
            [(kernels.backward_kv, shape.kv_heads), (kernels.backward_q, shape.heads)]
        {
            d.try_launch(name, [tiles.len() / 4, heads], [128, 1], shared, &args).unwrap();
        }
        [&out, &lse, &d_qkv].map(|b| b.to_f32().unwrap()).into()
    }) else {
        return false;
    };
    let (mut out, mut lse) = (vec![0.0; n * shape.q_cols()], vec![0.0; n * shape.heads]);
    let input = Mat::new(&qkv, n, shape.qkv_cols());
    ops::attention(shape, input, rows, MatMut::new(&mut out, n, shape.q_cols()), &mut lse, Par::SERIAL);
    assert_close(&found[0], &out, ROUNDED_TWICE, &format!("out of {shape:?}"));
    assert_close(&found[1], &lse, 1e-5, &format!("lse of {shape:?}"));
    let mut d_qkv = vec![0.0; n * shape.qkv_cols()];
    // The backward reads what the forward wrote, rounded as it was.
    let (y, lse) = (Mat::new(&found[0], n, shape.q_cols()), &found[1]);
    let dy = Mat::new(&d_out, n, shape.q_cols());
    let d = MatMut::new(&mut d_qkv, n, shape.qkv_cols());
    ops::attention_backward(shape, input, rows, y, lse, dy, d, Par::SERIAL);
    let columns = |values: &[f32], range: Range<usize>| -> Vec<f32> {
        values.chunks(shape.qkv_cols()).flat_map(|row| row[range.clone()].to_vec()).collect()
    };
    let (q, kv) = (shape.q_cols(), shape.kv_cols());
    for (range, what) in [(0..q, "dq"), (q..q + kv, "dk"), (q + kv..q + 2 * kv, "dv")] {
        let (found, wanted) = (columns(&found[2], range.clone()), columns(&d_qkv, range));
        assert_close(&found, &wanted, ROUNDED_TWICE, &format!("{what} of {shape:?}"));
    }
    true
}

#[test]
fn attention_agrees_with_the_cpu_for_any_grouping_window_and_packing() {
    // Rows of one token, of a tile, just over one, of several.
    let packed = [0..1, 1..65, 65..195, 195..200, 200..265];
    for (heads, kv_heads, dim, window) in [
        (2, 2, 64, None),
        (4, 2, 64, Some(3)),
        (4, 1, 64, Some(64)),
        (2, 1, 128, None),
        (2, 2, 128, Some(70)),
    ] {
        if !agrees(&AttentionShape { heads, kv_heads, dim, window }, &packed) {
            return;
        }
    }
}

#[test]
fn attention_agrees_with_the_cpu_for_head_widths_without_a_kernel_of_their_own() {
    for (dim, window) in [(8, None), (40, Some(9)), (96, None), (136, Some(33)), (256, None)] {
        if !agrees(&AttentionShape { heads: 2, kv_heads: 1, dim, window }, &[0..70, 70..71, 71..150]) {
            return;
        }
    }
}

#[test]
fn attention_does_not_overflow_where_scores_are_large_and_one_key_takes_all() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, dim: 64, window: None };
    let n = 80;
    let mut qkv = noise(n * shape.qkv_cols(), 3, 100.0);
    qkv[..64].fill(300.0);
    let row = 0..n;
    let rows = std::slice::from_ref(&row);
    let tiles = attention_tiles(rows);
    let (name, shared) = AttentionKernels::of(64).unwrap().forward;
    let Some(found) = in_all_orders(|d| {
        let (x, t) = (d.bf16(&qkv), d.u32(&tiles));
        let (out, lse) = (d.room(n * 64, Dtype::Bf16), d.room(n, Dtype::F32));
        let args = [at(&x), at(&t), at(&out), at(&lse), int(n), int(1), int(1), int(64), int(0)];
        d.try_launch(name, [2, 1], [128, 1], shared, &args).unwrap();
        vec![out.to_f32().unwrap(), lse.to_f32().unwrap()]
    }) else {
        return;
    };
    let (mut out, mut lse) = (vec![0.0; n * 64], vec![0.0; n]);
    let input = Mat::new(&qkv, n, shape.qkv_cols());
    ops::attention(&shape, input, rows, MatMut::new(&mut out, n, 64), &mut lse, Par::SERIAL);
    assert_close(&found[0], &out, ROUNDED_TWICE, "out");
    assert_close(&found[1], &lse, 1e-5, "lse");
}
