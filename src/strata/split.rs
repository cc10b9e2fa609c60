//! The four parts. A seeded hash of group or row assigns, within strata; what is assigned stays.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::duplicates::{self, DisjointSets};
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
///
/// `families` are places of rows that say nearly the same: units that a family joins go together, where a row of them went before or else
/// where the one with the least hash goes. All others go where they would go without families. Rows that were given different parts
/// before they were joined keep them.
pub fn assign(rows: &[Member<'_>], families: &[Vec<usize>], shares: &Shares) -> Vec<Part> {
    let mut units: BTreeMap<(bool, &str), Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        units.entry((row.group.is_some(), row.group.unwrap_or(row.id))).or_default().push(i);
    }
    let units: Vec<Unit<'_>> = units
        .into_iter()
        .map(|((grouped, key), members)| Unit {
            hash: unit_hash(shares.seed, if grouped { "group" } else { "row" }, key),
            key: (grouped, key),
            stratum: if shares.stratified { most(members.iter().map(|&i| rows[i].stratum)) } else { "" },
            members,
        })
        .collect();
    // Units that a family joins: the first of a clan by the order of the hashes speaks for it.
    let mut unit_of = vec![0; rows.len()];
    for (u, unit) in units.iter().enumerate() {
        unit.members.iter().for_each(|&i| unit_of[i] = u);
    }
    let mut clans = DisjointSets::new(units.len());
    for family in families {
        for pair in family.windows(2) {
            clans.join(unit_of[pair[0]], unit_of[pair[1]]);
        }
    }
    let mut parts: Vec<Option<Part>> = rows.iter().map(|row| row.part).collect();
    let mut before: HashMap<usize, Vec<Part>> = HashMap::new();
    for (u, unit) in units.iter().enumerate() {
        before.entry(clans.root(u)).or_default().extend(unit.members.iter().filter_map(|&i| rows[i].part));
    }
    // By stratum: units that are assigned, and new ones by their hash.
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut fresh: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (u, unit) in units.iter().enumerate() {
        let own = first_most(unit.members.iter().filter_map(|&i| rows[i].part));
        let clan = before.get(&clans.root(u)).and_then(|parts| first_most(parts.iter().copied()));
        if let Some(part) = own.or(clan) {
            *known.entry(unit.stratum).or_default() += 1;
            for &i in &unit.members {
                parts[i].get_or_insert(part);
            }
        } else {
            fresh.entry(unit.stratum).or_default().push(u);
        }
    }
    let by_hash = |a: &usize, b: &usize| {
        let (a, b) = (&units[*a], &units[*b]);
        a.hash.total_cmp(&b.hash).then_with(|| a.key.cmp(&b.key))
    };
    let mut speaks: HashMap<usize, (usize, Part)> = HashMap::new();
    for (stratum, own) in &mut fresh {
        own.sort_by(by_hash);
        let start = unit_hash(shares.seed, "stratum", stratum);
        let done = known.get(stratum).copied().unwrap_or(0);
        for (step, &u) in own.iter().enumerate() {
            let walked = (start + (done + step) as f64 * GOLDEN).fract();
            let part = shares.part_at(if shares.stratified { walked } else { units[u].hash });
            let first = speaks.entry(clans.root(u)).or_insert((u, part));
            if by_hash(&u, &first.0).is_lt() {
                *first = (u, part);
            }
        }
    }
    for &u in fresh.values().flatten() {
        for &i in &units[u].members {
            parts[i] = speaks.get(&clans.root(u)).map(|(_, part)| *part);
        }
    }
    parts.into_iter().map(|part| part.unwrap_or(Part::Train)).collect()
}

/// A group, or a row of none: what is never torn apart.
struct Unit<'a> {
    hash: f64,
    key: (bool, &'a str),
    stratum: &'a str,
    /// Places of the rows.
    members: Vec<usize>,
}

