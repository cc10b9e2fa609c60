//! Attention of new tokens of many sequences over their blocks of keys and values, where what sequences share is read once.
//!
//! The blocks of the sequences in a pass form a tree: who begins alike shares its first blocks. Each segment of the tree (blocks
//! that have the same sequences below them) is one product of the queries of all these sequences with its keys (Hydragen, Juravsky
//! et al. 2024, arXiv:2402.05099). Softmax over several segments: with `m` the largest score so far, `l = sum exp(s - m)` and
//! `o = sum exp(s - m) v`, another segment's `(m', l', o')` joins as `M = max(m, m')`, `l = l e^(m-M) + l' e^(m'-M)`, likewise `o`;
//! at the end `o / l` (Milakov and Gimelshein 2018, arXiv:1805.02867). Only a sequence's own last segment, with its new tokens, has
//! a causal mask; sliding windows go by position.

use std::cell::RefCell;
use std::ops::Range;

use super::attention::AttentionShape;
use super::kv_pages::{KvPages, Run};
use super::mat::{Mat, MatMut};
use super::matmul::{Write, matmul};
use super::par::Par;
use super::simd::{self, dot, fma, simd};

/// Queries and keys of one block of scores: 128 KiB.
const QUERIES: usize = 64;
const KEYS: usize = 512;
/// Up to this many queries (tokens times heads of the group) go by themselves, key by key.
const FEW: usize = 6;
/// Less work (queries times keys times columns) is not worth another thread.
const WORTH_A_THREAD: usize = 1 << 17;

/// The new tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct PagedRow<'a> {
    /// Blocks that hold the sequence, in order.
    pub blocks: &'a [u32],
    /// Tokens before the new ones.
    pub start: usize,
    /// New tokens; their keys and values are in the blocks, but those of a tree.
    pub new: usize,
    /// With a tree, for every new token the new one before it, if that is not the last of `start`.
    pub parents: Option<&'a [Option<u32>]>,
}

impl PagedRow<'_> {
    /// Positions of the new tokens.
    pub fn positions(&self) -> Vec<u32> {
        let start = self.start as u32;
        let Some(parents) = self.parents else { return (start..start + self.new as u32).collect() };
        let mut positions: Vec<u32> = Vec::with_capacity(parents.len());
        for parent in parents {
            positions.push(parent.map_or(start, |parent| positions[parent as usize] + 1));
        }
        positions
    }
}

/// What a pass attends to, the same for all layers.
#[derive(Debug)]
pub struct PagedPlan {
    /// By query.
    positions: Vec<u32>,
    segments: Vec<Segment>,
    trees: Vec<Tree>,
    /// Products of a query and a key.
    work: usize,
}

/// Keys that the queries of `rows` see, as far as positions allow.
#[derive(Debug)]
struct Segment {
    rows: Range<usize>,
    runs: Vec<Run>,
}

/// New tokens that are not in blocks: each query of `rows` sees the new tokens that lead to it.
#[derive(Debug)]
struct Tree {
    rows: Range<usize>,
    parents: Vec<Option<u32>>,
}

