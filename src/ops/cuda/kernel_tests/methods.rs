use super::*;
use crate::ops::{self, Dropout, LoraGroup, LoraPart, Mat, MatMut, Nf4, Par, Weight, Write};

#[test]
fn dropout_drops_the_same_elements_as_the_cpu() {
    for (n, width) in [(1, 1), (3, 8), (5, 37), (40, 64)] {
        let (x, y) = (noise(n * width, 1, 2.0), noise(n * width, 2, 2.0));
        let keys: Vec<u64> = (0..n as u64).map(|i| ((i + 3) << 40) + i * 77).collect();
        let words: Vec<u32> = keys.iter().flat_map(|k| [*k as u32, (*k >> 32) as u32]).collect();
        let mask = Dropout { keys: &keys, layer: 13, rate: 0.25 };
        let (bound, factor) = ((f64::from(mask.rate) * 4_294_967_296.0) as u32, 1.0 / (1.0 - mask.rate));
        let Some(found) = in_all_orders(|d| {
            let (from, keys) = (d.bf16(&x), d.u32(&words));
            let (set, added) = (d.room(n * width, Dtype::Bf16), d.bf16(&y));
            for (into, add) in [(&set, 0), (&added, 1)] {
                let settings = [at(&keys), Arg::U64(mask.layer), Arg::U32(bound), Arg::F32(factor)];
                let args = [&[at(&from), at(into)][..], &settings, &[int(n), int(width), int(add)]].concat();
                d.launch("dropout", 2, 32, &args);
            }
            vec![set.to_f32().unwrap(), added.to_f32().unwrap()]
        }) else {
            return;
        };
        let (mut wanted, mut added) = (vec![0.0; n * width], y.clone());
        ops::dropout(Mat::new(&x, n, width), &mask, MatMut::new(&mut wanted, n, width));
        ops::dropout_backward(Mat::new(&x, n, width), &mask, MatMut::new(&mut added, n, width));
        assert_eq!(found[0], rounded(&wanted));
        assert_close(&found[1], &added, BF16, "added");
    }
}

