//! The rungs of the ladder: evaluate, train.

pub mod evaluate;
pub mod train;
