//! Tuning a judge: its rubric is the prompt, the rows are answers that people judged, and right is what most of them said.
//!
//! The rubric is put as in an evaluation, with the words and markers that stand around it; only its own text is climbed. What counts on a
//! row is whether judge and people say the same (on a scale: one less the squared distance, the weight of the weighted kappa). At the end the
//! tuned judge is asked about all answers, and its kappa stands beside the start's on those that chose nothing.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, ensure};

use super::climb::Climb;
use super::examiner::{Examiner as _, Halt, Live};
use super::{Mark, remove};
use crate::backend::{self, Access, Backend};
use crate::domain::candidate::{Candidate, ModelRef, StageCandidate};
use crate::domain::event::EventBody;
use crate::domain::judge::{Judge, Judged, JudgedAnswer, Kappa};
use crate::domain::outcome::{Outcome, StageOutcome};
use crate::domain::prompt::PromptSettings;
use crate::domain::report::{Reporter, RunInputs};
use crate::domain::row::RunRow;
use crate::domain::run::RunResult;
use crate::domain::settings::EvalSettings;
use crate::domain::words::counted;
use crate::pipeline::rubric::Rubric;
use crate::score::agreement::kappa;
use crate::store::lines;
use crate::tuning::judge::Asker;

/// What is judged, and by whom.
pub(super) struct Judging {
    judge: Judge,
    /// As the rubric gets them: with the data's own gold.
    asked: Vec<RunRow>,
    answers: Vec<JudgedAnswer>,
    /// As the climb sees them: input and answer are what is asked about, gold is the verdict of people.
    pub rows: Vec<RunRow>,
}

/// What the tuned judge says of all answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    judge: Option<Judge>,
    pub metrics: BTreeMap<String, f64>,
    verdicts: Vec<Option<String>>,
}

impl Judging {
    /// # Errors
    /// Answers that do not fit the run's rows.
    pub fn read(judge: &Judge, inputs: &RunInputs) -> anyhow::Result<Self> {
        let path = inputs.dir.join("inputs").join(JudgedAnswer::FILE);
        let (answers, bad) = lines::read_all::<JudgedAnswer>(&path)?;
        ensure!(
            bad == 0 && answers.len() == inputs.rows.len(),
            "{} does not fit the run's rows",
            path.display()
        );
        Ok(Self::new(judge, &inputs.rows, answers))
    }

    /// `rows`: the data's, each with the verdict of people for its gold.
    pub fn new(judge: &Judge, rows: &[RunRow], answers: Vec<JudgedAnswer>) -> Self {
        let asked =
            |(row, answer): (&RunRow, &JudgedAnswer)| RunRow { gold: answer.gold.clone(), ..row.clone() };
        let shown = |(row, answer): (&RunRow, &JudgedAnswer)| RunRow {
            input: format!("{}\n\nThe answer that is judged:\n{}", row.input.trim(), answer.output.trim()),
            ..row.clone()
        };
        Self {
            judge: judge.clone(),
            asked: rows.iter().zip(&answers).map(asked).collect(),
            rows: rows.iter().zip(&answers).map(shown).collect(),
            answers,
        }
    }

    /// Calls that a verdict takes.
    pub fn calls(&self) -> usize {
        1 + usize::from(self.judge.two_step)
    }

    /// Which row of the data an answer is to.
    pub fn row_of(&self, place: usize) -> &str {
        self.answers.get(place).map_or("", |answer| answer.row.as_str())
    }

    fn with(&self, rubric: &str) -> Judge {
        Judge { rubric: rubric.to_owned(), ..self.judge.clone() }
    }

    fn score(&self, verdict: Option<&str>, people: Option<&str>) -> f64 {
        let verdicts = &self.judge.verdicts;
        let place = |word: Option<&str>| word.and_then(|word| verdicts.place(word));
        let (Some(own), Some(theirs)) = (place(verdict), place(people)) else { return 0.0 };
        if verdicts.scale {
            1.0 - (own.abs_diff(theirs) as f64 / (verdicts.words.len() - 1).max(1) as f64).powi(2)
        } else {
            f64::from(u8::from(own == theirs))
        }
    }

