use super::*;
use crate::ops::vocabulary::argmax;
use crate::ops::{self, AttentionShape, Mat, MatMut, Par};

/// Blocks of the cache, in an order that is not theirs; the first one is nobody's.
fn table_of(tokens: usize, block: usize, taken: &mut Vec<u32>) -> Vec<u32> {
    let blocks = (0..tokens.div_ceil(block)).map(|_| {
        let id = 1 + (taken.len() as u32 * 7 + 3) % 61;
        taken.push(id);
        id
    });
    blocks.collect()
}

/// The last `new` tokens of each sequence (length, new) over the cache, against packed attention over all of them.
fn agrees(
    shape: &AttentionShape,
    sequences: &[(usize, usize)],
    block: usize,
    span: usize,
    of_bf16: bool,
) -> bool {
    let AttentionShape { heads, kv_heads, dim, window } = *shape;
    let (mut rows, mut start) = (Vec::new(), 0);
    let (mut tables, mut places, mut slots, mut queries, mut taken) =
        (vec![], vec![], vec![], vec![], vec![]);
    for &(len, new) in sequences {
        let (first, table) = (tables.len() as u32, table_of(len, block, &mut taken));
        for i in 0..len {
            slots.push(table[i / block] * block as u32 + (i % block) as u32);
            if i >= len - new {
                queries.push(start + i);
                places.extend([first, i as u32, i as u32 + 1, 0]);
            }
        }
        tables.extend(table);
        rows.push(start..start + len);
        start += len;
    }
    let mut distinct = taken.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), taken.len(), "a block has one owner");
    let (n, width, q_cols) = (start, shape.qkv_cols(), shape.q_cols());
    let qkv = noise(n * width, 7, 3.0);
    // The queries stand side by side, with a stride of their own.
    let q: Vec<f32> =
        queries.iter().flat_map(|row| qkv[row * width..row * width + q_cols].to_vec()).collect();
    let longest = sequences.iter().map(|s| s.0).max().unwrap();
    let (splits, per_block) = (longest.div_ceil(span), 2 * kv_heads * block * dim);
    // Two layers: what is written for the second must leave the first alone.
    let (layers, cache) = (2, if of_bf16 { Dtype::Bf16 } else { Dtype::F32 });
    let (name, share) = match dim {
        ..=64 => ("64", 4),
        65..=128 => ("128", 4),
        _ => ("256", 2),
    };
    let of = if of_bf16 { "bf16" } else { "f32" };
    let Some(found) = in_all_orders(|d| {
        let pages = d.room(62 * layers * per_block, cache);
        let second = Arg::Pointer(pages.at(per_block, per_block).unwrap());
        let stride = Arg::U64((layers * per_block) as u64);
        let (x, s) = (d.bf16(&qkv), d.u32(&slots));
        let sizes = [int(n), int(heads), int(kv_heads), int(dim), int(block)];
        let args = [&[at(&x), at(&s), second, stride, int(width)][..], &sizes].concat();
        d.launch(&format!("paged_write_{of}"), 3, 256, &args);
        let (bq, t, p) = (d.bf16(&q), d.u32(&tables), d.u32(&places));
        let parts = d.room(queries.len() * heads * splits * (dim + 2), Dtype::F32);
        let out = d.room(queries.len() * q_cols, Dtype::Bf16);
        let sizes = [heads, kv_heads, dim, block, span, splits, window.unwrap_or(0), 0].map(int);
        let args = [&[at(&bq), second, at(&t), at(&p), at(&parts), stride, int(q_cols)][..], &sizes].concat();
        let grid = [queries.len() * splits, kv_heads * (heads / kv_heads).div_ceil(share)];
        d.try_launch(&format!("paged_attention_{of}_{name}"), grid, [128, 1], 0, &args).unwrap();
        d.launch("paged_merge", queries.len() * heads, 64, &[at(&parts), at(&out), int(splits), int(dim)]);
        let first = pages.to_f32().unwrap();
        assert!(
            first.chunks(per_block).step_by(layers).flatten().all(|x| x.is_nan()),
            "the first layer's part"
        );
        vec![out.to_f32().unwrap()]
    }) else {
        return false;
    };
    let (mut all, mut lse) = (vec![0.0; n * q_cols], vec![0.0; n * heads]);
    let out = MatMut::new(&mut all, n, q_cols);
    ops::attention(shape, Mat::new(&qkv, n, width), &rows, out, &mut lse, Par::SERIAL);
    let wanted: Vec<f32> =
        queries.iter().flat_map(|row| all[row * q_cols..(row + 1) * q_cols].to_vec()).collect();
    assert_close(&found[0], &wanted, BF16, &format!("{shape:?} {of} {span}"));
    true
}

