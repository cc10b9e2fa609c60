//! Strata arranged by hand: what is asked becomes a decision that holds on to rows (see [`crate::strata::hand`]).

use std::collections::{BTreeMap, HashMap};

use super::super::rows::{self, Loaded};
use super::super::state::{Engine, bad_input, failed};
use super::StrataIndex;
use crate::domain::api::{Decision, Failure};
use crate::domain::strata::{Act, ByHand, Kin, Level};
use crate::domain::words::{counted, listed, nearest};
use crate::strata::artifact::StrataArtifact;
use crate::strata::hand::witnesses;
use crate::strata::{kmeans, naming};

/// Parts of a split at most.
const PARTS_MAX: usize = 12;
/// Characters of a name at most.
const NAME_MAX: usize = 120;
/// Rows that a split is reckoned on at most, those of a part that name it, and those of each other cluster that it is told apart from.
const SPLIT_ROWS: usize = 20_000;
const NAMING_ROWS: usize = 1_500;
const OTHER_ROWS: usize = 100;

/// The decision that is asked for, and what is told when it was written down.
///
/// # Errors
/// No strata, no stratum of that name, or nothing to be done with it.
pub fn decision(engine: &Engine, ask: &ByHand) -> Result<(Decision, String), Failure> {
    let loaded = rows::loaded(engine)?;
    let Some(index) = loaded.strata.clone() else {
        return Err(bad_input("no strata have been built; `tunebench strata build`"));
    };
    let desk = Desk { engine, loaded: &loaded, index: &index };
    match ask {
        ByHand::Rename { id, name } => desk.rename(id, name),
        ByHand::Merge { a, b } => desk.merge(a, b),
        ByHand::Split { id, into } => desk.split(id, *into),
        ByHand::Names { names, by } => desk.names_of(names, by),
    }
}

struct Desk<'a> {
    engine: &'a Engine,
    loaded: &'a Loaded,
    index: &'a StrataIndex,
}

/// What is meant by an id or a name.
struct Meant {
    level: Level,
    id: String,
    name: String,
}

