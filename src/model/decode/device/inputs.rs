//! What a pass tells the device: numbers side by side in one buffer, so that one copy brings all of them.

use std::ops::Range;

use crate::model::decode::batch::{Batch, Feed};
use crate::model::sampling::Choice;
use crate::ops::cuda::{Buffer, Gpu, Queries, View};

/// A row that goes nowhere, or sees nothing.
const NOWHERE: u32 = u32::MAX;

/// Rows that are computed for `n`: some numbers of rows only, so that products and recordings of these serve all.
pub(super) fn padded(n: usize) -> usize {
    match n {
        0..=8 => n.next_power_of_two(),
        9..=64 => n.next_multiple_of(8),
        65..=256 => n.next_multiple_of(16),
        _ => n.next_multiple_of(64),
    }
}

/// Rows of logits of one feed's wanted tokens that a device chooses from.
#[derive(Debug)]
struct Pick<'a> {
    /// Among the wanted ones.
    row: usize,
    choice: &'a Choice,
}

/// Where the tokens of a pass are chosen from the logits of some wanted rows.
#[derive(Clone, Debug)]
pub(super) struct Picks {
    /// Of the wanted rows.
    pub rows: Range<usize>,
    /// Of the picks of the pass.
    pub ids: Range<usize>,
    /// Places of: rows, top_k, settings, draws, jobs, words.
    at: [usize; 6],
    jobs: usize,
    words: usize,
}

/// The numbers, and where each kind begins.
#[derive(Debug)]
pub(super) struct Inputs {
    pub words: Vec<u32>,
    /// Rows, with those that only fill up.
    pub rows: usize,
    /// Wanted rows, likewise.
    pub wanted: usize,
    /// Of the furthest token.
    pub positions: usize,
    /// Of attention.
    pub splits: usize,
    tables: usize,
}

impl Inputs {
    /// Every wanted row is a row of its own: the numbers of wanted rows and rows are the same.
    pub fn new(batch: &Batch<'_>, block: usize) -> Self {
        let (n, w) = (batch.ids.len(), batch.wanted.len());
        let (rows, wanted) = (padded(n), padded(w));
        let mut words = vec![0; 7 * rows + wanted];
        let (ids, rest) = words.split_at_mut(rows);
        let (positions, rest) = rest.split_at_mut(rows);
        let (slots, rest) = rest.split_at_mut(rows);
        let (places, last) = rest.split_at_mut(4 * rows);
        ids[..n].copy_from_slice(&batch.ids);
        for (to, row) in last.iter_mut().zip(&batch.wanted) {
            *to = *row as u32;
        }
        slots.fill(NOWHERE);
        for place in places.chunks_exact_mut(4) {
            place[1] = NOWHERE;
        }
        let mut tables: Vec<u32> = Vec::new();
        let mut at = 0;
        for row in &batch.rows {
            let first = tables.len() as u32;
            tables.extend_from_slice(row.blocks);
            let own = row.positions();
            for (i, &position) in own.iter().enumerate() {
                let (token, p) = (at + i, position as usize);
                positions[token] = position;
                let (kept, path) = match row.parents {
                    None => {
                        slots[token] = row.blocks[p / block] * block as u32 + (p % block) as u32;
                        (position + 1, 0)
                    }
                    Some(parents) => {
                        // The rows that lead to this one, and itself.
                        let path = tables.len();
                        let mut next = Some(i as u32);
                        while let Some(i) = next {
                            tables.push((at + i as usize) as u32);
                            next = parents[i as usize];
                        }
                        tables[path..].reverse();
                        (row.start as u32, path as u32)
                    }
                };
                places[4 * token..4 * token + 4].copy_from_slice(&[first, position, kept, path]);
            }
            at += row.new;
        }
        let furthest = positions.iter().max().map_or(1, |p| *p as usize + 1);
        let splits = Gpu::splits(furthest).next_power_of_two();
        let tables_len = tables.len();
        words.extend(tables);
        Self { words, rows, wanted, positions: furthest, splits, tables: tables_len }
    }

