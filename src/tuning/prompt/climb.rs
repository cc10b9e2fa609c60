//! The loop: versions are proposed from the failures of the surviving ones, raced, and scored on fresh rows, epoch after epoch.
//!
//! What a race chose looks too good on the race's rows, so survivors are ranked on rows that were fresh when they were asked, and the
//! final's gain is taken on rows that chose nothing at all.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::examiner::{Examiner, Halt};
use super::facts::Facts;
use super::front;
use super::guards::{Copies, Guard};
use super::memory::Memory;
use super::plan::Plan;
use super::proposer::{self, Draft, Proposer, Scene};
use super::race::{Bet, is_out_of_reach, order};
use super::{Node, Texts};
use crate::domain::candidate::{Candidate, StageCandidate};
use crate::domain::event::EventBody;
use crate::domain::prompt::{
    Fate, Lane, Lesson, PromptGain, PromptHistory, PromptNews, PromptSettings, PromptVersion, Score, Standing,
};
use crate::domain::rng::SplitMix64;
use crate::domain::row::RunRow;
use crate::domain::settings::Budget;
use crate::domain::words::counted;
use crate::score::{bootstrap, stats};

/// Version of the history's format.
const FORMAT: u32 = 1;
/// Rows of a round of a race.
const ROUND: std::ops::RangeInclusive<usize> = 5..=16;
/// Rows on which ideas that cost nothing are screened before the first race.
const SCREEN: usize = 10;
/// A budget of fewer calls, of each stage, is too small for that.
const SCREENED_FROM: u64 = 800;
/// Rows of the last comparison that are asked at once, where there is a budget of calls.
const COMPARED: usize = 16;
/// Lessons told at the end of an epoch.
const LESSONS: usize = 3;

pub struct Climb<'a> {
    pub(super) settings: &'a PromptSettings,
    stages: &'a [StageCandidate],
    pub(super) tuned: Vec<String>,
    pub(super) rows: &'a [RunRow],
    metric: String,
    pub plan: Plan,
    pub(super) guards: BTreeMap<String, Guard<'a>>,
    pub(super) pins: BTreeMap<String, Vec<String>>,
    facts: BTreeMap<String, Facts>,
    pub nodes: Vec<Node>,
    pub(super) survivors: Vec<usize>,
    pub(super) memory: Memory,
    pub(super) budget: Budget,
    /// What people said, and what of it no version was made of yet.
    pub(super) hints: Vec<String>,
    pub(super) hints_due: Vec<String>,
    /// By stage: words that were pinned in mid-run.
    pub(super) late_pins: Vec<(String, String)>,
    proposers: Vec<Box<dyn Proposer>>,
    /// Tries and wins of each proposer.
    records: Vec<(usize, usize)>,
    /// Proposals that guards and memory kept out, by reason.
    refused: BTreeMap<String, usize>,
    rng: SplitMix64,
    gain: Option<PromptGain>,
}

/// A newcomer in a race.
struct Runner {
    node: usize,
    bet: Bet,
    sum: f64,
    seen: usize,
    runs: bool,
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
    pub(super) fn unknown(&self, node: usize, rows: &[usize]) -> usize {
        let known = |row: &&usize| self.nodes.get(node).is_some_and(|n| n.marks.contains_key(*row));
        rows.len() - rows.iter().filter(known).count()
    }

