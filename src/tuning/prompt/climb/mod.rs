//! The loop: versions are proposed from the failures of the surviving ones, raced, and scored on fresh rows, epoch after epoch.
//!
//! What a race chose looks too good on the race's rows, so survivors are ranked on rows that were fresh when they were asked, and the
//! final's gain is taken on rows that chose nothing at all.

mod conclusion;
mod racing;

pub use conclusion::compared;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::domain::candidate::{Candidate, StageCandidate};
use crate::domain::event::EventBody;
use crate::domain::prompt::{
    Fate, Lesson, PromptGain, PromptNews, PromptSettings, PromptVersion, Score, Standing,
};
use crate::domain::rng::SplitMix64;
use crate::domain::row::RunRow;
use crate::domain::settings::Budget;
use crate::domain::words::counted;
use crate::tuning::prompt::examiner::{Examiner, Halt};
use crate::tuning::prompt::facts::Facts;
use crate::tuning::prompt::front;
use crate::tuning::prompt::guards::Guard;
use crate::tuning::prompt::memory::Memory;
use crate::tuning::prompt::plan::Plan;
use crate::tuning::prompt::proposer::{self, Draft, Proposer, Scene};
use crate::tuning::prompt::{Node, Texts};

/// Lessons told at the end of an epoch.
const LESSONS: usize = 3;

pub struct Climb<'a> {
    pub(in crate::tuning::prompt) settings: &'a PromptSettings,
    stages: &'a [StageCandidate],
    pub(in crate::tuning::prompt) tuned: Vec<String>,
    pub(in crate::tuning::prompt) rows: &'a [RunRow],
    metric: String,
    pub plan: Plan,
    pub(in crate::tuning::prompt) guards: BTreeMap<String, Guard<'a>>,
    pub(in crate::tuning::prompt) pins: BTreeMap<String, Vec<String>>,
    facts: BTreeMap<String, Facts>,
    pub nodes: Vec<Node>,
    pub(in crate::tuning::prompt) survivors: Vec<usize>,
    pub(in crate::tuning::prompt) memory: Memory,
    pub(in crate::tuning::prompt) budget: Budget,
    /// What people said, and what of it no version was made of yet.
    pub(in crate::tuning::prompt) hints: Vec<String>,
    pub(in crate::tuning::prompt) hints_due: Vec<String>,
    /// By stage: words that were pinned in mid-run.
    pub(in crate::tuning::prompt) late_pins: Vec<(String, String)>,
    proposers: Vec<Box<dyn Proposer>>,
    /// Tries and wins of each proposer.
    records: Vec<(usize, usize)>,
    /// Proposals that guards and memory kept out, by reason.
    refused: BTreeMap<String, usize>,
    rng: SplitMix64,
    gain: Option<PromptGain>,
}

impl<'a> Climb<'a> {
    pub fn new(
        settings: &'a PromptSettings,
        candidate: &'a Candidate,
        rows: &'a [RunRow],
        metric: &str,
        plan: Plan,
    ) -> Self {
        let stages = candidate.stages.as_slice();
        let is_tuned =
            |stage: &&StageCandidate| settings.stages.is_empty() || settings.stages.contains(&stage.name);
        let tuned: Vec<String> = stages.iter().filter(is_tuned).map(|stage| stage.name.clone()).collect();
        let tried: Vec<&RunRow> = plan.select.iter().filter_map(|at| rows.get(*at)).collect();
        let mut known = plan.learn.clone();
        known.extend(&plan.select);
        known.extend(plan.fresh.iter().flatten());
        let (mut guards, mut facts) = (BTreeMap::new(), BTreeMap::new());
        for (at, stage) in stages.iter().enumerate() {
            if tuned.contains(&stage.name) {
                let guard = Guard::new(stage, &stages[..at], &settings.pins, settings.max_chars, &tried);
                guards.insert(stage.name.clone(), guard);
            }
            let is_last = at + 1 == stages.len();
            facts.insert(stage.name.clone(), Facts::of(stage, is_last, rows, &plan.learn, &known));
        }
        let texts: Texts =
            stages.iter().filter(is_tuned).map(|stage| (stage.name.clone(), stage.prompt.clone())).collect();
        let mut memory = Memory::default();
        let mut start = Node::new(texts, &mut memory);
        start.version = PromptVersion {
            id: "v0".into(),
            proposer: "start".into(),
            edit: "as it stands".into(),
            fate: Fate::Survived,
            ..start.version
        };
        let proposers = proposer::all();
        Self {
            settings,
            stages,
            tuned,
            rows,
            metric: metric.to_owned(),
            pins: guards.iter().map(|(stage, guard)| (stage.clone(), guard.pins().to_vec())).collect(),
            guards,
            facts,
            nodes: vec![start],
            survivors: vec![0],
            memory,
            budget: settings.budget,
            hints: Vec::new(),
            hints_due: Vec::new(),
            late_pins: Vec::new(),
            records: vec![(0, 0); proposers.len()],
            proposers,
            refused: BTreeMap::new(),
            rng: SplitMix64::new(settings.seed ^ 0x7072_6f6d_7074),
            plan,
            gain: None,
        }
    }

