//! Strata as people arranged them: the clusters that a run found, then every split, merge and name, in the order in which they were made.
//!
//! A decision holds on to rows ([`Kin`]), because clusters get other numbers with every build. The rule, on whatever clusters there are:
//!
//! - A set of rows is **found** in the cluster that has more than half of those of its rows that are still in the data; a quarter of them must be.
//! - **Merge**: where the sets are found in different clusters, these become one, under the id of the largest; where they are found in one, there
//!   is nothing to do.
//! - **Split**: where sets are found in one cluster, each of its rows goes to the set whose mean vector is nearest; where they are found in
//!   different ones, there is nothing to do.
//! - **Name**: the group, cluster or stratum in which the set is found gets it; of two names the later. A merge keeps a name given by hand.
//! - What is not found is told ([`ActState::Failed`]) and changes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::artifact::{Cluster, ClusterGroup, RowPlace, StrataArtifact, TERMS};
use super::kmeans::squared_distance;
use crate::domain::board::{StrataGroup, Stratum};
use crate::domain::strata::{Act, ActState, ActTold, Kin, Level, WITNESSES};
use crate::domain::words::counted;
use crate::embed::Flat;

/// Of the rows that a decision was made on, at least one in so many must still be there.
const STILL_THERE: usize = 4;

/// The strata as they stand.
#[derive(Debug, Default)]
pub struct Arranged {
    pub clusters: Vec<Cluster>,
    pub groups: Vec<StrataGroup>,
    /// The largest first.
    pub strata: Vec<Stratum>,
    /// Place in `strata` of each row of the artifact, and in `clusters`.
    pub stratum_of: Vec<u32>,
    pub cluster_of: Vec<u32>,
    pub told: Vec<ActTold>,
}

/// At most [`WITNESSES`] of the rows, drawn by a hash of their ids: the same rows whatever their order.
pub fn witnesses<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut drawn: BTreeSet<([u8; 32], &str)> = BTreeSet::new();
    for id in ids {
        drawn.insert((*blake3::hash(id.as_bytes()).as_bytes(), id));
        if drawn.len() > WITNESSES {
            drawn.pop_last();
        }
    }
    drawn.into_iter().map(|(_, id)| id.to_owned()).collect()
}

/// Apply `acts` to what a run found. `vectors` are those of the artifact's rows; they are asked for only where something is to be split.
pub fn arrange(
    artifact: &StrataArtifact,
    acts: &BTreeMap<u64, Act>,
    vectors: &mut dyn FnMut() -> Result<Flat, String>,
) -> Arranged {
    let mut work = Work::new(artifact, acts);
    let mut told = Vec::with_capacity(acts.len());
    // Names of strata are given once it is known which strata there are.
    let mut late = Vec::new();
    for (&number, act) in acts {
        let done = match act {
            Act::Merge { of } => work.merge(of),
            Act::Split { parts } => work.split(parts, vectors),
            Act::Name { level: Level::Cluster, of, .. } => work.name(of),
            Act::Name { level, of, .. } => {
                late.push((told.len(), *level, of));
                Ok(ActState::Applied)
            }
        };
        told.push(told_of(number, act, done));
    }
    let mut arranged = work.finish(artifact);
    for (at, level, kin) in late {
        let done = name_late(&mut arranged, level, kin, &work.place);
        let Some(told) = told.get_mut(at) else { continue };
        match done {
            Ok(id) => told.on = Some(id),
            Err(why) => (told.state, told.why) = (ActState::Failed, Some(why)),
        }
    }
    // A cluster that was named and then merged or split has its name no longer under its own id.
    for told in &mut told {
        let Some(Act::Name { level: Level::Cluster, of, .. }) = acts.get(&told.number) else { continue };
        if told.state == ActState::Applied {
            let at = found_in(of, &work.place, |row| at(&arranged.cluster_of, row), |_| "");
            let cluster = at.ok().and_then(|at| arranged.clusters.get(at as usize));
            told.on = cluster.filter(|c| c.name == of.name).map(|c| c.id.clone());
        }
    }
    Arranged { told, ..arranged }
}

fn at(places: &[u32], row: usize) -> u32 {
    places.get(row).copied().unwrap_or_default()
}

fn told_of(number: u64, act: &Act, done: Result<ActState, String>) -> ActTold {
    let (state, why) = match done {
        Ok(ActState::Stands) => {
            (ActState::Stands, Some("the clusters are that way by themselves now".to_owned()))
        }
        Ok(state) => (state, None),
        Err(why) => (ActState::Failed, Some(why)),
    };
    ActTold { number, what: act.words(), state, on: None, why }
}

