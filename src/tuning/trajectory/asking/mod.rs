//! Asking the pipeline with given examples: in batches, within the budget, and never twice the same. Every answer is appended to
//! `artifacts/answers.jsonl`: a run that is resumed takes the same way again and pays only for what it had not asked yet.

mod said;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::backend::{Access, Meter};
use crate::domain::candidate::{Candidate, ModelSource, StageCandidate};
use crate::domain::event::EventBody;
use crate::domain::example::{Example, Shown};
use crate::domain::judge::Judge;
use crate::domain::report::{Control, Reporter};
use crate::domain::row::RunRow;
use crate::domain::settings::{Budget, EvalSettings};
use crate::domain::steer::{Change, Limit};
use crate::domain::trajectory::{TrajectoryNews, TrajectorySettings};
use crate::domain::words::counted;
use crate::embed::{Source, Step};
use crate::pipeline::Pipeline;
use crate::pipeline::rubric::Rubric;
use crate::retrieve::Hit;
use crate::score::scorer::Scorer;
use crate::store::lines::{self, Appender};
use crate::tuning::judge;
pub use said::{Question, Said};
use said::{Rule, key};

/// A batch should take about so long: requests to pause or stop are looked for between batches.
const BATCH_MS: f64 = 1_000.0;
const MOST: usize = 256;
/// Questions asked before it is known what one costs.
const FEW: usize = 8;

/// Examples by the place of their stage.
pub type Given = Vec<Vec<Arc<Example>>>;

/// Why no more is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stopped,
    Cancelled,
    /// `calls`, `tokens`, `usd` or `seconds`.
    Budget(&'static str),
}

/// A line of the log.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    /// So many calls of endpoints are about to be made; what comes of them follows.
    Asking {
        asking: u64,
    },
    Said(Box<Said>),
}

/// A judge of the workspace, who is asked about answers that the metric does not call right.
struct Person<'a> {
    judge: &'a Judge,
    asker: judge::Asker<'a>,
    rubric: Rubric,
}

pub struct Asker<'a> {
    pipeline: Pipeline,
    candidate: &'a Candidate,
    rule: Rule,
    person: Option<Person<'a>>,
    /// Answers on which the judge gave no verdict, and why on the first.
    silent: (usize, String),
    budget: Budget,
    known: HashMap<String, Said>,
    /// Calls of a question at most, to endpoints and to models of this machine.
    of_endpoints: u64,
    of_local: u64,
    meter: Meter,
    /// Keys of answers that are counted below. One of an earlier life counts when this one comes to its question, so that a budget
    /// is at every step where it was then.
    counted: HashSet<String>,
    log: Appender,
    reporter: &'a mut dyn Reporter,
    pub ended: Option<Ended>,
    /// How much of the budget may be spent for now.
    share: f64,
    /// Answers of models that were paid for.
    pub calls: u64,
    tokens: u64,
    pub usd: Option<f64>,
    /// Milliseconds worked.
    worked_ms: f64,
    phase: (String, Instant, usize),
    /// Changes that were taken.
    asked: usize,
}

impl<'a> Asker<'a> {
    /// # Errors
    /// A metric that is none; the log of answers that cannot be read or written.
    pub fn new(
        pipeline: Pipeline,
        candidate: &'a Candidate,
        settings: &TrajectorySettings,
        eval: &EvalSettings,
        rows: &[RunRow],
        dir: &Path,
        access: &Access,
        reporter: &'a mut dyn Reporter,
    ) -> anyhow::Result<Self> {
        let artifacts = dir.join("artifacts");
        fs::create_dir_all(&artifacts)?;
        let path = artifacts.join("answers.jsonl");
        let (log, _) = Appender::open(&path)?;
        let (mut known, mut lost, mut under_way) = (HashMap::new(), 0, 0);
        for line in lines::read_all::<Line>(&path)?.0 {
            match line {
                // An earlier life did not live to see the answers.
                Line::Asking { asking } => lost += std::mem::replace(&mut under_way, asking),
                Line::Said(said) => {
                    under_way = 0;
                    known.insert(said.key.clone(), *said);
                }
            }
        }
        let is_endpoint = |s: &&StageCandidate| matches!(s.model.source, ModelSource::Endpoint { .. });
        let most = |s: &StageCandidate| 1 + u64::from(s.retries);
        let primary_only = EvalSettings { metrics: Vec::new(), beside: Vec::new(), ..eval.clone() };
        let golds = rows.iter().filter_map(|row| row.gold.as_deref());
        let rule = Rule {
            scorer: Scorer::new(&primary_only, &candidate.stages, golds)?
                .with_embedder(&primary_only, access)
                .map_err(anyhow::Error::msg)?,
            matches: settings.matches,
            match_at: settings.match_at,
            tolerance: settings.tolerance,
        };
        let priced =
            |s: &StageCandidate| s.model.usd_per_million_input.is_some() || s.model.usd_per_hour.is_some();
        let priced = candidate.stages.iter().any(priced);
        Ok(Self {
            pipeline,
            candidate,
            rule,
            person: None,
            silent: (0, String::new()),
            budget: settings.budget,
            known,
            of_endpoints: candidate.stages.iter().filter(is_endpoint).map(most).sum(),
            of_local: candidate.stages.iter().filter(|s| !is_endpoint(s)).map(most).sum(),
            meter: access.meter.clone(),
            counted: HashSet::new(),
            log,
            reporter,
            ended: None,
            share: 1.0,
            calls: lost + under_way,
            tokens: 0,
            usd: priced.then_some(0.0),
            worked_ms: 0.0,
            phase: (String::new(), Instant::now(), 0),
            asked: 0,
        })
    }

