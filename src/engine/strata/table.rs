//! Stratum, outlier score and flags of every row by its id, in 12 bytes a row whatever the ids are: a million rows take 12 MB.
//!
//! Ids are known by 64 bits of their BLAKE3, sorted. Among a million rows two share theirs once in forty million data sets; one of them
//! would then be shown in the other's stratum.

use crate::strata::outliers::SHOWN_FLAGGED;

/// The flag beside the stratum's place, and the outlier score in thousandths.
const NEAR_DUPLICATE: u32 = 1 << 31;
const SCORE_AT: u32 = 21;
const SCORE: u32 = 0x3ff;
const PLACE: u32 = (1 << SCORE_AT) - 1;

#[derive(Debug, Default)]
pub struct RowTable {
    keys: Vec<u64>,
    places: Vec<u32>,
}

/// A row: its id, its stratum's place, its outlier score from 0 to 1, whether it is a near duplicate.
pub type Placed<'a> = (&'a str, u32, f32, bool);

fn key(id: &str) -> u64 {
    let mut key = [0; 8];
    key.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(key)
}

fn thousandths(score: f32) -> u32 {
    // Rounded down, so that no row is flagged that is not.
    (score.clamp(0.0, 1.0) * 1000.0) as u32
}

fn score(place: u32) -> f32 {
    ((place >> SCORE_AT) & SCORE) as f32 / 1000.0
}

impl RowTable {
    pub fn new<'a>(rows: impl Iterator<Item = Placed<'a>>) -> Self {
        let packed = |(id, place, outlier, near): Placed<'_>| {
            let flag = if near { NEAR_DUPLICATE } else { 0 };
            (key(id), place.min(PLACE) | (thousandths(outlier) << SCORE_AT) | flag)
        };
        let mut rows: Vec<(u64, u32)> = rows.map(packed).collect();
        rows.sort_unstable();
        rows.dedup_by_key(|row| row.0);
        Self { keys: rows.iter().map(|r| r.0).collect(), places: rows.iter().map(|r| r.1).collect() }
    }

    fn find(&self, id: &str) -> Option<u32> {
        self.places.get(self.keys.binary_search(&key(id)).ok()?).copied()
    }

    /// Place of the row's stratum.
    pub fn stratum(&self, id: &str) -> Option<u32> {
        self.find(id).map(|place| place & PLACE)
    }

    /// How unusual the row is, in thousandths from 0 to 1.
    pub fn outlier(&self, id: &str) -> Option<f32> {
        self.find(id).map(score)
    }

    pub fn is_outlier(&self, id: &str) -> bool {
        self.outlier(id).is_some_and(|score| score >= SHOWN_FLAGGED)
    }

    pub fn is_near_duplicate(&self, id: &str) -> bool {
        self.find(id).is_some_and(|place| place & NEAR_DUPLICATE != 0)
    }

    pub fn outliers(&self) -> usize {
        self.places.iter().filter(|place| score(**place) >= SHOWN_FLAGGED).count()
    }

    pub fn near_duplicates(&self) -> usize {
        self.places.iter().filter(|place| **place & NEAR_DUPLICATE != 0).count()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_table_says_what_was_put_into_it(rows in prop::collection::btree_map(".{0,6}", (0_u32..1000, 0.0_f32..=1.0, any::<bool>()), 0..60), other in ".{0,6}") {
            let table = RowTable::new(rows.iter().map(|(id, (at, out, near))| (id.as_str(), *at, *out, *near)));
            let rows: BTreeMap<String, (u32, f32, bool)> = rows;
            for (id, (at, out, near)) in &rows {
                prop_assert_eq!(table.stratum(id), Some(*at));
                prop_assert!((table.outlier(id).unwrap_or(2.0) - out).abs() <= 0.0011);
                prop_assert_eq!((table.is_outlier(id), table.is_near_duplicate(id)), (*out >= SHOWN_FLAGGED, *near));
            }
            prop_assert_eq!(table.outliers(), rows.values().filter(|r| r.1 >= SHOWN_FLAGGED).count());
            prop_assert_eq!(table.near_duplicates(), rows.values().filter(|r| r.2).count());
            prop_assert_eq!(table.stratum(&other).is_some(), rows.contains_key(&other));
        }
    }
}
