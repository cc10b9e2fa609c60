//! The measurements behind `tunebench bench`.

pub mod compare;
pub mod decode;
pub mod frame;
pub mod import;
pub mod retrieve;
pub mod train_step;