    /// What a rubric's judge says of answers, by their places.
    pub fn outcomes(&self, rubric: &str, backend: Box<dyn Backend>, places: &[usize]) -> Vec<Outcome> {
        let judge = self.with(rubric);
        let compiled = Rubric::of_one(&judge.rubric_name, rubric).map_err(|e| e.to_string());
        let sheet = |place: &usize| {
            let compiled = compiled.as_ref().map_err(Clone::clone)?;
            let (row, answer) = (self.asked.get(*place), self.answers.get(*place));
            let (row, answer) = row.zip(answer).ok_or_else(|| "no such answer".to_owned())?;
            compiled.fill(row, &[&answer.output]).map_err(|e| e.to_string())
        };
        let began = std::time::Instant::now();
        let said = Asker::with(&judge, Ok(backend)).verdicts(places.iter().map(sheet).collect());
        let ms = began.elapsed().as_secs_f64() * 1e3 / places.len().max(1) as f64;
        let rows = places.iter().filter_map(|place| self.rows.get(*place));
        rows.zip(said).map(|(row, judged)| self.outcome(row, judged, ms)).collect()
    }

    fn outcome(&self, row: &RunRow, judged: Judged, ms: f64) -> Outcome {
        let score = self.score(judged.verdict.as_deref(), row.gold.as_deref());
        // Nobody answered; an answer that is no verdict is wrong, and no failure.
        let failed = judged.effort.calls == 0 && judged.verdict.is_none();
        let output = judged.verdict.clone().unwrap_or_default();
        let stage = StageOutcome {
            stage: self.judge.stage(),
            output: output.clone(),
            tokens_in: judged.effort.tokens_in,
            tokens_out: judged.effort.tokens_out,
            ms,
            format_ok: judged.verdict.is_some(),
            retries: judged.effort.calls.saturating_sub(1),
            cached: judged.effort.cached,
            estimated: judged.effort.estimated,
            probability: judged.probability,
            skipped: judged.effort.calls == 0,
            ..StageOutcome::default()
        };
        Outcome {
            row: row.id.clone(),
            row_hash: row.hash.clone(),
            part: row.part,
            stratum: row.stratum.clone(),
            output,
            gold: row.gold.clone(),
            correct: Some(score == 1.0),
            scores: BTreeMap::from([("accuracy".to_owned(), score)]),
            stages: vec![stage],
            error: judged.error.filter(|_| failed),
            ..Outcome::default()
        }
    }

    /// Kappa with people over some answers.
    fn kappa(&self, verdicts: impl Iterator<Item = (usize, Option<String>)>) -> Option<Kappa> {
        let known = &self.judge.verdicts;
        let mut table = vec![vec![0; known.words.len()]; known.words.len()];
        for (place, verdict) in verdicts {
            let people = self.rows.get(place).and_then(|row| known.place(row.gold.as_deref()?));
            let own = verdict.and_then(|word| known.place(&word));
            if let (Some(own), Some(people)) = (own, people) {
                table[own][people] += 1;
            }
        }
        kappa(&table, known.scale)
    }

