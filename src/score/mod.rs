//! Numbers about outcomes: the metric registry, scoring a row, aggregates, paired comparison, the board's rows.
//! Pure: outcomes in, numbers out.

pub mod aggregate;
pub mod agreement;
pub mod alpha;
pub mod board;
pub mod bootstrap;
pub mod calibration;
pub mod calls;
pub mod compare;
pub mod detail;
pub mod distributions;
pub mod expression;
pub mod honest;
pub mod intent;
pub mod labels;
pub mod ladder;
pub mod power;
pub mod preference;
pub mod remedy;
pub mod repeats;
pub mod rouge;
pub mod rows;
pub mod scaling;
pub mod scorer;
pub mod sets;
pub mod stats;
pub mod text;
pub mod timeline;
pub mod trilemma;

pub use crate::domain::metric;
