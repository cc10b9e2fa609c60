//! Causal grouped-query attention over packed rows.
//!
//! Per head, with `s = 1/sqrt(dim)`: `P = softmax(s Q K^T + mask)`, `O = P V`. Backward, from the kept `L = log sum exp` of each
//! score row (Dao 2023, arXiv:2307.08691, section 3): `P = exp(s Q K^T - L)`, `dV = P^T dO`, `dP = dO V^T`,
//! `D = rowsum(dO * O)`, `dS = P * (dP - D)`, `dQ = s dS K`, `dK = s dS^T Q`.
//! Works on blocks of [`BLOCK`] queries against the keys that they see: never the whole score matrix. Query heads
//! `g*kv .. g*(kv+1)` share key and value head `kv` (GQA, arXiv:2305.13245); their `dK`, `dV` add up.

use std::cell::RefCell;
use std::ops::Range;

use super::mat::{Mat, MatMut};
use super::matmul::{Write, matmul};
use super::par::Par;
use super::simd::{self, dot, simd};

/// Queries of one block of scores.
const BLOCK: usize = 64;

/// Heads and mask of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    /// A query sees the last `window` keys up to its own; none: all up to its own.
    pub window: Option<usize>,
}

impl AttentionShape {
    pub fn q_cols(&self) -> usize {
        self.heads * self.dim
    }

    pub fn kv_cols(&self) -> usize {
        self.kv_heads * self.dim
    }

    /// Columns of stacked q|k|v.
    pub fn qkv_cols(&self) -> usize {
        self.q_cols() + 2 * self.kv_cols()
    }

    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Keys that the query at `position` sees.
    pub(super) fn sees(&self, position: usize) -> Range<usize> {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))..position + 1
    }

    fn split<'a>(&self, qkv: Mat<'a>) -> (Mat<'a>, Mat<'a>, Mat<'a>) {
        let (q, kv) = (self.q_cols(), self.kv_cols());
        (qkv.cols(0..q), qkv.cols(q..q + kv), qkv.cols(q + kv..q + 2 * kv))
    }
}

thread_local! {
    /// Scores of one block, and their gradients.
    static SCORES: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

fn with_scores<R>(n: usize, work: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
    SCORES.with(|scores| {
        let (p, d) = &mut *scores.borrow_mut();
        if p.len() < n {
            p.resize(n, 0.0);
            d.resize(n, 0.0);
        }
        work(p, d)
    })
}

/// Runs `work` on every task, on rayon's threads if `par` says so.
fn each<T: Send>(par: Par, tasks: Vec<T>, work: impl Fn(T) + Sync) {
    if par.is_serial() {
        tasks.into_iter().for_each(work);
    } else {
        rayon::scope(|scope| {
            for task in tasks {
                scope.spawn(|_| work(task));
            }
        });
    }
}

/// Attention of packed rows. `qkv` (tokens x q|k|v) is rotated already; `rows` are the token ranges that see only themselves;
/// `out` (tokens x heads*dim) and `lse` (heads x tokens, kept for the backward) are written.
pub fn attention(
    shape: &AttentionShape,
    qkv: Mat<'_>,
    rows: &[Range<usize>],
    out: MatMut<'_>,
    lse: &mut [f32],
    par: Par,
) {
    let tokens = qkv.n_rows();
    assert!(out.n_rows() == tokens && qkv.n_cols() == shape.qkv_cols() && lse.len() >= shape.heads * tokens);
    let (q, k, v) = shape.split(qkv);
    let tasks: Vec<_> =
        out.col_blocks(shape.dim).into_iter().zip(lse.chunks_mut(tokens)).enumerate().collect();
    each(par, tasks, |(head, (mut out, lse))| {
        let (q_cols, kv_cols) = head_cols(shape, head);
        for row in rows {
            let q = q.rows(row.clone()).cols(q_cols.clone());
            let (k, v) =
                (k.rows(row.clone()).cols(kv_cols.clone()), v.rows(row.clone()).cols(kv_cols.clone()));
            attend(
                shape.scale(),
                |i| shape.sees(i),
                q,
                k,
                v,
                out.rb().rows(row.clone()),
                &mut lse[row.clone()],
            );
        }
    });
}

fn head_cols(shape: &AttentionShape, head: usize) -> (Range<usize>, Range<usize>) {
    let (dim, kv) = (shape.dim, head / shape.group());
    (head * dim..(head + 1) * dim, kv * dim..(kv + 1) * dim)
}

/// One head: query `i` sees the keys of `sees(i)`, whose bounds never decrease with `i`.
fn attend(
    scale: f32,
    sees: impl Fn(usize) -> Range<usize>,
    q: Mat<'_>,
    k: Mat<'_>,
    v: Mat<'_>,
    mut out: MatMut<'_>,
    lse: &mut [f32],
) {
    let n = q.n_rows();
    for first in (0..n).step_by(BLOCK) {
        let block = first..(first + BLOCK).min(n);
        let keys = sees(first).start..sees(block.end - 1).end;
        with_scores(block.len() * keys.len(), |p, _| {
            let mut p = MatMut::new(p, block.len(), keys.len());
            matmul(p.rb(), Write::Set, scale, q.rows(block.clone()), k.rows(keys.clone()).t(), Par::SERIAL);
            for i in block.clone() {
                let seen = sees(i);
                let row = p.row_mut(i - first);
                lse[i] = softmax(row, seen.start - keys.start..seen.end - keys.start);
            }
            matmul(out.rb().rows(block), Write::Set, 1.0, p.as_mat(), v.rows(keys), Par::SERIAL);
        });
    }
}

simd! {
    /// Softmax over `seen`, zero elsewhere; returns log sum exp.
    fn softmax(row: &mut [f32], seen: Range<usize>) -> f32 {
        let (start, end) = (seen.start, seen.end);
        row[..start].fill(0.0);
        row[end..].fill(0.0);
        let seen = &mut row[start..end];
        let largest = simd::max(seen);
        let sum = simd::exp_sum::<FMA>(seen, largest);
        let inverse = 1.0 / sum;
        for p in seen {
            *p *= inverse;
        }
        largest + sum.ln()
    }
}

/// Backward of [`attention`]: writes `d_qkv` (tokens x q|k|v), still in rotated coordinates for q and k.
pub fn attention_backward(
    shape: &AttentionShape,
    qkv: Mat<'_>,
    rows: &[Range<usize>],
    out: Mat<'_>,
    lse: &[f32],
    d_out: Mat<'_>,
    d_qkv: MatMut<'_>,
    par: Par,
) {
    let tokens = qkv.n_rows();
    let (q, k, v) = shape.split(qkv);
    let (d_q, d_kv) = d_qkv.split_cols(shape.q_cols());
    let (d_k, d_v) = d_kv.split_cols(shape.kv_cols());
    let d_q = d_q.col_blocks(shape.group() * shape.dim);
    let tasks: Vec<_> =
        d_q.into_iter().zip(d_k.col_blocks(shape.dim)).zip(d_v.col_blocks(shape.dim)).enumerate().collect();
    each(par, tasks, |(kv, ((mut d_q, mut d_k), mut d_v))| {
        d_k.fill(0.0);
        d_v.fill(0.0);
        for g in 0..shape.group() {
            let head = kv * shape.group() + g;
            let (q_cols, kv_cols) = head_cols(shape, head);
            let lse = &lse[head * tokens..(head + 1) * tokens];
            for row in rows {
                let one = Head {
                    q: q.rows(row.clone()).cols(q_cols.clone()),
                    k: k.rows(row.clone()).cols(kv_cols.clone()),
                    v: v.rows(row.clone()).cols(kv_cols.clone()),
                    out: out.rows(row.clone()).cols(q_cols.clone()),
                    d_out: d_out.rows(row.clone()).cols(q_cols.clone()),
                    lse: &lse[row.clone()],
                };
                attend_backward(
                    shape,
                    &one,
                    d_q.rb().rows(row.clone()).cols(g * shape.dim..(g + 1) * shape.dim),
                    d_k.rb().rows(row.clone()),
                    d_v.rb().rows(row.clone()),
                );
            }
        }
    });
}

/// What the forward of one head of one row read and wrote.
struct Head<'a> {
    q: Mat<'a>,
    k: Mat<'a>,
    v: Mat<'a>,
    out: Mat<'a>,
    d_out: Mat<'a>,
    lse: &'a [f32],
}