    /// Another limit of the budget, from the next batch on.
    pub fn raise(&mut self, limit: Limit) {
        match limit {
            Limit::Calls(n) => self.budget.calls = Some(n),
            Limit::Tokens(n) => self.budget.tokens = Some(n),
            Limit::Usd(usd) => self.budget.usd = Some(usd),
            Limit::Seconds(n) => self.budget.seconds = Some(n),
        }
    }

    /// A limit that an earlier life of the run was given.
    pub fn raised(&mut self, limit: Limit) {
        self.asked += 1;
        self.raise(limit);
    }

    /// What was asked for since the last batch; told, so that a resumed run has it too.
    fn take_changes(&mut self) -> anyhow::Result<()> {
        for change in self.reporter.changes(self.asked)? {
            self.asked += 1;
            if let Change::Budget(limit) = change {
                self.raise(limit);
                self.reporter.event(EventBody::Change { step: self.calls, change, refused: None })?;
            }
        }
        Ok(())
    }

    /// From now on this judge says what is right where the metric does not.
    ///
    /// # Errors
    /// A rubric that cannot be read.
    pub fn judged_by(&mut self, judge: &'a Judge, asker: judge::Asker<'a>) -> anyhow::Result<()> {
        let rubric = Rubric::of_one(&judge.rubric_name, &judge.rubric)?;
        self.person = Some(Person { judge, asker, rubric });
        Ok(())
    }

    fn count(&mut self, said: &Said) {
        if !self.counted.insert(said.key.clone()) {
            return;
        }
        self.calls += said.calls;
        self.tokens += (said.tokens_in + said.tokens_out) * said.calls / (said.calls + said.cached).max(1);
        self.worked_ms += said.ms;
        if let Some(usd) = &mut self.usd {
            *usd += said.usd;
        }
        if let Some(effort) = &said.judging {
            self.calls += u64::from(effort.calls);
            self.tokens += effort.tokens_in + effort.tokens_out;
            let price = self.person.as_ref().and_then(|p| p.judge.usd(effort.tokens_in, effort.tokens_out));
            if let Some(price) = price {
                *self.usd.get_or_insert(0.0) += price;
            }
        }
    }

    pub fn log(&mut self, message: impl Into<String>) -> anyhow::Result<()> {
        Ok(self.reporter.event(EventBody::Log { message: message.into() })?)
    }

    pub fn news(&mut self, news: TrajectoryNews) -> anyhow::Result<()> {
        Ok(self.reporter.event(EventBody::Trajectory(news))?)
    }

    pub fn warn(&mut self, message: impl Into<String>) -> anyhow::Result<()> {
        Ok(self.reporter.event(EventBody::Warning { message: message.into() })?)
    }

    /// Have texts embedded before they are wanted; they are kept. False: the run is ended meanwhile.
    ///
    /// # Errors
    /// The embedder's, with its name.
    pub fn embed(&mut self, embedder: &Source, texts: &[&str]) -> anyhow::Result<bool> {
        let mut broken = None;
        let reporter = &mut *self.reporter;
        let mut ended = None;
        let told = embedder.embed(texts, &mut |step| {
            let Step::Done(done) = step else {
                match reporter.peek_control() {
                    Control::Cancel => ended = Some(Ended::Cancelled),
                    Control::Stop => ended = Some(Ended::Stopped),
                    Control::Continue | Control::Checkpoint => {}
                }
                return ended.is_none();
            };
            let phase = format!("embedding by {}", embedder.name());
            let (done, total) = (done as u64, texts.len() as u64);
            let control = reporter
                .event(EventBody::Progress { phase, done, total, eta_ms: None })
                .and_then(|()| reporter.poll_control());
            match control {
                Ok(Control::Cancel) => ended = Some(Ended::Cancelled),
                Ok(Control::Stop) => ended = Some(Ended::Stopped),
                Ok(Control::Continue | Control::Checkpoint) => return true,
                Err(error) => broken = Some(error),
            }
            false
        });
        if let Some(error) = broken {
            return Err(error.into());
        }
        told.map_err(anyhow::Error::msg)?;
        self.ended = self.ended.or(ended);
        Ok(ended.is_none())
    }

    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Until told otherwise, only this share of the budget is spent; what stops there has not ended.
    pub fn spend_at_most(&mut self, share: f64) {
        self.share = share;
    }