impl Desk<'_> {
    /// A cluster where an id or name is one's, else a stratum.
    fn meant(&self, wanted: &str) -> Result<Meant, Failure> {
        let index = self.index;
        let cluster = index.clusters.iter().find(|c| c.id == wanted);
        let cluster = cluster.or_else(|| index.clusters.iter().find(|c| c.name == wanted));
        if let Some(c) = cluster {
            return Ok(Meant { level: Level::Cluster, id: c.id.clone(), name: c.name.clone() });
        }
        let groups = &index.view.groups;
        if let Some(g) =
            groups.iter().find(|g| g.id == wanted).or_else(|| groups.iter().find(|g| g.name == wanted))
        {
            return Ok(Meant { level: Level::Group, id: g.id.clone(), name: g.name.clone() });
        }
        let strata = &index.view.strata;
        let stratum = strata.iter().find(|s| s.id == wanted);
        if let Some(s) = stratum.or_else(|| strata.iter().find(|s| s.name == wanted)) {
            return Ok(Meant { level: Level::Stratum, id: s.id.clone(), name: s.name.clone() });
        }
        let known = index.clusters.iter().flat_map(|c| [&c.id, &c.name]);
        let known = known.chain(strata.iter().flat_map(|s| [&s.id, &s.name])).map(String::as_str);
        let like =
            nearest(wanted, known).map(|like| format!(", the nearest is `{like}`")).unwrap_or_default();
        Err(bad_input(format!("no stratum `{wanted}`{like}; `tunebench strata list` shows them all")))
    }

    /// Its cluster, as a place in `clusters`.
    fn cluster(&self, wanted: &str) -> Result<usize, Failure> {
        let meant = self.meant(wanted)?;
        let strata = &self.index.view.strata;
        let id = match meant.level {
            Level::Stratum => strata.iter().find(|s| s.id == meant.id).map(|s| s.cluster.clone()),
            Level::Cluster => Some(meant.id),
            Level::Group => {
                return Err(bad_input(format!("`{wanted}` is a group; clusters are split and merged")));
            }
        };
        let at = self.index.clusters.iter().position(|c| Some(&c.id) == id.as_ref());
        at.ok_or_else(|| bad_input(format!("no stratum `{wanted}`")))
    }

    /// Rows that stand for those of the strata that are meant.
    fn kin(&self, name: &str, meant: impl Fn(&crate::domain::board::Stratum) -> bool) -> Kin {
        let of: Vec<bool> = self.index.view.strata.iter().map(meant).collect();
        let rows = self.placed().filter(|(_, at)| of.get(*at as usize) == Some(&true));
        Kin { name: name.to_owned(), rows: witnesses(rows.map(|(id, _)| id)), terms: Vec::new() }
    }

    /// Every row that there is with its stratum's place.
    fn placed(&self) -> impl Iterator<Item = (&str, u32)> {
        let rows = 0..self.loaded.dataset.len();
        rows.filter_map(|at| Some((self.loaded.dataset.id(at), self.loaded.stratum(at)?)))
    }

    fn next(&self) -> u64 {
        self.engine.read(|s| s.decisions.acts.keys().next_back().copied().unwrap_or(0) + 1)
    }

    fn rename(&self, wanted: &str, name: &str) -> Result<(Decision, String), Failure> {
        let meant = self.meant(wanted)?;
        let name = crate::data::clean_line(name).trim().to_owned();
        if name.chars().count() > NAME_MAX {
            return Err(bad_input(format!("a name has at most {NAME_MAX} characters")));
        }
        // The name that it has by hand now, if it has: that decision is changed.
        let is_name = |number: &u64| {
            self.engine.read(|s| matches!(s.decisions.acts.get(number), Some(Act::Name { level, .. }) if *level == meant.level))
        };
        let told = &self.index.view.by_hand;
        let earlier =
            told.iter().rev().filter(|t| t.on.as_ref() == Some(&meant.id)).map(|t| t.number).find(is_name);
        if name.is_empty() {
            let number =
                earlier.ok_or_else(|| bad_input(format!("`{}` was not named by hand", meant.name)))?;
            let said = format!("{} has the name again that it was given by its words", meant.id);
            return Ok((Decision::Strata { number, act: None }, said));
        }
        let others = self.index.clusters.iter().map(|c| (&c.id, &c.name));
        let mut others = others.chain(self.index.view.strata.iter().map(|s| (&s.id, &s.name)));
        // A group may be called like one of its clusters.
        let clash = others.find(|(id, other)| **other == name && **id != meant.id);
        if let Some((id, _)) = clash.filter(|_| meant.level != Level::Group) {
            return Err(bad_input(format!("{id} is called `{name}` already; names tell strata apart")));
        }
        let of = match meant.level {
            Level::Stratum => self.kin(&name, |s| s.id == meant.id),
            Level::Cluster => self.kin(&name, |s| s.cluster == meant.id),
            Level::Group => self.kin(&name, |s| s.group == meant.id),
        };
        let act = Act::Name { level: meant.level, of, by: None };
        let said = format!("{} is called \"{name}\", also when the strata are built anew", meant.id);
        Ok((Decision::Strata { number: earlier.unwrap_or_else(|| self.next()), act: Some(act) }, said))
    }

    /// Names of a model: one decision for all of them.
    fn names_of(&self, names: &[(String, String)], by: &str) -> Result<(Decision, String), Failure> {
        let told = &self.index.view.by_hand;
        let (mut decisions, mut kept, mut next) = (Vec::new(), 0, self.next());
        let mut taken: Vec<String> = Vec::new();
        for (id, name) in names {
            let name: String = crate::data::clean_line(name).trim().chars().take(NAME_MAX).collect();
            let Some(cluster) = self.index.clusters.iter().find(|c| c.id == *id).filter(|_| !name.is_empty())
            else {
                continue;
            };
            // The newest name that holds on this cluster.
            let earlier = told.iter().rev().filter(|t| t.on.as_deref() == Some(id)).map(|t| t.number).next();
            let person = earlier.is_some_and(|number| {
                self.engine
                    .read(|s| matches!(s.decisions.acts.get(&number), Some(Act::Name { by: None, .. })))
            });
            if person || taken.contains(&name) {
                kept += 1;
                continue;
            }
            taken.push(name.clone());
            let of = self.kin(&name, |s| s.cluster == cluster.id);
            let number = earlier.unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            let act = Act::Name { level: Level::Cluster, of, by: Some(by.to_owned()) };
            decisions.push(Decision::Strata { number, act: Some(act) });
        }
        if decisions.is_empty() {
            return Err(bad_input(
                "none of the names can be given: people named these clusters, or there are none",
            ));
        }
        let kept = if kept > 0 { format!("; {kept} kept their names") } else { String::new() };
        let said = format!("{} named by {by}{kept}", counted(decisions.len(), "cluster"));
        Ok((Decision::Together { decisions }, said))
    }

    fn merge(&self, a: &str, b: &str) -> Result<(Decision, String), Failure> {
        let (first, second) = (self.cluster(a)?, self.cluster(b)?);
        if first == second {
            return Err(bad_input(format!("`{a}` and `{b}` are of one cluster already")));
        }
        let both = [first, second].map(|at| &self.index.clusters[at]);
        let of = both.iter().map(|c| self.kin(&c.name, |s| s.cluster == c.id)).collect();
        let said = format!(
            "\"{}\" and \"{}\" are one now: {}",
            both[0].name,
            both[1].name,
            counted(both[0].rows + both[1].rows, "row")
        );
        Ok((Decision::Strata { number: self.next(), act: Some(Act::Merge { of }) }, said))
    }

    fn split(&self, wanted: &str, into: usize) -> Result<(Decision, String), Failure> {
        if !(2..=PARTS_MAX).contains(&into) {
            return Err(bad_input(format!("a stratum is split into 2 to {PARTS_MAX} parts, not {into}")));
        }
        let cluster = &self.index.clusters[self.cluster(wanted)?];
        let of: Vec<bool> = self.index.view.strata.iter().map(|s| s.cluster == cluster.id).collect();
        let dir = &self.index.dir;
        let artifact = StrataArtifact::read(dir).map_err(|e| failed(format!("{e:#}")))?;
        let vectors = artifact.vectors(dir).map_err(failed)?;
        let within = |id: &str| {
            self.index.of_row(id).is_some_and(|at| of.get(at as usize).copied().unwrap_or_default())
        };
        let rows: Vec<usize> = (0..artifact.rows.len()).filter(|&at| within(&artifact.rows[at].id)).collect();
        let step = rows.len().div_ceil(SPLIT_ROWS).max(1);
        let rows: Vec<usize> = rows.into_iter().step_by(step).collect();
        let found = kmeans::fit(&vectors.select(&rows), into, artifact.settings.seed);
        let parts = found.centroids.len();
        if parts < into {
            return Err(bad_input(format!(
                "\"{}\" cannot be split into {into}: {} say only {} different things",
                cluster.name,
                counted(cluster.rows, "row"),
                parts
            )));
        }
        let mut ids: Vec<Vec<&str>> = vec![Vec::new(); parts];
        for (&row, &part) in rows.iter().zip(&found.assignment) {
            ids[part].push(&artifact.rows[row].id);
        }
        let named = self.names(&cluster.id, &ids);
        let kin: Vec<Kin> = ids
            .iter()
            .zip(named)
            .map(|(ids, named)| Kin {
                name: named.name,
                rows: witnesses(ids.iter().copied()),
                terms: named.terms,
            })
            .collect();
        let names: Vec<String> = kin.iter().map(|k| format!("\"{}\"", k.name)).collect();
        let said = format!("\"{}\" is split into {}", cluster.name, listed(&names));
        Ok((Decision::Strata { number: self.next(), act: Some(Act::Split { parts: kin }) }, said))
    }

    /// Names of the parts of a cluster, told apart from each other and from the other clusters.
    fn names(&self, cluster: &str, parts: &[Vec<&str>]) -> Vec<naming::Naming> {
        let some = |ids: &[&str], most: usize| -> Vec<String> {
            let step = ids.len().div_ceil(most).max(1);
            let places = ids.iter().step_by(step).filter_map(|id| self.loaded.dataset.find(id));
            places.map(|at| self.loaded.text(at).0).collect()
        };
        let mut others: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let of: HashMap<usize, &str> =
            self.index.view.strata.iter().enumerate().map(|(at, s)| (at, s.cluster.as_str())).collect();
        for (id, at) in self.placed() {
            match of.get(&(at as usize)) {
                Some(other) if *other != cluster => others.entry(other).or_default().push(id),
                _ => {}
            }
        }
        let (mut texts, mut assignment) = (Vec::new(), Vec::new());
        let parts = parts.iter().map(|ids| some(ids, NAMING_ROWS));
        let others = others.into_values().map(|ids| some(&ids, OTHER_ROWS));
        let mut classes = 0;
        let count = parts.len();
        for more in parts.chain(others) {
            assignment.extend(std::iter::repeat_n(classes, more.len()));
            texts.extend(more);
            classes += 1;
        }
        let mut named = naming::name(&texts, &assignment, classes);
        named.truncate(count);
        let taken: Vec<&str> =
            self.index.clusters.iter().filter(|c| c.id != cluster).map(|c| c.name.as_str()).collect();
        for (part, naming) in named.iter_mut().enumerate() {
            if taken.contains(&naming.name.as_str()) {
                naming.name = format!("{} {}", naming.name, part + 1);
            }
        }
        named
    }
}
