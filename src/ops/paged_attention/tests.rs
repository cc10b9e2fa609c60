use super::super::attention::attention;
use super::*;

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        3.0 * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..n).map(|_| next()).collect()
}

/// A sequence with keys and values (positions x kv_cols) of all its positions; `start` of them are there before.
struct Sequence {
    blocks: Vec<u32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    start: usize,
    parents: Option<Vec<Option<u32>>>,
}

const SHAPES: [AttentionShape; 3] = [
    AttentionShape { heads: 4, kv_heads: 2, dim: 6, window: None },
    AttentionShape { heads: 8, kv_heads: 1, dim: 12, window: Some(5) },
    AttentionShape { heads: 3, kv_heads: 3, dim: 64, window: Some(37) },
];

/// Softmax of one query over some keys, in f64.
fn exact(shape: &AttentionShape, q: &[f32], s: &Sequence, seen: &[usize]) -> Vec<f64> {
    let (kv_cols, dim) = (shape.kv_cols(), shape.dim);
    let mut out = vec![0.0; shape.q_cols()];
    for head in 0..shape.heads {
        let at = head / shape.group() * dim;
        let score = |p: usize| -> f64 {
            let k = &s.keys[p * kv_cols + at..][..dim];
            let q = &q[head * dim..(head + 1) * dim];
            q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() / (dim as f64).sqrt()
        };
        let largest = seen.iter().map(|p| score(*p)).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = seen.iter().map(|p| (score(*p) - largest).exp()).sum();
        for p in seen {
            let weight = (score(*p) - largest).exp() / sum;
            for d in 0..dim {
                out[head * dim + d] += weight * f64::from(s.values[p * kv_cols + at + d]);
            }
        }
    }
    out
}

/// Keys that the query of a new token sees, by place in `keys`.
fn seen(shape: &AttentionShape, s: &Sequence, new: usize) -> Vec<usize> {
    let position = |at: usize| match &s.parents {
        Some(parents) if at >= s.start => {
            let (mut depth, mut parent) = (0, parents[at - s.start]);
            while let Some(p) = parent {
                (depth, parent) = (depth + 1, parents[p as usize]);
            }
            s.start + depth
        }
        _ => at,
    };
    let mut keys: Vec<usize> = (0..s.start).collect();
    match &s.parents {
        None => keys.extend(s.start..=s.start + new),
        Some(parents) => {
            let mut at = Some(new as u32);
            while let Some(token) = at {
                keys.push(s.start + token as usize);
                at = parents[token as usize];
            }
        }
    }
    let window = shape.sees(position(s.start + new));
    keys.retain(|k| window.contains(&position(*k)));
    keys
}

/// Sequences of which some share blocks: all share the first 70 positions' full blocks, two of them more.
fn sequences(shape: &AttentionShape, pages: &mut KvPages, layer: usize) -> Vec<Sequence> {
    let (block, kv_cols) = (pages.block(), shape.kv_cols());
    let tree = vec![None, Some(0), Some(0), Some(2), None, Some(4), Some(3)];
    let kinds: [(usize, usize, usize, Option<Vec<Option<u32>>>); 8] = [
        // Shared positions of the first, before, new.
        (0, 70, 1, None),
        (70, 70, 7, None),
        (70, 100, 1, None),
        (100, 110, 1, None),
        (64, 81, tree.len(), Some(tree)),
        (70, 300, 130, None),
        (0, 0, 9, None),
        (0, 33, 2, None),
    ];
    let mut made: Vec<Sequence> = Vec::new();
    let mut next = 0;
    for (i, (shared, start, new, parents)) in kinds.into_iter().enumerate() {
        let n = start + new;
        let (mut keys, mut values) = (noise(n * kv_cols, i as u32), noise(n * kv_cols, 50 + i as u32));
        let whole = shared / block;
        let mut blocks = Vec::new();
        if whole > 0 {
            let from = made.iter().rev().find(|s| s.start >= whole * block && s.parents.is_none()).unwrap();
            blocks.extend_from_slice(&from.blocks[..whole]);
            let len = whole * block * kv_cols;
            keys[..len].copy_from_slice(&from.keys[..len]);
            values[..len].copy_from_slice(&from.values[..len]);
        }
        while blocks.len() * block < n {
            // Now and then a hole, so that blocks do not always follow one another.
            next += 1 + u32::from(next % 5 == 3);
            while next as usize >= pages.blocks() {
                pages.grow();
            }
            blocks.push(next);
        }
        let stored = if parents.is_some() { start } else { n };
        for p in 0..stored {
            let row = p * kv_cols..(p + 1) * kv_cols;
            pages.write(layer, blocks[p / block], p % block, &keys[row.clone()], &values[row]);
        }
        made.push(Sequence { blocks, keys, values, start, parents });
    }
    made.sort_by(|a, b| a.blocks.cmp(&b.blocks));
    made
}

