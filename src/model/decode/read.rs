//! Logits or states of a whole text, without an answer.

use super::batch::{Feed, Wants};
use super::pages::{BLOCK, Pages};
use super::pass::Host;
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
        let mut all = Vec::with_capacity(tokens.len() * self.config.vocab);
        self.read(tokens, adapter, &mut |pages, feed, host| {
            let outcome = self.pass(pages, &[feed], host, par);
            outcome.logits(0).for_each(|row| all.extend_from_slice(row));
        })?;
        Ok(all)
    }

    /// The last states of every token of one sequence after the final norm, row by row (tokens, hidden).
    ///
    /// # Errors
    /// As [`Self::logits_all`].
    pub fn states_all(&self, tokens: &[u32], par: Par) -> Result<Vec<f32>, ModelError> {
        let mut all = Vec::with_capacity(tokens.len() * self.config.hidden);
        self.read(tokens, None, &mut |pages, feed, host| {
            self.states(pages, &[feed], host, par);
            all.extend_from_slice(&host.normed[..feed.tokens.len() * self.config.hidden]);
        })?;
        Ok(all)
    }

    /// The sequence in pieces, each with all before it; something is wanted of every token.
    fn read(
        &self,
        tokens: &[u32],
        adapter: Option<&Lora>,
        piece: &mut dyn FnMut(&mut Pages, Feed<'_>, &mut Host),
    ) -> Result<(), ModelError> {
        if let Some(adapter) = adapter {
            adapter.check(self)?;
        }
        if tokens.is_empty() {
            return Err(ModelError::Request("no token to read: the text is empty".into()));
        }
        self.check_tokens(tokens, 0)?;
        let mut pages = Pages::new(BLOCK, u32::MAX as usize);
        let (mut table, mut host) = (pages.open(0, &[]), Host::default());
        for tokens in tokens.chunks(TOKENS_AT_ONCE) {
            let start = table.len();
            // As many blocks as there is memory for.
            let _ = pages.grow(&mut table, start + tokens.len());
            let (parents, wants, choice) = (None, Wants::All, None);
            let feed = Feed { table: &table, start, adapter, lane: 0, tokens, parents, wants, choice };
            piece(&mut pages, feed, &mut host);
            pages.extend(&mut table, tokens);
        }
        Ok(())
    }
}
