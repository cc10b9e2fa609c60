//! Evaluation: a candidate's pipeline over the rows, scored.
//!
//! First the latency pass: a fixed sample of rows, one at a time, warmed, nothing from the cache; its answers count like all others. Then the rest
//! in batches. Both go in an order of their own that is the same for every candidate, so that the running figures are of a fair sample
//! from the start, and all candidates are timed on the same rows.

mod judging;

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::backend::Access;
use crate::domain::candidate::Candidate;
use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::report::{Control, Reporter, RunInputs};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunResult;
use crate::domain::settings::EvalSettings;
use crate::domain::trace::RowTrace;
use crate::domain::words::{counted, noun};
use crate::pipeline::{Answered, Pipeline};
use crate::score::aggregate;
use crate::score::metric::Metric;
use crate::score::scorer::Scorer;

pub use sets::sets;

/// Of a run's figures: rows answered a second, many at once, none of them from the cache. What the latency pass answered does not count.
pub const ROWS_PER_SECOND: &str = "rows_per_second";
/// What is reported whatever was asked for, where it was measured.
const ALWAYS: [&str; 5] = ["latency_p50_ms", "latency_p95_ms", "tokens_in", "tokens_out", "usd_per_1k"];

/// A batch should take about so long: requests to pause or stop are looked for between batches.
const BATCH_MS: f64 = 1_000.0;

/// Largest batch.
const MOST: usize = 512;

/// So many failures with no success before them end the run: what is wrong is wrong for every row.
const HOPELESS: usize = 20;

/// Run an evaluation: the candidate of the spec on the eval part of the inputs, or on the reserve (on all rows, where they know no parts).
pub fn run(
    settings: &EvalSettings,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    let candidate = inputs.spec.candidate.as_ref().context("the run's spec has no candidate to evaluate")?;
    let rows = rows_of(&inputs.rows, settings.part);
    let access = Access::of(inputs);
    let open = &mut |candidate: &Candidate| Ok(Pipeline::new(candidate, &access)?);
    let mut scored = Evaluation::new(candidate, settings, true, inputs.cache.is_some())?
        .judged(&access)
        .run(&rows, &inputs.outcomes, open, reporter)?;
    if !scored.stopped {
        let beside = sets(candidate, &inputs.sets, &access, reporter)?;
        scored.metrics.extend(beside.metrics);
        scored.stopped = beside.stopped;
    }
    Ok(RunResult {
        metrics: scored.metrics,
        candidate: Some(candidate.clone()),
        stopped: scored.stopped,
        part: Some(settings.part).filter(|part| *part != Part::Eval),
    })
}

/// Evaluate a candidate in the course of another run, on exactly `rows`; those with an outcome in `done` are not asked again.
/// A stop that was asked for before was meant for what came before; a cancel ends this, too.
pub fn candidate(
    candidate: &Candidate,
    rows: &[RunRow],
    settings: &EvalSettings,
    done: &[Outcome],
    access: &Access,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<BTreeMap<String, f64>> {
    let rows: Vec<&RunRow> = rows.iter().collect();
    let open = &mut |candidate: &Candidate| Ok(Pipeline::new(candidate, access)?);
    Ok(Evaluation::new(candidate, settings, false, access.cache.is_some())?
        .judged(access)
        .run(&rows, done, open, reporter)?
        .metrics)
}

/// How many answers came from the response cache; said in the log where any did.
fn cached(outcomes: &[&Outcome], reporter: &mut dyn Reporter) -> anyhow::Result<BTreeMap<String, f64>> {
    let stages = || outcomes.iter().flat_map(|o| &o.stages).filter(|s| !s.skipped);
    let all: u64 = stages().map(|s| 1 + u64::from(s.retries)).sum();
    let cached: u64 = stages().map(|s| u64::from(s.cached)).sum();
    if cached > 0 {
        let message = format!(
            "{cached} of {} came from the response cache; none of them is in the latency figures",
            counted(all as usize, "answer")
        );
        reporter.event(EventBody::Log { message })?;
    }
    Ok(BTreeMap::from([
        ("cached_answers".to_owned(), cached as f64),
        ("cached_rate".to_owned(), if all > 0 { cached as f64 / all as f64 } else { 0.0 }),
    ]))
}

/// The rows an evaluation is on.
pub fn rows_of(rows: &[RunRow], part: Part) -> Vec<&RunRow> {
    let partless = rows.iter().all(|row| row.part.is_none());
    rows.iter().filter(|row| partless || row.part == Some(part)).collect()
}

/// A row and the number of the answer to it.
type Turn<'r> = (&'r RunRow, u32);