#[test]
fn dora_norms_forward_and_backward_agree_with_the_cpu() {
    for (rows, outputs, inputs, rank, extra) in [(1, 5, 7, 1, 0), (19, 40, 300, 8, 8), (33, 17, 64, 3, 1)] {
        let (scale, stride) = (1.5_f32, outputs + extra);
        let (a, mut b, m) = (
            exact_noise(rank * inputs, 2, 0.5),
            exact_noise(outputs * rank, 3, 0.5),
            exact_noise(outputs, 4, 2.0),
        );
        let mut w = noise(outputs * inputs, 1, 1.0);
        // An output without a length.
        w[inputs..2 * inputs].fill(0.0);
        b[rank..2 * rank].fill(0.0);
        let (v, y, dy) =
            (noise(rows * stride, 5, 1.0), noise(rows * outputs, 6, 1.0), noise(rows * outputs, 7, 1.0));
        let Some(found) = in_all_orders(|d| {
            let (bw, ba, bb, bm) = (d.bf16(&w), d.f32(&a), d.f32(&b), d.f32(&m));
            let (norm, gain) = (d.room(outputs, Dtype::F32), d.room(outputs, Dtype::F32));
            let sizes = [int(outputs), int(inputs), int(rank), Arg::F32(scale)];
            let args = [&[at(&bw), at(&ba), at(&bb), at(&bm), at(&norm), at(&gain)][..], &sizes].concat();
            d.try_launch("dora_norm", [outputs.div_ceil(8), 1], [256, 1], 32 * rank as u32, &args).unwrap();
            let (bv, bdy, set, added) = (d.bf16(&v), d.bf16(&dy), d.room(y.len(), Dtype::Bf16), d.bf16(&y));
            for (into, add) in [(&set, 0), (&added, 1)] {
                let sizes = [int(stride), int(outputs), int(rows), int(outputs), int(add)];
                d.launch("dora_forward", 2, 32, &[&[at(&bv), at(into), at(&gain)][..], &sizes].concat());
            }
            let (parts, dm) = (d.room(3 * outputs, Dtype::F32), d.f32(&vec![1.0; outputs]));
            let sizes = [int(outputs), int(stride), int(rows), int(outputs)];
            let args = [&[at(&bdy), at(&bv), at(&gain), at(&parts)][..], &sizes].concat();
            d.try_launch("dora_backward", [outputs.div_ceil(32), 3], [32, 8], 0, &args).unwrap();
            let args = [at(&parts), at(&norm), at(&dm), int(3), int(outputs), int(outputs)];
            d.launch("dora_magnitude", outputs.div_ceil(256), 256, &args);
            [&norm, &gain, &set, &added, &bv, &dm].map(|b| b.to_f32().unwrap()).into()
        }) else {
            return;
        };
        // The adapter's parameters: A, B, magnitudes.
        let (params, at_m) = ([&a[..], &b, &m].concat(), a.len() + b.len());
        let part = LoraPart { out: 0..outputs, ranks: 0..rank, scale, b: a.len(), magnitude: Some(at_m) };
        let group = LoraGroup { inputs, rank, a: 0, parts: vec![part] };
        let mut norm = vec![f32::NAN; outputs];
        let weight = Weight::F32(Mat::new(&w, outputs, inputs));
        ops::dora_norms(&group, &params, weight, &mut norm, Par::SERIAL);
        let gain = ops::dora_gains(&group, &params, &norm);
        assert_close(&found[0], &norm, F32, "norm");
        assert_close(&found[1], &gain, F32, "gain");
        let (mut set, mut added, mut grad) = (vec![0.0; y.len()], y, vec![1.0; params.len()]);
        let mut dv: Vec<f32> = v.chunks(stride).flat_map(|row| row[..outputs].to_vec()).collect();
        for (into, write) in [(&mut set, Write::Set), (&mut added, Write::Add)] {
            let into = MatMut::new(into, rows, outputs);
            ops::dora_forward(&gain, Mat::new(&dv, rows, outputs), into, write, Par::SERIAL);
        }
        let (dy, into) = (Mat::new(&dy, rows, outputs), MatMut::new(&mut dv, rows, outputs));
        ops::dora_backward(&group, &gain, &norm, &mut grad, dy, into, Par::SERIAL);
        let found_dv: Vec<f32> = found[4].chunks(stride).flat_map(|row| row[..outputs].to_vec()).collect();
        assert_close(&found[2], &set, BF16, "y");
        assert_close(&found[3], &added, BF16, "y added");
        assert_close(&found_dv, &dv, BF16, "dv");
        assert_close(&found[5], &grad[at_m..], F32, "dm");
    }
}

#[test]
fn nf4_weights_are_dequantized_as_on_the_cpu() {
    // Fewer weights than a block, a last block that is not full, more constants than a super-block.
    for (rows, cols) in [(1, 1), (1, 64), (8, 125), (100, 170)] {
        let weight = Nf4::quantize(&noise(rows * cols, 5, 0.3), rows, cols);
        let ((codes, constants, super_constants, mean), levels) = (weight.parts(), Nf4::levels());
        let Some(found) = in_all_orders(|d| {
            let (c, s, t, n) = (d.u8(codes), d.u8(constants), d.f32(levels), d.f32(super_constants));
            let w = d.room(rows * cols, Dtype::Bf16);
            let count = Arg::U64((rows * cols) as u64);
            let args = [at(&c), at(&s), at(&t), at(&n), Arg::F32(mean), at(&w), count];
            d.launch("nf4_dequantize", 3, 64, &args);
            vec![w.to_f32().unwrap()]
        }) else {
            return;
        };
        let mut wanted = vec![0.0; rows * cols];
        weight.read_rows(0..rows, &mut MatMut::new(&mut wanted, rows, cols));
        assert_close(&found[0], &wanted, BF16, "w");
    }
}
