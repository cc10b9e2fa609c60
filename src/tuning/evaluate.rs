//! Evaluation: a candidate's pipeline over the rows, scored.
//!
//! First the latency pass: a fixed sample of rows, one at a time, warmed, nothing from the cache; its answers count like all others. Then the rest
//! in batches. Both go in an order of their own that is the same for every candidate, so that the running figures are of a fair sample
//! from the start, and all candidates are timed on the same rows.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::backend::Access;
use crate::domain::candidate::{Candidate, OutputKind};
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
use crate::score::rows;

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

/// Run an evaluation: the candidate of the spec on the eval part of the inputs (on all rows, where they know no parts).
pub fn run(
    settings: &EvalSettings,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    let candidate = inputs.spec.candidate.as_ref().context("the run's spec has no candidate to evaluate")?;
    let rows = eval_rows(&inputs.rows);
    let access =
        Access { threads: inputs.spec.threads, keys: inputs.keys.clone(), cache: inputs.cache.clone() };
    let open = &mut |candidate: &Candidate| Ok(Pipeline::new(candidate, &access)?);
    let mut scored = Evaluation::new(candidate, settings, true, inputs.cache.is_some())?.run(
        &rows,
        &inputs.outcomes,
        open,
        reporter,
    )?;
    if !scored.stopped {
        let beside = sets(candidate, &inputs.sets, &access, reporter)?;
        scored.metrics.extend(beside.metrics);
        scored.stopped = beside.stopped;
    }
    Ok(RunResult { metrics: scored.metrics, candidate: Some(candidate.clone()), stopped: scored.stopped })
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
pub fn eval_rows(rows: &[RunRow]) -> Vec<&RunRow> {
    let partless = rows.iter().all(|row| row.part.is_none());
    rows.iter().filter(|row| partless || row.part == Some(Part::Eval)).collect()
}

struct Evaluation<'a> {
    candidate: &'a Candidate,
    primary: Metric,
    metrics: Vec<Metric>,
    latency_rows: usize,
    /// Say how it goes by `eval` events: where no other curve would be disturbed.
    curve: bool,
    /// There is a response cache.
    cached: bool,
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
        settings: &EvalSettings,
        curve: bool,
        cached: bool,
    ) -> anyhow::Result<Self> {
        let primary = Metric::primary(&settings.primary)?;
        let metrics = settings.metrics.iter().map(|name| Metric::find(name)).collect::<Result<_, _>>()?;
        Ok(Self { candidate, primary, metrics, latency_rows: settings.latency_rows, curve, cached })
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
        let wanted: HashSet<(&str, &str)> =
            rows.iter().map(|row| (row.id.as_str(), row.hash.as_str())).collect();
        let outcomes: Vec<Outcome> = done
            .iter()
            .filter(|o| wanted.contains(&(o.row.as_str(), o.row_hash.as_str())))
            .cloned()
            .collect();
        let (timed, rest) = self.plan(rows, &outcomes);
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
            pipeline.set_fresh(true);
            self.latency_pass(&mut pipeline, &timed, &mut course)?;
            pipeline.set_fresh(false);
            self.throughput_pass(&mut pipeline, &rest, rows.len(), &mut course)?;
        }

        let outcomes: Vec<&Outcome> = course.outcomes.iter().collect();
        if outcomes.iter().all(|o| o.correct.is_none()) && !outcomes.is_empty() {
            let message = format!(
                "no row has a gold answer that `{}` could be worked out from, so nothing is right or wrong (see [data] gold)",
                self.primary
            );
            course.reporter.event(EventBody::Warning { message })?;
        }
        let failed = outcomes.iter().filter(|o| o.error.is_some()).count();
        if failed > 0 {
            let message = format!("{failed} of {} failed and count as wrong", counted(outcomes.len(), "row"));
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
        let asked: Vec<Metric> =
            std::iter::once(self.primary.clone()).chain(self.metrics.iter().cloned()).chain(always).collect();
        let mut metrics = aggregate::values(&asked, &outcomes, Some(self.candidate));
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

    /// Rows still to be answered: those of the latency pass, then the others. The order is by a hash of the id.
    fn plan<'r>(&self, rows: &[&'r RunRow], done: &[Outcome]) -> (Vec<&'r RunRow>, Vec<&'r RunRow>) {
        let mut order: Vec<&RunRow> = rows.to_vec();
        order.sort_by_cached_key(|row| *blake3::hash(row.id.as_bytes()).as_bytes());
        let answered: HashSet<(&str, &str)> =
            done.iter().map(|o| (o.row.as_str(), o.row_hash.as_str())).collect();
        let open = |rows: &[&'r RunRow]| -> Vec<&'r RunRow> {
            rows.iter()
                .filter(|row| !answered.contains(&(row.id.as_str(), row.hash.as_str())))
                .copied()
                .collect()
        };
        let (timed, rest) = order.split_at(self.latency_rows.min(order.len()));
        (open(timed), open(rest))
    }

    /// One row at a time. The first is asked once before, unmeasured: the first answer pays for cold caches and lazy set-up.
    fn latency_pass(
        &self,
        pipeline: &mut Pipeline,
        rows: &[&RunRow],
        course: &mut Course<'_>,
    ) -> anyhow::Result<()> {
        if let Some(first) = rows.first() {
            pipeline.answer(&[first]);
        }
        let began = Instant::now();
        for (i, row) in rows.iter().enumerate() {
            if course.poll()? {
                return Ok(());
            }
            let asked = Instant::now();
            let answered = pipeline.answer(&[row]);
            let ms = asked.elapsed().as_secs_f64() * 1e3;
            for mut answered in answered {
                course.trace(row, &mut answered)?;
                // Whoever has more requests to spend, or a server that is not busy, would not wait so long.
                let waited: f64 = answered.stages.iter().map(|stage| stage.waited_ms).sum();
                // An answer that was not worked for has no latency.
                let worked = answered.error.is_none() && answered.stages.iter().all(|s| s.cached == 0);
                let latency = worked.then_some((ms - waited).max(0.0));
                course.record(self.outcome(row, answered, latency))?;
            }
            course.progress("latency", i + 1, rows.len(), i + 1, began)?;
        }
        self.running(course)
    }

    /// In batches that take about a second.
    fn throughput_pass(
        &self,
        pipeline: &mut Pipeline,
        rows: &[&RunRow],
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
            let answered = pipeline.answer(batch);
            let seconds = asked.elapsed().as_secs_f64();
            let ms_per_row = seconds * 1e3 / batch.len() as f64;
            if answered.iter().all(|a| a.stages.iter().all(|s| s.cached == 0)) {
                course.worked = (course.worked.0 + batch.len(), course.worked.1 + seconds);
            }
            for (row, mut answered) in batch.iter().zip(answered) {
                course.trace(row, &mut answered)?;
                course.record(self.outcome(row, answered, None))?;
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
        let figures = std::iter::once(&self.primary).chain(self.metrics.iter().filter(|m| m.entry.per_row));
        let metrics = figures
            .filter_map(|metric| Some((metric.name.clone(), aggregate::value(metric, &outcomes, None)?)))
            .collect();
        course.reporter.event(EventBody::Eval { step: course.outcomes.len() as u64, loss: None, metrics })?;
        Ok(())
    }

    fn outcome(&self, row: &RunRow, answered: Answered, latency_ms: Option<f64>) -> Outcome {
        let mut outcome = Outcome {
            row: row.id.clone(),
            row_hash: row.hash.clone(),
            part: row.part,
            stratum: row.stratum.clone(),
            output: answered.output,
            gold: row.gold.clone(),
            stages: answered.stages,
            latency_ms,
            error: answered.error,
            ..Outcome::default()
        };
        rows::fill(&mut outcome, &self.primary, &self.metrics, answered.kind, &self.stage_gold(row));
        outcome
    }

    /// Gold of the stages that name a field of their own.
    fn stage_gold(&self, row: &RunRow) -> BTreeMap<String, (OutputKind, String)> {
        self.candidate
            .stages
            .iter()
            .filter_map(|stage| {
                let gold = stage.own_gold(&row.fields)?;
                Some((stage.name.clone(), (stage.output, gold)))
            })
            .collect()
    }
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

    fn trace(&mut self, row: &RunRow, answered: &mut Answered) -> anyhow::Result<()> {
        let stages = std::mem::take(&mut answered.traces);
        Ok(self.reporter.trace(RowTrace { row: row.id.clone(), sample: 0, stages })?)
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
