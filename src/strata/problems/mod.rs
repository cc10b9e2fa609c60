//! What is wrong with rows: one pass over all of them for what their own text shows and for duplicates ([`Scan`]), then what their golds show
//! ([`Golds`]). Rows are never held in memory; what is kept of each are 9 bytes, and its neighbours on disk.

pub mod characters;
pub mod golds;
pub mod neighbours;
pub mod personal;
mod scan;

pub use golds::{Golds, Verdict};
pub use scan::{Limits, Scan, empty};
