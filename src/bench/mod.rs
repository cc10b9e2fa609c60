//! The measurements behind `tunebench bench`.
