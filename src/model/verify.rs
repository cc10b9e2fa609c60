//! A model's logits against a reference made elsewhere.

use std::path::Path;

use serde::Serialize;

use super::weights::Weights;
use super::{Decoder, Lora, ModelError};
use crate::ops::Par;

/// What the comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Sequences and tokens compared.
    pub rows: usize,
    pub tokens: usize,
    pub max_abs_diff: f64,
    pub mean_abs_diff: f64,
    /// Share of tokens after which both find the same one likeliest.
    pub argmax_agreement: f64,
    /// Largest difference that passes.
    pub tolerance: f64,
    pub pass: bool,
}

/// Difference that passes, for logits up to 10; larger logits have it in proportion, as rounding in f32 has.
pub const TOLERANCE: f64 = 1e-4;

/// Compares with a safetensors file: `input_ids` `[tokens]` or `[rows, tokens]`, `logits` with the vocabulary as one more
/// dimension, and, where rows are padded, `attention_mask` (1: a token). Rows are computed without their padding.
pub fn verify(
    decoder: &Decoder,
    adapter: Option<&Lora>,
    reference: &Path,
    tolerance: f64,
    par: Par,
) -> Result<Verdict, ModelError> {
    let file = Weights::open_file(reference)?;
    let wrong = |tensor: &str, message: String| Err(ModelError::tensor(reference, tensor, message));
    let (shape, ids) = file.read_ints("input_ids")?;
    let (rows, length) = match *shape.as_slice() {
        [length] => (1, length),
        [rows, length] => (rows, length),
        _ => return wrong("input_ids", format!("has shape {shape:?}; expected [tokens] or [rows, tokens]")),
    };
    if ids.is_empty() {
        return wrong("input_ids", "is empty".into());
    }
    let mask = match file.shape("attention_mask") {
        None => vec![1; ids.len()],
        Some(of) if of != shape => {
            return wrong(
                "attention_mask",
                format!("has shape {of:?}; expected that of input_ids, {shape:?}"),
            );
        }
        Some(_) => file.read_ints("attention_mask")?.1,
    };
    let vocab = decoder.config.vocab;
    let mut expect = shape.clone();
    expect.push(vocab);
    match file.shape("logits") {
        Some(of) if of != expect => {
            return wrong("logits", format!("has shape {of:?}; this model makes {expect:?} of input_ids"));
        }
        _ => {}
    }
    let logits = file.read_vec("logits", &expect)?;
    let (mut tokens, mut agree, mut max, mut sum, mut largest) = (0, 0, 0_f64, 0_f64, 0_f64);
    for row in 0..rows {
        let kept: Vec<usize> = (row * length..(row + 1) * length).filter(|&i| mask[i] != 0).collect();
        let mut row_ids = Vec::with_capacity(kept.len());
        for &i in &kept {
            let Ok(id) = u32::try_from(ids[i]) else {
                return wrong("input_ids", format!("row {row} has the id {}", ids[i]));
            };
            row_ids.push(id);
        }
        if row_ids.is_empty() {
            continue;
        }
        let ours = decoder.logits_all(&row_ids, adapter, par)?;
        for (&i, ours) in kept.iter().zip(ours.chunks_exact(vocab)) {
            let theirs = &logits[i * vocab..(i + 1) * vocab];
            tokens += 1;
            agree += usize::from(argmax(ours) == argmax(theirs));
            for (a, b) in ours.iter().zip(theirs) {
                let diff = f64::from((a - b).abs());
                // A number that is none agrees with nothing.
                max = if diff.is_nan() { f64::INFINITY } else { max.max(diff) };
                sum += diff;
                largest = largest.max(f64::from(b.abs()));
            }
        }
    }
    if tokens == 0 {
        return wrong("attention_mask", "leaves no token to compare".into());
    }
    let tolerance = tolerance * (largest / 10.0).max(1.0);
    Ok(Verdict {
        rows,
        tokens,
        max_abs_diff: max,
        mean_abs_diff: sum / (tokens * vocab) as f64,
        argmax_agreement: agree as f64 / tokens as f64,
        tolerance,
        pass: max <= tolerance,
    })
}

fn argmax(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (i, v)| if *v > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::{MODELS, fixture};
    use super::super::write;
    use super::*;

    #[test]
    fn the_references_of_transformers_pass() {
        for name in MODELS {
            let decoder = Decoder::load(&fixture(name)).unwrap();
            let file = fixture(name).join("reference.safetensors");
            let verdict = verify(&decoder, None, &file, TOLERANCE, Par::SERIAL).unwrap();
            assert!(verdict.pass && verdict.argmax_agreement == 1.0, "{name}: {verdict:?}");
            assert!(
                verdict.rows >= 2
                    && verdict.max_abs_diff > 0.0
                    && verdict.mean_abs_diff < verdict.max_abs_diff
            );
        }
    }

    #[test]
    fn one_changed_weight_fails() {
        for (name, tensor) in [
            ("llama", "model.layers.1.mlp.down_proj.bias"),
            ("mistral", "model.norm.weight"),
            ("qwen2", "model.layers.0.self_attn.k_proj.bias"),
            ("qwen3", "model.layers.1.self_attn.q_norm.weight"),
        ] {
            let mut decoder = Decoder::load(&fixture(name)).unwrap();
            let at = decoder.tensors().iter().find(|p| p.name == tensor).unwrap().range();
            decoder.values_mut()[at][1] += 0.3;
            let file = fixture(name).join("reference.safetensors");
            let verdict = verify(&decoder, None, &file, TOLERANCE, Par::SERIAL).unwrap();
            assert!(!verdict.pass, "{name} {tensor}: {verdict:?}");
        }
    }

    #[test]
    fn a_reference_of_another_model_or_without_its_parts_is_named() {
        let decoder = Decoder::load(&fixture("qwen2")).unwrap();
        let say = |file: &Path| verify(&decoder, None, file, TOLERANCE, Par::SERIAL).unwrap_err().to_string();
        let other = say(&fixture("llama").join("reference.safetensors"));
        assert!(other.contains("`logits`") && other.contains("192"), "{other}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("r.safetensors");
        assert!(say(&file).contains("missing"));
        write::safetensors(&file, &[("input_ids", &[2], &[1.0, 2.0])], &[]).unwrap();
        assert!(say(&file).contains("`input_ids`"));
        write::safetensors(&file, &[("logits", &[2], &[1.0, 2.0])], &[]).unwrap();
        assert!(say(&file).contains("`input_ids`"));
    }
}
