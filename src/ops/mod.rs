//! Differentiable operations over buffers, forward and backward by hand.