#[test]
fn paged_attention_agrees_with_the_cpu_for_any_grouping_window_span_and_cache() {
    // One token alone; the next token of some; several new ones within and over a block; a prompt as a whole.
    let sequences = [(1, 1), (33, 1), (70, 5), (150, 1), (64, 64)];
    for (heads, kv_heads, dim, window, block, span, of_bf16) in [
        (4, 2, 64, None, 32, 64, true),
        (8, 1, 64, Some(3), 16, 32, false),
        (6, 2, 128, Some(70), 32, 512, true),
        (5, 1, 40, None, 32, 96, true),
        (3, 1, 256, None, 16, 64, false),
        (2, 2, 136, Some(33), 32, 32, true),
    ] {
        let shape = AttentionShape { heads, kv_heads, dim, window };
        if !agrees(&shape, &sequences, block, span, of_bf16) {
            return;
        }
    }
}

#[test]
fn what_is_to_go_nowhere_is_not_written() {
    let qkv = noise(3 * 24, 1, 1.0);
    let Some(found) = in_all_orders(|d| {
        let pages = d.room(2 * 2 * 2 * 8, Dtype::F32);
        let (x, slots) = (d.bf16(&qkv), d.u32(&[3, u32::MAX, 0]));
        let args =
            [at(&x), at(&slots), at(&pages), Arg::U64(32), int(24), int(3), int(1), int(1), int(8), int(2)];
        d.launch("paged_write_f32", 1, 32, &args);
        vec![pages.to_f32().unwrap()]
    }) else {
        return;
    };
    // Two blocks of two positions: keys, then values. The first row to the last place, the third to the first one.
    let key = |row: usize| &qkv[row * 24 + 8..row * 24 + 16];
    let value = |row: usize| &qkv[row * 24 + 16..row * 24 + 24];
    let place = |i: usize| &found[0][i * 8..(i + 1) * 8];
    assert_eq!([place(0), place(2)], [key(2), value(2)]);
    assert_eq!([place(5), place(7)], [key(0), value(0)]);
    assert!([1, 3, 4, 6].iter().all(|i| place(*i).iter().all(|x| x.is_nan())), "nothing else is touched");
}

#[derive(Clone, Copy, Debug)]
struct Draw {
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: u32,
    u: f64,
}

/// The definition: sorted, cut, drawn by id.
fn drawn(row: &[f32], d: Draw) -> u32 {
    let Some(best) = argmax(row) else { return u32::MAX };
    if d.temperature == 0.0 {
        return best as u32;
    }
    let mut kept: Vec<usize> = (0..row.len()).filter(|i| row[*i] > f32::NEG_INFINITY).collect();
    kept.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    if d.top_k > 0 && (d.top_k as usize) < kept.len() {
        let kth = row[kept[d.top_k as usize - 1]];
        kept.retain(|i| row[*i] >= kth);
    }
    let weight = |i: usize| f64::from(((row[i] - row[best]) * (1.0 / d.temperature)).exp());
    if d.top_p < 1.0 {
        let total: f64 = kept.iter().map(|i| weight(*i)).sum();
        let mut sum = 0.0;
        let line = kept.iter().position(|i| {
            sum += weight(*i);
            sum >= f64::from(d.top_p) * total
        });
        kept.truncate(line.unwrap() + 1);
    }
    kept.retain(|i| weight(*i) >= f64::from(d.min_p));
    kept.sort_unstable();
    let mut left = d.u * kept.iter().map(|i| weight(*i)).sum::<f64>();
    for &i in &kept {
        left -= weight(i);
        if left < 0.0 {
            return i as u32;
        }
    }
    best as u32
}

/// Random numbers of a plain generator.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / 9_007_199_254_740_992.0
}

/// The ids of each row's draw.
fn sampled(d: &Device, logits: &[f32], vocab: usize, draws: &[Draw], block: u32) -> Vec<f32> {
    let n = draws.len();
    let z = d.f32(logits);
    let settings: Vec<f32> = draws.iter().flat_map(|d| [d.temperature, d.top_p, d.min_p]).collect();
    let us: Vec<u32> =
        draws.iter().map(|d| d.u.to_bits()).flat_map(|u| [u as u32, (u >> 32) as u32]).collect();
    let (s, us) = (d.f32(&settings), d.u32(&us));
    let k = d.u32(&draws.iter().map(|d| d.top_k).collect::<Vec<_>>());
    let rows = d.u32(&(0..n as u32).collect::<Vec<_>>());
    // Read back as floats of the same bits.
    let ids = d.room(n, Dtype::F32);
    d.launch("sample", n, block, &[at(&z), at(&rows), at(&s), at(&k), at(&us), at(&ids), int(vocab)]);
    ids.to_f32().unwrap()
}

