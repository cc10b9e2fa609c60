//! Who answers: versions of prompts on rows through the whole pipeline, and the critic. Keeps the log, the budget and the clock.

mod budget;
mod critic;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use budget::{Clock, is_endpoint, price};
use critic::Critic;

use super::judging::Judging;
use super::log::{Kept, Log};
use crate::backend::{Access, Backend, BackendError, Shared};
use crate::domain::candidate::{Candidate, ModelRef, StageCandidate};
use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::prompt::{PromptHistory, PromptNews, Spend};
use crate::domain::report::Reporter;
use crate::domain::row::RunRow;
use crate::domain::settings::Budget;
use crate::domain::steer::Change;
use crate::pipeline::Pipeline;
use crate::score::metric::Metric;
use crate::score::scorer::Scorer;
use crate::store::files;
use crate::tuning::evaluate;
use crate::tuning::prompt::{Mark, Texts};

/// So many failed rows with none answered end the run.
const HOPELESS: usize = 20;
/// Rows at once, at least.
const BATCH: usize = 16;
/// How often what is being asked is told, at most. Tests hear all of it.
const EVERY: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(1) };

/// Why the loop ends before its end.
#[derive(Debug)]
pub enum Halt {
    /// A person: keep the best so far.
    Stopped,
    Cancelled,
    /// The budget is used up: which part of it.
    Budget(String),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Halt {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// What the loop asks, and tells.
pub trait Examiner {
    /// The version's marks on rows (by their places), in their order.
    fn examine(&mut self, key: &str, texts: &Texts, rows: &[usize]) -> Result<Vec<Mark>, Halt>;

    /// The critic's answers; none where it failed or there is none.
    fn ask_critic(&mut self, prompts: Vec<String>) -> Result<Vec<Option<String>>, Halt>;

    fn has_critic(&self) -> bool;

    /// No proposal came of a question to the critic: why, and what came instead.
    fn no_proposal(&mut self, _why: &str, _came: &str) -> Result<(), Halt> {
        Ok(())
    }

    /// A new epoch begins: a critic that failed is tried again.
    fn epoch(&mut self) {}

    /// What is asked from now on, in words for people, and how many answers it takes.
    fn begin(&mut self, _phase: String, _answers: usize) {}

    /// What a person asked for since the last look.
    fn steer(&mut self) -> Result<Vec<Change>, Halt> {
        Ok(Vec::new())
    }

    fn set_budget(&mut self, _budget: Budget) {}

    fn spend(&self) -> Spend;

    fn tell(&mut self, news: PromptNews) -> Result<(), Halt>;

    fn say(&mut self, body: EventBody) -> Result<(), Halt>;

    /// Keep what was tried so far.
    fn keep(&mut self, history: &PromptHistory) -> Result<(), Halt>;
}

/// Opens a model, with the adapter of a stage where it has one.
pub type Open<'a> =
    Box<dyn FnMut(&ModelRef, Option<&StageCandidate>) -> Result<Box<dyn Backend>, BackendError> + 'a>;

/// What the budget has to last for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The loop, and the last comparison after it.
    Loop,
    /// The last comparison alone.
    Comparison,
    /// Nothing: what is asked now stands outside of it.
    Beyond,
}

/// What is being asked, so that nobody waits without seeing that something comes.
struct Doing {
    phase: String,
    done: usize,
    total: usize,
    began: Instant,
    /// Answers that were waited for since then; the others were known.
    heard: usize,
    /// When it was told last.
    told: Instant,
}

/// Models that answer, over the run folder.
pub struct Live<'a> {
    candidate: &'a Candidate,
    scorer: &'a Scorer,
    primary: Metric,
    rows: &'a [RunRow],
    reporter: &'a mut dyn Reporter,
    open: Open<'a>,
    backends: Vec<(String, Shared)>,
    critic: Option<Critic>,
    pub log: Log,
    budget: Budget,
    /// Calls that must be left for the last comparison, where none has to be repeated.
    pub reserved: u64,
    spend: Spend,
    /// Questions among the calls: what is more was asked again.
    questions: u64,
    /// Requests of endpoints beside a call for each answer.
    extra: i64,
    access: Access,
    clock: Clock,
    /// News that an earlier life told already.
    told: usize,
    doing: Option<Doing>,
    /// Looks for changes so far.
    turns: u64,
    answered: usize,
    succeeded: usize,
    /// Seconds in which models were waited for.
    pub asked: f64,
    pub phase: Phase,
    /// A judge is asked, not the pipeline.
    pub judging: Option<&'a Judging>,
    pub history_file: Option<PathBuf>,
}

