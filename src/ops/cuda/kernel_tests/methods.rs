use super::*;

/// As src/ops/dropout.rs has it.
fn kept(key: u64, layer: u64, column: u32, bound: u32) -> bool {
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    let key = mix(key ^ (layer + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let h = (key as u32).wrapping_add(column.wrapping_mul(0x9E37_79B9));
    let h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    let h = (h ^ (h >> 15) ^ (key >> 32) as u32).wrapping_mul(0x846C_A68B);
    h ^ (h >> 16) >= bound
}

#[test]
fn dropout_drops_the_same_elements_as_the_cpu() {
    for (n, width) in [(1, 1), (3, 8), (5, 37), (40, 64)] {
        let (x, y) = (noise(n * width, 1, 2.0), noise(n * width, 2, 2.0));
        let keys: Vec<u64> = (0..n as u64).map(|i| (i + 3) << 40 | i * 77).collect();
        let words: Vec<u32> = keys.iter().flat_map(|k| [*k as u32, (*k >> 32) as u32]).collect();
        let (layer, bound, factor) = (13, (0.25 * 4_294_967_296.0_f64) as u32, 1.0 / 0.75_f32);
        let Some(found) = in_all_orders(|d| {
            let (from, keys) = (d.bf16(&x), d.u32(&words));
            let (set, added) = (d.new(n * width, Dtype::Bf16), d.bf16(&y));
            for (into, add) in [(&set, 0), (&added, 1)] {
                let mask = [at(&keys), Arg::U64(layer), Arg::U32(bound), Arg::F32(factor)];
                let args = [&[at(&from), at(into)][..], &mask, &[int(n), int(width), int(add)]].concat();
                d.launch("dropout", 2, 32, &args);
            }
            vec![set.to_f32().unwrap(), added.to_f32().unwrap()]
        }) else {
            return;
        };
        let mask =
            |i: usize| if kept(keys[i / width], layer, (i % width) as u32, bound) { factor } else { 0.0 };
        let wanted: Vec<f32> = x.iter().enumerate().map(|(i, x)| x * mask(i)).collect();
        assert_eq!(found[0], rounded(&wanted));
        let added: Vec<f32> = y.iter().zip(&wanted).map(|(y, x)| y + x).collect();
        assert_close(&found[1], &added, BF16, "added");
    }
}

#[test]
fn dora_norms_forward_and_backward_follow_the_formula() {
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
            let (norm, gain) = (d.new(outputs, Dtype::F32), d.new(outputs, Dtype::F32));
            let sizes = [int(outputs), int(inputs), int(rank), Arg::F32(scale)];
            let args = [&[at(&bw), at(&ba), at(&bb), at(&bm), at(&norm), at(&gain)][..], &sizes].concat();
            d.try_launch("dora_norm", [outputs.div_ceil(8), 1], [256, 1], 32 * rank as u32, &args).unwrap();
            let (bv, bdy, set, added) = (d.bf16(&v), d.bf16(&dy), d.new(y.len(), Dtype::Bf16), d.bf16(&y));
            for (into, add) in [(&set, 0), (&added, 1)] {
                let sizes = [int(stride), int(outputs), int(rows), int(outputs), int(add)];
                d.launch("dora_forward", 2, 32, &[&[at(&bv), at(into), at(&gain)][..], &sizes].concat());
            }
            let (parts, dm) = (d.new(3 * outputs, Dtype::F32), d.f32(&vec![1.0; outputs]));
            let sizes = [int(outputs), int(stride), int(rows), int(outputs)];
            let args = [&[at(&bdy), at(&bv), at(&gain), at(&parts)][..], &sizes].concat();
            d.try_launch("dora_backward", [outputs.div_ceil(32), 3], [32, 8], 0, &args).unwrap();
            let args = [at(&parts), at(&norm), at(&dm), int(3), int(outputs), int(outputs)];
            d.launch("dora_magnitude", outputs.div_ceil(256), 256, &args);
            [&norm, &gain, &set, &added, &bv, &dm].map(|b| b.to_f32().unwrap()).into()
        }) else {
            return;
        };
        let norm = |o: usize| {
            let element = |i: usize| {
                let sum: f64 =
                    (0..rank).map(|k| f64::from(b[o * rank + k]) * f64::from(a[k * inputs + i])).sum();
                f64::from(w[o * inputs + i]) + f64::from(scale) * sum
            };
            (0..inputs).map(|i| element(i).powi(2)).sum::<f64>().sqrt() as f32
        };
        let norm: Vec<f32> = (0..outputs).map(norm).collect();
        let gain: Vec<f32> = m.iter().zip(&norm).map(|(m, n)| if *n > 0.0 { m / n } else { 0.0 }).collect();
        assert_close(&found[0], &norm, F32, "norm");
        assert_close(&found[1], &gain, F32, "gain");
        let (mut set, mut added, mut dv, mut dm) = (vec![0.0; y.len()], y, v.clone(), vec![1.0; outputs]);
        for i in 0..rows * outputs {
            let (at, o) = (i / outputs * stride + i % outputs, i % outputs);
            set[i] = gain[o] * v[at];
            added[i] += gain[o] * v[at];
            dv[at] = gain[o] * dy[i];
            dm[o] += if norm[o] > 0.0 { dy[i] * v[at] / norm[o] } else { 0.0 };
        }
        assert_close(&found[2], &set, BF16, "y");
        assert_close(&found[3], &added, BF16, "y added");
        assert_close(&found[4], &dv, BF16, "dv");
        assert_close(&found[5], &dm, F32, "dm");
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