/// Writes `d_q`, adds to `d_k` and `d_v`.
fn attend_backward(
    shape: &AttentionShape,
    head: &Head<'_>,
    mut d_q: MatMut<'_>,
    mut d_k: MatMut<'_>,
    mut d_v: MatMut<'_>,
) {
    let n = head.q.n_rows();
    let scale = shape.scale();
    for first in (0..n).step_by(BLOCK) {
        let block = first..(first + BLOCK).min(n);
        let keys = shape.sees(first).start..block.end;
        let (q, d_out) = (head.q.rows(block.clone()), head.d_out.rows(block.clone()));
        let (k, v) = (head.k.rows(keys.clone()), head.v.rows(keys.clone()));
        with_scores(block.len() * keys.len(), |p, d_s| {
            let (mut p, mut d_s) =
                (MatMut::new(p, block.len(), keys.len()), MatMut::new(d_s, block.len(), keys.len()));
            matmul(p.rb(), Write::Set, scale, q, k.t(), Par::SERIAL);
            matmul(d_s.rb(), Write::Set, 1.0, d_out, v.t(), Par::SERIAL);
            for i in block.clone() {
                let (seen, r) = (shape.sees(i), i - first);
                let seen = seen.start - keys.start..seen.end - keys.start;
                softmax_backward(
                    p.row_mut(r),
                    d_s.row_mut(r),
                    seen,
                    head.lse[i],
                    head.out.row(i),
                    d_out.row(r),
                );
            }
            matmul(d_q.rb().rows(block), Write::Set, scale, d_s.as_mat(), k, Par::SERIAL);
            matmul(d_k.rb().rows(keys.clone()), Write::Add, scale, d_s.as_mat().t(), q, Par::SERIAL);
            matmul(d_v.rb().rows(keys), Write::Add, 1.0, p.as_mat().t(), d_out, Par::SERIAL);
        });
    }
}

simd! {
    /// `p`: scores in, probabilities out; `d`: dP in, dS out.
    fn softmax_backward(p: &mut [f32], d: &mut [f32], seen: Range<usize>, lse: f32, out: &[f32], d_out: &[f32]) {
        let (start, end) = (seen.start, seen.end);
        for row in [&mut *p, &mut *d] {
            row[..start].fill(0.0);
            row[end..].fill(0.0);
        }
        let sum = dot::<FMA>(out, d_out);
        for (p, d) in p[start..end].iter_mut().zip(&mut d[start..end]) {
            *p = simd::exp::<FMA>(*p - lse);
            *d = *p * (*d - sum);
        }
    }
}