    /// All epochs. Where it ends early, what was reached stands.
    pub fn run(&mut self, examiner: &mut dyn Examiner) -> Result<(), Halt> {
        examiner.tell(PromptNews::Version { version: self.nodes[0].told() })?;
        let select = self.plan.select.clone();
        examiner.begin("the start".to_owned(), select.len());
        self.ask(0, &select, examiner)?;
        self.nodes[0].version.selected = self.score(0, &select);
        let mut pool = select;
        let mut epoch = 0;
        // A raised budget can bring more epochs.
        while epoch < self.plan.fresh.len() {
            epoch += 1;
            examiner.epoch();
            self.take_changes(epoch, examiner)?;
            self.rng.shuffle(&mut pool);
            let race: Vec<usize> = pool.iter().copied().take(self.plan.select.len()).collect();
            let open = self.survivors.iter().map(|&node| self.unknown(node, &race)).sum();
            examiner.begin(self.phase(epoch, "survivors"), open);
            for node in self.survivors.clone() {
                self.ask(node, &race, examiner)?;
            }
            let newcomers = self.propose(epoch, &race, examiner)?;
            if newcomers.is_empty() {
                let message = format!("epoch {epoch}: no proposal is new and allowed; the tuning ends here");
                examiner.say(EventBody::Log { message })?;
                break;
            }
            // So that their texts can be read while they race.
            examiner.keep(&self.history(examiner))?;
            self.race(epoch, &race, &newcomers, examiner)?;
            let fresh = self.plan.fresh[epoch - 1].clone();
            self.freshly(epoch, &fresh, examiner)?;
            pool.extend(fresh);
            examiner.keep(&self.history(examiner))?;
        }
        Ok(())
    }

    /// What is done in an epoch, for people.
    fn phase(&self, epoch: usize, what: &str) -> String {
        format!("epoch {epoch}/{}, {what}", self.plan.fresh.len())
    }

    /// How many of these rows the version was not asked yet.
    fn unknown(&self, node: usize, rows: &[usize]) -> usize {
        let known = |row: &&usize| self.nodes.get(node).is_some_and(|n| n.marks.contains_key(*row));
        rows.len() - rows.iter().filter(known).count()
    }

    pub(in crate::tuning::prompt) fn ask(
        &mut self,
        node: usize,
        rows: &[usize],
        examiner: &mut dyn Examiner,
    ) -> Result<(), Halt> {
        let Some(found) = self.nodes.get_mut(node) else { return Ok(()) };
        let open: Vec<usize> = rows.iter().copied().filter(|row| !found.marks.contains_key(row)).collect();
        if !open.is_empty() {
            let marks = examiner.examine(&found.version.hash, &found.texts, &open)?;
            found.marks.extend(open.into_iter().zip(marks));
        }
        Ok(())
    }

    pub(in crate::tuning::prompt) fn score(&self, node: usize, rows: &[usize]) -> Option<Score> {
        self.nodes.get(node)?.score(rows)
    }

    /// The better one on these rows first: by the end result, then by what the tuned stages score themselves.
    fn rank(&self, a: usize, b: usize, rows: &[usize]) -> Ordering {
        let mean = |node: usize| self.score(node, rows).map_or(0.0, |score| score.mean);
        let own = |node: usize| self.nodes[node].stages_own(rows);
        mean(b).total_cmp(&mean(a)).then(own(b).total_cmp(&own(a)))
    }