/// What each row belongs to by some fields: rows that share a value of any of them belong together, and so on along the chain. `values` are
/// those of each field, row by row. Of one field its value; of several `field=value`, the least that a row of the group has.
pub fn groups(rows: usize, fields: &[&str], values: &[Vec<Option<&str>>]) -> Vec<Option<Box<str>>> {
    if let [only] = values {
        return only.iter().map(|value| value.map(Box::from)).collect();
    }
    let mut sets = DisjointSets::new(rows);
    let mut first: HashMap<(usize, &str), usize> = HashMap::new();
    for (field, values) in values.iter().enumerate() {
        for (i, value) in values.iter().enumerate().filter_map(|(i, value)| Some((i, (*value)?))) {
            sets.join(*first.entry((field, value)).or_insert(i), i);
        }
    }
    let mut names: HashMap<usize, Box<str>> = HashMap::new();
    for (&(field, value), &i) in &first {
        let name: Box<str> = format!("{}={value}", fields.get(field).unwrap_or(&"")).into();
        names
            .entry(sets.root(i))
            .and_modify(|least| *least = (*least).clone().min(name.clone()))
            .or_insert(name);
    }
    (0..rows).map(|i| names.get(&sets.root(i)).cloned()).collect()
}

/// Families that can be kept together, and how many rows were in those that cannot.
///
/// Rows that say nearly the same, and are more than half of the smallest part, are a template rather than a repetition: no split could keep
/// its shares with them in one part. Of those only exact copies stay together. `text` is what a row says.
pub fn families<'a>(
    found: Vec<Vec<usize>>,
    rows: usize,
    shares: &Shares,
    text: impl Fn(usize) -> &'a str,
) -> (Vec<Vec<usize>>, usize) {
    let train = 1.0 - shares.eval - shares.dev - shares.reserve;
    let parts = [shares.eval, shares.dev, shares.reserve, train].into_iter().filter(|share| *share > 0.0);
    let most = (0.5 * parts.fold(1.0, f64::min) * rows as f64).max(2.0);
    let (mut kept, mut torn) = (Vec::new(), 0);
    for family in found {
        if family.len() as f64 <= most {
            kept.push(family);
            continue;
        }
        torn += family.len();
        let texts: Vec<&str> = family.iter().map(|&i| text(i)).collect();
        let mut copies: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (first, copy) in duplicates::copies(&texts) {
            let rows = copies.entry(first).or_insert_with(|| vec![family[first as usize]]);
            rows.push(family[copy as usize]);
        }
        kept.extend(copies.into_values());
    }
    (kept, torn)
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
        let parts = assign(&rows, &[], &SHARES);
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
        let parts = assign(&rows, &[], &SHARES);
        let share = count(&parts, Part::Eval) as f64 / 2000.0;
        assert!((share - 0.15).abs() < 0.03, "{share}");
    }

    #[test]
    fn another_seed_assigns_otherwise() {
        let ids: Vec<String> = (0..100).map(|i| format!("r{i}")).collect();
        let rows: Vec<Member<'_>> = ids.iter().map(|id| member(id, "")).collect();
        assert_ne!(assign(&rows, &[], &SHARES), assign(&rows, &[], &Shares { seed: 8, ..SHARES }));
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
            let early = assign(&rows[..cut], &[], &shares);
            let grown: Vec<Member<'_>> =
                rows.iter().enumerate().map(|(i, r)| Member { part: early.get(i).copied(), ..*r }).collect();
            let later = assign(&grown, &[], &shares);
            prop_assert_eq!(&later[..cut], &early[..], "rows keep their part when others are added");
            let mut home: HashMap<&str, Part> = HashMap::new();
            for (row, part) in rows.iter().zip(&later) {
                if let Some(group) = row.group {
                    prop_assert_eq!(*home.entry(group).or_insert(*part), *part, "group {}", group);
                }
            }
            let whole = assign(&rows, &[], &shares);
            let backwards: Vec<Member<'_>> = rows.iter().rev().copied().collect();
            let mut mirrored = assign(&backwards, &[], &shares);
            mirrored.reverse();
            prop_assert_eq!(&mirrored, &whole);
            if !stratified {
                prop_assert_eq!(&whole, &later, "without strata nothing else in the data matters");
            }
        }

        #[test]
        fn a_family_is_in_one_part_whatever_the_order_and_tears_nobody_else_away(
            raw in rows_strategy(),
            links in prop::collection::vec(prop::collection::vec(0..120usize, 2..5), 0..6),
            cut in 0..120usize,
        ) {
            let text: Vec<(String, Option<String>, String)> = raw
                .iter()
                .enumerate()
                .map(|(i, (n, group, stratum, _))| (format!("{n}-{i}"), group.map(|g| g.to_string()), stratum.to_string()))
                .collect();
            let rows: Vec<Member<'_>> =
                text.iter().map(|(id, group, stratum)| Member { id, group: group.as_deref(), stratum, part: None }).collect();
            let n = rows.len();
            let families: Vec<Vec<usize>> =
                links.iter().map(|f| f.iter().map(|i| i % n).collect::<Vec<_>>()).collect();
            let parts = assign(&rows, &families, &SHARES);
            for family in &families {
                prop_assert!(family.iter().all(|&i| parts[i] == parts[family[0]]), "{family:?}");
            }
            for (i, a) in rows.iter().enumerate() {
                for (j, b) in rows.iter().enumerate() {
                    prop_assert!(a.group.is_none() || a.group != b.group || parts[i] == parts[j]);
                }
            }
            let backwards: Vec<Member<'_>> = rows.iter().rev().copied().collect();
            let turned: Vec<Vec<usize>> = families.iter().map(|f| f.iter().map(|i| n - 1 - i).collect()).collect();
            let mut mirrored = assign(&backwards, &turned, &SHARES);
            mirrored.reverse();
            prop_assert_eq!(&mirrored, &parts);
            // Who is joined with nobody goes where it went without families.
            let joined: std::collections::HashSet<usize> = families.iter().flatten().copied().collect();
            let groups: std::collections::HashSet<Option<&str>> = joined.iter().map(|&i| rows[i].group).collect();
            let alone = assign(&rows, &[], &SHARES);
            for i in (0..n).filter(|i| !joined.contains(i)) {
                if rows[i].group.is_none() || !groups.contains(&rows[i].group) {
                    prop_assert_eq!(parts[i], alone[i]);
                }
            }
            // A new row that says what one row with a part says goes where that one went.
            let cut = cut.min(n - 1);
            let early = assign(&rows[..cut], &[], &SHARES);
            let mut grown: Vec<Member<'_>> = rows.iter().enumerate().map(|(i, r)| Member { part: early.get(i).copied(), ..*r }).collect();
            if let (Some(first), last) = (early.first().copied(), n - 1) {
                grown[last].group = None;
                let later = assign(&grown, &[vec![0, last]], &SHARES);
                prop_assert_eq!(later[last], first);
                prop_assert_eq!(&later[..cut], &early[..]);
            }
        }

        #[test]
        fn rows_that_share_a_value_of_any_field_belong_together(raw in prop::collection::vec((prop::option::of("[ab]"), prop::option::of("[bcd]")), 1..20)) {
            let one: Vec<Option<&str>> = raw.iter().map(|(a, _)| a.as_deref()).collect();
            let two: Vec<Option<&str>> = raw.iter().map(|(_, b)| b.as_deref()).collect();
            let got = groups(raw.len(), &["x", "y"], &[one.clone(), two.clone()]);
            for i in 0..raw.len() {
                prop_assert_eq!(got[i].is_none(), one[i].is_none() && two[i].is_none());
                for j in 0..raw.len() {
                    if one[i].is_some() && one[i] == one[j] || two[i].is_some() && two[i] == two[j] {
                        prop_assert_eq!(&got[i], &got[j]);
                    }
                }
            }
            // Of different groups no two rows share anything: `b` of one field is not `b` of the other.
            let names: std::collections::BTreeSet<_> = got.iter().flatten().collect();
            for name in names {
                let own: Vec<usize> = (0..raw.len()).filter(|&i| got[i].as_ref() == Some(name)).collect();
                let reached = own.iter().filter(|&&i| {
                    own.len() == 1 || own.iter().any(|&j| j != i && (one[i].is_some() && one[i] == one[j] || two[i].is_some() && two[i] == two[j]))
                });
                prop_assert_eq!(reached.count(), own.len());
            }
        }
    }

    #[test]
    fn a_template_is_no_family_but_its_copies_are() {
        let texts = ["pay 1 now", "pay 2 now", "PAY 1 now!", "pay 3 now", "hello", "hello"];
        let text = |i: usize| texts[i];
        let (kept, torn) = families(vec![vec![0, 1, 2, 3], vec![4, 5]], 40, &SHARES, text);
        assert_eq!((kept, torn), (vec![vec![0, 2], vec![4, 5]], 4));
        let (kept, torn) = families(vec![vec![0, 1, 2, 3], vec![4, 5]], 80, &SHARES, text);
        assert_eq!((kept.len(), torn), (2, 0));
    }
}
