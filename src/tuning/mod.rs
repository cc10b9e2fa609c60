//! The rungs of the ladder: evaluate, prompts, trajectories, training; judges; and what is looked at before any of them starts.

pub mod check;
pub mod evaluate;
pub mod grow;
pub mod judge;
pub mod prompt;
mod scoring;
pub mod train;
pub mod trajectory;
