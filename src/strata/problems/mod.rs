//! What is wrong with rows: one pass over all of them for what their own text shows and for duplicates ([`Scan`]), then what their golds show
//! ([`Golds`]). Rows are never held in memory; what is kept of each are 9 bytes, and its neighbours and what a classifier
//! says of it on disk.

pub mod characters;
pub mod golds;
pub mod held_out;
pub mod neighbours;
pub mod personal;
mod scan;

pub use golds::{Golds, Verdict};
pub use held_out::HeldOut;
pub use scan::{Limits, Scan, empty};
