use super::*;
use crate::ops::{self, Mat, MatMut, Par, Rope, RopeTable};

#[test]
fn rms_norm_its_second_making_and_its_backward_agree_with_the_cpu() {
    for (n, h, block) in [(1, 7, 32), (3, 32, 64), (5, 1000, 128), (2, 2050, 256), (3, 8, 1024)] {
        let (x, w, dy, dx) =
            (noise(n * h, 1, 2.0), noise(h, 2, 1.0), noise(n * h, 3, 1.0), noise(n * h, 4, 1.0));
        let Some(found) = in_all_orders(|d| {
            let (bx, bw, bdy) = (d.bf16(&x), d.bf16(&w), d.bf16(&dy));
            let (y, again, r) =
                (d.room(n * h, Dtype::Bf16), d.room(n * h, Dtype::Bf16), d.room(n, Dtype::F32));
            let (set, added) = (d.room(n * h, Dtype::Bf16), d.bf16(&dx));
            d.launch("rms_norm", n, block, &[at(&bx), at(&bw), at(&y), at(&r), int(h), Arg::F32(1e-5)]);
            d.launch("rms_norm_again", n, block, &[at(&bx), at(&bw), at(&r), at(&again), int(h)]);
            for (into, add) in [(&set, 0), (&added, 1)] {
                let args = [at(&bx), at(&bw), at(&r), at(&bdy), at(into), int(h), int(add)];
                d.launch("rms_norm_backward", n, block, &args);
            }
            [&y, &again, &r, &set, &added].map(|b| b.to_f32().unwrap()).into()
        }) else {
            return;
        };
        let (mut y, mut r) = (vec![0.0; n * h], vec![0.0; n]);
        let input = Mat::new(&x, n, h);
        ops::rms_norm(input, &w, 1e-5, MatMut::new(&mut y, n, h), &mut r, Par::SERIAL);
        assert_close(&found[0], &y, BF16, "y");
        assert_eq!(found[0], found[1]);
        assert_close(&found[2], &r, F32, "r");
        let (mut set, mut added) = (vec![0.0; n * h], dx.clone());
        let grad = Mat::new(&dy, n, h);
        ops::rms_norm_backward(input, &w, &r, grad, MatMut::new(&mut set, n, h), false, Par::SERIAL);
        ops::rms_norm_backward(input, &w, &r, grad, MatMut::new(&mut added, n, h), true, Par::SERIAL);
        assert_close(&found[3], &set, BF16, "dx");
        assert_close(&found[4], &added, BF16, "dx added");
    }
}

#[test]
fn norm_and_rotation_in_one_pass_agree_with_the_two_on_the_cpu() {
    for (n, heads, kv_heads, dim) in
        [(1, 1, 1, 4), (5, 3, 1, 64), (3, 4, 2, 128), (2, 2, 2, 132), (2, 1, 1, 256)]
    {
        let (qk_heads, qk) = (heads + kv_heads, (heads + kv_heads) * dim);
        let stride = qk + kv_heads * dim;
        let rope = Rope { frequencies: (0..dim / 2).map(|i| 1.0 / 1.1_f32.powi(i as i32)).collect() };
        let mut table = RopeTable::default();
        table.cover(&rope, 40);
        let mut angles = Vec::new();
        for position in 0..40 {
            let all: Vec<f32> = rope.frequencies.iter().map(|f| position as f32 * f).collect();
            angles.extend(all.iter().map(|a| a.cos()));
            angles.extend(all.iter().map(|a| a.sin()));
        }
        let positions: Vec<u32> = (0..n as u32).map(|i| 39 - i * 7).collect();
        let (qkv, dy) = (noise(n * stride, 1, 2.0), noise(n * stride, 2, 1.0));
        let (w_q, w_k) = (noise(dim, 3, 1.0), noise(dim, 4, 1.0));
        let Some(found) = in_all_orders(|d| {
            let (x, dx, raw, r) =
                (d.bf16(&qkv), d.bf16(&dy), d.room(n * qk, Dtype::Bf16), d.room(n * qk_heads, Dtype::F32));
            let (q, k, t, p) = (d.bf16(&w_q), d.bf16(&w_k), d.f32(&angles), d.u32(&positions));
            let sizes = [int(stride), int(n), int(heads), int(kv_heads), int(dim)];
            let inputs = [at(&raw), at(&q), at(&k), at(&r), at(&t), at(&p)];
            let grid = (n * qk_heads).div_ceil(8);
            d.launch("norm_rope", grid, 256, &[&[at(&x)][..], &inputs, &sizes, &[Arg::F32(1e-6)]].concat());
            d.launch("norm_rope_backward", grid, 256, &[&[at(&dx)][..], &inputs, &sizes].concat());
            [&x, &raw, &r, &dx].map(|b| b.to_f32().unwrap()).into()
        }) else {
            return;
        };
        let (mut x, mut dx, mut rs) = (qkv.clone(), dy.clone(), vec![0.0; n * qk_heads]);
        let (mut r_q, mut r_k) = (vec![0.0; n * heads], vec![0.0; n * kv_heads]);
        let (mut columns, _) = MatMut::new(&mut x, n, stride).split_cols(qk);
        let (q, k) = columns.rb().split_cols(heads * dim);
        ops::rms_norm_heads(q, &w_q, 1e-6, &mut r_q);
        ops::rms_norm_heads(k, &w_k, 1e-6, &mut r_k);
        ops::rotate(columns, dim, &table, &positions, false, Par::SERIAL);
        let (mut d, _) = MatMut::new(&mut dx, n, stride).split_cols(qk);
        ops::rotate(d.rb(), dim, &table, &positions, true, Par::SERIAL);
        let (d_q, d_k) = d.split_cols(heads * dim);
        let before = Mat::new(&qkv, n, stride);
        ops::rms_norm_heads_backward(before.cols(0..heads * dim), &w_q, &r_q, d_q, None);
        ops::rms_norm_heads_backward(before.cols(heads * dim..qk), &w_k, &r_k, d_k, None);
        for i in 0..n {
            rs[i * qk_heads..][..heads].copy_from_slice(&r_q[i * heads..][..heads]);
            rs[i * qk_heads + heads..][..kv_heads].copy_from_slice(&r_k[i * kv_heads..][..kv_heads]);
        }
        assert_close(&found[0], &x, BF16, "rotated");
        let raw: Vec<f32> = qkv.chunks(stride).flat_map(|row| row[..qk].to_vec()).collect();
        assert_eq!(found[1], raw);
        assert_close(&found[2], &rs, F32, "r");
        assert_close(&found[3], &dx, BF16, "dx");
    }
}
