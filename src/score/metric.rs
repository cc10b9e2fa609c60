//! The registry of metrics, under the name that scoring knows it by.

pub use crate::domain::metric::*;
