//! The four parts. A seeded hash of group or row assigns, within strata; what is assigned stays.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::domain::row::Part;

/// `[data.split]`: shares of the parts; the rest is train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    pub dev: f64,
    pub eval: f64,
    pub reserve: f64,
    /// Keep the shares within each stratum.
    pub stratified: bool,
    pub seed: u64,
}

/// A row to assign.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    pub id: &'a str,
    /// Rows of a group never straddle parts.
    pub group: Option<&'a str>,
    /// Within this the shares are kept: the stratum, or what stands for it before there are strata (dimensions and gold).
    pub stratum: &'a str,
    /// The part it has already.
    pub part: Option<Part>,
}

/// Fractional part of the golden ratio: of all step sizes it spreads points over 0..1 most evenly, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// The part of each row, in their order.
///
/// A part once given is kept. Without strata a unit (group or row) goes where its hash falls in 0..1, cut at the shares: nothing else in the
/// data changes that. Within strata, new units are taken in the order of their hashes and walk 0..1 in golden steps from a start that the
/// stratum's hash gives, so each stratum has its shares to within about a row, and rare strata reach every part in fair measure.
/// A group belongs to the stratum of most of its rows, and goes where a row of it went before.
pub fn assign(rows: &[Member<'_>], shares: &Shares) -> Vec<Part> {
    let mut units: BTreeMap<(bool, &str), Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        units.entry((row.group.is_some(), row.group.unwrap_or(row.id))).or_default().push(i);
    }
    let mut parts: Vec<Option<Part>> = rows.iter().map(|row| row.part).collect();
    // By stratum: units that are assigned, and new ones by their hash.
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut fresh: BTreeMap<&str, Vec<(f64, Vec<usize>)>> = BTreeMap::new();
    for ((grouped, key), members) in units {
        let stratum = if shares.stratified { most(members.iter().map(|&i| rows[i].stratum)) } else { "" };
        if let Some(part) = first_most(members.iter().filter_map(|&i| rows[i].part)) {
            *known.entry(stratum).or_default() += 1;
            for &i in &members {
                parts[i].get_or_insert(part);
            }
        } else {
            let kind = if grouped { "group" } else { "row" };
            fresh.entry(stratum).or_default().push((unit_hash(shares.seed, kind, key), members));
        }
    }
    for (stratum, mut units) in fresh {
        units.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let start = unit_hash(shares.seed, "stratum", stratum);
        let before = known.get(stratum).copied().unwrap_or(0);
        for (step, (hash, members)) in units.into_iter().enumerate() {
            let at = if shares.stratified { (start + (before + step) as f64 * GOLDEN).fract() } else { hash };
            for i in members {
                parts[i] = Some(shares.part_at(at));
            }
        }
    }
    parts.into_iter().map(|part| part.unwrap_or(Part::Train)).collect()
}

impl Shares {
    fn part_at(&self, at: f64) -> Part {
        let mut edge = 0.0;
        for (part, share) in [(Part::Eval, self.eval), (Part::Dev, self.dev), (Part::Reserve, self.reserve)] {
            edge += share.max(0.0);
            if at < edge {
                return part;
            }
        }
        Part::Train
    }
}

/// Uniform in 0..1, from the first 8 bytes of the BLAKE3 of seed, kind and key.
fn unit_hash(seed: u64, kind: &str, key: &str) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(kind.as_bytes()).update(&[0]).update(key.as_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    (u64::from_le_bytes(first) >> 11) as f64 / (1u64 << 53) as f64
}

/// The most common item, of equals the least; "" of none.
fn most<'a>(items: impl Iterator<Item = &'a str>) -> &'a str {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    items.for_each(|item| *counts.entry(item).or_default() += 1);
    counts.into_iter().min_by_key(|(item, n)| (std::cmp::Reverse(*n), *item)).map_or("", |(item, _)| item)
}

