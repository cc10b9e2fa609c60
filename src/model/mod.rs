//! Configurations, weights, decoder, adapters, generation, chat templates.

pub mod base;
pub mod chat;
pub mod config;
pub mod constraint;
pub mod decode;
pub mod decoder;
pub mod encoder;
pub mod error;
pub mod files;
pub mod hub;
pub mod info;
pub mod labels;
mod linear;
pub mod lora;
mod lora_peft;
pub mod mean_state;
#[cfg(test)]
mod oracle;
mod pissa;
pub mod sampling;
pub mod sentence;
pub mod tokenizer;
pub mod trainable;
pub mod verify;
pub mod weights;
pub mod write;

pub use base::Base;
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use error::ModelError;
pub use lora::Lora;
pub use trainable::{AdamW, Sequence, StepLoss, Trainable};
