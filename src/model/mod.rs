//! Configurations, weights, decoder, adapters, generation, chat templates.

pub mod chat;
pub mod config;
pub mod error;
pub mod files;
pub mod tokenizer;
pub mod weights;

pub use error::ModelError;
