//! Who answers: versions of prompts on rows through the whole pipeline, and the critic. Keeps the log, the budget and the clock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::judging::Judging;
use super::log::{Kept, Log, Said};
use super::{Mark, Texts};
use crate::backend::{Answer, Ask, Backend, BackendError, Finish, Listener};
use crate::domain::candidate::{Candidate, Decoding, ModelRef, StageCandidate};
use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::prompt::{PromptHistory, PromptNews, Spend};
use crate::domain::report::{Control, Reporter};
use crate::domain::row::RunRow;
use crate::domain::settings::Budget;
use crate::domain::steer::Change;
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

    /// A new epoch begins: a critic that failed is tried again.
    fn epoch(&mut self) {}

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

/// A backend that several pipelines ask.
#[derive(Clone)]
struct Shared(Rc<RefCell<Box<dyn Backend>>>);

impl Backend for Shared {
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        self.0.borrow_mut().stream(asks, listener)
    }
    fn answer(&mut self, asks: &[Ask]) -> Vec<Result<Answer, BackendError>> {
        self.0.borrow_mut().answer(asks)
    }
    fn width(&self) -> usize {
        self.0.borrow().width()
    }
    fn set_fresh(&mut self, fresh: bool) {
        self.0.borrow_mut().set_fresh(fresh);
    }
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
    /// Calls that must be left for the last comparison.
    pub reserved: u64,
    spend: Spend,
    clock: Clock,
    /// News that an earlier life told already.
    told: usize,
    /// Looks for changes so far.
    turns: u64,
    answered: usize,
    succeeded: usize,
    /// Seconds in which models were waited for.
    pub asked: f64,
    /// The last comparison is paid for by the reserve.
    pub closing: bool,
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
        reporter: &'a mut dyn Reporter,
    ) -> Self {
        let critic = critic.map(|model| Critic {
            model: model.clone(),
            failures: 0,
            asked: HashMap::new(),
            resting: false,
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
            log,
            budget,
            reserved: 0,
            spend: Spend::default(),
            clock: Clock { before: 0.0, since: None, idle: Duration::ZERO },
            told,
            turns: 0,
            answered: 0,
            succeeded: 0,
            asked: 0.0,
            closing: false,
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
        let shared = Shared(Rc::new(RefCell::new((self.open)(model, stage)?)));
        self.backends.push((key, shared.clone()));
        Ok(shared)
    }

    /// Seconds of work of this life.
    pub fn worked(&self) -> f64 {
        self.clock.now() - self.clock.before
    }

    /// Look for requests; a pause is no work.
    fn poll(&mut self) -> Result<(), Halt> {
        let began = Instant::now();
        let control = self.reporter.poll_control()?;
        self.clock.idle += began.elapsed();
        match control {
            Control::Cancel => Err(Halt::Cancelled),
            Control::Stop if !self.closing => Err(Halt::Stopped),
            // Every answer is on disk already.
            Control::Stop | Control::Continue | Control::Checkpoint => Ok(()),
        }
    }

    /// Whether `calls` more, and the reserve, are within the budget, by what calls cost so far.
    fn afford(&self, calls: u64) -> Result<(), Halt> {
        if self.closing {
            return Ok(());
        }
        let spent = self.spend();
        let wanted = (calls + self.reserved) as f64;
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
        for batch in open.chunks(BATCH.max(backend.width())) {
            self.poll()?;
            self.afford((batch.len() * judging.calls()) as u64)?;
            let began = Instant::now();
            let answered = judging.outcomes(rubric, Box::new(backend.clone()), batch);
            self.asked += began.elapsed().as_secs_f64();
            for outcome in answered {
                self.take(key, &outcome)?;
                outcomes.push(outcome);
            }
        }
        Ok(outcomes)
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
            Pipeline::with_backends(&candidate, &mut |stage| match backends.get(&stage.name) {
                Some(backend) => Ok(Box::new(backend.clone())),
                None => Err(BackendError("no such stage".into())),
            })
            .map_err(anyhow::Error::new)?;
        let mut outcomes = Vec::with_capacity(open.len());
        for batch in open.chunks(BATCH.max(pipeline.width())) {
            self.poll()?;
            // A row takes a call a stage, and one more for each retry.
            let each: u64 = self.candidate.stages.iter().map(|s| 1 + u64::from(s.retries)).sum();
            self.afford(batch.len() as u64 * each)?;
            let rows: Vec<&RunRow> = batch.iter().filter_map(|&at| self.rows.get(at)).collect();
            let began = Instant::now();
            let answered = pipeline.answer(&rows);
            self.asked += began.elapsed().as_secs_f64();
            for (row, answered) in rows.into_iter().zip(answered) {
                let outcome = evaluate::outcome(self.scorer, (row, 0), answered, None);
                self.take(key, &outcome)?;
                outcomes.push(outcome);
            }
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
        self.afford(open.len() as u64)?;
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
        let began = Instant::now();
        let answers = match self.backend(model, None) {
            Ok(mut backend) => backend.answer(&asks),
            Err(error) => asks.iter().map(|_| Err(error.clone())).collect(),
        };
        self.asked += began.elapsed().as_secs_f64();
        let said = answers.into_iter().map(|answer| match answer {
            Ok(answer) => Said {
                // An answer that was cut off may still hold a whole prompt.
                text: (answer.finish != Finish::Broken).then_some(answer.text),
                error: None,
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
                self.pay_critic(&said);
                let at = self.clock.now();
                self.log.keep_critic(&keyed[i].2, at, said.clone())?;
                answers[i] = Some(said);
            }
        }
        let mut trouble = None;
        if let Some(critic) = self.critic.as_mut() {
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
        Spend { seconds: self.clock.now(), ..self.spend }
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