impl PagedPlan {
    /// `rows` stand sorted by their blocks, and so do the queries, row after row.
    pub fn new(pages: &KvPages, rows: &[PagedRow<'_>]) -> Self {
        let mut plan = Self { positions: Vec::new(), segments: Vec::new(), trees: Vec::new(), work: 0 };
        let mut firsts = Vec::with_capacity(rows.len());
        for row in rows {
            let first = plan.positions.len();
            firsts.push(first);
            plan.positions.extend(row.positions());
            if let Some(parents) = row.parents {
                plan.trees.push(Tree { rows: first..first + row.new, parents: parents.to_vec() });
            }
        }
        firsts.push(plan.positions.len());
        plan.split(pages, rows, &firsts, 0);
        plan.work =
            plan.segments.iter().map(|s| s.rows.len() * s.runs.iter().map(|r| r.len).sum::<usize>()).sum();
        plan
    }

    /// Positions of the queries.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Segments of rows that have the first `depth` blocks in common.
    fn split(&mut self, pages: &KvPages, rows: &[PagedRow<'_>], firsts: &[usize], depth: usize) {
        let (block, (Some(&first), Some(&end))) = (pages.block(), (firsts.first(), firsts.last())) else {
            return;
        };
        if let [row] = rows {
            let stored = row.start + if row.parents.is_some() { 0 } else { row.new };
            let runs = pages.runs(&row.blocks[depth..], depth * block, stored.saturating_sub(depth * block));
            return self.segments.push(Segment { rows: first..end, runs });
        }
        // A block whose keys all queries may see: full before anybody's new tokens.
        let at = |row: &PagedRow<'_>, depth: usize| {
            row.blocks.get(depth).copied().filter(|_| (depth + 1) * block <= row.start)
        };
        let mut shared = depth;
        while let Some(id) = at(&rows[0], shared)
            && rows.iter().all(|row| at(row, shared) == Some(id))
        {
            shared += 1;
        }
        if shared > depth {
            let runs = pages.runs(&rows[0].blocks[depth..shared], depth * block, (shared - depth) * block);
            self.segments.push(Segment { rows: first..end, runs });
        }
        let mut from = 0;
        while from < rows.len() {
            let id = at(&rows[from], shared);
            let mut to = from + 1;
            while to < rows.len() && id.is_some() && at(&rows[to], shared) == id {
                to += 1;
            }
            self.split(pages, &rows[from..to], &firsts[from..=to], shared);
            from = to;
        }
    }
}

/// Buffers of one task: queries, outputs, scores; largest scores and sums.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    out: Vec<f32>,
    scores: Vec<f32>,
    largest: Vec<f32>,
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn sized(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}

/// Attention of the plan's queries, `q` (queries x heads*dim), rotated, over `pages`; `k` and `v` (queries x kv_heads*dim) are the
/// new tokens' own (read for trees only: of the others they are in the blocks). `out` (queries x heads*dim) is written.
pub fn paged_attention(
    shape: &AttentionShape,
    layer: usize,
    pages: &KvPages,
    plan: &PagedPlan,
    (q, k, v): (Mat<'_>, Mat<'_>, Mat<'_>),
    out: MatMut<'_>,
    par: Par,
) {
    let n = plan.positions.len();
    assert!(q.n_rows() == n && out.n_rows() == n && q.n_cols() == shape.q_cols() && k.n_rows() == n);
    let width = shape.group() * shape.dim;
    let par = if plan.work * shape.q_cols() < WORTH_A_THREAD { Par::SERIAL } else { par };
    // A task is a key-value head, and where there are fewer of these than threads, a share of the queries.
    let shares = if par.is_serial() { 1 } else { par.get().div_ceil(shape.kv_heads).min(n) };
    let mut tasks = Vec::new();
    for (head, mut out) in out.col_blocks(width).into_iter().enumerate() {
        for share in 0..shares {
            let rows = share * n / shares..(share + 1) * n / shares;
            let (here, rest) = out.split_rows(rows.len());
            tasks.push((head, rows, here));
            out = rest;
        }
    }
    let run = |(head, rows, out): (usize, Range<usize>, MatMut<'_>)| {
        let task = Task { shape, layer, pages, plan, head, rows };
        let kv = head * shape.dim..(head + 1) * shape.dim;
        let q = q.cols(head * width..(head + 1) * width);
        task.run(q, k.cols(kv.clone()), v.cols(kv), out);
    };
    if par.is_serial() {
        tasks.into_iter().for_each(run);
    } else {
        let run = &run;
        rayon::scope(|scope| tasks.into_iter().for_each(|task| scope.spawn(move |_| run(task))));
    }
}

/// One key-value head and some of the queries.
struct Task<'a> {
    shape: &'a AttentionShape,
    layer: usize,
    pages: &'a KvPages,
    plan: &'a PagedPlan,
    head: usize,
    rows: Range<usize>,
}

impl Task<'_> {
    fn run(&self, q: Mat<'_>, k: Mat<'_>, v: Mat<'_>, mut out: MatMut<'_>) {
        let (dim, group, n) = (self.shape.dim, self.shape.group(), self.rows.len());
        SCRATCH.with(|scratch| {
            let Scratch { q: stacked, out: sums_of_v, scores, largest, sums } = &mut *scratch.borrow_mut();
            let (stacked, o) = (sized(stacked, n * group * dim), sized(sums_of_v, n * group * dim));
            for (i, row) in self.rows.clone().enumerate() {
                stacked[i * group * dim..(i + 1) * group * dim].copy_from_slice(q.row(row));
            }
            let mut state = State {
                q: stacked,
                o,
                largest: sized(largest, n * group),
                sums: sized(sums, n * group),
                scores: sized(scores, QUERIES.max(group) * KEYS),
            };
            state.o.fill(0.0);
            state.largest.fill(f32::NEG_INFINITY);
            state.sums.fill(0.0);
            for segment in &self.plan.segments {
                let rows = segment.rows.start.max(self.rows.start)..segment.rows.end.min(self.rows.end);
                if !rows.is_empty() {
                    segment.runs.iter().for_each(|run| self.attend(&mut state, rows.clone(), run));
                }
            }
            for tree in &self.plan.trees {
                let rows = tree.rows.start.max(self.rows.start)..tree.rows.end.min(self.rows.end);
                self.attend_tree(&mut state, tree, rows, k, v);
            }
            for i in 0..n {
                let row = out.row_mut(i);
                row.copy_from_slice(&state.o[i * group * dim..(i + 1) * group * dim]);
                for (head, row) in row.chunks_exact_mut(dim).enumerate() {
                    let inverse = 1.0 / state.sums[i * group + head];
                    for x in row {
                        *x *= inverse;
                    }
                }
            }
        });
    }

