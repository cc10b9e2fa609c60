//! The `train` run: supervised fine-tuning on the answers of the train part, as LoRA or of every weight.
//!
//! [`fit()`] is the loop over sequences in memory and needs nothing but a model and a reporter; [`run()`] feeds it from a run
//! folder and turns what comes out into a candidate with a score.

mod artifact;
mod device;
pub mod doctor;
mod evaluation;
pub mod examples;
pub mod export;
pub mod fit;
mod fixed_rows;
pub mod order;
mod pace;
mod preflight;
mod preview;
pub mod range;
mod requests;
mod run;
pub mod schedule;
pub mod state;
mod step;
mod subject;
mod too_large;

#[cfg(test)]
mod tests;

pub use artifact::adapter_hash;
pub use fit::{Data, End, Example, Fitted, Past, fit, no_samples};
pub use preview::preview;
pub use run::run;
pub use too_large::TooLarge;