impl<'a> Live<'a> {
    #[expect(clippy::too_many_arguments, reason = "each is another part of the run")]
    pub fn new(
        candidate: &'a Candidate,
        scorer: &'a Scorer,
        primary: Metric,
        rows: &'a [RunRow],
        critic: Option<&ModelRef>,
        budget: Budget,
        log: Log,
        told: usize,
        open: Open<'a>,
        access: &Access,
        reporter: &'a mut dyn Reporter,
    ) -> Self {
        let critic = critic.map(|model| Critic {
            model: model.clone(),
            failures: 0,
            asked: HashMap::new(),
            resting: false,
            questions: 0,
            failed: BTreeMap::new(),
        });
        Self {
            candidate,
            scorer,
            primary,
            rows,
            reporter,
            open,
            backends: Vec::new(),
            critic,
            budget,
            reserved: 0,
            spend: Spend::default(),
            questions: 0,
            extra: log.extra,
            log,
            access: access.clone(),
            clock: Clock { before: 0.0, since: None, idle: Duration::ZERO },
            told,
            doing: None,
            turns: 0,
            answered: 0,
            succeeded: 0,
            asked: 0.0,
            phase: Phase::Loop,
            judging: None,
            history_file: None,
        }
    }

    /// The history is durable from here on: so far it was only shown.
    pub fn settle(&self) -> io::Result<()> {
        self.history_file.as_ref().filter(|path| path.exists()).map_or(Ok(()), |path| files::sync_file(path))
    }

    fn backend(&mut self, model: &ModelRef, stage: Option<&StageCandidate>) -> Result<Shared, BackendError> {
        let adapter = stage.and_then(|s| s.adapter.as_ref()).map_or("", |a| a.hash.as_str());
        let key = format!("{}\n{adapter}\n{:?}\n{:?}", model.hash, model.source, model.limits);
        if let Some((_, known)) = self.backends.iter().find(|(other, _)| *other == key) {
            return Ok(known.clone());
        }
        let shared = Shared::new((self.open)(model, stage)?);
        self.backends.push((key, shared.clone()));
        Ok(shared)
    }

    /// So many answers more were waited for: `0` tells what is waited for.
    pub(super) fn heard(&mut self, answers: usize) -> Result<(), Halt> {
        let Some(doing) = self.doing.as_mut() else { return Ok(()) };
        doing.done += answers;
        doing.heard += answers;
        if answers > 0 && doing.told.elapsed() < EVERY {
            return Ok(());
        }
        doing.told = Instant::now();
        let rest = doing.total.saturating_sub(doing.done);
        let each = doing.began.elapsed().as_secs_f64() * 1e3 / doing.heard.max(1) as f64;
        let body = EventBody::Progress {
            phase: doing.phase.clone(),
            done: doing.done.min(doing.total) as u64,
            total: doing.total as u64,
            eta_ms: (doing.heard > 0).then_some((each * rest as f64) as u64),
        };
        self.say(body)
    }

    fn mark(&self, outcome: &Outcome) -> Mark {
        let usd = self.candidate.stages.iter().filter_map(|stage| {
            let ran = outcome.stages.iter().find(|s| s.stage == stage.name && !s.skipped)?;
            Some(price(&stage.model, ran.tokens_in, ran.tokens_out, ran.ms))
        });
        Mark::of(outcome, &self.primary, usd.sum())
    }