    /// Positions that the query of `row` may see of `run`, counted from the run's first.
    fn seen(&self, row: usize, run: &Run) -> Range<usize> {
        let position = self.plan.positions[row] as usize;
        let seen = self.shape.sees(position);
        let end = seen.end.saturating_sub(run.position).min(run.len);
        seen.start.saturating_sub(run.position).min(end)..end
    }

    fn attend(&self, state: &mut State<'_>, rows: Range<usize>, run: &Run) {
        let (dim, group, scale) = (self.shape.dim, self.shape.group(), self.shape.scale());
        let at_once = (QUERIES / group).max(1);
        for first in rows.clone().step_by(at_once) {
            let block = first..(first + at_once).min(rows.end);
            // Positions grow with the rows of one sequence, not over sequences.
            let all = block.clone().map(|row| self.seen(row, run)).filter(|seen| !seen.is_empty());
            let Some(all) = all.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)) else { continue };
            let queries = (block.start - self.rows.start) * group..(block.end - self.rows.start) * group;
            for start in all.clone().step_by(KEYS) {
                let keys = start..(start + KEYS).min(all.end);
                let (k, v) = self.pages.head(self.layer, self.head, run, keys.start, keys.len());
                let seen = |query: usize| {
                    let seen = self.seen(self.rows.start + query / group, run);
                    let end = seen.end.clamp(keys.start, keys.end);
                    seen.start.clamp(keys.start, end) - keys.start..end - keys.start
                };
                if queries.len() <= FEW {
                    for query in queries.clone() {
                        state.one(query, dim, scale, k, v, seen(query));
                    }
                } else {
                    state.many(queries.clone(), dim, scale, k, v, seen);
                }
            }
        }
    }

    fn attend_tree(&self, state: &mut State<'_>, tree: &Tree, rows: Range<usize>, k: Mat<'_>, v: Mat<'_>) {
        let (dim, group) = (self.shape.dim, self.shape.group());
        for row in rows {
            let oldest = self.shape.sees(self.plan.positions[row] as usize).start;
            let mut at = Some((row - tree.rows.start) as u32);
            while let Some(token) = at {
                let key = tree.rows.start + token as usize;
                if (self.plan.positions[key] as usize) < oldest {
                    break;
                }
                for query in (row - self.rows.start) * group..(row - self.rows.start + 1) * group {
                    state.one(
                        query,
                        dim,
                        self.shape.scale(),
                        k.rows(key..key + 1),
                        v.rows(key..key + 1),
                        0..1,
                    );
                }
                at = tree.parents[token as usize];
            }
        }
    }
}