struct Evaluation<'a> {
    candidate: &'a Candidate,
    settings: &'a EvalSettings,
    primary: Metric,
    /// Say how it goes by `eval` events: where no other curve would be disturbed.
    curve: bool,
    /// There is a response cache.
    cached: bool,
    /// What judges may use; none: nobody is asked.
    access: Option<&'a Access>,
}

/// Figures by name, and whether the work was ended before its end.
pub struct Scored {
    pub metrics: BTreeMap<String, f64>,
    pub stopped: bool,
}

/// What changes as rows are answered.
struct Course<'r> {
    reporter: &'r mut dyn Reporter,
    outcomes: Vec<Outcome>,
    /// Rows answered by this process, and of them those without an error.
    answered: usize,
    succeeded: usize,
    /// Of the throughput pass: rows in batches of which nothing was cached, and the seconds they took.
    worked: (usize, f64),
    ignore_stop: bool,
    ended: bool,
}

impl<'a> Evaluation<'a> {
    fn new(
        candidate: &'a Candidate,
        settings: &'a EvalSettings,
        curve: bool,
        cached: bool,
    ) -> anyhow::Result<Self> {
        Ok(Self { candidate, settings, primary: settings.primary_metric()?, curve, cached, access: None })
    }

    /// Answers are judged, too.
    fn judged(mut self, access: &'a Access) -> Self {
        self.access = Some(access);
        self
    }

    /// Ready for these rows: what metrics are fitted on is theirs.
    fn scorer(&self, rows: &[&RunRow]) -> anyhow::Result<Scorer> {
        let stages = &self.candidate.stages;
        let golds: Vec<String> = rows
            .iter()
            .flat_map(|row| stages.iter().filter_map(|s| s.own_gold(&row.fields)).chain(row.gold.clone()))
            .collect();
        let scorer = Scorer::new(self.settings, stages, golds.iter().map(String::as_str))?;
        // On the way of a training nobody is asked: only a model of this machine embeds there.
        let alone = Access::threads(1);
        scorer.with_embedder(self.settings, self.access.unwrap_or(&alone)).map_err(anyhow::Error::msg)
    }

    fn run(
        &self,
        rows: &[&RunRow],
        done: &[Outcome],
        open: &mut dyn FnMut(&Candidate) -> anyhow::Result<Pipeline>,
        reporter: &mut dyn Reporter,
    ) -> anyhow::Result<Scored> {
        if rows.is_empty() {
            bail!("there is no row to evaluate on: the eval part is empty (see [data.split] eval)");
        }
        let scorer = self.scorer(rows)?;
        let wanted: HashSet<(&str, &str)> =
            rows.iter().map(|row| (row.id.as_str(), row.hash.as_str())).collect();
        let outcomes: Vec<Outcome> = done
            .iter()
            .filter(|o| o.sample < self.settings.samples.max(1))
            .filter(|o| wanted.contains(&(o.row.as_str(), o.row_hash.as_str())))
            .cloned()
            .collect();
        let (timed, rest) = self.plan(rows, &outcomes);
        let total = rows.len() * self.settings.samples.max(1) as usize;
        let ignore_stop = !self.curve && reporter.poll_control()? == Control::Stop;
        let mut course = Course {
            reporter,
            outcomes,
            answered: 0,
            succeeded: 0,
            worked: (0, 0.0),
            ignore_stop,
            ended: false,
        };

        if !timed.is_empty() || !rest.is_empty() {
            let mut pipeline = open(self.candidate)?;
            for message in pipeline.told() {
                course.reporter.event(EventBody::Log { message })?;
            }
            pipeline.set_fresh(true);
            self.latency_pass(&mut pipeline, &scorer, &timed, &mut course)?;
            pipeline.set_fresh(false);
            self.throughput_pass(&mut pipeline, &scorer, &rest, total, &mut course)?;
        }

        let judging = self.judge(rows, &scorer, &mut course)?;
        let outcomes: Vec<&Outcome> = course.outcomes.iter().collect();
        // Where a judge decides, its silence is told already.
        if outcomes.iter().all(|o| o.correct.is_none()) && !outcomes.is_empty() && !self.primary.is_judged() {
            let message = format!(
                "no row has a gold answer that `{}` could be worked out from, so nothing is right or wrong (see [data] gold)",
                self.primary
            );
            course.reporter.event(EventBody::Warning { message })?;
        }
        let failed = outcomes.iter().filter(|o| o.error.is_some()).count();
        if failed > 0 {
            let what = if self.settings.samples > 1 { "answer" } else { "row" };
            let message = format!("{failed} of {} failed and count as wrong", counted(outcomes.len(), what));
            course.reporter.event(EventBody::Warning { message })?;
        }
        for message in unscored(&outcomes) {
            course.reporter.event(EventBody::Warning { message })?;
        }
        let estimated = outcomes.iter().filter(|o| o.stages.iter().any(|stage| stage.estimated)).count();
        if estimated > 0 {
            let message = format!(
                "tokens of {} are reckoned from the length of the texts: the endpoint counts none, so cost is reckoned, too",
                counted(estimated, "row")
            );
            course.reporter.event(EventBody::Warning { message })?;
        }
        let masked: u32 = outcomes.iter().flat_map(|o| &o.stages).map(|stage| stage.masked).sum();
        if masked > 0 {
            let message = format!(
                "{} of personal data went out as {}",
                counted(masked as usize, "piece"),
                noun(masked as usize, "placeholder")
            );
            course.reporter.event(EventBody::Log { message })?;
        }
        let always = ALWAYS.iter().filter_map(|name| Metric::find(name).ok());
        let asked: Vec<Metric> = self.settings.scored().into_iter().chain(always).collect();
        let mut metrics = aggregate::values(&asked, &outcomes, Some(self.candidate));
        metrics.extend(judging);
        let retries: u64 = outcomes.iter().flat_map(|o| &o.stages).map(|s| u64::from(s.retries)).sum();
        if retries > 0 {
            metrics.insert("retries".to_owned(), retries as f64);
        }
        if let (n @ 1.., seconds) = course.worked
            && seconds > 0.0
        {
            metrics.insert(ROWS_PER_SECOND.to_owned(), n as f64 / seconds);
        }
        if self.cached {
            metrics.extend(cached(&outcomes, course.reporter)?);
        }
        Ok(Scored { metrics, stopped: course.ended })
    }

