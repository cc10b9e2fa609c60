//! Who answers: versions of prompts on rows through the whole pipeline, and the critic. Keeps the log, the budget and the clock.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::judging::Judging;
use super::log::{Kept, Log, Said};
use super::{Mark, Texts};
use crate::backend::{Access, Ask, Backend, BackendError, Finish, Heard, Shared};
use crate::domain::candidate::{Candidate, Decoding, ModelRef, ModelSource, StageCandidate};
use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::prompt::{PromptHistory, PromptNews, Spend};
use crate::domain::report::{Control, Reporter};
use crate::domain::row::RunRow;
use crate::domain::settings::Budget;
use crate::domain::steer::Change;
use crate::domain::words::{brief, counted};
use crate::pipeline::Pipeline;
use crate::score::metric::Metric;
use crate::score::scorer::Scorer;
use crate::store::files;
use crate::tuning::evaluate;

/// So many failed rows with none answered end the run.
const HOPELESS: usize = 20;
/// Failures of the critic in a row after which it is left alone for the rest of the epoch.
const PATIENCE: usize = 3;
/// Longest answer of the critic, in tokens.
const CRITIC_TOKENS: usize = 2_048;
const CRITIC_TEMPERATURE: f32 = 0.8;
/// Rows at once, at least.
const BATCH: usize = 16;
/// How often what is being asked is told, at most. Tests hear all of it.
const EVERY: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(1) };
/// Reasons of failed proposals that are told, and characters of one and of what came.
const REASONS: usize = 5;
const WHY: usize = 160;
const CAME: usize = 120;

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

/// Seconds of work: of earlier lives as the log has them, and of this one from its first question on.
struct Clock {
    before: f64,
    since: Option<Instant>,
    /// Not worked: paused.
    idle: Duration,
}

impl Clock {
    fn now(&self) -> f64 {
        self.before
            + self.since.map_or(0.0, |since| (since.elapsed().saturating_sub(self.idle)).as_secs_f64())
    }
}

