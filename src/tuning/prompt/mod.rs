//! Prompt tuning (`run prompt`): the prompts of a pipeline's stages are climbed up, scored by the whole pipeline's outcome.
//!
//! ```text
//! plan (rows) -> climb: propose -> guards, memory -> race -> fresh rows -> ... -> last comparison -> eval part
//!                       proposer/                    race     examiner (models, log, budget)
//! ```

mod clauses;
mod climb;
mod errands;
mod examiner;
mod facts;
mod front;
mod guards;
pub mod judging;
mod lists;
pub(in crate::tuning) mod log;
mod memory;
mod plan;
mod proposer;
mod race;
mod steer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::backend::{self, Access, Meter};
use crate::domain::candidate::{Candidate, ModelRef};
use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::prompt::{PromptSettings, PromptTask, PromptVersion, Score};
use crate::domain::report::{Reporter, RunInputs};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunResult;
use crate::domain::settings::EvalSettings;
use crate::domain::words::counted;
use crate::score::metric::{Direction, Metric};
use crate::score::scorer::Scorer;
use crate::tuning::evaluate;
use crate::tuning::scoring::Scoring;
use climb::Climb;
pub use climb::compared;
use examiner::{Examiner as _, Halt, Live, Phase};
pub use guards::Copies;
use guards::holds_pin;
use judging::Judging;
use log::Log;
use memory::Memory;
use plan::Plan;
pub use plan::answers_of_plan;

/// Template by stage, of the stages that are tuned.
pub(crate) type Texts = BTreeMap<String, String>;

/// Name of the history among the run's artifacts.
pub const HISTORY: &str = "artifacts/prompts.json";
pub use log::FILE as LOG;
/// Name of what clauses did.
pub const CLAUSES: &str = "artifacts/clauses.json";

/// What a version did on a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mark {
    /// 0 to 1, by the primary metric.
    pub score: f64,
    /// Outputs of the stages that ran.
    pub stages: Vec<(String, String)>,
    /// Other per-row metrics.
    pub metrics: Vec<(String, f64)>,
    /// At full price.
    pub usd: f64,
    /// Of its prompts.
    pub tokens: f64,
}

impl Mark {
    fn of(outcome: &Outcome, primary: &Metric, usd: f64) -> Self {
        let score = score(outcome, primary);
        let others = outcome.scores.iter().filter(|(name, _)| **name != primary.name);
        Self {
            score,
            stages: outcome
                .stages
                .iter()
                .filter(|stage| !stage.skipped)
                .map(|stage| (stage.stage.clone(), stage.output.clone()))
                .collect(),
            metrics: others.map(|(name, value)| (name.clone(), *value)).collect(),
            usd,
            tokens: outcome.tokens_in() as f64,
        }
    }

    fn output_of(&self, stage: &str) -> Option<&str> {
        self.stages.iter().find(|(name, _)| name == stage).map(|(_, output)| output.as_str())
    }
}

/// A version under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub version: PromptVersion,
    pub texts: Texts,
    /// What it is compared with.
    pub parent: Option<usize>,
    pub proposer: Option<usize>,
    /// By the row's place.
    pub marks: BTreeMap<usize, Mark>,
    /// Rows that had chosen nothing when they were asked.
    pub fresh: Vec<usize>,
}

impl Node {
    fn new(texts: Texts, memory: &mut Memory) -> Self {
        let hash = hash(&texts);
        memory.note(&hash);
        Self { version: PromptVersion { hash, ..PromptVersion::default() }, texts, ..Self::default() }
    }

    /// Mean over those of the rows that it was asked on.
    fn score(&self, rows: &[usize]) -> Option<Score> {
        let scores: Vec<f64> = rows.iter().filter_map(|row| Some(self.marks.get(row)?.score)).collect();
        let n = scores.len();
        (n > 0).then(|| Score { mean: scores.iter().sum::<f64>() / n as f64, n })
    }

    /// What the stages whose prompts are tuned score by metrics of their own, for telling apart versions of one end result: mean over
    /// those metrics and rows, where more is better. 0 where there are none.
    fn stages_own(&self, rows: &[usize]) -> f64 {
        let worth = |(name, value): &(String, f64)| {
            let (stage, metric) = name.split_once('.')?;
            let less = Metric::find(metric).is_ok_and(|m| m.entry.direction == Direction::Lower);
            self.texts.contains_key(stage).then_some(if less { -value } else { *value })
        };
        let marks = rows.iter().filter_map(|row| self.marks.get(row));
        let own: Vec<f64> = marks.flat_map(|mark| mark.metrics.iter().filter_map(worth)).collect();
        own.iter().sum::<f64>() / own.len().max(1) as f64
    }