    /// Adds what tokens are chosen by, for parts of `at_once` wanted rows.
    pub fn choose(&mut self, batch: &Batch<'_>, feeds: &[Feed<'_>], at_once: usize) -> Vec<Picks> {
        let mut picks: Vec<Pick<'_>> = Vec::new();
        for (feed, range) in feeds.iter().zip(&batch.ranges) {
            let Some(choice) = feed.choice else { continue };
            picks.extend(range.clone().map(|row| Pick { row, choice }));
        }
        picks.sort_by_key(|pick| pick.row);
        let (mut parts, mut done) = (Vec::new(), 0);
        for first in (0..batch.wanted.len()).step_by(at_once.max(1)) {
            let rows = first..(first + at_once).min(batch.wanted.len());
            let count = picks[done..].iter().take_while(|pick| pick.row < rows.end).count();
            let ids = done..done + count;
            done += count;
            parts.push(self.part(&picks[ids.clone()], rows, ids));
        }
        parts
    }

    fn part(&mut self, picks: &[Pick<'_>], rows: Range<usize>, ids: Range<usize>) -> Picks {
        let words = &mut self.words;
        let mut at = [0; 6];
        let row = |pick: &Pick<'_>| (pick.row - rows.start) as u32;
        at[0] = words.len();
        words.extend(picks.iter().map(row));
        at[1] = words.len();
        words.extend(picks.iter().map(|pick| pick.choice.top_k));
        at[2] = words.len();
        words.extend(picks.iter().flat_map(|pick| pick.choice.settings.map(f32::to_bits)));
        // Numbers of eight bytes stand at a multiple of eight.
        words.resize(words.len().next_multiple_of(2), 0);
        at[3] = words.len();
        words.extend(picks.iter().flat_map(|pick| {
            let bits = pick.choice.draw.to_bits();
            [bits as u32, (bits >> 32) as u32]
        }));
        let (mut jobs, mut blob) = (Vec::new(), Vec::new());
        for pick in picks {
            let Choice { penalty, seen, mask, .. } = pick.choice;
            if *penalty == 1.0 && mask.is_none() {
                continue;
            }
            let first = blob.len() as u32;
            blob.extend_from_slice(seen);
            let mask_at = mask.as_ref().map_or(NOWHERE, |_| blob.len() as u32);
            blob.extend(mask.iter().flatten());
            jobs.extend([row(pick), penalty.to_bits(), first, seen.len() as u32, mask_at]);
        }
        at[4] = words.len();
        words.extend(&jobs);
        at[5] = words.len();
        words.extend(&blob);
        Picks { rows, ids, at, jobs: jobs.len() / 5, words: blob.len() }
    }

    pub fn ids<'b>(&self, buffer: &'b Buffer) -> View<'b> {
        View::at(buffer, 0, 1, self.rows)
    }

    pub fn positions<'b>(&self, buffer: &'b Buffer) -> View<'b> {
        View::at(buffer, self.rows, 1, self.rows)
    }

    pub fn slots<'b>(&self, buffer: &'b Buffer) -> View<'b> {
        View::at(buffer, 2 * self.rows, 1, self.rows)
    }

    pub fn queries<'b>(&self, buffer: &'b Buffer) -> Queries<'b> {
        Queries {
            places: View::at(buffer, 3 * self.rows, self.rows, 4),
            tables: View::at(buffer, 7 * self.rows + self.wanted, 1, self.tables),
            splits: self.splits,
        }
    }

    pub fn wanted<'b>(&self, buffer: &'b Buffer) -> View<'b> {
        View::at(buffer, 7 * self.rows, 1, self.wanted)
    }
}

impl Picks {
    /// Chooses tokens from `logits`, those of `rows`, to their places in `ids`.
    pub fn submit(&self, gpu: &Gpu, inputs: &Buffer, logits: View<'_>, ids: &Buffer) {
        let n = self.ids.len();
        if n == 0 {
            return;
        }
        let part = |i: usize, rows: usize, cols: usize| View::at(inputs, self.at[i], rows, cols);
        if self.jobs > 0 {
            gpu.adjust_logits(logits, part(4, self.jobs, 5), part(5, 1, self.words));
        }
        let ids = View::at(ids, self.ids.start, 1, n);
        gpu.sample(logits, part(0, 1, n), part(2, n, 3), part(1, 1, n), part(3, n, 2), ids);
    }
}