    /// How many questions of the candidate the rest of the budget (of its present share) is enough for, and which part of it is the
    /// scarcest. None: there is no budget.
    pub fn affords(&self) -> Option<(usize, &'static str)> {
        let asked = self.counted.len() as f64;
        let budget = self.budget;
        // A row takes a call a stage, and one more for each retry.
        let calls: f64 = self.candidate.stages.iter().map(|s| 1.0 + f64::from(s.retries)).sum();
        let mean = |spent: f64| (asked > 0.0).then(|| spent / asked);
        let seconds = self.worked_ms / 1e3;
        let parts = [
            // With a judge more than that, by what it was so far.
            (
                "calls",
                budget.calls.map(|n| n as f64),
                self.calls as f64,
                Some(calls.max(1.0).max(mean(self.calls as f64).unwrap_or(0.0))),
            ),
            ("tokens", budget.tokens.map(|n| n as f64), self.tokens as f64, mean(self.tokens as f64)),
            (
                "usd",
                budget.usd.filter(|_| self.usd.is_some()),
                self.usd.unwrap_or(0.0),
                mean(self.usd.unwrap_or(0.0)),
            ),
            ("seconds", budget.seconds.map(|n| n as f64), seconds, mean(seconds)),
        ];
        let room = |limit: f64, spent: f64, each: Option<f64>| {
            let left = limit * self.share - spent;
            match each {
                _ if left <= 0.0 => 0,
                // Rounded down; what costs nothing is unlimited.
                Some(each) => (left / each) as usize,
                // Nothing is known of what one takes: a few, to see.
                None => FEW,
            }
        };
        parts
            .into_iter()
            .filter_map(|(name, limit, spent, each)| Some((room(limit?, spent, each), name)))
            .min_by_key(|(room, _)| *room)
    }