/// Where most of the rows are: more than half of those that are there.
fn found_in<'a>(
    kin: &Kin,
    place: &HashMap<&str, usize>,
    of: impl Fn(usize) -> u32,
    called: impl Fn(u32) -> &'a str,
) -> Result<u32, String> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for &row in kin.rows.iter().filter_map(|id| place.get(id.as_str())) {
        *counts.entry(of(row)).or_default() += 1;
    }
    let there: usize = counts.values().sum();
    if there == 0 || there * STILL_THERE < kin.rows.len() {
        return Err(format!(
            "of {} that stood for \"{}\" {there} are still in the data",
            counted(kin.rows.len(), "row"),
            kin.name
        ));
    }
    let mut most: Vec<(u32, usize)> = counts.into_iter().collect();
    most.sort_by_key(|(at, n)| (Reverse(*n), *at));
    match most.first() {
        Some((at, n)) if n * 2 > there => Ok(*at),
        _ => {
            let over: Vec<String> =
                most.iter().take(3).map(|(at, n)| format!("\"{}\" ({n})", called(*at))).collect();
            Err(format!("the rows of \"{}\" are scattered now over {}", kin.name, over.join(", ")))
        }
    }
}

struct Work<'a> {
    rows: &'a [RowPlace],
    /// Where the rows stand that decisions were made on.
    place: HashMap<&'a str, usize>,
    cluster_of: Vec<u32>,
    /// Also those that are no more: then without rows.
    clusters: Vec<Cluster>,
    by_hand: HashSet<u32>,
}

impl<'a> Work<'a> {
    fn new(artifact: &'a StrataArtifact, acts: &BTreeMap<u64, Act>) -> Self {
        let kin = acts.values().flat_map(|act| match act {
            Act::Split { parts: kin } | Act::Merge { of: kin } => kin.as_slice(),
            Act::Name { of, .. } => std::slice::from_ref(of),
        });
        let wanted: HashSet<&str> = kin.flat_map(|kin| kin.rows.iter().map(String::as_str)).collect();
        let rows = artifact.rows.iter().enumerate();
        let place = rows
            .filter(|(_, row)| wanted.contains(row.id.as_str()))
            .map(|(at, row)| (row.id.as_str(), at))
            .collect();
        Self {
            rows: &artifact.rows,
            place,
            cluster_of: artifact.rows.iter().map(|row| row.cluster as u32).collect(),
            clusters: artifact.clusters.clone(),
            by_hand: HashSet::new(),
        }
    }

    fn find(&self, kin: &Kin) -> Result<u32, String> {
        found_in(
            kin,
            &self.place,
            |row| at(&self.cluster_of, row),
            |at| self.clusters.get(at as usize).map_or("", |c| c.name.as_str()),
        )
    }

    fn merge(&mut self, of: &[Kin]) -> Result<ActState, String> {
        let found = of.iter().map(|kin| self.find(kin)).collect::<Result<BTreeSet<u32>, String>>()?;
        let rows = |at: &u32| self.clusters.get(*at as usize).map_or(0, |c| c.rows);
        let mut found: Vec<u32> = found.into_iter().collect();
        found.sort_by_key(|at| (Reverse(rows(at)), *at));
        let [into, others @ ..] = found.as_slice() else { return Ok(ActState::Stands) };
        if others.is_empty() {
            return Ok(ActState::Stands);
        }
        for of in &mut self.cluster_of {
            if others.contains(of) {
                *of = *into;
            }
        }
        let gone: Vec<(Cluster, bool)> = others
            .iter()
            .filter_map(|at| {
                let cluster = self.clusters.get_mut(*at as usize)?;
                let rows = std::mem::take(&mut cluster.rows);
                Some((Cluster { rows, ..cluster.clone() }, self.by_hand.contains(at)))
            })
            .collect();
        let named = self.by_hand.contains(into);
        if let Some(cluster) = self.clusters.get_mut(*into as usize) {
            cluster.rows += gone.iter().map(|(c, _)| c.rows).sum::<usize>();
            // The heaviest terms of all, in turn.
            let all: Vec<Vec<String>> = std::iter::once(cluster.terms.clone())
                .chain(gone.iter().map(|(c, _)| c.terms.clone()))
                .collect();
            let mut terms: Vec<String> = Vec::new();
            for term in (0..TERMS).flat_map(|n| all.iter().filter_map(move |t| t.get(n))) {
                if terms.len() < TERMS && !terms.contains(term) {
                    terms.push(term.clone());
                }
            }
            cluster.terms = terms;
            if let Some((other, _)) = gone.iter().find(|(_, by_hand)| *by_hand && !named) {
                cluster.name.clone_from(&other.name);
                self.by_hand.insert(*into);
            }
        }
        Ok(ActState::Applied)
    }