    pub(super) fn ask(
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

    pub(super) fn score(&self, node: usize, rows: &[usize]) -> Option<Score> {
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

    /// Ideas that cost nothing are many: before the first race all of a proposer's stock is asked on a few rows, and the best of it
    /// enters. A model may know a task by one name of many, which a fan-out would come to late or never.
    fn screen(&mut self, race: &[usize], examiner: &mut dyn Examiner) -> Result<Vec<usize>, Halt> {
        let few = self.settings.budget.calls.is_some_and(|n| n < SCREENED_FROM * self.stages.len() as u64);
        let mut screened = Vec::new();
        for at in 0..self.proposers.len() {
            let stock = if few { 0 } else { self.proposers[at].stock() * self.tuned.len() };
            if stock == 0 {
                continue;
            }
            for draft in self.drafts(at, &vec![0; stock], stock, examiner)? {
                if let Some(node) = self.admit(1, Some(at), draft) {
                    examiner.tell(PromptNews::Version { version: self.nodes[node].told() })?;
                    screened.push(node);
                }
            }
        }
        let rows: Vec<usize> = race.iter().copied().take(SCREEN).collect();
        examiner.begin(self.phase(1, "screening"), screened.len() * rows.len());
        for &node in &screened {
            self.ask(node, &rows, examiner)?;
        }
        screened.sort_by(|&a, &b| self.rank(a, b, &rows).then(a.cmp(&b)));
        let out = screened.split_off(screened.len().min((self.plan.fan_out / 4).max(1)));
        if !out.is_empty() {
            let message = format!(
                "{} wordings were screened on {} rows: {} enter the race",
                screened.len() + out.len(),
                rows.len(),
                screened.len()
            );
            examiner.say(EventBody::Log { message })?;
        }
        for node in out {
            self.nodes[node].version.fate = Fate::Dropped;
            self.nodes[node].version.selected = self.score(node, &rows);
            self.learn(1, node, &rows);
            // It never came to a race, so it says nothing of what its proposer wins there.
            if let Some(at) = self.nodes[node].proposer {
                self.records[at].0 -= 1;
            }
        }
        Ok(screened)
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

    /// Newcomers against the incumbents on the rows of a race; those that are best on them survive.
    fn race(
        &mut self,
        epoch: usize,
        race: &[usize],
        newcomers: &[usize],
        examiner: &mut dyn Examiner,
    ) -> Result<(), Halt> {
        let n = race.len();
        let incumbents = self.survivors.clone();
        let mean = |climb: &Self, node: usize| climb.score(node, race).map_or(0.0, |score| score.mean);
        let mut means: Vec<f64> = incumbents.iter().map(|node| mean(self, *node)).collect();
        let best = incumbents
            .iter()
            .copied()
            .max_by(|a, b| mean(self, *a).total_cmp(&mean(self, *b)).then(b.cmp(a)));
        let best = best.unwrap_or(0);
        means.sort_by(|a, b| b.total_cmp(a));
        let least = means.get(self.settings.survivors.saturating_sub(1)).copied();
        let differ = |row: usize| {
            let mut scores =
                incumbents.iter().filter_map(|node| Some(self.nodes.get(*node)?.marks.get(&row)?.score));
            let first = scores.next();
            scores.any(|score| Some(score) != first)
        };
        let telling: Vec<(usize, bool)> = race.iter().map(|&row| (row, differ(row))).collect();
        let drawn = order(&telling, &mut self.rng);
        let mut runners: Vec<Runner> = newcomers
            .iter()
            .map(|&node| Runner { node, bet: Bet::new(n), sum: 0.0, seen: 0, runs: true })
            .collect();
        for (round, block) in drawn.chunks((n / 6).clamp(*ROUND.start(), *ROUND.end())).enumerate() {
            let rows: Vec<usize> = block.iter().map(|d| d.row).collect();
            let running = runners.iter().filter(|runner| runner.runs);
            let open = running.map(|runner| self.unknown(runner.node, &rows)).sum();
            examiner.begin(self.phase(epoch, &format!("race, round {}", round + 1)), open);
            for runner in &mut runners {
                if !runner.runs {
                    continue;
                }
                self.ask(runner.node, &rows, examiner)?;
                for d in block {
                    let of = |node: usize| self.nodes[node].marks.get(&d.row).map_or(0.0, |mark| mark.score);
                    let own = of(runner.node);
                    runner.sum += own;
                    runner.seen += 1;
                    runner.bet.see(of(best) - own, *d);
                }
                let hopeless = least.is_some_and(|least| is_out_of_reach(runner.sum, runner.seen, n, least));
                let dear = self
                    .settings
                    .max_usd_per_1k
                    .is_some_and(|most| self.nodes[runner.node].usd_per_1k() > most);
                if runner.bet.lost() || hopeless || dear {
                    runner.runs = false;
                    self.nodes[runner.node].version.fate = if dear { Fate::Dear } else { Fate::Dropped };
                }
            }
            let seen: usize = (n / 6).clamp(*ROUND.start(), *ROUND.end()) * round + block.len();
            self.tell_race(epoch, round + 1, (seen, n), &incumbents, &runners, &drawn[..seen], examiner)?;
            for killed in self.take_changes(epoch, examiner)? {
                if let Some(runner) = runners.iter_mut().find(|runner| runner.node == killed) {
                    runner.runs = false;
                    self.nodes[killed].version.fate = Fate::Dropped;
                }
            }
            if runners.iter().all(|runner| !runner.runs) {
                break;
            }
        }
        // Somebody may have been killed.
        let incumbents: Vec<usize> =
            incumbents.into_iter().filter(|node| self.survivors.contains(node)).collect();
        for runner in &mut runners {
            if runner.runs && !self.keeps_late_pins(runner.node) {
                runner.runs = false;
                self.nodes[runner.node].version.fate = Fate::Beaten;
            }
        }
        for runner in &runners {
            let seen: Vec<usize> = drawn[..runner.seen].iter().map(|d| d.row).collect();
            self.nodes[runner.node].version.selected = self.score(runner.node, &seen);
            self.learn(epoch, runner.node, &seen);
        }
        // Who ran it all, the best first; of equal ones the shorter, then the older.
        let mut standing: Vec<usize> =
            incumbents.iter().copied().chain(runners.iter().filter(|r| r.runs).map(|r| r.node)).collect();
        for &node in &incumbents {
            self.nodes[node].version.selected = self.score(node, race);
        }
        standing.sort_by(|&a, &b| {
            self.rank(a, b, race).then(self.nodes[a].length().cmp(&self.nodes[b].length())).then(a.cmp(&b))
        });
        let beaten = standing.split_off(self.settings.survivors.min(standing.len()));
        for &node in &standing {
            let version = &mut self.nodes[node].version;
            let is_new = version.fate == Fate::Open;
            version.fate = Fate::Survived;
            if let Some(at) = self.nodes[node].proposer.filter(|_| is_new) {
                self.records[at].1 += 1;
            }
        }
        for node in beaten {
            self.nodes[node].version.fate = Fate::Beaten;
        }
        self.survivors = standing;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one call")]
    fn tell_race(
        &self,
        epoch: usize,
        round: usize,
        (seen, of): (usize, usize),
        incumbents: &[usize],
        runners: &[Runner],
        drawn: &[super::race::Drawn],
        examiner: &mut dyn Examiner,
    ) -> Result<(), Halt> {
        let rows: Vec<usize> = drawn.iter().map(|d| d.row).collect();
        let lane = |node: usize, runs: bool, n: usize| Lane {
            version: self.nodes[node].version.id.clone(),
            score: self.score(node, &rows[..n.min(rows.len())]).unwrap_or_default(),
            runs,
        };
        let mut lanes: Vec<Lane> = incumbents.iter().map(|&node| lane(node, true, rows.len())).collect();
        lanes.extend(runners.iter().map(|r| lane(r.node, r.runs, r.seen)));
        let (budget, spend) = (self.budget, examiner.spend());
        examiner.tell(PromptNews::Race { epoch, round, rows: seen, of, lanes, budget, spend })?;
        let phase = self.phase(epoch, "race");
        examiner.say(EventBody::Progress { phase, done: seen as u64, total: of as u64, eta_ms: None })
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

    /// Mean gain over the start on the version's fresh rows, drawn towards 0 as by half a block of rows without any: who
    /// had few rows should not win by luck.
    fn fresh_gain(&self, node: usize) -> f64 {
        let rows = &self.nodes[node].fresh;
        let of = |node: usize, row: &usize| self.nodes[node].marks.get(row).map(|mark| mark.score);
        let gains: Vec<f64> = rows.iter().filter_map(|row| Some(of(node, row)? - of(0, row)?)).collect();
        gains.iter().sum::<f64>() / (gains.len() as f64 + self.plan.select.len() as f64 / 2.0)
    }

    /// The best on fresh rows against the start, on rows that chose nothing. Returns the place of the answer.
    pub fn conclude(&mut self, examiner: &mut dyn Examiner) -> Result<usize, Halt> {
        let scored = (1..self.nodes.len())
            .filter(|&node| !self.nodes[node].fresh.is_empty() && self.keeps_late_pins(node));
        let best = scored
            .max_by(|a, b| self.fresh_gain(*a).total_cmp(&self.fresh_gain(*b)).then(b.cmp(a)))
            .filter(|&node| self.fresh_gain(node) > 0.0);
        let mut gain = PromptGain { start_stays: true, ..PromptGain::default() };
        let mut answer = 0;
        if let Some(node) = best {
            let claim = self.compare(node, examiner)?;
            gain = self.gain(node, &claim);
            if gain.delta > 0.0 {
                answer = node;
                gain.start_stays = false;
            }
        }
        self.finish(answer, gain, examiner)?;
        Ok(answer)
    }

    /// Asks the start and a version for the rows of the last comparison, in turn: where the budget ends before the rows do (calls that had to be
    /// repeated took what was kept for it), both are known on the same ones. Returns the rows.
    pub(super) fn compare(&mut self, node: usize, examiner: &mut dyn Examiner) -> Result<Vec<usize>, Halt> {
        let claim = self.plan.claim.clone();
        let size = if self.budget.calls.is_some() { COMPARED } else { claim.len().max(1) };
        let open = self.unknown(0, &claim) + self.unknown(node, &claim);
        examiner.begin("the last comparison".to_owned(), open);
        for rows in claim.chunks(size) {
            match self.ask(0, rows, examiner).and_then(|()| self.ask(node, rows, examiner)) {
                Err(Halt::Budget(what)) => {
                    let has =
                        |row: &usize| [0, node].iter().all(|at| self.nodes[*at].marks.contains_key(row));
                    let known: Vec<usize> = claim.iter().copied().filter(has).collect();
                    let message = format!(
                        "the budget of {what} ended in the last comparison: it has {} of {} rows",
                        known.len(),
                        claim.len()
                    );
                    examiner.say(EventBody::Warning { message })?;
                    return Ok(known);
                }
                done => done?,
            }
        }
        Ok(claim)
    }

    /// The last word.
    pub(super) fn finish(
        &mut self,
        answer: usize,
        gain: PromptGain,
        examiner: &mut dyn Examiner,
    ) -> Result<(), Halt> {
        self.nodes[answer].version.fate = Fate::Final;
        self.gain = Some(gain.clone());
        let (budget, spend) = (self.budget, examiner.spend());
        examiner.tell(PromptNews::Gain { gain, budget, spend })?;
        examiner.keep(&self.history(examiner))
    }

    /// Scores of two versions on the rows that both were asked.
    pub(super) fn pairs(&self, a: usize, b: usize, rows: &[usize]) -> Vec<(f64, f64)> {
        let of = |node: usize, row: &usize| self.nodes.get(node)?.marks.get(row).map(|mark| mark.score);
        rows.iter().filter_map(|row| Some((of(a, row)?, of(b, row)?))).collect()
    }

    pub(super) fn gain(&self, node: usize, rows: &[usize]) -> PromptGain {
        let version = &self.nodes[node].version;
        let pairs = |rows: &[usize]| self.pairs(0, node, rows);
        let all = pairs(rows);
        let (delta, ci95, p_value, fixed, regressed) = compared(&all, self.settings.seed);
        let mean = |pick: fn(&(f64, f64)) -> f64| all.iter().map(pick).sum::<f64>() / all.len().max(1) as f64;
        let copies = Copies::new(&self.nodes[node].texts);
        let (copied, other): (Vec<usize>, Vec<usize>) =
            rows.iter().partition(|at| self.rows.get(**at).is_some_and(|row| copies.has(&row.input)));
        let without_copied = (!copied.is_empty()).then(|| {
            let (delta, ci95, ..) = compared(&pairs(&other), self.settings.seed);
            (delta, ci95)
        });
        PromptGain {
            version: version.id.clone(),
            n: all.len(),
            start: mean(|pair| pair.0),
            tuned: mean(|pair| pair.1),
            delta,
            ci95,
            p_value,
            fixed,
            regressed,
            selected: version.selected.unwrap_or_default(),
            fresh: version.fresh.unwrap_or_default(),
            copied: copied.len(),
            without_copied,
            start_stays: true,
            tokens: Some([self.tokens(0, rows), self.tokens(node, rows)]),
            economy: false,
        }
    }

    pub fn reported(&self) -> Option<&PromptGain> {
        self.gain.as_ref()
    }

    /// Everything that was tried.
    pub(super) fn history(&self, examiner: &dyn Examiner) -> PromptHistory {
        PromptHistory {
            format: FORMAT,
            metric: self.metric.clone(),
            versions: (0..self.nodes.len()).map(|node| self.described(node)).collect(),
            lessons: self.memory.lessons.clone(),
            spend: examiner.spend(),
            gain: self.gain.clone(),
            ..PromptHistory::default()
        }
    }

    fn described(&self, at: usize) -> PromptVersion {
        let node = &self.nodes[at];
        let mut version = PromptVersion { prompts: node.texts.clone(), ..node.version.clone() };
        let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        for (name, value) in node.marks.values().flat_map(|mark| &mark.metrics) {
            let sum = sums.entry(name).or_default();
            *sum = (sum.0 + value, sum.1 + 1);
        }
        version.metrics =
            sums.into_iter().map(|(name, (sum, n))| (name.to_owned(), sum / n as f64)).collect();
        if let Some(parent) = node.parent.and_then(|parent| self.nodes.get(parent)) {
            for (row, mark) in &node.marks {
                let (Some(before), Some(data)) = (parent.marks.get(row), self.rows.get(*row)) else {
                    continue;
                };
                if mark.score > before.score {
                    version.fixed.push(data.id.clone());
                } else if mark.score < before.score {
                    version.broken.push(data.id.clone());
                }
            }
        }
        version
    }
}

/// Difference of the means with interval and p-value, and rows up and down: Tango's interval and McNemar's exact test where all
/// scores are 0 or 1, else the bootstrap's.
pub fn compared(pairs: &[(f64, f64)], seed: u64) -> (f64, [f64; 2], f64, usize, usize) {
    let fixed = pairs.iter().filter(|(a, b)| b > a).count();
    let regressed = pairs.iter().filter(|(a, b)| b < a).count();
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    let delta = differences.iter().sum::<f64>() / pairs.len().max(1) as f64;
    let binary = pairs.iter().all(|(a, b)| [a, b].iter().all(|s| **s == 0.0 || **s == 1.0));
    if binary {
        let ci95 = stats::paired_difference(fixed, regressed, pairs.len());
        return (delta, ci95, stats::mcnemar_exact(fixed, regressed), fixed, regressed);
    }
    let boot = bootstrap::mean(&differences, bootstrap::ROUNDS, seed);
    (delta, boot.ci95, boot.p_value, fixed, regressed)
}
