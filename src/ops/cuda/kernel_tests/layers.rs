use super::*;
use crate::ops::{self, Mat, MatMut, Par, Rope, RopeTable};

#[test]
fn rotation_forward_and_back_agrees_with_the_cpu_and_leaves_values_alone() {
    for (n, heads, dim, stride) in
        [(1, 1, 2, 2), (7, 3, 10, 40), (5, 4, 64, 64 * 6), (9, 3, 128, 128 * 5 + 3)]
    {
        let rope = Rope { frequencies: (0..dim / 2).map(|i| 1.0 / 1.3_f32.powi(i as i32)).collect() };
        let mut table = RopeTable::default();
        table.cover(&rope, 50);
        let positions: Vec<u32> = (0..n as u32).map(|i| i * 11 % 50).collect();
        let x = noise(n * stride, 1, 2.0);
        let angles: Vec<f32> = (0..50)
            .flat_map(|p| {
                let angles: Vec<f32> = rope.frequencies.iter().map(|f| p as f32 * f).collect();
                angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect::<Vec<_>>()
            })
            .collect();
        let Some(found) = in_all_orders(|d| {
            let (turned, back) = (d.bf16(&x), d.bf16(&x));
            let (table, places) = (d.f32(&angles), d.u32(&positions));
            for (x, sign) in [(&turned, 1.0), (&back, -1.0)] {
                let sizes = [int(stride), int(n), int(heads), int(dim), Arg::F32(sign)];
                d.launch("rope", 3, 64, &[&[at(x), at(&table), at(&places)][..], &sizes].concat());
            }
            vec![turned.to_f32().unwrap(), back.to_f32().unwrap()]
        }) else {
            return;
        };
        for (found, inverse) in found.iter().zip([false, true]) {
            let mut wanted = x.clone();
            let (heads_only, _) = MatMut::new(&mut wanted, n, stride).split_cols(heads * dim);
            ops::rotate(heads_only, dim, &table, &positions, inverse, Par::SERIAL);
            assert_close(found, &wanted, BF16, "rotated");
        }
    }
}

#[test]
fn swiglu_and_its_backward_agree_with_the_cpu_far_out_too() {
    for (n, ffn) in [(1, 5), (3, 8), (17, 33), (9, 136)] {
        let (gate_up, dm) = (noise(n * 2 * ffn, 4, 30.0), noise(n * ffn, 5, 1.0));
        let Some(found) = in_all_orders(|d| {
            let (g, again, m) = (d.bf16(&gate_up), d.bf16(&dm), d.room(n * ffn, Dtype::Bf16));
            d.launch("swiglu", 2, 32, &[at(&g), at(&m), int(n), int(ffn)]);
            d.launch("swiglu_backward", 2, 32, &[at(&g), at(&again), int(n), int(ffn)]);
            [&m, &g, &again].map(|b| b.to_f32().unwrap()).into()
        }) else {
            return;
        };
        let (mut m, mut d_gate_up, mut d) = (vec![0.0; n * ffn], gate_up.clone(), dm.clone());
        ops::swiglu(Mat::new(&gate_up, n, 2 * ffn), MatMut::new(&mut m, n, ffn), Par::SERIAL);
        ops::swiglu_backward(
            MatMut::new(&mut d_gate_up, n, 2 * ffn),
            MatMut::new(&mut d, n, ffn),
            Par::SERIAL,
        );
        assert_close(&found[0], &m, BF16, "m");
        assert_close(&found[1], &d_gate_up, BF16, "d gate|up");
        assert_close(&found[2], &d, BF16, "m again");
    }
}