/// The critic, and how it does.
struct Critic {
    model: ModelRef,
    failures: usize,
    /// How often each question was asked, so that a repetition is another drawing.
    asked: HashMap<String, u32>,
    resting: bool,
    /// Questions put to it, and of how many no proposal came, by the reason.
    questions: usize,
    failed: BTreeMap<String, usize>,
}

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

    /// Seconds of work of this life.
    pub fn worked(&self) -> f64 {
        self.clock.now() - self.clock.before
    }

    /// Questions to the critic, and of how many of them no proposal came.
    pub fn proposals(&self) -> Option<(usize, usize)> {
        let critic = self.critic.as_ref().filter(|critic| critic.questions > 0)?;
        Some((critic.questions, critic.failed.values().sum()))
    }

    /// How the critic did, where it failed: how often, and why.
    pub fn critic_failures(&self) -> Option<String> {
        let (asked, failed) = self.proposals().filter(|(_, failed)| *failed > 0)?;
        let critic = self.critic.as_ref()?;
        let mut reasons: Vec<(&String, &usize)> = critic.failed.iter().collect();
        reasons.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let told: Vec<String> = reasons.iter().take(REASONS).map(|(why, n)| format!("{n}: {why}")).collect();
        let more = reasons.len().saturating_sub(REASONS);
        let more = if more > 0 { format!("; and {} more", counted(more, "reason")) } else { String::new() };
        Some(format!(
            "{failed} of {} to the critic `{}` brought no proposal ({}{more})",
            counted(asked, "question"),
            brief(&critic.model.name, WHY),
            told.join("; ")
        ))
    }

    /// Look for requests; a pause is no work.
    fn poll(&mut self) -> Result<(), Halt> {
        let began = Instant::now();
        let control = self.reporter.poll_control()?;
        self.clock.idle += began.elapsed();
        match control {
            Control::Cancel => Err(Halt::Cancelled),
            Control::Stop if self.phase == Phase::Loop => Err(Halt::Stopped),
            // Every answer is on disk already.
            Control::Stop | Control::Continue | Control::Checkpoint => Ok(()),
        }
    }

    /// So many answers more were waited for: `0` tells what is waited for.
    fn heard(&mut self, answers: usize) -> Result<(), Halt> {
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
            eta_ms: (doing.heard > 0).then(|| (each * rest as f64) as u64),
        };
        self.say(body)
    }

    /// Calls left for now: what is kept for the last comparison is more where calls were repeated so far. None: there is no limit.
    fn left(&self) -> Option<u64> {
        let limit = self.budget.calls.filter(|_| self.phase != Phase::Beyond)?;
        let kept = if self.phase == Phase::Loop { self.reserve() } else { 0 };
        Some(limit.saturating_sub(self.spend().calls).saturating_sub(kept))
    }

    fn reserve(&self) -> u64 {
        let each = self.spend().calls as f64 / self.questions.max(1) as f64;
        (self.reserved as f64 * each.max(1.0)).ceil() as u64
    }

    /// So many of `wanted` questions, of at most `each` calls, can be put now. The last comparison goes on with fewer.
    fn room(&self, wanted: usize, each: u64) -> Result<usize, Halt> {
        if self.phase != Phase::Comparison {
            return self.afford(wanted as u64 * each).map(|()| wanted);
        }
        let room = self.left().map_or(wanted as u64, |left| left / each.max(1));
        if room == 0 {
            return Err(Halt::Budget("calls".to_owned()));
        }
        Ok(wanted.min(usize::try_from(room).unwrap_or(wanted)))
    }

    /// Ask, and count what goes out beside a call for each answer; no more goes out than the budget has left. `most`: the calls that are
    /// expected, of which `local` at most go to no endpoint. `work` returns the calls of endpoints that its answers count.
    fn metered<T>(
        &mut self,
        most: u64,
        local: u64,
        work: impl FnOnce(&mut Self) -> Result<(T, u64), Halt>,
    ) -> Result<T, Halt> {
        if most == local {
            return work(self).map(|(done, _)| done);
        }
        self.log.keep_asking(most)?;
        let before = self.access.meter.sent();
        self.access.meter.allow(self.left().map(|left| left.saturating_sub(local)));
        let done = work(self);
        let sent = i64::try_from(self.access.meter.sent() - before).unwrap_or(i64::MAX);
        let counted = done.as_ref().map_or(0, |(_, counted)| i64::try_from(*counted).unwrap_or(0));
        let held_back = self.access.meter.held_back();
        self.access.meter.allow(None);
        self.extra += sent - counted;
        self.log.keep_asked(sent - counted)?;
        let (done, _) = done?;
        if held_back { Err(Halt::Budget("calls".to_owned())) } else { Ok(done) }
    }

    /// Whether `calls` more, and the reserve, are within the budget, by what calls cost so far.
    fn afford(&self, calls: u64) -> Result<(), Halt> {
        if self.phase != Phase::Loop {
            return Ok(());
        }
        let spent = self.spend();
        let wanted = (calls + self.reserve()) as f64;
        let per_call = |sum: f64| if spent.calls > 0 { sum / spent.calls as f64 } else { 0.0 };
        let over = |sum: f64, limit: f64| sum + per_call(sum) * wanted > limit;
        let refused = |what: &str| Err(Halt::Budget(what.to_owned()));
        match self.budget {
            Budget { calls: Some(limit), .. } if spent.calls as f64 + wanted > limit as f64 => {
                refused("calls")
            }
            Budget { tokens: Some(limit), .. } if over(spent.tokens as f64, limit as f64) => {
                refused("tokens")
            }
            Budget { usd: Some(limit), .. } if over(spent.usd, limit) => refused("usd"),
            Budget { seconds: Some(limit), .. } if over(spent.seconds, limit as f64) => refused("seconds"),
            _ => Ok(()),
        }
    }

    /// From here on it is work.
    fn start_clock(&mut self) {
        if self.clock.since.is_none() {
            self.clock.since = Some(Instant::now());
            self.clock.idle = Duration::ZERO;
        }
    }

    /// An answer of an earlier life.
    fn heard_before(&mut self, at: f64) {
        if self.clock.since.is_none() {
            self.clock.before = self.clock.before.max(at);
        }
    }

    fn pay_row(&mut self, kept: &Kept) {
        for stage in kept.outcome.stages.iter().filter(|stage| !stage.skipped) {
            let all = 1 + u64::from(stage.retries);
            let cached = u64::from(stage.cached).min(all);
            self.spend.calls += all - cached;
            self.questions += u64::from(cached < all);
            self.spend.cached += cached;
            self.spend.tokens += (stage.tokens_in + stage.tokens_out) * (all - cached) / all;
        }
        self.spend.usd += kept.usd;
    }

    fn pay_critic(&mut self, said: &Said) {
        if said.cached {
            self.spend.cached += 1;
        } else {
            self.spend.calls += 1;
            self.questions += 1;
            self.spend.tokens += said.tokens;
            self.spend.usd += said.usd;
        }
    }

    /// Dollars of a row's answers that were worked for.
    fn usd(&self, outcome: &Outcome) -> f64 {
        let of = |stage: &StageCandidate| {
            let ran = outcome.stages.iter().find(|s| s.stage == stage.name && !s.skipped)?;
            let worked = 1.0 - f64::from(ran.cached) / f64::from(1 + ran.retries);
            Some(price(&stage.model, ran.tokens_in, ran.tokens_out, ran.ms) * worked)
        };
        self.candidate.stages.iter().filter_map(of).sum()
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

    /// One question for each drawing, put to the critic together.
    fn put_to_critic(&mut self, model: &ModelRef, open: &[(String, u32, String)]) -> Result<Vec<Said>, Halt> {
        self.start_clock();
        self.poll()?;
        let n = open.len() as u64;
        self.afford(n)?;
        // A critic takes its time: that it is asked is told before it answers.
        self.heard(0)?;
        let asks: Vec<Ask> = open
            .iter()
            .map(|(text, sample, _)| {
                let seed = u64::from(*sample);
                let decoding = Decoding {
                    max_tokens: CRITIC_TOKENS,
                    temperature: CRITIC_TEMPERATURE,
                    seed,
                    ..Decoding::default()
                };
                Ask { sample: *sample, ..Ask::turn(text.as_str(), decoding) }
            })
            .collect();
        self.metered(n, if is_endpoint(model) { 0 } else { n }, |live| {
            let said = live.hear_critic(model, &asks)?;
            let (held_back, mut calls) = (live.access.meter.held_back(), 0);
            // Questions that were held back are no failures of the critic, and end the loop.
            for ((_, _, key), said) in open.iter().zip(&said) {
                if !held_back || said.error.is_none() {
                    live.pay_critic(said);
                    calls += u64::from(!said.cached);
                    let at = live.clock.now();
                    live.log.keep_critic(key, at, said.clone())?;
                }
            }
            Ok((said, calls))
        })
    }

    /// The critic's answers. A critic that is silent keeps nobody from stopping the run.
    fn hear_critic(&mut self, model: &ModelRef, asks: &[Ask]) -> Result<Vec<Said>, Halt> {
        let began = Instant::now();
        let mut halt = None;
        let answers = match self.backend(model, None) {
            Ok(mut backend) => backend.stream(asks, &mut |_, heard| {
                if halt.is_none() {
                    halt = match heard {
                        Heard::Waiting => self.poll().err(),
                        Heard::Done(_) => self.heard(1).err(),
                        Heard::Piece(_) => None,
                    };
                }
                if halt.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }),
            Err(error) => asks.iter().map(|_| Err(error.clone())).collect(),
        };
        self.asked += began.elapsed().as_secs_f64();
        if let Some(halt) = halt {
            return Err(halt);
        }
        let said = answers.into_iter().map(|answer| match answer {
            Ok(answer) => Said {
                // An answer that was cut off may still hold a whole prompt.
                text: (answer.finish != Finish::Broken).then_some(answer.text),
                error: None,
                cut: answer.finish == Finish::Length,
                cached: answer.cached,
                tokens: answer.tokens_in + answer.tokens_out,
                usd: if answer.cached {
                    0.0
                } else {
                    price(model, answer.tokens_in, answer.tokens_out, answer.ms)
                },
            },
            Err(error) => Said { error: Some(error.to_string()), ..Said::default() },
        });
        Ok(said.collect())
    }
}