    fn split(
        &mut self,
        parts: &[Kin],
        vectors: &mut dyn FnMut() -> Result<Flat, String>,
    ) -> Result<ActState, String> {
        let mut together: BTreeMap<u32, Vec<&Kin>> = BTreeMap::new();
        for part in parts {
            together.entry(self.find(part)?).or_default().push(part);
        }
        together.retain(|_, parts| parts.len() > 1);
        if together.is_empty() {
            return Ok(ActState::Stands);
        }
        let vectors = vectors()?;
        if vectors.len() != self.rows.len() {
            return Err("the vectors of the strata's rows are not all there; build the strata again".into());
        }
        for (cluster, parts) in together {
            self.cut(cluster, &parts, &vectors);
        }
        Ok(ActState::Applied)
    }

    /// Each row of the cluster goes to the part whose rows' mean is nearest.
    fn cut(&mut self, cluster: u32, parts: &[&Kin], vectors: &Flat) {
        let mut vector = vec![0.0_f32; vectors.dimensions()];
        let means: Vec<Vec<f32>> = parts
            .iter()
            .map(|part| {
                let mut sum = vec![0.0_f32; vectors.dimensions()];
                let mut count = 0.0_f32;
                let rows = part.rows.iter().filter_map(|id| self.place.get(id.as_str()));
                for &row in rows.filter(|row| self.cluster_of.get(**row) == Some(&cluster)) {
                    vectors.read(row, &mut vector);
                    sum.iter_mut().zip(&vector).for_each(|(s, v)| *s += v);
                    count += 1.0;
                }
                for s in &mut sum {
                    *s /= count.max(1.0);
                }
                sum
            })
            .collect();
        let mut counts = vec![0usize; parts.len()];
        let mut nearest: Vec<(usize, usize)> = Vec::new();
        for (row, _) in self.cluster_of.iter().enumerate().filter(|(_, of)| **of == cluster) {
            vectors.read(row, &mut vector);
            let distances = means.iter().map(|mean| squared_distance(mean, &vector));
            let best = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(at, _)| at);
            counts[best] += 1;
            nearest.push((row, best));
        }
        let Some(parent) = self.clusters.get(cluster as usize).cloned() else { return };
        // The largest is number 1.
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|&at| Reverse(counts[at]));
        let first = self.clusters.len() as u32;
        let mut places = vec![0_u32; parts.len()];
        for (number, &at) in order.iter().enumerate() {
            places[at] = first + number as u32;
            let (name, terms) = (parts[at].name.clone(), parts[at].terms.clone());
            let terms = if terms.is_empty() { parent.terms.clone() } else { terms };
            let id = format!("{}.{}", parent.id, number + 1);
            self.clusters.push(Cluster { id, name, terms, rows: counts[at], group: parent.group.clone() });
        }
        for (row, part) in nearest {
            self.cluster_of[row] = places[part];
        }
        if let Some(cluster) = self.clusters.get_mut(cluster as usize) {
            cluster.rows = 0;
        }
    }

    fn name(&mut self, kin: &Kin) -> Result<ActState, String> {
        let at = self.find(kin)?;
        if let Some(cluster) = self.clusters.get_mut(at as usize) {
            cluster.name.clone_from(&kin.name);
            self.by_hand.insert(at);
        }
        Ok(ActState::Applied)
    }

    /// Drop what has no rows, tell names apart, and cross with the dimensions.
    fn finish(&self, artifact: &StrataArtifact) -> Arranged {
        let mut taken: HashSet<String> = HashSet::new();
        let hand_first = |at: &usize| !self.by_hand.contains(&(*at as u32));
        let mut order: Vec<usize> =
            (0..self.clusters.len()).filter(|&at| self.clusters[at].rows > 0).collect();
        order.sort_by_key(|at| (hand_first(at), *at));
        let mut clusters = self.clusters.clone();
        for at in order {
            let cluster = &mut clusters[at];
            if !taken.insert(cluster.name.clone()) {
                cluster.name = format!("{} ({})", cluster.name, cluster.id);
                taken.insert(cluster.name.clone());
            }
        }
        let mut kept: Vec<usize> = (0..clusters.len()).filter(|&at| clusters[at].rows > 0).collect();
        kept.sort_by_key(|&at| (Reverse(clusters[at].rows), at));
        let mut place = vec![0_u32; clusters.len()];
        for (new, &old) in kept.iter().enumerate() {
            place[old] = new as u32;
        }
        let clusters: Vec<Cluster> = kept.iter().map(|&at| clusters[at].clone()).collect();
        let cluster_of: Vec<u32> = self.cluster_of.iter().map(|&at| place[at as usize]).collect();
        let (strata, stratum_of) = crossed(artifact, &clusters, &cluster_of);
        let groups = groups(&artifact.groups, &clusters);
        Arranged { clusters, groups, strata, stratum_of, cluster_of, told: Vec::new() }
    }
}