#[test]
fn tokens_are_drawn_as_defined_with_every_cut_and_with_ties() {
    let (mut draws, mut state) = (Vec::new(), 7);
    for (temperature, top_p, min_p, top_k) in [
        (0.0, 1.0, 0.0, 0),
        (1.0, 1.0, 0.0, 0),
        (0.7, 0.9, 0.0, 0),
        (1.3, 0.5, 0.0, 7),
        (1.0, 1.0, 0.2, 0),
        (2.0, 0.95, 0.05, 20),
        (0.5, 1e-6, 0.0, 0),
        (1.0, 1.0, 0.0, 1),
    ] {
        for _ in 0..4 {
            draws.push(Draw { temperature, top_p, min_p, top_k, u: uniform(&mut state) });
        }
    }
    for (vocab, block) in [(3, 32), (50, 64), (1000, 256)] {
        let mut logits = exact_noise(draws.len() * vocab, 11, 4.0);
        for (i, row) in logits.chunks_mut(vocab).enumerate() {
            row[i % vocab] = f32::NEG_INFINITY;
            if i % 3 == 1 {
                // Coarse numbers: many ties at the top, at the k-th and on the line of top-p.
                for z in &mut *row {
                    *z = z.round();
                }
            }
            match i % 11 {
                5 => row[vocab / 2] = f32::NAN,
                7 => row[vocab - 1] = f32::INFINITY,
                9 => row.fill(f32::NEG_INFINITY),
                _ => {}
            }
        }
        let Some(found) = in_all_orders(|d| vec![sampled(d, &logits, vocab, &draws, block)]) else {
            return;
        };
        let mut none = 0;
        for (i, (row, draw)) in logits.chunks(vocab).zip(&draws).enumerate() {
            let (id, wanted) = (found[0][i].to_bits(), drawn(row, *draw));
            assert_eq!(id, wanted, "row {i} of {vocab}, {draw:?}");
            none += u32::from(id == u32::MAX);
        }
        assert_eq!(none, 9, "rows that are no numbers, or nothing");
    }
}

#[test]
fn draws_have_their_probabilities() {
    let (n, row, mut state) = (3000, [0.0, 1.0, -1.0, 2.0, 0.5_f32], 1);
    let mut draw = |_| Draw { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: 0, u: uniform(&mut state) };
    let draws: Vec<Draw> = (0..n).map(&mut draw).collect();
    let Some(emulator) = Emulator::new(0) else { return };
    let d = Device(emulator);
    let ids = sampled(&d, &row.repeat(n as usize), row.len(), &draws, 32);
    let total: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
    for (id, z) in row.iter().enumerate() {
        let p = f64::from(*z).exp() / total;
        let share = ids.iter().filter(|x| x.to_bits() == id as u32).count() as f64 / f64::from(n);
        // Four standard deviations.
        assert!((share - p).abs() < 4.0 * (p * (1.0 - p) / f64::from(n)).sqrt(), "{id}: {share} of {p}");
    }
}

#[test]
fn penalties_and_masks_are_those_of_the_cpu_and_leave_other_rows_alone() {
    let (vocab, tokens) = (70, [3_u32, 69, 40]);
    let mut logits = exact_noise(4 * vocab, 5, 4.0);
    logits[3 * vocab + 2] = f32::NAN;
    let masked = |id: usize| id.is_multiple_of(3) || id == 69;
    let mut mask = vec![0_u32; vocab.div_ceil(32)];
    (0..vocab).filter(|id| masked(*id)).for_each(|id| mask[id / 32] |= 1 << (id % 32));
    let words = [&tokens[..], &mask].concat();
    let (none, one) = (u32::MAX, 1_f32.to_bits());
    let jobs = [2, 1.3_f32.to_bits(), 0, 3, none, 0, one, 0, 0, 3, 3, 0.5_f32.to_bits(), 0, 3, 3];
    let Some(found) = in_all_orders(|d| {
        let (z, j, w) = (d.f32(&logits), d.u32(&jobs), d.u32(&words));
        d.launch("adjust_logits", 3, 64, &[at(&z), at(&j), at(&w), int(vocab)]);
        vec![z.to_f32().unwrap()]
    }) else {
        return;
    };
    let mut wanted = logits;
    for (row, penalty) in [(2, 1.3), (3, 0.5)] {
        for id in tokens {
            let z = &mut wanted[row * vocab + id as usize];
            *z = if *z < 0.0 { *z * penalty } else { *z / penalty };
        }
    }
    for row in [0, 3] {
        for id in (0..vocab).filter(|id| !masked(*id) && (row, *id) != (3, 2)) {
            wanted[row * vocab + id] = f32::NEG_INFINITY;
        }
    }
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&found[0]), bits(&wanted));
}
