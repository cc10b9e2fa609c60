//! A causal language model as an embedder: the mean over a text's tokens of the last hidden state, after the final norm; length 1.
//!
//! The state of a token has seen only what stands before it, so that an encoder's vectors tell more; but the model is there already. Each
//! text goes through the layers by itself: its vector does not hang on its neighbours.

use std::path::Path;

use super::sentence::{Pooling, Sentence, to_length_one};
use super::tokenizer::Tokenizer;
use super::{Base, ModelConfig, ModelError};
use crate::ops::Par;

/// Texts are cut here, where the folder does not ask for less: the time goes with the square of the length.
pub const LONGEST: usize = 2_048;

/// A language model with its tokenizer; the weights are shared with whoever answers by it in this process.
#[derive(Debug)]
pub struct MeanState {
    base: Base,
    tokenizer: Tokenizer,
    sentence: Sentence,
}

impl MeanState {
    /// Whether a folder holds a language model.
    pub fn is_one(dir: &Path) -> bool {
        ModelConfig::load(dir).is_ok()
    }

    /// The model in `dir` whose content is `hash`.
    ///
    /// # Errors
    /// A folder that holds no language model; a pooling that is not the mean.
    pub fn open(dir: &Path, hash: &str) -> Result<Self, ModelError> {
        let config = ModelConfig::load(dir)?;
        let sentence = Sentence::load(dir, config.max_positions.min(LONGEST))?;
        if sentence.pooling != Pooling::Mean {
            let message = "asks for the first token's state, which has seen no other; the mean can be done";
            return Err(ModelError::file(&dir.join("modules.json"), message));
        }
        let tokenizer = Tokenizer::load(dir)?;
        Ok(Self { base: Base::open(dir, hash, false)?, tokenizer, sentence })
    }

    pub fn dimensions(&self) -> usize {
        self.base.decoder.config.hidden
    }

    pub fn sentence(&self) -> &Sentence {
        &self.sentence
    }

    /// One vector of length 1 for each text, in their order (texts, dimensions); zeros for a text of no tokens.
    ///
    /// # Errors
    /// A text that the tokenizer does not take.
    pub fn embed(&self, texts: &[&str], par: Par) -> Result<Vec<f32>, ModelError> {
        let hidden = self.dimensions();
        let mut out = Vec::with_capacity(texts.len() * hidden);
        for text in texts {
            let tokens = self.sentence.tokens(&self.tokenizer, text)?;
            let mut vector = vec![0.0_f32; hidden];
            if !tokens.is_empty() {
                for state in self.base.decoder.states_all(&tokens, par)?.chunks_exact(hidden) {
                    vector.iter_mut().zip(state).for_each(|(sum, x)| *sum += x);
                }
            }
            to_length_one(&mut vector);
            out.extend(vector);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tokenizer::tests::{MODELS, fixture};

    /// `tests/reference/mean_states.py`
    #[derive(serde::Deserialize)]
    struct Reference {
        texts: Vec<String>,
        vectors: Vec<Vec<f32>>,
    }

    fn reference(name: &str) -> Reference {
        serde_json::from_slice(&std::fs::read(fixture(name).join("mean_states.json")).unwrap()).unwrap()
    }

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn vectors_are_those_of_transformers() {
        for name in MODELS {
            let model = MeanState::open(&fixture(name), name).unwrap();
            let want = reference(name);
            let texts: Vec<&str> = want.texts.iter().map(String::as_str).collect();
            let got = model.embed(&texts, Par::SERIAL).unwrap();
            for ((text, got), want) in texts.iter().zip(got.chunks(model.dimensions())).zip(&want.vectors) {
                let cosine = cosine(got, want);
                assert!(cosine >= 0.999_99, "{name}: {cosine} of {text:?}");
                assert!((got.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
            }
            // A vector that is always the same would pass the above for one of them.
            assert!(cosine(&want.vectors[0], &want.vectors[1]) < 0.99, "{name}");
        }
    }

    #[test]
    fn neither_neighbours_nor_their_order_change_a_bit_of_a_vector() {
        let model = MeanState::open(&fixture("qwen3"), "qwen3").unwrap();
        let texts = reference("qwen3").texts;
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let whole = model.embed(&texts, Par::SERIAL).unwrap();
        let mut whole: Vec<&[f32]> = whole.chunks(model.dimensions()).collect();
        for (text, want) in texts.iter().zip(&whole) {
            assert_eq!(&model.embed(&[text], Par::SERIAL).unwrap(), want, "{text:?}");
        }
        texts.reverse();
        whole.reverse();
        assert_eq!(model.embed(&texts, Par::SERIAL).unwrap(), whole.concat());
        let empty = model.embed(&[""], Par::SERIAL).unwrap();
        assert!(empty.iter().all(|x| x.is_finite()));
        let long = "card ".repeat(40_000);
        assert!(model.sentence().tokens(&model.tokenizer, &long).unwrap().len() <= LONGEST);
    }
}
