//! Which blocks of keys and values hold which tokens: a tree of blocks, shared by all who begin alike.
//!
//! A block belongs to the tokens that lead to it, and to the lane that computed it: keys and values depend on the adapter. Whoever
//! begins with these tokens uses the block; where only the first of a block's tokens agree, these are copied. Blocks that nobody
//! uses are kept until their room is needed, and go least recently used first, ends before beginnings.

use std::collections::{BTreeMap, BTreeSet};

/// Tokens of a block.
pub(super) const BLOCK: usize = 32;
/// Blocks that are taken from the system at once.
const BLOCKS_AT_ONCE: usize = 16;

/// All blocks over one decoder. What is in them has whoever computes.
#[derive(Debug)]
pub(super) struct Pages {
    /// Tokens of a block.
    block: usize,
    /// By block.
    nodes: Vec<Node>,
    /// What is to be copied before the next pass: from a block to another one, so many of its first tokens.
    copies: Vec<(u32, u32, usize)>,
    /// First blocks, by lane.
    roots: BTreeMap<u32, Vec<u32>>,
    free: BTreeSet<u32>,
    /// Blocks that nobody uses and none follows, by when they were used.
    ends: BTreeSet<(u64, u32)>,
    /// Blocks with tokens that nobody uses.
    unused: usize,
    /// Blocks at most.
    max: usize,
    clock: u64,
    sharing: bool,
}

#[derive(Debug, Default)]
struct Node {
    parent: Option<u32>,
    lane: u32,
    /// Computed so far; only of a full block are the blocks after it found.
    tokens: Vec<u32>,
    children: Vec<u32>,
    users: u32,
    used: u64,
}

/// The blocks of one sequence.
#[derive(Debug, Default)]
pub(super) struct Table {
    lane: u32,
    blocks: Vec<u32>,
    /// Tokens computed.
    len: usize,
}

impl Table {
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

/// No room for another block, and none that could go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Pages {
    /// At most `max` blocks of `block` tokens; at least one.
    pub fn new(block: usize, max: usize) -> Self {
        Self {
            block,
            nodes: Vec::new(),
            copies: Vec::new(),
            roots: BTreeMap::new(),
            free: BTreeSet::new(),
            ends: BTreeSet::new(),
            unused: 0,
            max: max.max(1),
            clock: 0,
            sharing: true,
        }
    }

    /// Tokens of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Blocks that have been taken so far: their ids are below.
    pub fn taken(&self) -> usize {
        self.nodes.len()
    }

    /// What is to be copied now, in this order.
    pub fn take_copies(&mut self) -> Vec<(u32, u32, usize)> {
        std::mem::take(&mut self.copies)
    }

    /// For comparison: nobody finds what another computed.
    #[cfg(test)]
    pub fn without_sharing(mut self) -> Self {
        self.sharing = false;
        self
    }

    /// Tokens that fit if one sequence has all blocks.
    pub fn capacity(&self) -> usize {
        self.max.saturating_mul(self.block)
    }

    /// Blocks that somebody could have now.
    pub fn available(&self) -> usize {
        self.free.len() + (self.max - self.nodes.len().min(self.max)) + self.unused
    }