    /// Ask the judge with another rubric.
    fn ask_judge(
        &mut self,
        judging: &Judging,
        key: &str,
        texts: &Texts,
        open: &[usize],
    ) -> Result<Vec<Outcome>, Halt> {
        let Some((stage, rubric)) = texts.first_key_value() else { return Ok(Vec::new()) };
        let of = self.candidate.stages.iter().find(|known| known.name == *stage);
        let model = &of.ok_or_else(|| anyhow!("no judge is called `{stage}`"))?.model;
        let backend = self.backend(model, None).map_err(|e| anyhow!("{stage}: {e}"))?;
        let mut outcomes = Vec::with_capacity(open.len());
        let (size, each) = (BATCH.max(backend.width()), judging.calls() as u64);
        let local = if is_endpoint(model) { 0 } else { each };
        let mut rest = open;
        while !rest.is_empty() {
            self.poll()?;
            let (batch, others) = rest.split_at(self.room(size.min(rest.len()), each)?);
            rest = others;
            let n = batch.len() as u64;
            let answered = self.metered(n * each, n * local, |live| {
                let began = Instant::now();
                let mut answered = judging.outcomes(rubric, Box::new(backend.clone()), batch);
                live.asked += began.elapsed().as_secs_f64();
                if live.access.meter.held_back() {
                    // Of a judge in two steps it may have been the second one.
                    answered.retain(|outcome| outcome.stages.iter().all(|stage| stage.format_ok));
                }
                live.take_all(key, answered)
            })?;
            outcomes.extend(answered);
            self.heard(batch.len())?;
        }
        Ok(outcomes)
    }

    /// Answers that came, with the calls of endpoints among theirs. Rows that were held back have none.
    fn take_all(&mut self, key: &str, answered: Vec<Outcome>) -> Result<(Vec<Outcome>, u64), Halt> {
        let held_back = self.access.meter.held_back();
        let (mut taken, mut calls) = (Vec::with_capacity(answered.len()), 0);
        for outcome in answered.into_iter().filter(|outcome| !held_back || outcome.error.is_none()) {
            self.take(key, &outcome)?;
            for ran in outcome.stages.iter().filter(|ran| !ran.skipped) {
                let stage = self.candidate.stages.iter().find(|stage| stage.name == ran.stage);
                if stage.is_some_and(|stage| is_endpoint(&stage.model)) {
                    calls += (1 + u64::from(ran.retries)).saturating_sub(u64::from(ran.cached));
                }
            }
            taken.push(outcome);
        }
        Ok((taken, calls))
    }

    /// An answer that came.
    fn take(&mut self, key: &str, outcome: &Outcome) -> Result<(), Halt> {
        self.watch(outcome)?;
        let kept = Kept { at: self.clock.now(), usd: self.usd(outcome), outcome: outcome.clone() };
        self.pay_row(&kept);
        Ok(self.log.keep_row(key, kept.at, kept.usd, kept.outcome)?)
    }

    /// Ask for the rows that are not in the log.
    fn ask_rows(&mut self, key: &str, texts: &Texts, open: &[usize]) -> Result<Vec<Outcome>, Halt> {
        self.start_clock();
        if let Some(judging) = self.judging {
            return self.ask_judge(judging, key, texts, open);
        }
        let mut candidate = self.candidate.clone();
        for stage in &mut candidate.stages {
            if let Some(text) = texts.get(&stage.name) {
                stage.prompt.clone_from(text);
            }
        }
        let mut backends = HashMap::new();
        for stage in &self.candidate.stages {
            let backend = self
                .backend(&stage.model, Some(stage))
                .map_err(|e| anyhow!("stage `{}`: {e}", stage.name))?;
            backends.insert(stage.name.clone(), backend);
        }
        let mut pipeline =
            Pipeline::with_backends(&candidate, &self.access, &mut |stage| match backends.get(&stage.name) {
                Some(backend) => Ok(Box::new(backend.clone())),
                None => Err(BackendError("no such stage".into())),
            })
            .map_err(anyhow::Error::new)?;
        let mut outcomes = Vec::with_capacity(open.len());
        // A row takes a call a stage, and one more for each retry.
        let of_stage = |stage: &StageCandidate| 1 + u64::from(stage.retries);
        let each: u64 = self.candidate.stages.iter().map(of_stage).sum();
        let local: u64 =
            self.candidate.stages.iter().filter(|stage| !is_endpoint(&stage.model)).map(of_stage).sum();
        let (size, mut rest) = (BATCH.max(pipeline.width()), open);
        while !rest.is_empty() {
            self.poll()?;
            let (batch, others) = rest.split_at(self.room(size.min(rest.len()), each)?);
            rest = others;
            let rows: Vec<&RunRow> = batch.iter().filter_map(|&at| self.rows.get(at)).collect();
            let n = rows.len() as u64;
            let answered = self.metered(n * each, n * local, |live| {
                let began = Instant::now();
                let answered = pipeline.answer(&rows);
                live.asked += began.elapsed().as_secs_f64();
                let scored = rows.into_iter().zip(answered);
                let scored = scored.map(|(row, said)| evaluate::outcome(live.scorer, (row, 0), said, None));
                live.take_all(key, scored.collect())
            })?;
            outcomes.extend(answered);
            self.heard(batch.len())?;
        }
        Ok(outcomes)
    }