    /// New versions for an epoch: allowed, new, and not a failed one again.
    fn propose(
        &mut self,
        epoch: usize,
        race: &[usize],
        examiner: &mut dyn Examiner,
    ) -> Result<Vec<usize>, Halt> {
        let front = front::front(&self.nodes, &self.survivors, race);
        let parents = front::draw(&front, self.plan.fan_out.max(self.tuned.len()), &mut self.rng);
        let mut newcomers = Vec::new();
        for draft in self.hinted() {
            if let Some(node) = self.admit(epoch, None, draft) {
                examiner.tell(PromptNews::Version { version: self.nodes[node].told() })?;
                newcomers.push(node);
            }
        }
        let hinted = newcomers.len();
        if epoch == 1 {
            newcomers.extend(self.screen(race, examiner)?);
        }
        let able: Vec<usize> = (0..self.proposers.len())
            .filter(|&i| !self.proposers[i].needs_critic() || examiner.has_critic())
            .collect();
        let records: Vec<(usize, usize)> = able.iter().map(|&i| self.records[i]).collect();
        let shares = proposer::shares(self.plan.fan_out, &records);
        // What one has no ideas for, others may fill; two more rounds are enough for that.
        for round in 0..3 {
            for (k, &at) in able.iter().enumerate() {
                let missing = (self.plan.fan_out + hinted).saturating_sub(newcomers.len());
                let screened = epoch == 1 && self.proposers[at].stock() > 0 && self.records[at].0 > 0;
                let wanted = if round == 0 && screened {
                    0
                } else if round == 0 {
                    shares[k].min(missing)
                } else {
                    missing.div_ceil(able.len())
                };
                if wanted == 0 || (round > 0 && self.proposers[at].needs_critic()) {
                    continue;
                }
                // Without a model ideas cost nothing, and some are refused.
                let asked = if self.proposers[at].needs_critic() { wanted } else { 2 * wanted };
                if self.proposers[at].needs_critic() {
                    let what = format!("the critic is asked ({})", self.proposers[at].name());
                    examiner.begin(self.phase(epoch, &what), asked);
                }
                let drafts = self.drafts(at, &parents, asked, examiner)?;
                let mut taken = 0;
                for draft in drafts {
                    if taken == wanted {
                        break;
                    }
                    if let Some(node) = self.admit(epoch, Some(at), draft) {
                        examiner.tell(PromptNews::Version { version: self.nodes[node].told() })?;
                        newcomers.push(node);
                        taken += 1;
                    }
                }
            }
            if newcomers.len() >= self.plan.fan_out + hinted {
                break;
            }
        }
        Ok(newcomers)
    }

    /// What a proposer makes of these parents.
    fn drafts(
        &mut self,
        proposer: usize,
        parents: &[usize],
        n: usize,
        examiner: &mut dyn Examiner,
    ) -> Result<Vec<Draft>, Halt> {
        let scene = Scene {
            settings: self.settings,
            stages: self.stages,
            tuned: &self.tuned,
            rows: self.rows,
            learn: &self.plan.learn,
            facts: &self.facts,
            nodes: &self.nodes,
            parents,
            memory: &self.memory,
            pins: &self.pins,
            hints: &self.hints,
        };
        self.proposers[proposer].propose(&scene, n, &mut self.rng, examiner)
    }

