//! What goes through the model in one pass, whoever computes it: tokens, where they stand, which weights they have, what is wanted of
//! them.

use std::ops::Range;

use super::pages::Table;
use crate::model::Lora;
use crate::model::sampling::Choice;
use crate::ops::PagedRow;

/// After which of a feed's tokens something is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants<'a> {
    None,
    Last,
    All,
    At(&'a [u32]),
}

/// New tokens of one sequence, whose blocks have room for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feed<'a> {
    pub table: &'a Table,
    /// Tokens before the new ones; those beyond the table's are in its blocks without being of it yet.
    pub start: usize,
    /// Of the blocks' lane.
    pub adapter: Option<&'a Lora>,
    pub lane: u32,
    pub tokens: &'a [u32],
    /// The tokens are a tree of continuations, of which nothing is stored: for each the one before it, if it is not the first.
    pub parents: Option<&'a [Option<u32>]>,
    pub wants: Wants<'a>,
    /// How a device chooses what follows; without it, and on the CPU, it gives logits.
    pub choice: Option<&'a Choice>,
}

/// Tokens of one lane.
#[derive(Clone, Debug)]
pub(super) struct Stretch<'a> {
    pub lane: u32,
    pub adapter: Option<&'a Lora>,
    pub tokens: Range<usize>,
}

/// The feeds, token after token.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub ids: Vec<u32>,
    /// Sorted by lane, then by blocks, so that those who share some are neighbours.
    pub rows: Vec<PagedRow<'a>>,
    pub lanes: Vec<Stretch<'a>>,
    /// Tokens after which something is wanted.
    pub wanted: Vec<usize>,
    /// By feed, its part of `wanted`.
    pub ranges: Vec<Range<usize>>,
}

impl<'a> Batch<'a> {
    pub fn new(feeds: &[Feed<'a>]) -> Self {
        let mut order: Vec<usize> = (0..feeds.len()).filter(|at| !feeds[*at].tokens.is_empty()).collect();
        order.sort_by_key(|at| (feeds[*at].lane, feeds[*at].table.blocks()));
        let mut batch = Self {
            ids: Vec::new(),
            rows: Vec::with_capacity(order.len()),
            lanes: Vec::new(),
            wanted: Vec::new(),
            ranges: vec![0..0; feeds.len()],
        };
        for at in order {
            let feed = &feeds[at];
            let first = batch.ids.len();
            batch.ids.extend_from_slice(feed.tokens);
            let end = batch.ids.len();
            batch.rows.push(PagedRow {
                blocks: feed.table.blocks(),
                start: feed.start,
                new: feed.tokens.len(),
                parents: feed.parents,
            });
            match batch.lanes.last_mut() {
                Some(last) if last.lane == feed.lane => last.tokens.end = end,
                _ => {
                    let Feed { lane, adapter, .. } = *feed;
                    batch.lanes.push(Stretch { lane, adapter, tokens: first..end });
                }
            }
            let from = batch.wanted.len();
            match feed.wants {
                Wants::None => {}
                Wants::Last => batch.wanted.push(end - 1),
                Wants::All => batch.wanted.extend(first..end),
                Wants::At(tokens) => batch.wanted.extend(tokens.iter().map(|at| first + *at as usize)),
            }
            batch.ranges[at] = from..batch.wanted.len();
        }
        batch
    }
}

/// What follows a wanted token.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next<'a> {
    Logits(&'a [f32]),
    /// Chosen by a device; none if it found none to choose.
    Token(Option<u32>),
}

/// What came of a pass, by feed.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Rows of the vocabulary.
    pub logits: Vec<f32>,
    pub vocab: usize,
    pub tokens: Vec<Option<u32>>,
    /// By feed, its rows of logits, or its tokens.
    pub found: Vec<Found>,
}

#[derive(Clone, Debug)]
pub(super) enum Found {
    Logits(Range<usize>),
    Tokens(Range<usize>),
}

impl Outcome {
    /// What follows the wanted tokens of a feed, in their order.
    pub fn of(&self, feed: usize) -> impl Iterator<Item = Next<'_>> {
        let (logits, tokens) = match self.found.get(feed).cloned() {
            Some(Found::Logits(rows)) => (rows, 0..0),
            Some(Found::Tokens(tokens)) => (0..0, tokens),
            None => (0..0, 0..0),
        };
        let rows = self.logits[logits.start * self.vocab..logits.end * self.vocab].chunks_exact(self.vocab);
        rows.map(Next::Logits).chain(self.tokens[tokens].iter().map(|token| Next::Token(*token)))
    }

    /// The logits of a feed, which wanted these.
    pub fn logits(&self, feed: usize) -> impl Iterator<Item = &[f32]> {
        self.of(feed).filter_map(|next| match next {
            Next::Logits(row) => Some(row),
            Next::Token(_) => None,
        })
    }
}