    /// Blocks for so many tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block)
    }

    /// How many of the first of `tokens` are computed already.
    pub fn known(&self, lane: u32, tokens: &[u32]) -> usize {
        let (mut table, block) = (Table { lane, ..Table::default() }, self.block);
        if !self.sharing {
            return 0;
        }
        loop {
            let rest = &tokens[table.len..];
            let alike = |id: &u32| common(&self.nodes[*id as usize].tokens, rest);
            let Some(best) = self.after(&table).iter().copied().max_by_key(alike) else { break };
            table.len += alike(&best);
            table.blocks = vec![best];
            if alike(&best) < block {
                break;
            }
        }
        table.len
    }

    /// The blocks that are there already for the first of `tokens`. At least the last one is left to be computed, to have logits.
    pub fn open(&mut self, lane: u32, tokens: &[u32]) -> Table {
        let mut table = Table { lane, blocks: Vec::new(), len: 0 };
        if !self.sharing {
            return table;
        }
        let most = tokens.len().saturating_sub(1);
        let block = self.block;
        loop {
            let rest = &tokens[table.len..most];
            let alike = |id: &u32| common(&self.nodes[*id as usize].tokens, rest);
            let Some(best) = self.after(&table).iter().copied().max_by_key(alike) else { break };
            let n = alike(&best);
            if n == 0 {
                break;
            }
            self.acquire(best);
            if n == block {
                table.blocks.push(best);
                table.len += n;
                continue;
            }
            // Somebody goes on otherwise after these tokens, or will: they are copied.
            if let Ok(copy) = self.take(&table) {
                self.copies.push((best, copy, n));
                self.nodes[copy as usize].tokens.extend_from_slice(&rest[..n]);
                table.blocks.push(copy);
                table.len += n;
            }
            self.release(best);
            break;
        }
        table
    }

    /// Room for the tokens up to `len`. What was taken stays with the table even if there is not enough.
    pub fn grow(&mut self, table: &mut Table, len: usize) -> Result<(), Full> {
        while table.blocks.len() < self.blocks_for(len) {
            let id = self.take(table)?;
            table.blocks.push(id);
        }
        Ok(())
    }

    /// `tokens` follow those of the table, and their keys and values are in its blocks now.
    pub fn extend(&mut self, table: &mut Table, tokens: &[u32]) {
        for &token in tokens {
            let id = table.blocks[table.len / self.block];
            self.nodes[id as usize].tokens.push(token);
            table.len += 1;
        }
    }

    /// The sequence is no more; its blocks stay for others as long as there is room.
    pub fn close(&mut self, table: Table) {
        self.clock += 1;
        for id in table.blocks.into_iter().rev() {
            self.release(id);
        }
    }

    /// Forgets what a lane has computed; nobody uses it any more.
    pub fn forget(&mut self, lane: u32) {
        let of_lane: Vec<(u64, u32)> =
            self.ends.iter().copied().filter(|(_, id)| self.nodes[*id as usize].lane == lane).collect();
        for (_, id) in of_lane {
            let mut at = Some(id);
            while let Some(id) = at.filter(|id| self.is_end(*id)) {
                at = self.nodes[id as usize].parent;
                self.evict(id);
                self.free.insert(id);
            }
        }
    }

    /// Forgets everything: what is in the blocks cannot be relied on. Nobody has a table.
    pub fn forget_all(&mut self) {
        let sharing = self.sharing;
        *self = Self { sharing, ..Self::new(self.block, self.max) };
    }

    /// The blocks that follow those of the table.
    fn after(&self, table: &Table) -> &[u32] {
        match table.blocks.last() {
            Some(id) => &self.nodes[*id as usize].children,
            None => self.roots.get(&table.lane).map_or(&[], Vec::as_slice),
        }
    }

    /// A block with one user, after those of the table.
    fn take(&mut self, table: &Table) -> Result<u32, Full> {
        if self.free.is_empty() && self.nodes.len() < self.max {
            let new = self.nodes.len()..(self.nodes.len() + BLOCKS_AT_ONCE).min(self.max);
            self.nodes.resize_with(new.end, Node::default);
            self.free.extend(new.map(|id| id as u32));
        }
        let id = match self.free.pop_first() {
            Some(id) => id,
            None => {
                let (_, id) = self.ends.first().copied().ok_or(Full)?;
                self.evict(id);
                id
            }
        };
        let parent = table.blocks.last().copied();
        match parent {
            Some(parent) => self.nodes[parent as usize].children.push(id),
            None => self.roots.entry(table.lane).or_default().push(id),
        }
        self.nodes[id as usize] =
            Node { parent, lane: table.lane, users: 1, used: self.clock, ..Node::default() };
        Ok(id)
    }

    fn acquire(&mut self, id: u32) {
        self.clock += 1;
        let node = &mut self.nodes[id as usize];
        if node.users == 0 {
            self.unused -= 1;
            self.ends.remove(&(node.used, id));
        }
        node.users += 1;
    }

    fn release(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        node.users -= 1;
        if node.users > 0 {
            return;
        }
        node.used = self.clock;
        self.unused += 1;
        if !node.children.is_empty() {
            return;
        }
        let worthless = node.tokens.is_empty() || !self.sharing;
        self.ends.insert((node.used, id));
        if worthless {
            self.evict(id);
            self.free.insert(id);
        }
    }

    fn is_end(&self, id: u32) -> bool {
        let node = &self.nodes[id as usize];
        node.users == 0 && node.children.is_empty()
    }

    /// Takes an unused end off the tree.
    fn evict(&mut self, id: u32) {
        let node = std::mem::take(&mut self.nodes[id as usize]);
        self.ends.remove(&(node.used, id));
        self.unused -= 1;
        match node.parent {
            None => {
                if let Some(roots) = self.roots.get_mut(&node.lane) {
                    roots.retain(|root| *root != id);
                }
            }
            Some(parent) => {
                self.nodes[parent as usize].children.retain(|child| *child != id);
                if self.is_end(parent) {
                    self.ends.insert((self.nodes[parent as usize].used, parent));
                }
            }
        }
    }
}

/// Tokens that both begin with.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
