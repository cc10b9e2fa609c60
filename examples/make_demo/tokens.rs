//! The base model's tokenizer: byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2), trained on the pretraining text.

use std::path::Path;

use anyhow::anyhow;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder, TokenizerImpl};

use super::lessons::{ASSISTANT, END, Lesson, USER};

/// Tokens, the special ones included.
pub const VOCABULARY: usize = 1536;
/// In the order of their ids.
const SPECIAL: [&str; 4] = ["<|pad|>", "<|user|>", "<|assistant|>", END];

/// Train on `texts` and write `tokenizer.json`.
pub fn train(texts: Vec<String>, file: &Path) -> anyhow::Result<()> {
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel> =
        TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_pre_tokenizer(Some(bytes))
            .with_decoder(Some(bytes))
            .build()
            .map_err(|e| anyhow!("{e}"))?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .show_progress(false)
        .special_tokens(SPECIAL.map(|t| AddedToken::from(t, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(|e| anyhow!("{e}"))?;
    tokenizer.save(file, true).map_err(|e| anyhow!("{e}"))
}

/// `tokenizer_config.json`, with the chat template that the lessons follow.
pub fn tokenizer_config() -> serde_json::Value {
    let [user, assistant] = [USER, ASSISTANT].map(|tag| tag.replace('\n', "\\n"));
    let template = [
        "{%- for message in messages -%}",
        "{%- if message['role'] == 'assistant' -%}",
        &format!("{{{{ '{assistant}' + message['content'] + '{END}' }}}}"),
        "{%- else -%}",
        &format!("{{{{ ('' if loop.first else '\\n') + '{user}' + message['content'] + '{END}' }}}}"),
        "{%- endif -%}",
        "{%- endfor -%}",
        &format!("{{%- if add_generation_prompt -%}}{{{{ '{assistant}' }}}}{{%- endif -%}}"),
    ]
    .concat();
    serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1024,
        "add_bos_token": false,
        "eos_token": END,
        "pad_token": SPECIAL[0],
        "clean_up_tokenization_spaces": false,
        "chat_template": template,
    })
}

/// A lesson as tokens; `trained[i]`: token `i` is predicted from those before it.
pub fn encode(tokenizer: &Tokenizer, lesson: &Lesson) -> anyhow::Result<(Vec<u32>, Vec<bool>)> {
    let text = lesson.text();
    let encoding = tokenizer.encode(text.as_str(), false).map_err(|e| anyhow!("{e}"))?;
    let answers = lesson.answers();
    let trained = encoding
        .get_offsets()
        .iter()
        .map(|(start, end)| answers.iter().any(|a| a.start <= *start && *end <= a.end))
        .collect();
    Ok((encoding.get_ids().to_vec(), trained))
}