    /// What is wrong with every row is no fault of a prompt.
    fn watch(&mut self, outcome: &Outcome) -> Result<(), Halt> {
        self.answered += 1;
        let Some(error) = &outcome.error else {
            self.succeeded += 1;
            return Ok(());
        };
        if self.answered == self.succeeded + 1 {
            let message = format!("row `{}` failed: {error} (further failures count as wrong)", outcome.row);
            self.reporter.event(EventBody::Warning { message })?;
        }
        if self.succeeded == 0 && self.answered >= HOPELESS {
            return Err(anyhow!(
                "the first {HOPELESS} rows all failed; the last one, `{}`: {error}",
                outcome.row
            )
            .into());
        }
        Ok(())
    }
}

impl Examiner for Live<'_> {
    fn examine(&mut self, key: &str, texts: &Texts, rows: &[usize]) -> Result<Vec<Mark>, Halt> {
        let id = |at: usize| self.rows.get(at).map_or("", |row| row.id.as_str());
        let open: Vec<usize> =
            rows.iter().copied().filter(|&at| self.log.row(key, id(at)).is_none()).collect();
        let mut marks: HashMap<usize, Mark> = HashMap::new();
        for &at in rows {
            let row = self.rows.get(at).map_or("", |row| row.id.as_str());
            if let Some(kept) = self.log.row(key, row).cloned() {
                self.heard_before(kept.at);
                self.pay_row(&kept);
                if kept.outcome.error.is_none() {
                    self.succeeded += 1;
                }
                self.answered += 1;
                if let Some(doing) = &mut self.doing {
                    doing.done += 1;
                }
                marks.insert(at, self.mark(&kept.outcome));
            }
        }
        if !open.is_empty() {
            let outcomes = self.ask_rows(key, texts, &open)?;
            for (at, outcome) in open.iter().zip(&outcomes) {
                marks.insert(*at, self.mark(outcome));
            }
        }
        Ok(rows.iter().filter_map(|at| marks.get(at).cloned()).collect())
    }

    fn ask_critic(&mut self, prompts: Vec<String>) -> Result<Vec<Option<String>>, Halt> {
        self.question_critic(prompts)
    }

    fn has_critic(&self) -> bool {
        self.critic.as_ref().is_some_and(|critic| !critic.resting)
    }

    fn no_proposal(&mut self, why: &str, came: &str) -> Result<(), Halt> {
        self.count_failure(why, came)
    }

    fn begin(&mut self, phase: String, answers: usize) {
        let now = Instant::now();
        self.doing = Some(Doing { phase, done: 0, total: answers, began: now, heard: 0, told: now });
    }

    fn epoch(&mut self) {
        if let Some(critic) = &mut self.critic {
            (critic.resting, critic.failures) = (false, 0);
        }
    }

    fn steer(&mut self) -> Result<Vec<Change>, Halt> {
        let turn = self.turns;
        self.turns += 1;
        if let Some(changes) = self.log.turn(turn) {
            return Ok(changes.clone());
        }
        let changes = self.reporter.changes(self.log.taken())?;
        self.log.keep_turn(turn, changes.clone())?;
        Ok(changes)
    }

    fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    fn spend(&self) -> Spend {
        Spend {
            calls: self.spend.calls.saturating_add_signed(self.extra),
            seconds: self.clock.now(),
            ..self.spend
        }
    }

    fn tell(&mut self, news: PromptNews) -> Result<(), Halt> {
        if self.told > 0 {
            self.told -= 1;
            return Ok(());
        }
        Ok(self.reporter.event(EventBody::Prompt(news))?)
    }

    fn say(&mut self, body: EventBody) -> Result<(), Halt> {
        // What an earlier life said is not said again.
        if self.told > 0 {
            return Ok(());
        }
        Ok(self.reporter.event(body)?)
    }

    fn keep(&mut self, history: &PromptHistory) -> Result<(), Halt> {
        let Some(path) = &self.history_file else { return Ok(()) };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(files::show_json(path, history)?)
    }
}
