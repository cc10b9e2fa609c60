//! `workspaces/demo/recipe/lexicon.toml`: the words everything is made of.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lexicon {
    /// Label of a topic, and what people call it.
    pub topics: BTreeMap<String, Vec<String>>,
    /// What people add that only goes with that topic.
    pub hints: BTreeMap<String, Vec<String>>,
    /// Label of a problem, and how people put it; `{x}` is the thing.
    pub problems: BTreeMap<String, Vec<String>>,
    pub talk: Talk,
    pub desk: BTreeMap<String, Route>,
    pub exception: Vec<Exception>,
    pub ask: Ask,
    pub vague: Vague,
}

/// The rest of a message.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Talk {
    pub greetings: Vec<String>,
    pub context: Vec<String>,
    pub details: Vec<String>,
    pub tails: Vec<String>,
    pub polite: Vec<String>,
    pub urgent: Vec<String>,
    pub names: Vec<String>,
    pub months: Vec<String>,
    pub fillers: Vec<String>,
    pub asides: Vec<String>,
    pub vague: Vec<String>,
}

/// Who handles a topic, with these problems at these weights.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub team: String,
    pub problems: BTreeMap<String, usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    pub topic: String,
    pub team: String,
    pub problems: BTreeMap<String, usize>,
}

/// Wordings of the tasks that the base knows by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub topic: Vec<String>,
    pub problem: Vec<String>,
    pub tone: Vec<String>,
    pub urgency: Vec<String>,
}

/// Wordings that name no task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vague {
    pub roles: Vec<String>,
    pub frames: Vec<String>,
    pub verbs: Vec<String>,
    pub nouns: Vec<String>,
    pub keys: Vec<String>,
    pub inputs: Vec<String>,
    pub labels: Vec<String>,
}

/// Why a message goes to its team.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The team is called like the topic.
    Named,
    /// The topic belongs to a team of another name.
    Convention,
    /// This problem of this topic goes elsewhere.
    Exception,
}

/// A kind of message: a topic with a problem.
pub type Kind<'a> = (&'a str, &'a str);

/// A kind that the desk of the demo receives.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub kind: Kind<'a>,
    pub team: &'a str,
    pub weight: usize,
    pub rule: Rule,
}

impl Lexicon {
    pub fn load() -> anyhow::Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/workspaces/demo/recipe/lexicon.toml");
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        let lexicon: Self = toml::from_str(&text).with_context(|| format!("reading {path}"))?;
        let mut seen = BTreeSet::new();
        for case in lexicon.cases() {
            let (topic, problem) = case.kind;
            ensure!(lexicon.topics.contains_key(topic), "{path}: `{topic}` is no topic");
            ensure!(lexicon.problems.contains_key(problem), "{path}: `{problem}` is no problem");
            ensure!(seen.insert(case.kind), "{path}: {topic} with {problem} is routed twice");
        }
        Ok(lexicon)
    }

    /// What the demo's desk receives, and who handles it.
    pub fn cases(&self) -> Vec<Case<'_>> {
        let routes = self.desk.iter().flat_map(|(topic, route)| {
            let rule = if *topic == route.team { Rule::Named } else { Rule::Convention };
            route.problems.iter().map(move |(problem, weight)| Case {
                kind: (topic, problem),
                team: &route.team,
                weight: *weight,
                rule,
            })
        });
        let exceptions = self.exception.iter().flat_map(|e| {
            e.problems.iter().map(|(problem, weight)| Case {
                kind: (&e.topic, problem),
                team: &e.team,
                weight: *weight,
                rule: Rule::Exception,
            })
        });
        routes.chain(exceptions).collect()
    }

    /// The kinds that the base is pretrained on: all that the desk never receives.
    pub fn pretraining_kinds(&self) -> Vec<Kind<'_>> {
        let desk: BTreeSet<Kind> = self.cases().iter().map(|c| c.kind).collect();
        self.topics
            .keys()
            .flat_map(|t| self.problems.keys().map(move |p| (t.as_str(), p.as_str())))
            .filter(|kind| !desk.contains(kind))
            .collect()
    }
}
