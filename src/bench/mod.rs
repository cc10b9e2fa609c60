//! The measurements behind `tunebench bench`.

pub mod import;
pub mod train_step;