    /// What is still to be answered: the first answers of the latency pass, then all others, row by row. The order is by a hash of the id.
    fn plan<'r>(&self, rows: &[&'r RunRow], done: &[Outcome]) -> (Vec<Turn<'r>>, Vec<Turn<'r>>) {
        let mut order: Vec<&RunRow> = rows.to_vec();
        order.sort_by_cached_key(|row| *blake3::hash(row.id.as_bytes()).as_bytes());
        let answered: HashSet<(&str, &str, u32)> =
            done.iter().map(|o| (o.row.as_str(), o.row_hash.as_str(), o.sample)).collect();
        let open = |(row, sample): &Turn<'r>| !answered.contains(&(&row.id, &row.hash, *sample));
        let timed = self.settings.latency_rows;
        let first = order.iter().take(timed).map(|row| (*row, 0));
        let rest = order.iter().enumerate().flat_map(|(i, row)| {
            (u32::from(i < timed)..self.settings.samples.max(1)).map(move |sample| (*row, sample))
        });
        (first.filter(open).collect(), rest.filter(open).collect())
    }

    /// One row at a time. The first is asked once before, unmeasured: the first answer pays for cold caches and lazy set-up.
    fn latency_pass(
        &self,
        pipeline: &mut Pipeline,
        scorer: &Scorer,
        rows: &[Turn<'_>],
        course: &mut Course<'_>,
    ) -> anyhow::Result<()> {
        if let Some((first, _)) = rows.first() {
            pipeline.answer(&[first]);
        }
        let began = Instant::now();
        for (i, turn) in rows.iter().enumerate() {
            if course.poll()? {
                return Ok(());
            }
            let asked = Instant::now();
            let answered = pipeline.answer_samples(&[*turn]);
            let ms = asked.elapsed().as_secs_f64() * 1e3;
            for mut answered in answered {
                course.trace(*turn, &mut answered)?;
                // Whoever has more requests to spend, or a server that is not busy, would not wait so long.
                let waited: f64 = answered.stages.iter().map(|stage| stage.waited_ms).sum();
                // An answer that was not worked for has no latency.
                let worked = answered.error.is_none() && answered.stages.iter().all(|s| s.cached == 0);
                let latency = worked.then_some((ms - waited).max(0.0));
                course.record(outcome(scorer, *turn, answered, latency))?;
            }
            course.progress("latency", i + 1, rows.len(), i + 1, began)?;
        }
        self.running(course)
    }

    /// In batches that take about a second.
    fn throughput_pass(
        &self,
        pipeline: &mut Pipeline,
        scorer: &Scorer,
        rows: &[Turn<'_>],
        total: usize,
        course: &mut Course<'_>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        // One answer that takes long should not leave the others' places empty.
        let least = if pipeline.width() > 1 { 2 * pipeline.width() } else { 2 };
        let mut size = least.max(8);
        let mut at = 0;
        while at < rows.len() && !course.ended {
            if course.poll()? {
                break;
            }
            let batch = &rows[at..(at + size).min(rows.len())];
            let asked = Instant::now();
            let answered = pipeline.answer_samples(batch);
            let seconds = asked.elapsed().as_secs_f64();
            let ms_per_row = seconds * 1e3 / batch.len() as f64;
            if answered.iter().all(|a| a.stages.iter().all(|s| s.cached == 0)) {
                course.worked = (course.worked.0 + batch.len(), course.worked.1 + seconds);
            }
            for (turn, mut answered) in batch.iter().zip(answered) {
                course.trace(*turn, &mut answered)?;
                course.record(outcome(scorer, *turn, answered, None))?;
            }
            at += batch.len();
            // At most twice as many as before: one quick batch says little.
            size = ((BATCH_MS / ms_per_row.max(1e-3)) as usize).clamp(1, MOST.min(size * 2)).max(least);
            course.progress("answers", total - (rows.len() - at), total, at, began)?;
            self.running(course)?;
        }
        Ok(())
    }

    fn running(&self, course: &mut Course<'_>) -> anyhow::Result<()> {
        if !self.curve {
            return Ok(());
        }
        let outcomes: Vec<&Outcome> = course.outcomes.iter().collect();
        let metrics = self
            .settings
            .scored()
            .iter()
            .filter(|metric| metric.entry.per_row)
            .filter_map(|metric| Some((metric.name.clone(), aggregate::value(metric, &outcomes, None)?)))
            .collect();
        course.reporter.event(EventBody::Eval { step: course.outcomes.len() as u64, loss: None, metrics })?;
        Ok(())
    }
}

pub fn outcome(
    scorer: &Scorer,
    (row, sample): Turn<'_>,
    answered: Answered,
    latency_ms: Option<f64>,
) -> Outcome {
    let mut outcome = Outcome {
        row: row.id.clone(),
        row_hash: row.hash.clone(),
        part: row.part,
        stratum: row.stratum.clone(),
        sample,
        output: answered.output,
        gold: row.gold.clone(),
        stages: answered.stages,
        latency_ms,
        error: answered.error,
        ..Outcome::default()
    };
    scorer.fill(&mut outcome, answered.kind, Some(row));
    outcome
}

/// For each metric that could not be worked out on some rows: how many, and the first of them.
fn unscored(outcomes: &[&Outcome]) -> Vec<String> {
    let mut first: BTreeMap<&str, (usize, &str, &str)> = BTreeMap::new();
    for outcome in outcomes {
        for (metric, why) in &outcome.unscored {
            first.entry(metric).or_insert((0, &outcome.row, why)).0 += 1;
        }
    }
    let told = |(key, (n, row, why)): (&str, (usize, &str, &str))| {
        let name = key.split('#').next().unwrap_or(key);
        format!(
            "`{name}` could not be worked out on {n} of {}; the first, row `{row}`: {why}",
            counted(outcomes.len(), "answer")
        )
    };
    first.into_iter().map(told).collect()
}

impl Course<'_> {
    /// True when the evaluation is to end here.
    fn poll(&mut self) -> anyhow::Result<bool> {
        self.ended = match self.reporter.poll_control()? {
            Control::Cancel => true,
            Control::Stop => !self.ignore_stop,
            // Every outcome is on disk already.
            Control::Continue | Control::Checkpoint => false,
        };
        Ok(self.ended)
    }

    fn trace(&mut self, (row, sample): Turn<'_>, answered: &mut Answered) -> anyhow::Result<()> {
        let stages = std::mem::take(&mut answered.traces);
        Ok(self.reporter.trace(RowTrace { row: row.id.clone(), sample, stages })?)
    }

    fn record(&mut self, outcome: Outcome) -> anyhow::Result<()> {
        self.answered += 1;
        match &outcome.error {
            None => self.succeeded += 1,
            Some(error) => {
                if self.answered == self.succeeded + 1 {
                    let message =
                        format!("row `{}` failed: {error} (further failures are only counted)", outcome.row);
                    self.reporter.event(EventBody::Warning { message })?;
                }
                if self.succeeded == 0 && self.answered >= HOPELESS {
                    bail!("the first {HOPELESS} rows all failed; the last one, `{}`: {error}", outcome.row);
                }
            }
        }
        self.reporter.outcome(&outcome)?;
        self.outcomes.push(outcome);
        Ok(())
    }

    /// `lately` rows since `began` tell how long the others will take.
    fn progress(
        &mut self,
        phase: &str,
        done: usize,
        total: usize,
        lately: usize,
        began: Instant,
    ) -> anyhow::Result<()> {
        let per_row = began.elapsed().as_secs_f64() * 1e3 / lately.max(1) as f64;
        let eta_ms = Some((per_row * (total - done.min(total)) as f64) as u64);
        self.reporter.event(EventBody::Progress {
            phase: phase.to_owned(),
            done: done as u64,
            total: total as u64,
            eta_ms,
        })?;
        Ok(())
    }
}

mod sets;
#[cfg(test)]
mod tests;