#[test]
fn rows_are_gathered_scattered_and_biased_exactly() {
    for width in [3, 8, 100, 240] {
        let (table, ids) = (noise(7 * width, 6, 1.0), [4_u32, 0, 6, 1]);
        let (bias, stride) = (noise(width, 7, 1.0), width + 8);
        let y = noise(4 * stride, 8, 1.0);
        let values = exact_noise(1003, 9, 3.0);
        let Some(found) = in_all_orders(|d| {
            let (from, places, into) = (d.bf16(&table), d.u32(&ids), d.room(4 * width, Dtype::Bf16));
            d.launch("gather_rows", 4, 32, &[at(&from), at(&places), at(&into), int(width)]);
            let back = d.bf16(&vec![0.0; 7 * width]);
            d.launch("scatter_rows", 4, 32, &[at(&into), at(&places), at(&back), int(width)]);
            let (biased, b) = (d.bf16(&y), d.bf16(&bias));
            d.launch("add_bias", 2, 32, &[at(&biased), at(&b), int(stride), int(4), int(width)]);
            let (f, cast) = (d.f32(&values), d.room(values.len(), Dtype::Bf16));
            d.launch("cast_bf16", 3, 64, &[at(&f), at(&cast), Arg::U64(values.len() as u64)]);
            [&into, &back, &biased, &cast].map(|b| b.to_f32().unwrap()).into()
        }) else {
            return;
        };
        let mut into = vec![0.0; 4 * width];
        ops::embedding(Mat::new(&table, 7, width), &ids, MatMut::new(&mut into, 4, width));
        assert_eq!(found[0], into);
        let mut back = vec![0.0; 7 * width];
        ops::embedding_backward(Mat::new(&into, 4, width), &ids, MatMut::new(&mut back, 7, width));
        assert_eq!(found[1], back);
        let mut biased = y.clone();
        let (columns, _) = MatMut::new(&mut biased, 4, stride).split_cols(width);
        ops::add_bias(columns, &bias);
        assert_eq!(found[2], rounded(&biased));
        assert_eq!(found[3], rounded(&values));
    }
}

#[test]
fn cross_entropy_and_its_gradient_agree_with_the_cpu() {
    for (n, vocab, block, scale) in
        [(1, 3, 32, 1.0), (5, 45, 64, 0.25), (3, 1000, 128, 1e-3), (2, 4099, 1024, 1.0)]
    {
        let mut logits = noise(n * vocab, 9, 20.0);
        logits[vocab - 1] = f32::NEG_INFINITY;
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 7 % (vocab as u32 - 1)).collect();
        let Some(found) = in_all_orders(|d| {
            let (z, t, losses, sum) =
                (d.bf16(&logits), d.u32(&targets), d.room(n, Dtype::F32), d.room(3, Dtype::F32));
            let run = |gradient: usize| {
                let args = [at(&z), at(&t), at(&losses), int(vocab), Arg::F32(scale), int(gradient)];
                d.launch("cross_entropy", n, block, &args);
                losses.to_f32().unwrap()
            };
            let alone = run(0);
            assert_eq!(z.to_f32().unwrap(), logits, "without gradient the logits stay");
            let losses = run(1);
            assert_eq!(alone, losses);
            let buffer = d.f32(&losses);
            // Three rows, the second of which has no target.
            let ends = d.u32(&[n as u32 / 2, n as u32 / 2, n as u32]);
            d.launch("row_losses", 1, 256, &[at(&buffer), at(&ends), at(&sum), int(3)]);
            vec![z.to_f32().unwrap(), losses, sum.to_f32().unwrap()]
        }) else {
            return;
        };
        let (mut dz, mut losses) = (logits.clone(), Vec::new());
        for (row, target) in dz.chunks_mut(vocab).zip(&targets) {
            losses.push(ops::cross_entropy(
                MatMut::new(row, 1, vocab),
                &[*target],
                &mut [0.0],
                Some(scale),
                Par::SERIAL,
            ) as f32);
        }
        assert_close(&found[0], &dz, BF16, "dz");
        assert_close(&found[1], &losses, 1e-5, "losses");
        let sums = [losses[..n / 2].iter().sum(), 0.0, losses[n / 2..].iter().sum()];
        assert_close(&found[2], &sums, 1e-5, "sums by row");
    }
}
