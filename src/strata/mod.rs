//! Strata: clusters, names, outliers, near-duplicates, sampling, splits.
