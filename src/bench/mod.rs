//! The measurements behind `tunebench bench`.

pub mod import;
