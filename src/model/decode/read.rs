//! Logits of a whole text, without an answer.

use super::pages::Pages;
use super::pass::{Buffers, Feed, Wants};
use crate::model::{Decoder, Lora, ModelError};
use crate::ops::Par;

/// Tokens that go through the layers at once: bounds the memory of a long text.
const TOKENS_AT_ONCE: usize = 512;

impl Decoder {
    /// Logits after every token of one sequence, row by row (tokens x vocab).
    ///
    /// # Errors
    /// A token beyond the vocabulary, more tokens than the model has positions, an adapter of another model.
    pub fn logits_all(
        &self,
        tokens: &[u32],
        adapter: Option<&Lora>,
        par: Par,
    ) -> Result<Vec<f32>, ModelError> {
        if let Some(adapter) = adapter {
            adapter.check(self)?;
        }
        if tokens.is_empty() {
            return Err(ModelError::Request("no token to read: the text is empty".into()));
        }
        self.check_tokens(tokens, 0)?;
        let mut pages = Pages::new(self, usize::MAX);
        let (mut table, mut buffers) = (pages.open(0, &[]), Buffers::default());
        let mut all = Vec::with_capacity(tokens.len() * self.config.vocab);
        for tokens in tokens.chunks(TOKENS_AT_ONCE) {
            let start = table.len();
            // As many blocks as there is memory for.
            let _ = pages.grow(&mut table, start + tokens.len());
            let feed =
                Feed { table: &table, start, adapter, lane: 0, tokens, parents: None, wants: Wants::All };
            let logits = self.pass(&mut pages, &[feed], &mut buffers, par);
            logits.of(0).for_each(|row| all.extend_from_slice(row));
            pages.extend(&mut table, tokens);
        }
        Ok(all)
    }
}
