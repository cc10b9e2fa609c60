//! Configurations, weights, decoder, adapters, generation, chat templates.

pub mod base;
pub mod chat;
pub mod config;
pub mod constraint;
pub mod decoder;
pub mod error;
pub mod files;
mod forward;
pub mod generate;
pub mod hub;
pub mod info;
pub mod kv_cache;
pub mod labels;
mod linear;
pub mod lora;
mod lora_peft;
#[cfg(test)]
mod oracle;
mod pissa;
pub mod sampling;
pub mod tokenizer;
pub mod trainable;
pub mod verify;
pub mod weights;
pub mod write;

pub use base::Base;
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use error::ModelError;
pub use forward::Feed;
pub use kv_cache::KvCache;
pub use lora::Lora;
pub use trainable::{AdamW, Sequence, StepLoss, Trainable};
