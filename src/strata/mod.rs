//! Strata: clusters of what rows say, crossed with their metadata; names, outliers, duplicates, a map; parts and samples drawn within them.

pub mod artifact;
pub mod build;
pub mod dimensions;
pub mod duplicates;
pub mod hand;
pub mod kmeans;
pub mod naming;
pub mod outliers;
pub mod sample;
pub mod split;
