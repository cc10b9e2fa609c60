use super::*;
use crate::ops::{self, Dropout};

#[test]
fn dropout_drops_the_same_elements_as_the_cpu() {
    for n in [1, 8, 37, 1000] {
        let (x, y) = (noise(n, 1, 2.0), noise(n, 2, 2.0));
        let mask = Dropout::new(0.25, 0x1234_5678_9abc_def0, (3 << 40) + 17);
        let Some(found) = in_all_orders(|d| {
            let (from, set, added) = (d.bf16(&x), d.new(n, Dtype::Bf16), d.bf16(&y));
            for (into, add) in [(&set, 0), (&added, 1)] {
                let settings = [
                    Arg::U32(mask.threshold),
                    Arg::F32(mask.scale),
                    Arg::U64(mask.seed),
                    Arg::U64(mask.stream),
                ];
                let args = [&[at(&from), at(into), Arg::U64(n as u64)][..], &settings, &[int(add)]].concat();
                d.launch("dropout", 2, 32, &args);
            }
            vec![set.to_f32().unwrap(), added.to_f32().unwrap()]
        }) else {
            return;
        };
        let mut wanted = x.clone();
        ops::dropout(&mask, 0, &mut wanted);
        assert_eq!(found[0], rounded(&wanted));
        let added: Vec<f32> = y.iter().zip(&wanted).map(|(y, x)| y + x).collect();
        assert_close(&found[1], &added, BF16, "added");
    }
}

#[test]
fn dora_norm_scale_and_backward_follow_the_formula() {
    for (rows, outputs, inputs, rank, extra) in [(1, 5, 7, 1, 0), (19, 40, 300, 8, 8), (33, 17, 64, 3, 1)] {
        let (w, scale, stride) = (noise(outputs * inputs, 1, 1.0), 1.5_f32, outputs + extra);
        let (a, b, m) = (
            exact_noise(rank * inputs, 2, 0.5),
            exact_noise(outputs * rank, 3, 0.5),
            exact_noise(outputs, 4, 2.0),
        );
        let (z, dy) = (noise(rows * stride, 5, 1.0), noise(rows * stride, 6, 1.0));
        let Some(found) = in_all_orders(|d| {
            let (bw, ba, bb, bm) = (d.bf16(&w), d.f32(&a), d.f32(&b), d.f32(&m));
            let (norm, y, bz, bdy) = (d.new(outputs, Dtype::F32), d.bf16(&z), d.bf16(&z), d.bf16(&dy));
            let sizes = [int(outputs), int(inputs), int(rank), Arg::F32(scale)];
            let args = [&[at(&bw), at(&ba), at(&bb), at(&norm)][..], &sizes].concat();
            d.try_launch("dora_norm", [outputs.div_ceil(8), 1], [256, 1], 32 * rank as u32, &args).unwrap();
            let sizes = [int(stride), int(rows), int(outputs)];
            d.launch("dora_scale", 2, 32, &[&[at(&y), at(&bm), at(&norm)][..], &sizes].concat());
            let (parts, dm) = (d.new(3 * outputs, Dtype::F32), d.f32(&vec![1.0; outputs]));
            let args = [&[at(&bz), at(&bdy), at(&bm), at(&norm), at(&parts)][..], &sizes].concat();
            d.try_launch("dora_backward", [outputs.div_ceil(32), 3], [32, 8], 0, &args).unwrap();
            d.launch("sum_parts", outputs.div_ceil(256), 256, &[at(&parts), at(&dm), int(3), int(outputs)]);
            [&norm, &y, &bdy, &dm].map(|b| b.to_f32().unwrap()).into()
        }) else {
            return;
        };
        let norm: Vec<f32> = (0..outputs)
            .map(|o| {
                let element = |i: usize| {
                    let low_rank: f64 =
                        (0..rank).map(|k| f64::from(b[o * rank + k]) * f64::from(a[k * inputs + i])).sum();
                    f64::from(w[o * inputs + i]) + f64::from(scale) * low_rank
                };
                (0..inputs).map(|i| element(i).powi(2)).sum::<f64>().sqrt() as f32
            })
            .collect();
        assert_close(&found[0], &norm, F32, "norm");
        let (mut y, mut dz, mut dm) = (z.clone(), dy.clone(), vec![1.0; outputs]);
        for i in 0..rows * outputs {
            let (at, o) = (i / outputs * stride + i % outputs, i % outputs);
            y[at] *= m[o] / norm[o];
            dz[at] *= m[o] / norm[o];
            dm[o] += dy[at] * z[at] / norm[o];
        }
        assert_close(&found[1], &y, BF16, "y");
        assert_close(&found[2], &dz, BF16, "dz");
        assert_close(&found[3], &dm, F32, "dm");
    }
}

#[test]
fn nf4_weights_are_their_code_times_their_scale() {
    // The values of QLoRA's appendix E, from the quantiles of a normal distribution.
    let values = [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0_f32,
    ];
    for count in [1, 64, 1000, 17_000] {
        let mut state = 1_u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let codes: Vec<u8> = (0..usize::div_ceil(count, 2)).map(|_| byte()).collect();
        let scales: Vec<u8> = (0..usize::div_ceil(count, 64)).map(|_| byte()).collect();
        let (table, nested) =
            (exact_noise(256, 1, 1.0), exact_noise(usize::div_ceil(count, 64 * 256), 2, 0.1));
        let Some(found) = in_all_orders(|d| {
            let (c, s, t, n) = (d.u8(&codes), d.u8(&scales), d.f32(&table), d.f32(&nested));
            let w = d.new(count, Dtype::Bf16);
            let args = [at(&c), at(&s), at(&t), at(&n), Arg::F32(0.5), at(&w), Arg::U64(count as u64)];
            d.launch("nf4_dequantize", 3, 64, &args);
            vec![w.to_f32().unwrap()]
        }) else {
            return;
        };
        let wanted: Vec<f32> = (0..count)
            .map(|i| {
                let code = if i % 2 == 0 { codes[i / 2] >> 4 } else { codes[i / 2] & 15 };
                values[usize::from(code)]
                    * (table[usize::from(scales[i / 64])] * nested[i / (64 * 256)] + 0.5)
            })
            .collect();
        assert_close(&found[0], &wanted, BF16, "w");
    }
}