fn is_endpoint(model: &ModelRef) -> bool {
    matches!(model.source, ModelSource::Endpoint { .. })
}

/// Dollars of an answer.
fn price(model: &ModelRef, tokens_in: u64, tokens_out: u64, ms: f64) -> f64 {
    let tokens = tokens_in as f64 * model.usd_per_million_input.unwrap_or(0.0)
        + tokens_out as f64 * model.usd_per_million_output.unwrap_or(0.0);
    tokens / 1e6 + model.usd_per_hour.unwrap_or(0.0) * ms / 3_600_000.0
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
        let Some(critic) = self.critic.as_mut() else { return Ok(vec![None; prompts.len()]) };
        if critic.resting {
            return Ok(vec![None; prompts.len()]);
        }
        let model = critic.model.clone();
        let keyed: Vec<(String, u32, String)> = prompts
            .into_iter()
            .map(|text| {
                let asked = critic.asked.entry(text.clone()).or_default();
                *asked += 1;
                let key = blake3::hash(format!("{}\n{asked}\n{text}", model.hash).as_bytes()).to_hex()[..32]
                    .to_owned();
                (text, *asked, key)
            })
            .collect();
        let mut answers: Vec<Option<Said>> = Vec::with_capacity(keyed.len());
        for (_, _, key) in &keyed {
            let kept = self.log.critic(key).cloned();
            if let Some((at, said)) = &kept {
                self.heard_before(*at);
                self.pay_critic(said);
            }
            answers.push(kept.map(|(_, said)| said));
        }
        let open: Vec<usize> = (0..keyed.len()).filter(|&i| answers[i].is_none()).collect();
        if !open.is_empty() {
            let questions: Vec<_> = open.iter().map(|&i| keyed[i].clone()).collect();
            let said = self.put_to_critic(&model, &questions)?;
            for (i, said) in open.into_iter().zip(said) {
                answers[i] = Some(said);
            }
        }
        for said in answers.iter().flatten() {
            match (&said.error, &said.text) {
                (Some(error), _) => self.no_proposal(error, "")?,
                (None, None) => self.no_proposal("its answer was broken off", "")?,
                (None, Some(_)) => {}
            }
        }
        let mut trouble = None;
        if let Some(critic) = self.critic.as_mut() {
            critic.questions += answers.len();
            for said in answers.iter().flatten() {
                match &said.error {
                    Some(error) => {
                        critic.failures += 1;
                        if critic.failures >= PATIENCE && !critic.resting {
                            critic.resting = true;
                            trouble = Some(error.clone());
                        }
                    }
                    None => critic.failures = 0,
                }
            }
        }
        if let Some(error) = trouble {
            let message =
                format!("the critic `{}` fails and is left alone for this epoch: {error}", model.name);
            self.say(EventBody::Warning { message })?;
        }
        Ok(answers.into_iter().map(|said| said.and_then(|said| said.text)).collect())
    }

    fn has_critic(&self) -> bool {
        self.critic.as_ref().is_some_and(|critic| !critic.resting)
    }

    /// Told when it comes up first, and all together at the end.
    fn no_proposal(&mut self, why: &str, came: &str) -> Result<(), Halt> {
        let Some(critic) = self.critic.as_mut() else { return Ok(()) };
        let (name, why) = (brief(&critic.model.name, WHY), brief(why, WHY));
        let n = critic.failed.entry(why.clone()).or_default();
        *n += 1;
        if *n > 1 || critic.failed.len() > REASONS {
            return Ok(());
        }
        let came = brief(came, CAME);
        let came = if came.is_empty() { came } else { format!("; this came: {came}") };
        let message = format!("no proposal of the critic `{name}`: {why}{came}");
        self.say(EventBody::Warning { message })
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
        let changes = self.reporter.changes()?;
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
        Ok(files::write_json(path, history)?)
    }
}
