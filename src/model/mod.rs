//! Configurations, weights, decoder, adapters, generation, chat templates.

pub mod config;
