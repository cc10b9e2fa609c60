//! The rungs of the ladder: evaluate, train.

pub mod train;
pub mod evaluate;
pub mod evaluate;
pub mod train;
