//! tunebench: a terminal workbench for tuning language models by hand.
//!
//! One crate, library and binary. Modules stand below in the order of the house: a module names
//! only modules that stand after it. `domain` holds the words everybody shares.
//!
//! ```text
//! client (cli, tui) --unix socket--> engine (one per workspace) --run folder--> worker (one per run)
//! ```

pub mod domain;
