//! The rungs of the ladder: evaluate, train.