/// Queries of a task with what they have summed up.
struct State<'a> {
    q: &'a [f32],
    o: &'a mut [f32],
    largest: &'a mut [f32],
    sums: &'a mut [f32],
    scores: &'a mut [f32],
}

impl State<'_> {
    /// One query and the keys of `seen`.
    fn one(&mut self, query: usize, dim: usize, scale: f32, k: Mat<'_>, v: Mat<'_>, seen: Range<usize>) {
        if seen.is_empty() {
            return;
        }
        let place = query * dim..(query + 1) * dim;
        one_query(
            &self.q[place.clone()],
            k.rows(seen.clone()),
            v.rows(seen.clone()),
            scale,
            &mut self.scores[..seen.len()],
            &mut self.o[place],
            &mut self.largest[query],
            &mut self.sums[query],
        );
    }

    /// Many queries and all keys, of which each sees some.
    fn many(
        &mut self,
        queries: Range<usize>,
        dim: usize,
        scale: f32,
        k: Mat<'_>,
        v: Mat<'_>,
        seen: impl Fn(usize) -> Range<usize>,
    ) {
        let (n, keys) = (queries.len(), k.n_rows());
        let mut p = MatMut::new(self.scores, n, keys);
        let q = Mat::new(&self.q[queries.start * dim..], n, dim);
        matmul(p.rb(), Write::Set, scale, q, k.t(), Par::SERIAL);
        for (i, query) in queries.clone().enumerate() {
            let o = &mut self.o[query * dim..(query + 1) * dim];
            weigh(p.row_mut(i), seen(query), o, &mut self.largest[query], &mut self.sums[query]);
        }
        let o = MatMut::new(&mut self.o[queries.start * dim..], n, dim);
        matmul(o, Write::Add, 1.0, p.as_mat(), v, Par::SERIAL);
    }
}

/// Scores of `seen` become weights against the largest score so far, and what was summed up is brought to it.
#[inline(always)]
#[allow(clippy::inline_always)]
fn join<const FMA: bool>(seen: &mut [f32], o: &mut [f32], largest: &mut f32, sum: &mut f32) {
    let here = simd::max(seen);
    if here > *largest {
        // Nothing yet: e^(-inf) is 0, and all sums are 0.
        let factor = if *largest == f32::NEG_INFINITY { 0.0 } else { (*largest - here).exp() };
        for x in &mut *o {
            *x *= factor;
        }
        *sum *= factor;
        *largest = here;
    }
    *sum += simd::exp_sum::<FMA>(seen, *largest);
}

simd! {
    fn weigh(row: &mut [f32], seen: Range<usize>, o: &mut [f32], largest: &mut f32, sum: &mut f32) {
        let (start, end) = (seen.start, seen.end);
        row[..start].fill(0.0);
        row[end..].fill(0.0);
        if start < end {
            join::<FMA>(&mut row[start..end], o, largest, sum);
        }
    }
}

simd! {
    fn one_query(
        q: &[f32],
        k: Mat<'_>,
        v: Mat<'_>,
        scale: f32,
        scores: &mut [f32],
        o: &mut [f32],
        largest: &mut f32,
        sum: &mut f32,
    ) {
        for (i, score) in scores.iter_mut().enumerate() {
            *score = scale * dot::<FMA>(q, k.row(i));
        }
        join::<FMA>(scores, o, largest, sum);
        for (i, p) in scores.iter().enumerate() {
            for (o, v) in o.iter_mut().zip(v.row(i)) {
                *o = fma::<FMA>(*p, *v, *o);
            }
        }
    }
}

#[cfg(test)]
mod tests;
