//! The squared Euclidean norm of a gradient, in f64 and in a fixed order: the same whatever the number of threads.

/// Elements summed in f32 lanes before they go to f64.
const CHUNK: usize = 4096;

use super::simd::{dot, simd};

simd! {
    /// `sum g_i^2`.
    pub fn squared_norm(g: &[f32]) -> f64 {
        let mut sum = 0f64;
        for chunk in g.chunks(CHUNK) {
            sum += f64::from(dot::<FMA>(chunk, chunk));
        }
        sum
    }
}
