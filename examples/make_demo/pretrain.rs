//! Pretraining of the base model, by tunebench's own training of all parameters.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{anyhow, ensure};
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tokenizers::Tokenizer;
use tunebench::model::Decoder;
use tunebench::model::config::ModelConfig;
use tunebench::model::trainable::{AdamW, Sequence, Trainable};

use super::lessons::Teacher;
use super::lexicon::Lexicon;
use super::random::Random;
use super::tokens;

const STEPS: u64 = 1600;
/// Lessons of one step.
const BATCH: usize = 32;
const PEAK: f64 = 2e-3;
const WARMUP: u64 = 50;
const CLIP: f32 = 1.0;
/// Deviation of the first weights. At the usual 0.02 a model this narrow does not read its topics for a thousand steps.
const DEVIATION: f64 = 0.06;
const SEED: u64 = 1;

/// What `config.json` says: 2.07 million parameters.
fn config() -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "head_dim": 32,
        "intermediate_size": 512,
        "hidden_act": "silu",
        "vocab_size": tokens::VOCABULARY,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": null,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16"
    })
}

/// Reads `tokenizer.json` in `dir`, trains, and writes the weights and the configuration beside it.
pub fn train(words: &Lexicon, desk: &BTreeSet<String>, dir: &Path, threads: usize) -> anyhow::Result<()> {
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).map_err(|e| anyhow!("{e}"))?;
    let mut decoder = Decoder::random(ModelConfig::parse(&config(), &dir.join("config.json"))?, SEED)?;
    widen(&mut decoder);
    println!("{} parameters, {threads} threads", decoder.parameters());

    let mut model = Trainable::full(decoder, threads);
    let mut teacher = Teacher::new(words, SEED);
    let started = Instant::now();
    let (mut tokens, mut loss_sum, mut trained) = (0, 0.0, 0);
    for step in 1..=STEPS {
        let way = (step - 1) as f64 / STEPS as f64;
        let mut batch = Vec::with_capacity(BATCH);
        for _ in 0..BATCH {
            let lesson = teacher.lesson(way);
            ensure!(
                lesson.messages.iter().all(|m| !desk.contains(m)),
                "a message of the demo's data is in the text"
            );
            let (tokens, trained) = tokens::encode(&tokenizer, &lesson)?;
            batch.push(Sequence { tokens, trained });
        }
        let rows: Vec<&Sequence> = batch.iter().collect();
        let targets: usize = rows.iter().map(|r| r.targets()).sum();
        model.zero_grad();
        let loss = model.forward_backward(&rows, 1.0 / targets as f32)?;
        let settings =
            AdamW { lr: rate(step) as f32, beta1: 0.9, beta2: 0.98, epsilon: 1e-8, weight_decay: 0.05 };
        model.step(&settings, CLIP);
        tokens += rows.iter().map(|r| r.tokens.len()).sum::<usize>();
        loss_sum += loss.loss_sum;
        trained += loss.trained;
        if step % 50 == 0 {
            let seconds = started.elapsed().as_secs();
            println!(
                "step {step}/{STEPS}  loss {:.3}  {tokens} tokens  {seconds} s",
                loss_sum / trained as f64
            );
            (loss_sum, trained) = (0.0, 0);
        }
        if step % 400 == 0 {
            save(model.decoder(), dir)?;
        }
    }
    save(model.decoder(), dir)
}

/// Warm-up, then a cosine down to a twentieth.
fn rate(step: u64) -> f64 {
    let warm = (step as f64 / WARMUP as f64).min(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / STEPS as f64).cos());
    PEAK * warm * (0.05 + 0.95 * cosine)
}

/// Fresh weights of [`DEVIATION`] for every matrix.
fn widen(decoder: &mut Decoder) {
    let mut r = Random::new(SEED);
    let spans: Vec<_> = decoder.tensors().iter().filter(|t| t.shape.len() == 2).map(|t| t.range()).collect();
    for span in spans {
        for value in &mut decoder.values_mut()[span] {
            *value = (DEVIATION * r.normal()) as f32;
        }
    }
}

/// Writes the folder as transformers reads it, weights in bf16.
fn save(decoder: &Decoder, dir: &Path) -> anyhow::Result<()> {
    let tensors: Vec<(&str, &[usize], Vec<u8>)> = decoder
        .tensors()
        .iter()
        .map(|t| {
            let values = &decoder.values()[t.range()];
            let bytes = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
            (t.name.as_str(), t.shape.as_slice(), bytes)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::BF16, shape.to_vec(), bytes)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), &dir.join("model.safetensors"))?;
    let write = |name: &str, value: serde_json::Value| super::write(&dir.join(name), &format!("{value:#}\n"));
    write("config.json", config())?;
    write("generation_config.json", json!({ "eos_token_id": 3, "pad_token_id": 0, "do_sample": false }))?;
    write("tokenizer_config.json", tokens::tokenizer_config())
}
