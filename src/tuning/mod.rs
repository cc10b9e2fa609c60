//! The rungs of the ladder: evaluate, train; and what is looked at before any of them starts.

pub mod check;
pub mod evaluate;
pub mod judge;
pub mod prompt;
pub mod train;
pub mod trajectory;