    /// Ask all; an answer that is not there was not asked for, because the run is to end or the present share of the budget is spent.
    /// `phase` is what the progress is called.
    pub fn ask(&mut self, phase: &str, questions: &[Question<'_>]) -> anyhow::Result<Vec<Option<Said>>> {
        let keys: Vec<String> = questions.iter().map(|q| key(self.candidate, q)).collect();
        let mut open: Vec<usize> = Vec::new();
        let mut seen = HashSet::new();
        for (i, key) in keys.iter().enumerate() {
            if let Some(said) = self.known.get(key).cloned() {
                self.count(&said);
            } else if seen.insert(key) {
                open.push(i);
            }
        }
        let least = (2 * self.pipeline.width()).max(8);
        let (mut at, mut size) = (0, least);
        if self.phase.0 != phase {
            self.phase = (phase.to_owned(), Instant::now(), 0);
        }
        let began = Instant::now();
        while at < open.len() && self.ended.is_none() {
            self.take_changes()?;
            self.ended = match self.reporter.poll_control()? {
                Control::Cancel => Some(Ended::Cancelled),
                Control::Stop => Some(Ended::Stopped),
                Control::Continue | Control::Checkpoint => None,
            };
            let mut batch = &open[at..(at + size).min(open.len())];
            if let Some((room, which)) = self.affords() {
                batch = &batch[..batch.len().min(room)];
                if batch.is_empty() && self.share >= 1.0 {
                    self.ended = self.ended.or(Some(Ended::Budget(which)));
                }
            }
            if self.ended.is_some() || batch.is_empty() {
                break;
            }
            let asked = Instant::now();
            let rows: Vec<&RunRow> = batch.iter().map(|&i| questions[i].row).collect();
            let show = |row: usize, stage: usize| {
                let question = &questions[*batch.get(row)?];
                let given = question.given.get(stage).filter(|given| !given.is_empty())?;
                let hits = given
                    .iter()
                    .map(|example| Hit {
                        example: example.clone(),
                        why: Shown { id: example.id.clone(), ..Shown::default() },
                    })
                    .collect();
                Some((hits, question.form))
            };
            let before = self.start_meter(batch.len() as u64)?;
            let answers = self.pipeline.answer_shown(&rows, &show);
            let ms = asked.elapsed().as_secs_f64() * 1e3 / batch.len() as f64;
            let mut told: Vec<Said> = batch
                .iter()
                .zip(answers)
                .map(|(&i, answered)| {
                    self.rule.told(self.candidate, keys[i].clone(), questions[i].row, answered, ms)
                })
                .collect();
            self.judge(&rows, &mut told);
            if self.read_meter(before, &mut told) {
                self.ended = self.ended.or(Some(Ended::Budget("calls")));
            }
            for said in told {
                self.log.append(&said)?;
                self.count(&said);
                self.known.insert(said.key.clone(), said);
            }
            at += batch.len();
            size = ((BATCH_MS / ms.max(1e-3)) as usize).clamp(1, MOST.min(size * 2)).max(least);
            let left = began.elapsed().as_secs_f64() * 1e3 / at as f64 * (open.len() - at) as f64;
            self.reporter.event(EventBody::Progress {
                phase: phase.to_owned(),
                done: (questions.len() - (open.len() - at)) as u64,
                total: questions.len() as u64,
                eta_ms: Some(left as u64),
            })?;
        }
        Ok(keys.iter().map(|key| self.known.get(key).cloned()).collect())
    }

    /// No more requests go out than the budget has left. Returns how many went out before.
    fn start_meter(&mut self, questions: u64) -> anyhow::Result<u64> {
        let judge = self.person.as_ref().map(|person| person.judge);
        let of_judge = judge.map_or(0, |judge| 1 + u64::from(judge.two_step));
        let asked_over = judge.is_some_and(|j| matches!(j.model.source, ModelSource::Endpoint { .. }));
        let (judge_out, judge_in) = if asked_over { (of_judge, 0) } else { (0, of_judge) };
        if self.of_endpoints + judge_out > 0 {
            #[derive(Serialize)]
            struct Asking {
                asking: u64,
            }
            self.log.append(&Asking { asking: questions * (self.of_endpoints + judge_out) })?;
            let local = questions * (self.of_local + judge_in);
            let left = self.budget.calls.map(|limit| limit.saturating_sub(self.calls).saturating_sub(local));
            self.meter.allow(left);
        }
        Ok(self.meter.sent())
    }

    /// Requests beside a call for each answer are counted with the first of them; questions that were held back have no answer. True where
    /// there are such.
    fn read_meter(&mut self, before: u64, told: &mut Vec<Said>) -> bool {
        let sent = self.meter.sent() - before;
        let held_back = self.meter.held_back();
        self.meter.allow(None);
        let judge = self.person.as_ref().map(|person| &person.judge.model);
        let judge_out = judge.is_some_and(|model| matches!(model.source, ModelSource::Endpoint { .. }));
        let out = |said: &Said| {
            let judging = said.judging.as_ref().filter(|_| judge_out);
            said.sent + judging.map_or(0, |effort| u64::from(effort.calls))
        };
        let counted: u64 = told.iter().map(out).sum();
        let mut extra = sent.saturating_sub(counted);
        if held_back {
            let unjudged = |said: &Said| !said.right && self.person.is_some() && said.judging.is_none();
            let silent = |said: &Said| said.failed || unjudged(said);
            extra += told.iter().filter(|said| silent(said)).map(|said| said.calls).sum::<u64>();
            told.retain(|said| !silent(said));
        }
        match told.first_mut() {
            Some(first) => first.calls += extra,
            None => self.calls += extra,
        }
        held_back
    }

    /// What the judge says of answers that the metric does not call right.
    fn judge(&mut self, rows: &[&RunRow], told: &mut [Said]) {
        let Some(Person { asker, rubric, .. }) = &mut self.person else { return };
        let meter = &self.meter;
        let mut open: Vec<(&RunRow, &mut Said)> = rows
            .iter()
            .copied()
            .zip(told.iter_mut())
            .filter(|(_, said)| !said.right && !said.failed)
            .collect();
        let sheets = open
            .iter()
            .map(|(row, said)| rubric.fill(row, &[&said.output]).map_err(|e| e.to_string()))
            .collect();
        for ((_, said), judged) in open.iter_mut().zip(asker.verdicts(sheets)) {
            said.right = judged.right == Some(true);
            // Held back is not silent.
            said.judging = (judged.right.is_some() || !meter.held_back()).then_some(judged.effort);
            if judged.right.is_none() && said.judging.is_some() {
                if self.silent.0 == 0 {
                    self.silent.1 =
                        judged.error.unwrap_or_else(|| "its verdicts say nothing of right".into());
                }
                self.silent.0 += 1;
            }
        }
    }

    /// Answers on which the judge gave no verdict are wrong; said once.
    pub fn warn_of_silence(&mut self) -> anyhow::Result<()> {
        let (n, why) = std::mem::take(&mut self.silent);
        if n == 0 {
            return Ok(());
        }
        self.warn(format!(
            "the judge gave no verdict on {}, which count as wrong; the first: {why}",
            counted(n, "answer")
        ))
    }
}
