//! tunebench: a terminal workbench for tuning language models by hand.
//!
//! ```text
//! client (cli, tui) --unix socket--> engine (one per workspace) --run folder + control socket--> worker (one per run)
//! draws, never blocks                owns the store, queues runs                                 owns the model
//! ```
//!
//! Modules stand in the order of the house: a module names only modules that stand after it.

pub mod cli;

pub mod bench;

pub mod tui;

pub mod engine;

pub mod worker;

pub mod serve;

pub mod tuning;

pub mod strata;

pub mod score;

pub mod pipeline;

pub mod retrieve;

pub mod embed;

pub mod backend;

pub mod model;

pub mod ops;

pub mod data;

pub mod store;

pub mod workspace;

pub mod machine;

pub mod domain;
