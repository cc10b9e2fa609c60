//! The `train` run.

pub mod fit;
pub mod order;
pub mod schedule;
pub mod state;

#[cfg(test)]
mod tests;