#[test]
fn attention_over_shared_blocks_is_that_of_each_sequence_alone() {
    for shape in SHAPES {
        for block in [4, 32] {
            let mut pages = KvPages::new(2, shape.kv_heads, shape.dim, block);
            let made = sequences(&shape, &mut pages, 1);
            let rows: Vec<PagedRow<'_>> = made
                .iter()
                .map(|s| PagedRow {
                    blocks: &s.blocks,
                    start: s.start,
                    new: s.keys.len() / shape.kv_cols() - s.start,
                    parents: s.parents.as_deref(),
                })
                .collect();
            let n: usize = rows.iter().map(|r| r.new).sum();
            let plan = PagedPlan::new(&pages, &rows);
            let shared = plan.segments.iter().filter(|s| s.rows.len() > 1 && s.rows != (0..n)).count();
            assert!(shared >= 2 && plan.segments.len() > rows.len(), "nothing is shared");
            let q = noise(n * shape.q_cols(), 99);
            let (mut k, mut v) = (Vec::new(), Vec::new());
            for s in &made {
                k.extend_from_slice(&s.keys[s.start * shape.kv_cols()..]);
                v.extend_from_slice(&s.values[s.start * shape.kv_cols()..]);
            }
            let mats = (
                Mat::new(&q, n, shape.q_cols()),
                Mat::new(&k, n, shape.kv_cols()),
                Mat::new(&v, n, shape.kv_cols()),
            );
            for par in [1, 2, 7] {
                let mut out = vec![f32::NAN; n * shape.q_cols()];
                let out_mat = MatMut::new(&mut out, n, shape.q_cols());
                paged_attention(&shape, 1, &pages, &plan, mats, out_mat, Par::threads(par));
                let mut query = 0;
                for (s, row) in made.iter().zip(&rows) {
                    for new in 0..row.new {
                        let at = query * shape.q_cols()..(query + 1) * shape.q_cols();
                        let wanted = exact(&shape, &q[at.clone()], s, &seen(&shape, s, new));
                        for (found, wanted) in out[at].iter().zip(wanted) {
                            let off = (f64::from(*found) - wanted).abs();
                            assert!(off < 2e-5, "{shape:?}, query {query}: {found} for {wanted}");
                        }
                        query += 1;
                    }
                }
            }
        }
    }
}

#[test]
fn attention_over_blocks_is_that_over_packed_rows() {
    for shape in SHAPES {
        let n = 150;
        let qkv = noise(n * shape.qkv_cols(), 3);
        let (mut out, mut lse) = (vec![0.0; n * shape.q_cols()], vec![0.0; shape.heads * n]);
        let all = Mat::new(&qkv, n, shape.qkv_cols());
        let packed = MatMut::new(&mut out, n, shape.q_cols());
        attention(&shape, all, std::slice::from_ref(&(0..n)), packed, &mut lse, Par::SERIAL);
        let mut pages = KvPages::new(1, shape.kv_heads, shape.dim, 16);
        pages.grow();
        let blocks: Vec<u32> = (0..10).rev().collect();
        let (q, kv) = (shape.q_cols(), shape.kv_cols());
        let (k, v) = (all.cols(q..q + kv), all.cols(q + kv..q + 2 * kv));
        for p in 0..n {
            pages.write(0, blocks[p / 16], p % 16, k.row(p), v.row(p));
        }
        // However many of the tokens are new: from one on.
        for start in [0, 1, 16, 100, 149] {
            let row = PagedRow { blocks: &blocks, start, new: n - start, parents: None };
            let plan = PagedPlan::new(&pages, &[row]);
            let mut found = vec![f32::NAN; (n - start) * q];
            let new = (all.cols(0..q).rows(start..n), k.rows(start..n), v.rows(start..n));
            let into = MatMut::new(&mut found, n - start, q);
            paged_attention(&shape, 0, &pages, &plan, new, into, Par::SERIAL);
            let off = found.iter().zip(&out[start * q..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-5, "{shape:?} from {start}: off by {off}");
        }
    }
}

#[test]
fn scores_of_any_size_stay_stable_over_segments() {
    // Scores up to some thousands, in blocks of rising and of falling size: e^score alone would overflow.
    let shape = AttentionShape { heads: 1, kv_heads: 1, dim: 2, window: None };
    let mut pages = KvPages::new(1, 1, 2, 4);
    pages.grow();
    for falling in [false, true] {
        let blocks: Vec<u32> = vec![0, 5, 2, 7];
        let key = |p: usize| [if falling { 16 - p } else { p } as f32 * 200.0, 0.0];
        for p in 0..16 {
            pages.write(0, blocks[p / 4], p % 4, &key(p), &[p as f32, 1.0]);
        }
        let row = PagedRow { blocks: &blocks, start: 15, new: 1, parents: None };
        let plan = PagedPlan::new(&pages, &[row]);
        let (q, kv) = (vec![3.0, 1.0], vec![0.0; 2]);
        let mut out = [0.0; 2];
        let mats = (Mat::new(&q, 1, 2), Mat::new(&kv, 1, 2), Mat::new(&kv, 1, 2));
        paged_attention(&shape, 0, &pages, &plan, mats, MatMut::new(&mut out, 1, 2), Par::SERIAL);
        // The vector functions' exp ends at e^-87.
        assert!((out[0] - if falling { 0.0 } else { 15.0 }).abs() < 1e-30 && out[1] == 1.0, "{out:?}");
    }
}

#[test]
fn a_copied_block_has_the_first_positions_of_the_other() {
    let mut pages = KvPages::new(2, 2, 3, 4);
    pages.grow();
    pages.grow();
    let (own, other) = (noise(6, 1), noise(6, 2));
    for to in [3, 20] {
        for layer in 0..2 {
            for offset in 0..4 {
                pages.write(layer, 1, offset, &own, &own);
                pages.write(layer, to, offset, &other, &other);
            }
        }
        pages.copy(1, to, 3);
        for layer in 0..2 {
            for head in 0..2 {
                let run = Run { block: to, position: 0, len: 4 };
                let (k, v) = pages.head(layer, head, &run, 0, 4);
                for m in [k, v] {
                    assert_eq!(m.row(2), &own[head * 3..head * 3 + 3]);
                    assert_eq!(m.row(3), &other[head * 3..head * 3 + 3]);
                }
            }
        }
    }
}
