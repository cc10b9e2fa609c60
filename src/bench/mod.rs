//! The measurements behind `tunebench bench`.

pub mod compare;
pub mod decode;
pub mod dedup;
pub mod frame;
pub mod import;
pub mod kmeans;
pub mod map;
pub mod retrieve;
pub mod scroll;
pub mod strata;
pub mod train_step;
