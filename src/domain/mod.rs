//! Ids and plain types shared by all. No input, no output, no clock.

pub mod address;
pub mod api;
pub mod board;
pub mod candidate;
pub mod diff;
pub mod event;
pub mod finding;
pub mod imported;
pub mod keys;
pub mod metric;
pub mod outcome;
pub mod play;
pub mod preflight;
pub mod report;
pub mod resident;
pub mod rng;
pub mod row;
pub mod run;
pub mod schema;
pub mod sets;
pub mod settings;
pub mod steer;
pub mod sweep;
pub mod tool;
pub mod trace;
pub mod words;
