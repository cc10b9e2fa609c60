//! Who is asked: the maker, and the pipeline that checks. Keeps the log, the budget and the clock.
//!
//! Every answer stands in `tuning.jsonl` before anything is made of it: a run that is taken up again finds there what was answered before.
//! What failed is not kept, and asked again.

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::backend::{Access, Answer, Ask, Backend, BackendError, Finish, Heard, Meter, Shared};
use crate::domain::candidate::{Candidate, Decoding, ModelRef, ModelSource, StageCandidate};
use crate::domain::judge::Judge;
use crate::domain::outcome::Outcome;
use crate::domain::prompt::Spend;
use crate::domain::report::{Control, Reporter};
use crate::domain::row::RunRow;
use crate::domain::settings::Budget;
use crate::domain::steer::{Change, Limit};
use crate::pipeline::Pipeline;
use crate::pipeline::rubric::Rubric;
use crate::score::scorer::Scorer;
use crate::tuning::prompt::log::{Log, Said};
use crate::tuning::{evaluate, judge};

/// So many failures with nothing before them that went well end the run: what is wrong is wrong for all.
const HOPELESS: usize = 20;
/// After a stop, answers that are on their way may take so long.
const LAST: Duration = Duration::from_secs(10);
/// Texts at a time while nothing is known of what one costs.
const FEW: usize = 4;

/// Why the loop ends before its end.
#[derive(Debug)]
pub enum Halt {
    /// A person: keep what is verified.
    Stopped,
    Cancelled,
    /// The budget is used up: which part of it.
    Budget(&'static str),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Halt {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Halt {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Opens a model, with the adapter of a stage where it has one.
pub type Open<'a> =
    &'a mut dyn FnMut(&ModelRef, Option<&StageCandidate>) -> Result<Box<dyn Backend>, BackendError>;

#[derive(Clone, Copy)]
enum Who {
    Maker,
    Checker,
}

/// A question for the maker.
pub struct Question {
    pub text: String,
    pub sample: u32,
    pub decoding: Decoding,
}

/// A judge, where what is right hangs on one.
struct Person<'a> {
    asker: judge::Asker<'a>,
    rubric: Rubric,
    judge: &'a Judge,
}

pub struct Desk<'a> {
    candidate: &'a Candidate,
    scorer: &'a Scorer,
    model: &'a ModelRef,
    maker: Shared,
    pipeline: Pipeline,
    person: Option<Person<'a>>,
    log: Log,
    meter: Meter,
    budget: Budget,
    pub reporter: &'a mut dyn Reporter,
    /// Changes that were taken.
    asked: usize,
    spend: Spend,
    /// Texts that were paid for.
    texts: usize,
    /// Calls that a text is expected to take of the maker and of who checks it; of the latter, those of endpoints.
    of_maker: u64,
    of_check: (u64, u64),
    extra: i64,
    clock: Clock,
    /// Of the maker and of who checks: questions that failed, and that did not.
    failed: [(usize, usize); 2],
}

/// Seconds of work: of earlier lives as the log has them, and of this one from its first question on.
#[derive(Default)]
struct Clock {
    before: f64,
    since: Option<Instant>,
    idle: Duration,
}

impl Clock {
    fn now(&self) -> f64 {
        self.before + self.since.map_or(0.0, |at| at.elapsed().saturating_sub(self.idle).as_secs_f64())
    }

    fn start(&mut self) {
        if self.since.is_none() {
            (self.since, self.idle) = (Some(Instant::now()), Duration::ZERO);
        }
    }