/// Groups that have rows.
fn groups(of: &[ClusterGroup], clusters: &[Cluster]) -> Vec<StrataGroup> {
    let rows = |id: &str| clusters.iter().filter(|c| c.group == id).map(|c| c.rows).sum();
    let shown = |g: &ClusterGroup| StrataGroup {
        id: g.id.clone(),
        name: g.name.clone(),
        rows: rows(&g.id),
        terms: g.terms.clone(),
    };
    let mut groups: Vec<StrataGroup> = of.iter().map(shown).filter(|g| g.rows > 0).collect();
    groups.sort_by_key(|g| Reverse(g.rows));
    groups
}

/// Clusters x values of the dimensions, which a row has from the stratum that the run put it into.
fn crossed(artifact: &StrataArtifact, clusters: &[Cluster], cluster_of: &[u32]) -> (Vec<Stratum>, Vec<u32>) {
    let mut slices: BTreeMap<(u32, Vec<&str>), usize> = BTreeMap::new();
    // Values of each stratum of the run, in the order in which the workspace names the dimensions.
    let values: Vec<Vec<&str>> = artifact
        .strata
        .iter()
        .map(|s| {
            let value = |name: &String| s.dimensions.get(name).map_or("", String::as_str);
            artifact.settings.dimensions.iter().map(value).collect()
        })
        .collect();
    let none = Vec::new();
    // Few strata, many rows: each pair is looked up once.
    let mut known: HashMap<(u32, usize), usize> = HashMap::new();
    let mut keys: Vec<(u32, &Vec<&str>, usize)> = Vec::new();
    let mut at_of: Vec<usize> = Vec::with_capacity(cluster_of.len());
    for (row, &cluster) in artifact.rows.iter().zip(cluster_of) {
        let at = *known.entry((cluster, row.stratum)).or_insert_with(|| {
            let values = values.get(row.stratum).unwrap_or(&none);
            *slices.entry((cluster, values.clone())).or_insert_with(|| {
                keys.push((cluster, values, 0));
                keys.len() - 1
            })
        });
        keys[at].2 += 1;
        at_of.push(at);
    }
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&keys[a], &keys[b]);
        b.2.cmp(&a.2).then_with(|| (a.0, a.1).cmp(&(b.0, b.1)))
    });
    let mut place = vec![0_u32; keys.len()];
    for (new, &old) in order.iter().enumerate() {
        place[old] = new as u32;
    }
    let strata = order
        .iter()
        .filter_map(|&at| {
            let (cluster, values, rows) = &keys[at];
            let cluster = clusters.get(*cluster as usize)?;
            let named = artifact.settings.dimensions.iter().zip(values.iter());
            let pairs: Vec<String> = named.clone().map(|(name, value)| format!("{name}={value}")).collect();
            let joined = |head: &str, mark: &str| {
                std::iter::once(head).chain(pairs.iter().map(String::as_str)).collect::<Vec<_>>().join(mark)
            };
            Some(Stratum {
                id: joined(&cluster.id, "/"),
                name: joined(&cluster.name, " · "),
                dimensions: named.map(|(name, value)| (name.clone(), (*value).to_owned())).collect(),
                rows: *rows,
                terms: cluster.terms.clone(),
                cluster: cluster.id.clone(),
                group: cluster.group.clone(),
                ..Stratum::default()
            })
        })
        .collect();
    (strata, at_of.into_iter().map(|at| place[at]).collect())
}

fn name_late(
    arranged: &mut Arranged,
    level: Level,
    kin: &Kin,
    place: &HashMap<&str, usize>,
) -> Result<String, String> {
    let none = "there is nothing of that kind to be named";
    if level == Level::Group {
        let group = |row: usize| {
            let cluster = arranged.clusters.get(at(&arranged.cluster_of, row) as usize);
            let found = arranged.groups.iter().position(|g| cluster.is_some_and(|c| c.group == g.id));
            found.map_or(u32::MAX, |at| at as u32)
        };
        let called = |at: u32| arranged.groups.get(at as usize).map_or("no group", |g| g.name.as_str());
        let found = found_in(kin, place, group, called)?;
        let group = arranged.groups.get_mut(found as usize).ok_or(none)?;
        group.name.clone_from(&kin.name);
        return Ok(group.id.clone());
    }
    let called = |at: u32| arranged.strata.get(at as usize).map_or("", |s| s.name.as_str());
    let found = found_in(kin, place, |row| at(&arranged.stratum_of, row), called)?;
    let stratum = arranged.strata.get_mut(found as usize).ok_or(none)?;
    stratum.name.clone_from(&kin.name);
    Ok(stratum.id.clone())
}

#[cfg(test)]
mod tests;
