//! Strata: clusters of what rows say, crossed with their metadata; names, outliers, duplicates, a map; parts and samples drawn within them.

pub mod artifact;
pub mod build;
pub mod dimensions;
pub mod duplicates;
mod grams;
pub mod groups;
pub mod hand;
pub mod kmeans;
pub mod layout;
pub mod leaks;
pub mod naming;
pub mod outliers;
pub mod problems;
pub mod rows;
pub mod sample;
pub mod split;
