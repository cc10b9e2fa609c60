//! Keys and values of the tokens that one sequence has seen.

use super::ModelError;
use super::decoder::Decoder;
use crate::ops::{Mat, MatMut, RopeTable};

/// The cache of one sequence, for a fixed number of positions.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// Per layer `(capacity x kv_heads*head_dim)`, keys rotated.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    width: usize,
    capacity: usize,
    len: usize,
    pub(super) table: RopeTable,
}

impl KvCache {
    /// Room for `capacity` tokens (memory is taken from the system as it fills).
    pub fn new(decoder: &Decoder, capacity: usize) -> Self {
        let capacity = capacity.min(decoder.config.max_positions);
        let width = decoder.attention_shape().kv_cols();
        let blank = || (0..decoder.config.layers).map(|_| vec![0f32; capacity * width]).collect();
        Self { keys: blank(), values: blank(), width, capacity, len: 0, table: RopeTable::default() }
    }

    /// Tokens seen; the position of the next one.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens (to answer another question on the same beginning).
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// That the cache is of such a decoder and `new` more tokens fit.
    pub(super) fn check(&self, decoder: &Decoder, new: usize) -> Result<(), ModelError> {
        if self.keys.len() != decoder.config.layers || self.width != decoder.attention_shape().kv_cols() {
            return Err(ModelError::Request("the key-value cache was made for another model".into()));
        }
        if self.len + new > self.capacity {
            let message = format!(
                "{} tokens and {new} more do not fit the cache of {} positions; shorten the text or raise the limit",
                self.len, self.capacity
            );
            return Err(ModelError::Request(message));
        }
        Ok(())
    }

    /// Stores keys and values of the next tokens; they count after [`KvCache::advance`].
    pub(super) fn store(&mut self, layer: usize, keys: Mat<'_>, values: Mat<'_>) {
        let (from, n) = (self.len * self.width, keys.n_rows());
        MatMut::new(&mut self.keys[layer][from..], n, self.width).copy_from(keys);
        MatMut::new(&mut self.values[layer][from..], n, self.width).copy_from(values);
    }

    /// Keys and values of all tokens and of the `new` stored ones.
    pub(super) fn read(&self, layer: usize, new: usize) -> (Mat<'_>, Mat<'_>) {
        let n = self.len + new;
        (Mat::new(&self.keys[layer], n, self.width), Mat::new(&self.values[layer], n, self.width))
    }

    pub(super) fn advance(&mut self, new: usize) {
        self.len += new;
    }
}