    fn usd_per_1k(&self) -> f64 {
        let sum: f64 = self.marks.values().map(|mark| mark.usd).sum();
        1e3 * sum / self.marks.len().max(1) as f64
    }

    fn length(&self) -> usize {
        self.texts.values().map(String::len).sum()
    }

    /// For an event: without the texts.
    fn told(&self) -> PromptVersion {
        self.version.clone()
    }
}

/// A row's score, 0 to 1, by the primary metric.
pub fn score(outcome: &Outcome, primary: &Metric) -> f64 {
    let value = outcome.scores.get(&primary.name).copied().filter(|value| value.is_finite());
    // Where less is better, right or wrong is all that is climbed.
    match primary.entry.direction {
        Direction::Higher => value.map_or(0.0, |value| value.clamp(0.0, 1.0)),
        Direction::Lower => f64::from(u8::from(outcome.correct == Some(true))),
    }
}

/// Hash of a version's texts, cut to 16 bytes.
pub fn hash(texts: &Texts) -> String {
    let mut hasher = blake3::Hasher::new();
    for (stage, text) in texts {
        hasher.update(&(stage.len() as u64).to_le_bytes()).update(stage.as_bytes());
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// What a launch refuses: the key of `workspace.toml`, and why.
pub fn check(
    settings: &PromptSettings,
    eval: &EvalSettings,
    candidate: &Candidate,
) -> Result<(), (String, String)> {
    if eval.primary_metric().is_ok_and(|metric| metric.is_judged()) {
        let message = "is a judge's, and prompts are tuned by metrics that need none; name another with --set eval.primary=";
        return Err(("eval.primary".into(), format!("`{}` {message}", eval.primary)));
    }
    if candidate.stages.is_empty() {
        return Err(("stage".into(), format!("candidate `{}` has no stages to tune", candidate.name)));
    }
    let names: Vec<&str> = candidate.stages.iter().map(|stage| stage.name.as_str()).collect();
    if let Some(unknown) = settings.stages.iter().find(|name| !names.contains(&name.as_str())) {
        let message = format!(
            "candidate `{}` has no stage `{unknown}`; its stages: {}",
            candidate.name,
            names.join(", ")
        );
        return Err(("tuning.prompt.stages".into(), message));
    }
    let tuned =
        candidate.stages.iter().filter(|s| settings.stages.is_empty() || settings.stages.contains(&s.name));
    let tuned: Vec<_> = tuned.collect();
    for pin in &settings.pins {
        if !tuned.iter().any(|stage| holds_pin(&stage.prompt, std::slice::from_ref(pin))) {
            let message = format!(
                "`{pin}` stands in none of the prompts that are tuned, so it cannot stay; write it there first"
            );
            return Err(("tuning.prompt.pins".into(), message));
        }
    }
    Ok(())
}

/// Tune the prompts of the run's candidate and score what comes of it on the eval part.
pub fn run(
    settings: &PromptSettings,
    eval: &EvalSettings,
    critic: Option<&ModelRef>,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    let access = Access::of(inputs);
    // What is scored on eval stands outside of the budget.
    let metered = Access { meter: Meter::default(), ..access.clone() };
    let open = Box::new(|model: &ModelRef, stage: Option<&crate::domain::candidate::StageCandidate>| {
        backend::open(model, stage.and_then(|stage| stage.adapter.as_ref()), &metered)
    });
    let candidate = inputs.spec.candidate.as_ref().context("the run's spec has no candidate to tune")?;
    let Some(tuned) = tune(settings, eval, critic, candidate, inputs, None, open, &metered, reporter)? else {
        return Ok(RunResult { stopped: true, ..RunResult::default() });
    };
    if settings.task == PromptTask::Clauses {
        // Nothing was made that could be scored.
        return Ok(RunResult { metrics: tuned.metrics, candidate: None, stopped: tuned.stopped, part: None });
    }
    let rows = evaluate::rows_of(&inputs.rows, Part::Eval);
    let rows: Vec<RunRow> = rows.into_iter().cloned().collect();
    let done = tuned.done;
    let mut scoring = Scoring { reporter, stop_is_answered: tuned.stopped, outcomes: done.clone() };
    let mut metrics = evaluate::candidate(&tuned.candidate, &rows, eval, &done, &access, &mut scoring)?;
    let outcomes = scoring.outcomes;
    copied(&tuned.texts, &rows, &outcomes, eval, &mut metrics, reporter)?;
    metrics.extend(tuned.metrics);
    Ok(RunResult { metrics, candidate: Some(tuned.candidate), stopped: tuned.stopped, part: None })
}

/// What tuning came to.
struct Tuned {
    candidate: Candidate,
    texts: Texts,
    metrics: BTreeMap<String, f64>,
    stopped: bool,
    /// Outcomes of an earlier life on the eval part.
    done: Vec<Outcome>,
    /// Where it is a judge that was tuned.
    measured: Option<judging::Measured>,
}

/// The loop to its end, however that comes. None: cancelled.
fn tune(
    settings: &PromptSettings,
    eval: &EvalSettings,
    critic: Option<&ModelRef>,
    candidate: &Candidate,
    inputs: &RunInputs,
    judging: Option<&Judging>,
    open: examiner::Open<'_>,
    access: &Access,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<Option<Tuned>> {
    if let Err((key, message)) = check(settings, eval, candidate) {
        bail!("{key}: {message}");
    }
    let rows = judging.map_or(&inputs.rows, |judging| &judging.rows);
    let calls = judging.map_or(candidate.stages.len(), Judging::calls);
    let mut plan = Plan::new(rows, settings, calls).map_err(anyhow::Error::msg)?;
    if let Some(judging) = judging {
        plan.keep_together(|place| judging.row_of(place));
    }
    let primary = eval.primary_metric()?;
    let golds: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            candidate.stages.iter().filter_map(|s| s.own_gold(&row.fields)).chain(row.gold.clone())
        })
        .collect();
    let scorer = Scorer::new(eval, &candidate.stages, golds.iter().map(String::as_str))?;
    let scorer = scorer.with_embedder(eval, access).map_err(anyhow::Error::msg)?;
    let told = inputs.history.iter().filter(|body| matches!(body, EventBody::Prompt(_))).count();
    if told == 0 {
        for message in &plan.notes {
            reporter.event(EventBody::Log { message: message.clone() })?;
        }
        let message = format!(
            "{} select, {} compare at the end, {} to learn from; {} versions an epoch, {}; scoring on eval comes after, outside the budget",
            counted(plan.select.len(), "row"),
            plan.claim.len(),
            plan.learn.len(),
            plan.fan_out,
            counted(plan.fresh.len(), "epoch"),
        );
        reporter.event(EventBody::Log { message })?;
    }
    let log = Log::open(&inputs.dir)?;
    let mut climb = Climb::new(settings, candidate, rows, &eval.primary, plan);
    let mut live = Live::new(
        candidate,
        &scorer,
        primary,
        rows,
        critic,
        settings.budget,
        log,
        told,
        open,
        access,
        reporter,
    );
    live.judging = judging;
    live.history_file = Some(inputs.dir.join(HISTORY));
    live.reserved = (2 * climb.plan.claim.len() * calls) as u64;
    if settings.task == PromptTask::Clauses {
        return clauses_of(&mut climb, &mut live, candidate, &inputs.dir);
    }
    let mut stopped = false;
    let done = match settings.task {
        PromptTask::Economy => climb.economize(&mut live),
        PromptTask::Climb | PromptTask::Clauses => climb.run(&mut live),
    };
    match done {
        Ok(()) => {}
        Err(Halt::Cancelled) => return Ok(None),
        Err(Halt::Failed(error)) => return Err(error),
        Err(Halt::Stopped) => stopped = true,
        Err(Halt::Budget(what)) => {
            let message =
                format!("the budget of {what} is used up; the best so far is compared with the start");
            live.say(EventBody::Log { message }).or_else(failed)?;
        }
    }
    live.phase = Phase::Comparison;
    let concluded = match settings.task {
        PromptTask::Economy => climb.conclude_economy(&mut live),
        PromptTask::Climb | PromptTask::Clauses => climb.conclude(&mut live),
    };
    let answer = match concluded {
        Ok(answer) => answer,
        Err(Halt::Failed(error)) => return Err(error),
        Err(_) => return Ok(None),
    };
    if let Some(message) = live.critic_failures() {
        live.say(EventBody::Warning { message }).or_else(failed)?;
    }
    live.phase = Phase::Beyond;
    let measured = match judging.map(|judging| judging.measure(&climb, answer, &mut live)) {
        None => None,
        Some(Ok(measured)) => Some(measured),
        Some(Err(Halt::Failed(error))) => return Err(error),
        Some(Err(_)) => return Ok(None),
    };
    let texts = climb.nodes[answer].texts.clone();
    let mut tuned = candidate.clone();
    if answer != 0 {
        tuned = Candidate { name: inputs.spec.id.clone(), rung: "prompt".into(), ..tuned };
        for stage in &mut tuned.stages {
            if let Some(text) = texts.get(&stage.name).filter(|text| **text != stage.prompt) {
                stage.prompt.clone_from(text);
                let hash = blake3::hash(text.as_bytes()).to_hex();
                let stem = stage.prompt_name.split(' ').next().unwrap_or_default().to_owned();
                stage.prompt_name = format!("{stem} {}", &hash.as_str()[..6]);
            }
        }
    }
    let id = tuned.id();
    let done = if live.log.last() == Some(id.as_str()) { earlier_outcomes(&inputs.dir)? } else { Vec::new() };
    if done.is_empty() {
        for name in ["outcomes.jsonl", "traces/rows.jsonl"] {
            remove(&inputs.dir.join(name))?;
        }
        live.log.keep_final(&id)?;
    }
    let mut metrics = spent(&live, climb.nodes.len());
    if live.asked > 0.0 {
        let own = (live.worked() - live.asked).max(0.0);
        metrics.insert("loop_share".to_owned(), own / live.worked().max(1e-9));
    }
    if let Some((asked, failed)) = live.proposals() {
        metrics.insert("critic_asked".to_owned(), asked as f64);
        metrics.insert("critic_failed".to_owned(), failed as f64);
    }
    if let Some(gain) = climb.reported() {
        metrics.insert("gain".to_owned(), gain.delta);
        metrics.insert("gain_low".to_owned(), gain.ci95[0]);
        metrics.insert("gain_high".to_owned(), gain.ci95[1]);
        metrics.insert("gain_rows".to_owned(), gain.n as f64);
        metrics.insert("selected".to_owned(), gain.selected.mean);
        metrics.insert("fresh".to_owned(), gain.fresh.mean);
    }
    live.settle()?;
    Ok(Some(Tuned { candidate: tuned, texts, metrics, stopped, done, measured }))
}

/// Figures of what it took.
fn spent(live: &Live<'_>, versions: usize) -> BTreeMap<String, f64> {
    let spend = live.spend();
    BTreeMap::from([
        ("calls".to_owned(), spend.calls as f64),
        ("cached_calls".to_owned(), spend.cached as f64),
        ("tokens".to_owned(), spend.tokens as f64),
        ("usd".to_owned(), spend.usd),
        ("seconds".to_owned(), spend.seconds),
        ("versions".to_owned(), versions as f64),
    ])
}

/// What every clause did, as far as it came. None: cancelled.
fn clauses_of(
    climb: &mut Climb<'_>,
    live: &mut Live<'_>,
    candidate: &Candidate,
    dir: &Path,
) -> anyhow::Result<Option<Tuned>> {
    live.reserved = 0;
    let mut stopped = false;
    match climb.ablate(live) {
        Ok(report) => {
            let path = dir.join(CLAUSES);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            crate::store::files::write_json(&path, &report)?;
        }
        Err(Halt::Cancelled) => return Ok(None),
        Err(Halt::Failed(error)) => return Err(error),
        Err(Halt::Stopped) => stopped = true,
        Err(Halt::Budget(what)) => bail!(
            "the budget of {what} does not reach for every clause; give it more, or fewer rows (tuning.prompt.rows)"
        ),
    }
    live.settle()?;
    let metrics = spent(live, climb.nodes.len());
    let (candidate, texts) = (candidate.clone(), Texts::new());
    Ok(Some(Tuned { candidate, texts, metrics, stopped, done: Vec::new(), measured: None }))
}

fn failed(halt: Halt) -> anyhow::Result<()> {
    match halt {
        Halt::Failed(error) => Err(error),
        Halt::Stopped | Halt::Cancelled | Halt::Budget(_) => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn earlier_outcomes(run_dir: &Path) -> io::Result<Vec<Outcome>> {
    let path = run_dir.join("outcomes.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    Ok(crate::store::lines::read_all::<Outcome>(&path)?.0)
}

/// Eval rows that stand in the prompt: they are said, and the primary metric is taken without them, too.
fn copied(
    texts: &Texts,
    rows: &[RunRow],
    outcomes: &[Outcome],
    eval: &EvalSettings,
    metrics: &mut BTreeMap<String, f64>,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<()> {
    let copies = Copies::new(texts);
    let found: Vec<&str> =
        rows.iter().filter(|row| copies.has(&row.input)).map(|row| row.id.as_str()).collect();
    if found.is_empty() {
        return Ok(());
    }
    let others: Vec<&Outcome> = outcomes.iter().filter(|o| !found.contains(&o.row.as_str())).collect();
    let primary = eval.primary_metric()?;
    let without = crate::score::aggregate::value(&primary, &others, None);
    metrics.insert("copied_eval_rows".to_owned(), found.len() as f64);
    metrics.extend(without.map(|value| (format!("{}_without_copied", primary.name), value)));
    let shown = found.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    let message = format!(
        "{} (or the same words) in the prompt: {shown}{}; {} without: {}",
        if found.len() == 1 {
            "1 eval row stands".into()
        } else {
            format!("{} eval rows stand", found.len())
        },
        if found.len() > 5 { ", ..." } else { "" },
        primary.name,
        without.map_or_else(|| "none is left".to_owned(), |value| format!("{value:.3}")),
    );
    Ok(reporter.event(EventBody::Warning { message })?)
}