    /// The answer of the climb on all answers; its kappa beside the start's on those that chose nothing.
    pub(super) fn measure(
        &self,
        climb: &Climb<'_>,
        answer: usize,
        live: &mut Live<'_>,
    ) -> Result<Measured, Halt> {
        let stage = self.judge.stage();
        let said = |mark: &Mark| mark.output_of(&stage).filter(|word| !word.is_empty()).map(str::to_owned);
        let mut found = Measured::default();
        let all: Vec<usize> = (0..self.rows.len()).collect();
        let Some(node) = climb.nodes.get(answer) else { return Ok(found) };
        let marks = live.examine(&node.version.hash, &node.texts, &all)?;
        found.verdicts = marks.iter().map(said).collect();
        found.judge = node.texts.get(&stage).map(|rubric| self.with(rubric));
        let claim = &climb.plan.claim;
        let over = |node: usize| {
            let marks = &climb.nodes.get(node)?.marks;
            // Without a challenger nobody was asked about them.
            if !claim.iter().all(|place| marks.contains_key(place)) {
                return None;
            }
            self.kappa(claim.iter().filter_map(|place| Some((*place, said(marks.get(place)?)))))
        };
        let of_all = self.kappa(found.verdicts.iter().cloned().enumerate());
        let (start, tuned) = (over(0), over(answer));
        if let (Some(start), Some(tuned)) = (start, tuned) {
            let message = format!(
                "kappa with people on {} that chose nothing: {:.2} ({:.2} to {:.2}), the start's {:.2}",
                counted(claim.len(), "answer"),
                tuned.value,
                tuned.ci95[0],
                tuned.ci95[1],
                start.value
            );
            live.say(EventBody::Log { message })?;
        }
        let named = [("kappa_start", start), ("kappa", tuned), ("kappa_all", of_all)];
        let figures = named.into_iter().filter_map(|(name, kappa)| Some((name.to_owned(), kappa?.value)));
        found.metrics = figures.collect();
        found.metrics.insert("judged".to_owned(), self.rows.len() as f64);
        Ok(found)
    }

    /// What the tuned judge said, as outcomes of the answers: agreement is taken from there once it is adopted.
    fn told(&self, measured: &Measured) -> Vec<Outcome> {
        let Some(judge) = &measured.judge else { return Vec::new() };
        let id = judge.id();
        let mut samples: HashMap<&str, u32> = HashMap::new();
        let told = |(answer, verdict): (&JudgedAnswer, &Option<String>)| {
            let judged = Judged {
                judge: judge.name.clone(),
                id: id.clone(),
                right: verdict.as_deref().and_then(|word| judge.verdicts.is_right(word)),
                score: verdict.as_deref().and_then(|word| judge.verdicts.score(word)),
                verdict: verdict.clone(),
                ..Judged::default()
            };
            (answer.clone(), judged)
        };
        self.answers
            .iter()
            .zip(&measured.verdicts)
            .map(told)
            .zip(&self.answers)
            .map(|((answer, judged), key)| {
                let next = samples.entry(key.row.as_str()).or_default();
                let sample = *next;
                *next += 1;
                Outcome {
                    row: answer.row,
                    row_hash: answer.row_hash,
                    sample,
                    output: answer.output,
                    gold: answer.gold,
                    judged: vec![judged],
                    ..Outcome::default()
                }
            })
            .collect()
    }
}

/// Tune the judge's rubric, and ask the tuned judge about every answer.
pub fn run(
    settings: &PromptSettings,
    eval: &EvalSettings,
    critic: Option<&ModelRef>,
    judge: &Judge,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    let access = Access::of(inputs);
    let open = Box::new(|model: &ModelRef, _: Option<&StageCandidate>| backend::open(model, None, &access));
    let candidate: &Candidate =
        inputs.spec.candidate.as_ref().context("the run's spec has no judge to tune")?;
    let judging = Judging::read(judge, inputs)?;
    let tuned =
        super::tune(settings, eval, critic, candidate, inputs, Some(&judging), open, &access, reporter)?;
    let Some(tuned) = tuned else { return Ok(RunResult { stopped: true, ..RunResult::default() }) };
    remove(&inputs.dir.join("outcomes.jsonl"))?;
    let measured = tuned.measured.unwrap_or_default();
    for outcome in judging.told(&measured) {
        reporter.outcome(&outcome)?;
    }
    let mut metrics = tuned.metrics;
    metrics.extend(measured.metrics);
    // It stands on no board: it answers nothing.
    Ok(RunResult { metrics, candidate: None, stopped: tuned.stopped, part: None })
}
