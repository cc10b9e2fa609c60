//! Generation: many requests at once, one pass over the weights for all of them.
//!
//! [`Engine`] takes requests as they come and moves all of them on with each step: prompts in chunks, answers token by token. Keys
//! and values stand in blocks ([`pages`]); requests that begin alike share them, and what they share is computed once and read
//! once. An answer depends on its request alone, not on what is answered beside it or was answered before.

mod batch;
mod compute;
mod device;
mod engine;
mod forks;
mod held;
mod pages;
mod pass;
mod read;
mod sequence;
mod speculation;

pub use compute::OnGpu;
pub use engine::{Engine, Event, Generation, Settings};
pub use forks::Scoring;
pub use held::Held;
pub use sequence::{Done, Lane, Request, RequestId, Work};
pub use speculation::{Draft, Lookup, Speculation};
