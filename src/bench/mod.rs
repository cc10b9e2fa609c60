//! The measurements behind `tunebench bench`.

pub mod frame;
pub mod import;