fn first_most(parts: impl Iterator<Item = Part>) -> Option<Part> {
    let mut counts: BTreeMap<Part, usize> = BTreeMap::new();
    parts.for_each(|part| *counts.entry(part).or_default() += 1);
    counts.into_iter().min_by_key(|(part, n)| (std::cmp::Reverse(*n), *part)).map(|(part, _)| part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHARES: Shares = Shares { dev: 0.10, eval: 0.15, reserve: 0.10, stratified: true, seed: 7 };

    fn count(parts: &[Part], part: Part) -> usize {
        parts.iter().filter(|p| **p == part).count()
    }

    fn member<'a>(id: &'a str, stratum: &'a str) -> Member<'a> {
        Member { id, group: None, stratum, part: None }
    }

    #[test]
    fn each_stratum_has_its_shares() {
        let ids: Vec<String> = (0..1000).map(|i| format!("r{i}")).collect();
        let strata = ["a", "b", "b", "c", "c", "c", "c", "c", "c", "c"];
        let rows: Vec<Member<'_>> =
            ids.iter().enumerate().map(|(i, id)| member(id, strata[i % 10])).collect();
        let parts = assign(&rows, &SHARES);
        for stratum in ["a", "b", "c"] {
            let own: Vec<Part> =
                rows.iter().zip(&parts).filter(|(r, _)| r.stratum == stratum).map(|(_, p)| *p).collect();
            for (part, share) in
                [(Part::Eval, 0.15), (Part::Dev, 0.10), (Part::Reserve, 0.10), (Part::Train, 0.65)]
            {
                let off = (count(&own, part) as f64 - share * own.len() as f64).abs();
                assert!(off <= 2.0, "{stratum} {part:?}: off by {off}");
            }
        }
    }

    #[test]
    fn strata_of_one_row_reach_every_part() {
        let ids: Vec<String> = (0..2000).map(|i| format!("r{i}")).collect();
        let rows: Vec<Member<'_>> = ids.iter().map(|id| member(id, id)).collect();
        let parts = assign(&rows, &SHARES);
        let share = count(&parts, Part::Eval) as f64 / 2000.0;
        assert!((share - 0.15).abs() < 0.03, "{share}");
    }

    #[test]
    fn another_seed_assigns_otherwise() {
        let ids: Vec<String> = (0..100).map(|i| format!("r{i}")).collect();
        let rows: Vec<Member<'_>> = ids.iter().map(|id| member(id, "")).collect();
        assert_ne!(assign(&rows, &SHARES), assign(&rows, &Shares { seed: 8, ..SHARES }));
    }

    fn rows_strategy() -> impl Strategy<Value = Vec<(u16, Option<u8>, u8, Option<u8>)>> {
        prop::collection::vec((any::<u16>(), prop::option::of(0..12u8), 0..4u8, Just(None)), 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn parts_stay_groups_hold_together_and_order_does_not_matter(raw in rows_strategy(), cut in 0..120usize, stratified: bool) {
            let shares = Shares { stratified, ..SHARES };
            let text: Vec<(String, Option<String>, String)> = raw
                .iter()
                .enumerate()
                .map(|(i, (n, group, stratum, _))| (format!("{n}-{i}"), group.map(|g| g.to_string()), stratum.to_string()))
                .collect();
            let rows: Vec<Member<'_>> =
                text.iter().map(|(id, group, stratum)| Member { id, group: group.as_deref(), stratum, part: None }).collect();
            let cut = cut.min(rows.len());
            let early = assign(&rows[..cut], &shares);
            let grown: Vec<Member<'_>> =
                rows.iter().enumerate().map(|(i, r)| Member { part: early.get(i).copied(), ..*r }).collect();
            let later = assign(&grown, &shares);
            prop_assert_eq!(&later[..cut], &early[..], "rows keep their part when others are added");
            let mut home: HashMap<&str, Part> = HashMap::new();
            for (row, part) in rows.iter().zip(&later) {
                if let Some(group) = row.group {
                    prop_assert_eq!(*home.entry(group).or_insert(*part), *part, "group {}", group);
                }
            }
            let whole = assign(&rows, &shares);
            let backwards: Vec<Member<'_>> = rows.iter().rev().copied().collect();
            let mut mirrored = assign(&backwards, &shares);
            mirrored.reverse();
            prop_assert_eq!(&mirrored, &whole);
            if !stratified {
                prop_assert_eq!(&whole, &later, "without strata nothing else in the data matters");
            }
        }
    }
}