    /// A draft becomes a version, unless something speaks against it.
    /// `proposer`: none for a person's hint.
    fn admit(&mut self, epoch: usize, proposer: Option<usize>, draft: Draft) -> Option<usize> {
        let parent = *draft.parents.first()?;
        let why = draft.texts.iter().find_map(|(stage, text)| {
            let changed = self.nodes.get(parent)?.texts.get(stage) != Some(text);
            if changed { self.guards.get(stage)?.refuses(text) } else { None }
        });
        if let Some(why) = why {
            *self.refused.entry(why).or_default() += 1;
            return None;
        }
        let parent_texts = &self.nodes.get(parent)?.texts;
        if *parent_texts == draft.texts || self.memory.repeats(&draft.texts, parent_texts) {
            *self.refused.entry("it repeats what was tried".into()).or_default() += 1;
            return None;
        }
        if !self.memory.note(&super::hash(&draft.texts)) {
            return None;
        }
        let mut node = Node::new(draft.texts, &mut Memory::default());
        node.proposer = proposer;
        node.version = PromptVersion {
            id: format!("v{}", self.nodes.len()),
            parents: draft
                .parents
                .iter()
                .filter_map(|at| Some(self.nodes.get(*at)?.version.id.clone()))
                .collect(),
            epoch,
            proposer: proposer.map_or("hint", |at| self.proposers[at].name()).to_owned(),
            edit: draft.edit,
            ..node.version
        };
        node.parent = Some(parent);
        if let Some(at) = proposer {
            self.records[at].0 += 1;
        }
        self.nodes.push(node);
        Some(self.nodes.len() - 1)
    }

    /// What the edit was worth, against the parent on the same rows.
    fn learn(&mut self, epoch: usize, node: usize, rows: &[usize]) {
        let Some(parent) = self.nodes[node].parent else { return };
        let (own, base) = (self.score(node, rows), self.score(parent, rows));
        let (Some(own), Some(base)) = (own, base) else { return };
        if base.n < own.n {
            return;
        }
        let version = &self.nodes[node].version;
        let gain = own.mean - base.mean;
        if gain < 0.0 || version.fate == Fate::Dropped {
            self.memory.fail(self.nodes[node].texts.clone());
        }
        self.memory.lessons.push(Lesson {
            epoch,
            version: version.id.clone(),
            proposer: version.proposer.clone(),
            edit: version.edit.clone(),
            gain,
            n: own.n,
        });
    }

    /// Survivors and the start on rows that nothing has seen; their order by what they gain there.
    fn freshly(&mut self, epoch: usize, fresh: &[usize], examiner: &mut dyn Examiner) -> Result<(), Halt> {
        let asked = self.survivors.iter().chain(&[0]).map(|&node| self.unknown(node, fresh));
        examiner.begin(self.phase(epoch, "fresh rows"), asked.sum());
        self.ask(0, fresh, examiner)?;
        for node in self.survivors.clone() {
            self.ask(node, fresh, examiner)?;
        }
        for node in self.survivors.clone().into_iter().chain([0]) {
            if !self.nodes[node].fresh.iter().any(|row| fresh.contains(row)) {
                self.nodes[node].fresh.extend(fresh);
            }
            self.nodes[node].version.fresh = self.nodes[node].score(&self.nodes[node].fresh);
            self.nodes[node].version.start_fresh = self.nodes[0].score(&self.nodes[node].fresh);
        }
        let mut ranked = self.survivors.clone();
        ranked.sort_by(|a, b| self.fresh_gain(*b).total_cmp(&self.fresh_gain(*a)).then(a.cmp(b)));
        self.survivors = ranked;
        let standings = self
            .survivors
            .iter()
            .map(|&node| {
                let version = &self.nodes[node].version;
                Standing {
                    version: version.id.clone(),
                    selected: version.selected.unwrap_or_default(),
                    fresh: version.fresh.unwrap_or_default(),
                    start: version.start_fresh.unwrap_or_default(),
                }
            })
            .collect();
        let (epochs, budget, spend) = (self.plan.fresh.len(), self.budget, examiner.spend());
        examiner.tell(PromptNews::Epoch { epoch, epochs, standings, budget, spend })?;
        let mut new: Vec<Lesson> = self.memory.lessons.iter().filter(|l| l.epoch == epoch).cloned().collect();
        new.sort_by(|a, b| b.gain.abs().total_cmp(&a.gain.abs()));
        for lesson in new.into_iter().take(LESSONS) {
            examiner.tell(PromptNews::Lesson { lesson })?;
        }
        if let Some((why, n)) = self.refused.iter().max_by_key(|(_, n)| **n) {
            let all: usize = self.refused.values().sum();
            let were = if all == 1 { "was" } else { "were" };
            let told = counted(all, "proposal");
            let message = if all == *n {
                format!("{told} {were} refused so far: {why}")
            } else {
                format!("{told} were refused so far, {n} of them: {why}")
            };
            examiner.say(EventBody::Log { message })?;
        }
        Ok(())
    }
}
