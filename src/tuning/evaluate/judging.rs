//! What judges say of an evaluation's answers, after all of them are there.
//!
//! An outcome is written down with its answer first, and again with every judge's word: the last line of a row counts, so that a kill
//! in between loses no answer. Judging has its own tokens and its own price; the candidate's are not touched.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::{BATCH_MS, Course, Evaluation, MOST};
use crate::domain::event::EventBody;
use crate::domain::judge::{Effort, Judge, Judged};
use crate::domain::outcome::Outcome;
use crate::domain::row::RunRow;
use crate::domain::words::counted;
use crate::pipeline::rubric::Rubric;
use crate::score::scorer::Scorer;
use crate::tuning::judge::{Asker, figures};

impl Evaluation<'_> {
    /// Asks every judge about every answer that it has not judged yet; the figures of what it took.
    pub(super) fn judge(
        &self,
        rows: &[&RunRow],
        scorer: &Scorer,
        course: &mut Course<'_>,
    ) -> anyhow::Result<BTreeMap<String, f64>> {
        let Some(access) = self.access.filter(|_| !self.settings.judges.is_empty()) else {
            return Ok(BTreeMap::new());
        };
        let by_id: HashMap<&str, &RunRow> = rows.iter().map(|row| (row.id.as_str(), *row)).collect();
        for judge in &self.settings.judges {
            let mut open: Vec<usize> = (0..course.outcomes.len())
                .filter(|&i| course.outcomes.get(i).is_some_and(|o| is_open(o, judge)))
                .collect();
            if open.is_empty() || course.ended {
                continue;
            }
            let failed =
                |course: &Course<'_>, i: usize| course.outcomes.get(i).is_none_or(|o| o.error.is_some());
            let wrong: Vec<usize> = open.extract_if(.., |i| failed(course, *i)).collect();
            for i in wrong {
                self.judge_failed(judge, i, scorer, course)?;
            }
            let mut asker = Asker::open(judge, access);
            self.ask(&mut asker, judge, &open, (&by_id, scorer), course)?;
        }
        self.running(course)?;
        self.tell(course)
    }

    /// A row that failed has nothing to be judged: it is wrong by every metric.
    fn judge_failed(
        &self,
        judge: &Judge,
        i: usize,
        scorer: &Scorer,
        course: &mut Course<'_>,
    ) -> anyhow::Result<()> {
        let judged = Judged {
            judge: judge.name.clone(),
            id: judge.id(),
            error: Some("the row has no answer".into()),
            right: Some(false),
            score: Some(0.0),
            ..Judged::default()
        };
        if let Some(outcome) = course.outcomes.get_mut(i) {
            self.take(outcome, judged, scorer, None);
            course.reporter.outcome(outcome)?;
        }
        Ok(())
    }

    fn ask(
        &self,
        asker: &mut Asker<'_>,
        judge: &Judge,
        open: &[usize],
        (by_id, scorer): (&HashMap<&str, &RunRow>, &Scorer),
        course: &mut Course<'_>,
    ) -> anyhow::Result<()> {
        let rubric = Rubric::of_one(&judge.rubric_name, &judge.rubric).map_err(|e| e.to_string());
        let began = Instant::now();
        let least = 2 * asker.width();
        let (mut size, mut at) = (least.max(8), 0);
        while at < open.len() {
            if course.poll()? {
                return Ok(());
            }
            let batch = &open[at..(at + size).min(open.len())];
            let asked = Instant::now();
            let sheets = batch.iter().map(|&i| {
                let rubric = rubric.as_ref().map_err(Clone::clone)?;
                let outcome = course.outcomes.get(i).ok_or("no outcome")?;
                let row = by_id.get(outcome.row.as_str()).ok_or("the row is not among the inputs")?;
                rubric.fill(row, &[&outcome.output]).map_err(|e| e.to_string())
            });
            let sheets = sheets.collect();
            for (&i, judged) in batch.iter().zip(asker.verdicts(sheets)) {
                if let Some(outcome) = course.outcomes.get_mut(i) {
                    let row = by_id.get(outcome.row.as_str()).copied();
                    self.take(outcome, judged, scorer, row);
                    course.reporter.outcome(outcome)?;
                }
            }
            let ms = asked.elapsed().as_secs_f64() * 1e3 / batch.len() as f64;
            at += batch.len();
            size = ((BATCH_MS / ms.max(1e-3)) as usize).clamp(1, MOST.min(size * 2)).max(least);
            course.progress(&format!("judge {}", judge.name), at, open.len(), at, began)?;
        }
        Ok(())
    }

    /// A judge's word; the order of the judges stays that of the settings.
    fn take(&self, outcome: &mut Outcome, judged: Judged, scorer: &Scorer, row: Option<&RunRow>) {
        outcome.judged.retain(|known| known.judge != judged.judge);
        outcome.judged.push(judged);
        let place = |name: &str| self.settings.judges.iter().position(|judge| judge.name == name);
        outcome.judged.sort_by_key(|judged| place(&judged.judge));
        scorer.fill_judged(outcome, row);
    }

    fn tell(&self, course: &mut Course<'_>) -> anyhow::Result<BTreeMap<String, f64>> {
        let (mut all, mut usd, mut silent) = (Effort::default(), None, 0);
        for judge in &self.settings.judges {
            let of_judge = || course.outcomes.iter().filter_map(|o| o.judged_by(Some(&judge.name)));
            let mut effort = Effort::default();
            of_judge().for_each(|judged| effort.add(&judged.effort));
            if let Some(more) = judge.usd(effort.tokens_in, effort.tokens_out) {
                *usd.get_or_insert(0.0) += more;
            }
            all.add(&effort);
            let without: Vec<&Judged> =
                of_judge().filter(|j| j.verdict.is_none() && j.right.is_none()).collect();
            if let Some(first) = without.first() {
                let message = format!(
                    "the judge `{}` gave no verdict on {}, which count neither as right nor as wrong; the first: {}",
                    judge.name,
                    counted(without.len(), "answer"),
                    first.error.as_deref().unwrap_or("no reason"),
                );
                silent += without.len();
                course.reporter.event(EventBody::Warning { message })?;
            }
        }
        let mut told: BTreeMap<String, f64> = figures(&all, usd).into_iter().collect();
        told.insert("judge_no_verdict".into(), silent as f64);
        Ok(told)
    }
}

/// Without this judge's verdict. One that failed may be there by now.
fn is_open(outcome: &Outcome, judge: &Judge) -> bool {
    let known = outcome.judged_by(Some(&judge.name));
    known.is_none_or(|j| j.verdict.is_none() && j.right.is_none())
}
