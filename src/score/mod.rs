//! Numbers about outcomes: the metric registry, scoring a row, aggregates, paired comparison, the board's rows.
//! Pure: outcomes in, numbers out.

pub mod aggregate;
pub mod board;
pub mod bootstrap;
pub mod compare;
pub mod distributions;
pub mod labels;
pub mod ladder;
pub mod power;
pub mod rows;
pub mod stats;
pub mod timeline;
pub mod trilemma;

pub use crate::domain::metric;