    fn heard_before(&mut self, at: f64) {
        if self.since.is_none() {
            self.before = self.before.max(at);
        }
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

impl<'a> Desk<'a> {
    #[expect(clippy::too_many_arguments, reason = "each is another part of the run")]
    pub fn new(
        candidate: &'a Candidate,
        scorer: &'a Scorer,
        model: &'a ModelRef,
        restates: bool,
        budget: Budget,
        log: Log,
        open: Open<'_>,
        access: &Access,
        reporter: &'a mut dyn Reporter,
    ) -> anyhow::Result<Self> {
        let maker = Shared::new(open(model, None)?);
        let pipeline = Pipeline::with_backends(candidate, access, &mut |stage| {
            let same = stage.adapter.is_none()
                && stage.model.hash == model.hash
                && stage.model.source == model.source
                && stage.model.limits == model.limits
                && stage.model.device == model.device;
            if same { Ok(Box::new(maker.clone())) } else { open(&stage.model, Some(stage)) }
        })?;
        let out = candidate.stages.iter().filter(|stage| is_endpoint(&stage.model)).count();
        Ok(Self {
            candidate,
            scorer,
            model,
            maker,
            pipeline,
            person: None,
            extra: log.extra,
            log,
            meter: access.meter.clone(),
            budget,
            reporter,
            asked: 0,
            spend: Spend::default(),
            texts: 0,
            of_maker: 1 + u64::from(restates),
            of_check: (candidate.stages.len() as u64, out as u64),
            clock: Clock::default(),
            failed: [(0, 0); 2],
        })
    }

    /// A judge says what is right.
    pub fn judged_by(&mut self, judge: &'a Judge, asker: judge::Asker<'a>) -> anyhow::Result<()> {
        let rubric = Rubric::of_one(&judge.rubric_name, &judge.rubric)?;
        let calls = 1 + u64::from(judge.two_step);
        self.of_check.0 += calls;
        self.of_check.1 += if is_endpoint(&judge.model) { calls } else { 0 };
        self.person = Some(Person { asker, rubric, judge });
        Ok(())
    }

    /// Where the models answer, for people to read.
    pub fn told(&self) -> Vec<String> {
        self.pipeline.told()
    }

    /// Questions that the maker works on at once.
    pub fn width(&self) -> usize {
        self.maker.width()
    }

    pub fn spend(&self) -> Spend {
        Spend {
            calls: self.spend.calls.saturating_add_signed(self.extra),
            seconds: self.clock.now(),
            ..self.spend
        }
    }

    /// Look for requests; a pause is no work.
    pub fn poll(&mut self) -> Result<(), Halt> {
        let began = Instant::now();
        let control = self.reporter.poll_control()?;
        self.clock.idle += began.elapsed();
        match control {
            Control::Cancel => Err(Halt::Cancelled),
            Control::Stop => Err(Halt::Stopped),
            Control::Continue | Control::Checkpoint => Ok(()),
        }
    }

    /// Changes that were asked for since the last look; at the first one, those of earlier lives, too.
    pub fn changes(&mut self) -> io::Result<Vec<Change>> {
        let changes = self.reporter.changes(self.asked)?;
        self.asked += changes.len();
        Ok(changes)
    }

    /// Another limit of the budget.
    pub fn limit(&mut self, limit: Limit) {
        match limit {
            Limit::Calls(n) => self.budget.calls = Some(n),
            Limit::Tokens(n) => self.budget.tokens = Some(n),
            Limit::Usd(usd) => self.budget.usd = Some(usd),
            Limit::Seconds(n) => self.budget.seconds = Some(n),
        }
    }

    /// Of `wanted` texts so many can be made and checked with what the budget has left, by what they cost so far.
    pub fn room(&self, wanted: usize) -> Result<usize, Halt> {
        let spent = self.spend();
        let mean = |sum: f64| (self.texts > 0).then(|| sum / self.texts as f64);
        let calls = ((self.of_maker + self.of_check.0) as f64).max(mean(spent.calls as f64).unwrap_or(0.0));
        let parts = [
            ("calls", self.budget.calls.map(|n| n as f64), spent.calls as f64, Some(calls)),
            ("tokens", self.budget.tokens.map(|n| n as f64), spent.tokens as f64, mean(spent.tokens as f64)),
            ("usd", self.budget.usd, spent.usd, mean(spent.usd)),
            ("seconds", self.budget.seconds.map(|n| n as f64), spent.seconds, mean(spent.seconds)),
        ];
        let mut room = wanted;
        for (name, limit, spent, each) in parts {
            let Some(limit) = limit else { continue };
            let left = limit - spent;
            let fits = match each {
                _ if left <= 0.0 => 0,
                // Rounded down; what costs nothing is unlimited.
                Some(each) => (left / each) as usize,
                None => FEW,
            };
            if fits == 0 {
                return Err(Halt::Budget(name));
            }
            room = room.min(fits);
        }
        Ok(room)
    }

    /// So many more texts are paid for.
    pub fn count(&mut self, texts: usize) {
        self.texts += texts;
    }

    /// Asks, and counts what goes out beside a call for each answer (repeated requests); no more goes out than the budget has left. `expected`
    /// are calls, of which `local` go to no endpoint. `work` adds up the calls of endpoints that its answers count.
    fn metered<T>(
        &mut self,
        expected: u64,
        local: u64,
        work: impl FnOnce(&mut Self, &mut u64) -> Result<T, Halt>,
    ) -> Result<T, Halt> {
        let mut counted = 0;
        if expected == local {
            return work(self, &mut counted);
        }
        self.log.keep_asking(expected - local)?;
        let before = self.meter.sent();
        let left = self.budget.calls.map(|limit| limit.saturating_sub(self.spend().calls));
        self.meter.allow(left.map(|left| left.saturating_sub(local)));
        let done = work(self, &mut counted);
        let sent = i64::try_from(self.meter.sent() - before).unwrap_or(i64::MAX);
        let counted = i64::try_from(counted).unwrap_or(0);
        let held_back = self.meter.held_back();
        self.meter.allow(None);
        self.extra += sent - counted;
        self.log.keep_asked(sent - counted)?;
        let done = done?;
        if held_back { Err(Halt::Budget("calls")) } else { Ok(done) }
    }

    /// What went well or not; failures alone end the run.
    fn watch(&mut self, who: Who, well: bool, why: &str) -> Result<(), Halt> {
        let (failed, fine) = &mut self.failed[who as usize];
        if well {
            *fine += 1;
            return Ok(());
        }
        *failed += 1;
        if *fine == 0 && *failed >= HOPELESS {
            let name = match who {
                Who::Maker => format!("the maker `{}`", self.model.name),
                Who::Checker => format!("the candidate `{}`", self.candidate.name),
            };
            return Err(
                anyhow!("the first {HOPELESS} questions to {name} all failed; the last one: {why}").into()
            );
        }
        Ok(())
    }

    fn pay(&mut self, said: &Said) {
        if said.cached {
            self.spend.cached += 1;
        } else {
            self.spend.calls += 1;
            self.spend.tokens += said.tokens;
            self.spend.usd += said.usd;
        }
    }

    /// The maker's answers, in the order of the questions.
    pub fn ask(&mut self, questions: &[Question]) -> Result<Vec<Said>, Halt> {
        let key = |question: &Question| {
            let asked =
                serde_json::json!([self.model.hash, question.sample, question.decoding, question.text]);
            blake3::hash(asked.to_string().as_bytes()).to_hex()[..32].to_owned()
        };
        let keys: Vec<String> = questions.iter().map(key).collect();
        let mut found: Vec<Option<Said>> = Vec::with_capacity(questions.len());
        for key in &keys {
            let kept = self.log.critic(key).cloned();
            if let Some((at, said)) = &kept {
                self.clock.heard_before(*at);
                self.pay(said);
                self.failed[Who::Maker as usize].1 += 1;
            }
            found.push(kept.map(|(_, said)| said));
        }
        let open: Vec<usize> = (0..questions.len()).filter(|&i| found[i].is_none()).collect();
        if !open.is_empty() {
            self.clock.start();
            let asks: Vec<Ask> = open
                .iter()
                .filter_map(|&i| questions.get(i))
                .map(|q| Ask { sample: q.sample, ..Ask::turn(q.text.as_str(), q.decoding.clone()) })
                .collect();
            let n = asks.len() as u64;
            let local = if is_endpoint(self.model) { 0 } else { n };
            let said = self.metered(n, local, |desk, calls| {
                let key = |at: usize| open.get(at).and_then(|i| keys.get(*i));
                let answers = desk.hear(&asks, &key, calls)?;
                let held_back = desk.meter.held_back();
                let mut all = Vec::with_capacity(answers.len());
                for answer in answers {
                    let said = desk.said(answer);
                    // What was held back is no failure of the maker.
                    if let Some(why) = said.error.as_ref().filter(|_| !held_back) {
                        desk.watch(Who::Maker, false, why)?;
                    }
                    all.push(said);
                }
                Ok(all)
            })?;
            for (i, said) in open.into_iter().zip(said) {
                found[i] = Some(said);
            }
        }
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The maker's answers. Each is kept as it comes, by its question's key; a maker that is silent keeps nobody from ending the run.
    fn hear<'k>(
        &mut self,
        asks: &[Ask],
        key: &dyn Fn(usize) -> Option<&'k String>,
        calls: &mut u64,
    ) -> Result<Vec<Result<Answer, BackendError>>, Halt> {
        let mut maker = self.maker.clone();
        let (mut halt, mut stopped): (Option<Halt>, Option<Instant>) = (None, None);
        let answers = maker.stream(asks, &mut |at, heard| {
            let ends = match heard {
                Heard::Done(answer) => key(at).and_then(|key| self.keep(key, answer, calls).err()),
                Heard::Waiting => self.ends(&mut stopped),
                Heard::Piece(_) => None,
            };
            if let Some(ends) = ends {
                // Those that were not asked yet are not asked any more.
                self.meter.allow(Some(0));
                let _ = halt.get_or_insert(ends);
            }
            if halt.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        halt.map_or(Ok(answers), Err)
    }

    /// Whether what is on its way is given up: a cancelled run's at once, a stopped one's in a while.
    fn ends(&self, stopped: &mut Option<Instant>) -> Option<Halt> {
        match self.reporter.peek_control() {
            Control::Cancel => Some(Halt::Cancelled),
            Control::Stop => {
                let since = stopped.get_or_insert_with(Instant::now);
                (since.elapsed() >= LAST).then_some(Halt::Stopped)
            }
            Control::Continue | Control::Checkpoint => None,
        }
    }

    fn keep(&mut self, key: &str, answer: &Answer, calls: &mut u64) -> Result<(), Halt> {
        if answer.finish == Finish::Broken {
            return Ok(());
        }
        let said = self.said(Ok(answer.clone()));
        self.pay(&said);
        *calls += u64::from(!said.cached);
        let at = self.clock.now();
        self.log.keep_critic(key, at, said)?;
        self.watch(Who::Maker, true, "")
    }

    fn said(&self, answer: Result<Answer, BackendError>) -> Said {
        match answer {
            Ok(answer) => Said {
                cut: answer.finish == Finish::Length,
                error: None,
                cached: answer.cached,
                tokens: answer.tokens_in + answer.tokens_out,
                usd: if answer.cached {
                    0.0
                } else {
                    price(self.model, answer.tokens_in, answer.tokens_out, answer.ms)
                },
                text: Some(answer.text),
            },
            Err(error) => Said { error: Some(error.to_string()), ..Said::default() },
        }
    }

    /// The pipeline's answers to new rows, scored; in the order of the rows.
    pub fn answer(&mut self, rows: &[RunRow]) -> Result<Vec<Outcome>, Halt> {
        let mut found: Vec<Option<Outcome>> = Vec::with_capacity(rows.len());
        for row in rows {
            let kept = self.log.row(&row.hash, &row.id).cloned();
            if let Some(kept) = &kept {
                self.clock.heard_before(kept.at);
                self.pay_row(&kept.outcome, kept.usd);
                self.failed[Who::Checker as usize].1 += 1;
            }
            found.push(kept.map(|kept| kept.outcome));
        }
        let open: Vec<usize> = (0..rows.len()).filter(|&i| found[i].is_none()).collect();
        if !open.is_empty() {
            self.clock.start();
            let asked: Vec<&RunRow> = open.iter().filter_map(|&i| rows.get(i)).collect();
            let n = asked.len() as u64;
            let (all, out) = self.of_check;
            let (expected, local) = (n * all, n * (all - out));
            let outcomes = self.metered(expected, local, |desk, calls| {
                let answered = desk.pipeline.answer(&asked);
                let mut outcomes: Vec<Outcome> = asked
                    .iter()
                    .zip(answered)
                    .map(|(row, said)| evaluate::outcome(desk.scorer, (row, 0), said, None))
                    .collect();
                desk.judge(&asked, &mut outcomes);
                let held_back = desk.meter.held_back();
                for outcome in &outcomes {
                    let well = answers(outcome);
                    if well {
                        let usd = desk.usd(outcome);
                        let at = desk.clock.now();
                        desk.pay_row(outcome, usd);
                        desk.log.keep_row(&outcome.row_hash, at, usd, outcome.clone())?;
                    }
                    *calls += desk.sent(outcome);
                    if !held_back {
                        let why = trouble(outcome).unwrap_or_default();
                        desk.watch(Who::Checker, well, &why)?;
                    }
                }
                Ok(outcomes)
            })?;
            for (i, outcome) in open.into_iter().zip(outcomes) {
                found[i] = Some(outcome);
            }
        }
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// A judge's word on answers that are there.
    fn judge(&mut self, rows: &[&RunRow], outcomes: &mut [Outcome]) {
        let Some(Person { asker, rubric, .. }) = &mut self.person else { return };
        let mut open: Vec<(&RunRow, &mut Outcome)> =
            rows.iter().copied().zip(outcomes).filter(|(_, outcome)| outcome.error.is_none()).collect();
        let sheets = open
            .iter()
            .map(|(row, outcome)| rubric.fill(row, &[&outcome.output]).map_err(|e| e.to_string()))
            .collect();
        for ((row, outcome), judged) in open.iter_mut().zip(asker.verdicts(sheets)) {
            outcome.judged = vec![judged];
            self.scorer.fill_judged(outcome, Some(row));
        }
    }

    /// Calls of endpoints of an outcome that are paid for with it.
    fn sent(&self, outcome: &Outcome) -> u64 {
        if !answers(outcome) {
            return 0;
        }
        let stages = outcome.stages.iter().filter(|ran| !ran.skipped).map(|ran| {
            let stage = self.candidate.stages.iter().find(|stage| stage.name == ran.stage);
            let out = stage.is_some_and(|stage| is_endpoint(&stage.model));
            if out { (1 + u64::from(ran.retries)).saturating_sub(u64::from(ran.cached)) } else { 0 }
        });
        let person = self.person.as_ref().filter(|person| is_endpoint(&person.judge.model));
        let judged = outcome
            .judged
            .iter()
            .filter(|_| person.is_some())
            .map(|judged| u64::from(judged.effort.calls.saturating_sub(judged.effort.cached)));
        stages.sum::<u64>() + judged.sum::<u64>()
    }

    fn usd(&self, outcome: &Outcome) -> f64 {
        let of = |stage: &StageCandidate| {
            let ran = outcome.stages.iter().find(|s| s.stage == stage.name && !s.skipped)?;
            let worked = 1.0 - f64::from(ran.cached) / f64::from(1 + ran.retries);
            Some(price(&stage.model, ran.tokens_in, ran.tokens_out, ran.ms) * worked)
        };
        let judged = self.person.iter().flat_map(|person| {
            outcome
                .judged
                .iter()
                .filter(|judged| judged.effort.cached < judged.effort.calls)
                .filter_map(|judged| person.judge.usd(judged.effort.tokens_in, judged.effort.tokens_out))
        });
        self.candidate.stages.iter().filter_map(of).sum::<f64>() + judged.sum::<f64>()
    }

    fn pay_row(&mut self, outcome: &Outcome, usd: f64) {
        for stage in outcome.stages.iter().filter(|stage| !stage.skipped) {
            let all = 1 + u64::from(stage.retries);
            let cached = u64::from(stage.cached).min(all);
            self.spend.calls += all - cached;
            self.spend.cached += cached;
            self.spend.tokens += (stage.tokens_in + stage.tokens_out) * (all - cached) / all;
        }
        for judged in &outcome.judged {
            let effort = &judged.effort;
            let worked = u64::from(effort.calls.saturating_sub(effort.cached));
            self.spend.calls += worked;
            self.spend.cached += u64::from(effort.cached);
            if effort.calls > 0 {
                self.spend.tokens +=
                    (effort.tokens_in + effort.tokens_out) * worked / u64::from(effort.calls);
            }
        }
        self.spend.usd += usd;
    }
}

/// It says whether the answer is right: it is kept, and not asked again.
fn answers(outcome: &Outcome) -> bool {
    trouble(outcome).is_none()
}

/// Why nothing can be said of the answer.
pub fn trouble(outcome: &Outcome) -> Option<String> {
    if let Some(error) = &outcome.error {
        return Some(error.clone());
    }
    let judge = outcome.judged.iter().find_map(|judged| judged.error.clone());
    outcome.correct.is_none().then(|| {
        judge
            .or_else(|| outcome.unscored.values().next().cloned())
            .unwrap_or_else(|| "the primary metric says nothing of it".into())
    })
}
