//! Running rows through the stages of a candidate: templates, answers, reading them, tools, retries, traces.
//!
//! Rows go through a stage together, so that the backend sees batches. A row that fails is an error on that row; the others go on.

pub mod output;
pub mod rubric;
pub mod template;
pub mod tool;

use std::sync::Arc;

use thiserror::Error;

use crate::backend::{self, Access, Ask, Backend, BackendError, Prompt as Asked};
use crate::domain::candidate::{
    Candidate, Constraint, Decoding, ModelRef, ModelSource, OutputKind, StageCandidate,
};
use crate::domain::example::{Example, Form};
use crate::domain::outcome::StageOutcome;
use crate::domain::row::RunRow;
use crate::domain::tool::answered as answered_by_tool;
use crate::domain::trace::{Attempt, StageTrace};
use crate::model::chat::Message;
use crate::retrieve::{self, Hit, Index, Query};
use template::{Prompt, Scope, TemplateError};

/// Why a pipeline cannot be built.
#[derive(Debug, Error)]
pub enum PipelineError {
    #[error(
        "the candidate `{0}` has no stages, so nothing can be asked of it (its outcomes were made elsewhere?)"
    )]
    NoStages(String),
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The source says what is wrong; chains of errors print it once.
    #[error("stage `{stage}`")]
    Model { stage: String, source: BackendError },
    #[error("stage `{stage}`: {why}")]
    Examples { stage: String, why: String },
}

/// What the pipeline made of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    /// Output of the last stage that ran.
    pub output: String,
    /// Its kind.
    pub kind: OutputKind,
    pub stages: Vec<StageOutcome>,
    /// What each stage was asked and said, in the same order; a stage whose prompt could not be made comes last, with its error.
    pub traces: Vec<StageTrace>,
    pub error: Option<String>,
}

/// Temperature of a retry where the stage is greedy: asked again in the same way, the model would say the same.
const RETRY_TEMPERATURE: f32 = 0.7;

/// Between the seeds of two answers to a row.
const SAMPLE_SEEDS: u64 = 1_000_003;

struct Stage {
    spec: StageCandidate,
    prompt: Prompt,
    /// The stages before it, whose outputs examples bring along.
    before: Vec<StageCandidate>,
    examples: Option<Arc<Index>>,
    /// Place in `backends`: stages with the same model and adapter share one.
    backend: usize,
}

/// A candidate, ready to answer.
pub struct Pipeline {
    stages: Vec<Stage>,
    backends: Vec<Box<dyn Backend>>,
}

/// Examples for a row at a stage (both by place), and how they stand in a prompt that does not lay them out.
pub type Show<'s> = &'s dyn Fn(usize, usize) -> Option<(Vec<Hit>, Form)>;

/// The examples for a row and how they stand in a prompt, or why none could be looked for.
type Found = Result<(Vec<Hit>, Form), String>;

/// The index of a stage's frozen store.
fn index(stage: &StageCandidate, access: &Access) -> Result<Option<Arc<Index>>, PipelineError> {
    let Some(examples) = &stage.examples else { return Ok(None) };
    retrieve::open(examples, &stage.name, access)
        .map(Some)
        .map_err(|error| PipelineError::Examples { stage: stage.name.clone(), why: format!("{error:#}") })
}

/// Opens a stage's model.
pub type Open<'o> = &'o mut dyn FnMut(&StageCandidate) -> Result<Box<dyn Backend>, BackendError>;

impl Pipeline {
    /// Compile the templates and open the models.
    pub fn new(candidate: &Candidate, access: &Access) -> Result<Self, PipelineError> {
        let open = &mut |stage: &StageCandidate| backend::open(&stage.model, stage.adapter.as_ref(), access);
        Self::with_backends(candidate, access, open)
    }

    /// The same over backends of the caller's; `access` is for the embedders of examples. `open` is called once for each model and adapter.
    pub fn with_backends(
        candidate: &Candidate,
        access: &Access,
        open: Open<'_>,
    ) -> Result<Self, PipelineError> {
        Self::build(candidate, access, false, open)
    }

    /// The same with a backend for every stage, whether or not others have its model.
    pub fn with_a_backend_per_stage(
        candidate: &Candidate,
        access: &Access,
        open: Open<'_>,
    ) -> Result<Self, PipelineError> {
        Self::build(candidate, access, true, open)
    }

    fn build(
        candidate: &Candidate,
        access: &Access,
        apart: bool,
        open: Open<'_>,
    ) -> Result<Self, PipelineError> {
        if candidate.stages.is_empty() {
            return Err(PipelineError::NoStages(candidate.name.clone()));
        }
        // All templates first: a slip in the last one should not wait for the models.
        let prompts = candidate.stages.iter().map(Prompt::new).collect::<Result<Vec<_>, _>>()?;
        let mut opened = Vec::new();
        let mut backends = Vec::new();
        let mut stages = Vec::new();
        for (spec, prompt) in candidate.stages.iter().zip(prompts) {
            let adapter = spec.adapter.as_ref().map(|a| a.hash.as_str());
            // The same endpoint under another key or other limits is asked on its own.
            let ModelRef { hash, source, limits, device, .. } = &spec.model;
            let key = (hash.as_str(), source, *limits, *device, adapter);
            let backend = match opened.iter().position(|known| !apart && *known == key) {
                Some(place) => place,
                None => {
                    let backend = open(spec)
                        .map_err(|source| PipelineError::Model { stage: spec.name.clone(), source })?;
                    opened.push(key);
                    backends.push(backend);
                    backends.len() - 1
                }
            };
            let before = stages.iter().map(|stage: &Stage| stage.spec.clone()).collect();
            stages.push(Stage {
                spec: spec.clone(),
                prompt,
                before,
                examples: index(spec, access)?,
                backend,
            });
        }
        Ok(Self { stages, backends })
    }

    /// What a person should know of where its models answer.
    pub fn told(&self) -> Vec<String> {
        let mut told: Vec<String> = self.backends.iter().filter_map(|backend| backend.told()).collect();
        told.dedup();
        told
    }

    /// Rows that its models work on at once.
    pub fn width(&self) -> usize {
        self.backends.iter().map(|backend| backend.width()).max().unwrap_or(1)
    }

    /// Ask anew from now on (or no longer), whatever the response cache remembers.
    pub fn set_fresh(&mut self, fresh: bool) {
        self.backends.iter_mut().for_each(|backend| backend.set_fresh(fresh));
    }

    /// Whether a stage's template says itself how examples stand in it, and whether they can stand before its input.
    pub fn shows_examples(&self, stage: usize) -> (bool, bool) {
        self.stages
            .get(stage)
            .map_or((false, false), |stage| (stage.prompt.lays_out_examples(), stage.prompt.has_input()))
    }

    /// Recorded tools that a stage may call.
    pub fn tools(&self, stage: usize) -> usize {
        self.stages.get(stage).map_or(0, |stage| stage.spec.tools.len())
    }

    /// Put rows through all stages with these examples in place of those that the candidate would retrieve.
    pub fn answer_shown(&mut self, rows: &[&RunRow], show: Show<'_>) -> Vec<Answered> {
        let first: Vec<(&RunRow, u32)> = rows.iter().map(|row| (*row, 0)).collect();
        self.run(&first, Some(show), &mut |_, _| {})
    }

    /// Put rows through all stages. One result a row, in their order.
    pub fn answer(&mut self, rows: &[&RunRow]) -> Vec<Answered> {
        self.answer_by_stages(rows, &mut |_, _| {})
    }

    /// The same, where each row comes with the number of the answer to it: another number, another drawing.
    pub fn answer_samples(&mut self, rows: &[(&RunRow, u32)]) -> Vec<Answered> {
        self.run(rows, None, &mut |_, _| {})
    }

    /// The same; `ended` hears of every stage of every row (by its place) as it ends, of those skipped too.
    pub fn answer_by_stages(
        &mut self,
        rows: &[&RunRow],
        ended: &mut dyn FnMut(usize, &StageOutcome),
    ) -> Vec<Answered> {
        let first: Vec<(&RunRow, u32)> = rows.iter().map(|row| (*row, 0)).collect();
        self.run(&first, None, ended)
    }

    fn run(
        &mut self,
        rows: &[(&RunRow, u32)],
        show: Option<Show<'_>>,
        ended: &mut dyn FnMut(usize, &StageOutcome),
    ) -> Vec<Answered> {
        let mut all = vec![Answered::default(); rows.len()];
        let mut scopes: Vec<Scope> = rows.iter().map(|(row, _)| Scope::new(row)).collect();
        let samples: Vec<u32> = rows.iter().map(|(_, sample)| *sample).collect();
        for (at, stage) in self.stages.iter().enumerate() {
            let backend = &mut self.backends[stage.backend];
            // What a model has to embed it is asked for together; where it fails, no row asks it again.
            let embedded = match show {
                Some(_) => Ok(()),
                None => stage.prepare_examples(rows, &all),
            };
            let hits = |i: usize| match (show, &embedded) {
                (Some(show), _) => Ok(show(i, at).unwrap_or_default()),
                (None, Err(why)) => Err(why.clone()),
                (None, Ok(())) => {
                    rows.get(i).map_or_else(|| Ok(Default::default()), |(row, _)| stage.retrieve(row))
                }
            };
            stage.run(backend.as_mut(), &samples, &mut scopes, &mut all, &hits);
            for (i, answered) in all.iter().enumerate().filter(|(_, answered)| answered.error.is_none()) {
                if let Some(outcome) = answered.stages.last() {
                    ended(i, outcome);
                }
            }
        }
        all
    }
}

impl Stage {
    /// The examples for a row, as the candidate has it.
    fn retrieve(&self, row: &RunRow) -> Found {
        let (Some(index), Some(examples)) = (&self.examples, &self.spec.examples) else {
            return Ok(Default::default());
        };
        let query = Query { stratum: row.stratum.as_deref(), row: Some(&row.id), ..Query::text(&row.input) };
        let found = index.retrieve(&query, &examples.retrieval);
        Ok((found.map_err(|why| self.failed(&why))?, examples.retrieval.form))
    }

    fn prepare_examples(&self, rows: &[(&RunRow, u32)], all: &[Answered]) -> Result<(), String> {
        let Some(index) = &self.examples else { return Ok(()) };
        let open = rows.iter().zip(all).filter(|(_, answered)| answered.error.is_none());
        let texts: Vec<&str> = open.map(|((row, _), _)| row.input.as_str()).collect();
        index.prepare(&texts).map_err(|why| self.failed(&why))
    }

    fn failed(&self, why: &str) -> String {
        format!("stage `{}`: its examples cannot be looked for: {why}", self.spec.name)
    }

    fn run(
        &self,
        backend: &mut dyn Backend,
        samples: &[u32],
        scopes: &mut [Scope],
        all: &mut [Answered],
        hits: &dyn Fn(usize) -> Found,
    ) {
        // Rows to ask, with their prompts.
        let mut open: Vec<(usize, Asked)> = Vec::new();
        for (i, (scope, answered)) in scopes.iter_mut().zip(all.iter_mut()).enumerate() {
            if answered.error.is_some() {
                continue;
            }
            let trace = StageTrace { stage: self.spec.name.clone(), ..StageTrace::default() };
            match self.prepare(scope, || hits(i)) {
                Ok(Some((prompt, text, shown))) => {
                    let examples = shown.into_iter().map(|hit| hit.why).collect();
                    answered.traces.push(StageTrace { prompt: text, examples, ..trace });
                    answered
                        .stages
                        .push(StageOutcome { stage: self.spec.name.clone(), ..StageOutcome::default() });
                    open.push((i, prompt));
                }
                Ok(None) => {
                    let skipped = StageOutcome {
                        stage: self.spec.name.clone(),
                        format_ok: true,
                        skipped: true,
                        ..StageOutcome::default()
                    };
                    answered.stages.push(skipped);
                    answered.traces.push(StageTrace { skipped: true, ..trace });
                    scope.skip(&self.spec.name);
                }
                Err(error) => {
                    let error = Some(error);
                    answered.traces.push(StageTrace { error: error.clone(), ..trace });
                    answered.error = error;
                }
            }
        }
        for attempt in 0..=self.spec.retries {
            if open.is_empty() {
                break;
            }
            let asks: Vec<Ask> = open
                .iter()
                .filter_map(|(i, prompt)| {
                    let sample = *samples.get(*i)?;
                    Some(Ask {
                        prompt: prompt.clone(),
                        constraint: self.constraint(),
                        tools: self.prompt.native_tools(),
                        sample,
                        ..Ask::turn("", self.decoding(attempt, sample))
                    })
                })
                .collect();
            let mut answers = backend.answer(&asks).into_iter();
            open.retain(|(i, _)| {
                let answered = &mut all[*i];
                let (Some(outcome), Some(trace)) = (answered.stages.last_mut(), answered.traces.last_mut())
                else {
                    return false;
                };
                let answer = match answers.next() {
                    Some(Ok(answer)) => answer,
                    failed => {
                        let why = failed.and_then(Result::err).map(|e| e.to_string());
                        let why = why.unwrap_or_else(|| "the model gave no answer to this row".into());
                        answered.error = Some(format!("stage `{}`: {why}", self.spec.name));
                        trace.error = Some(why);
                        return false;
                    }
                };
                let said = tool::said(&answer);
                let (read, problem) = output::read_stage(&said, &self.spec);
                // A retry is paid and waited for, too; the first token is the first try's.
                if attempt == 0 {
                    outcome.ttft_ms = answer.ttft_ms;
                }
                outcome.tokens_in += answer.tokens_in;
                outcome.tokens_out += answer.tokens_out;
                outcome.ms += answer.ms;
                outcome.cached += u32::from(answer.cached);
                outcome.masked += answer.masked;
                outcome.waited_ms += answer.waited_ms;
                outcome.estimated |= answer.estimated;
                outcome.probability = answer.labels.first().map(|(_, p)| *p);
                outcome.retries = attempt;
                outcome.format_ok = read.ok;
                outcome.output.clone_from(&read.text);
                trace.output.clone_from(&read.text);
                trace.push(Attempt {
                    answer: said,
                    tokens_in: answer.tokens_in,
                    tokens_out: answer.tokens_out,
                    ttft_ms: answer.ttft_ms,
                    ms: answer.ms,
                    cached: answer.cached,
                    problem,
                    labels: answer.labels,
                });
                answered.output = read.text;
                answered.kind = self.spec.output;
                !read.ok
            });
        }
        for (scope, answered) in scopes.iter_mut().zip(all.iter_mut()) {
            if let Some(outcome) = answered.stages.last().filter(|o| !o.skipped && answered.error.is_none()) {
                scope.add(&self.spec, &outcome.output);
                if self.spec.output == OutputKind::Tool
                    && let Some(trace) = answered.traces.last_mut()
                    && let Some(call) = output::parse_json(&outcome.output)
                {
                    let with_result = answered_by_tool(&self.spec.tools, &call);
                    trace.result =
                        with_result.and_then(|mut a| a.get_mut("result").map(serde_json::Value::take));
                }
            }
        }
    }

    /// What is asked on a row, the same as text, and the examples that are shown in it; none where `when` does not hold.
    fn prepare(
        &self,
        scope: &mut Scope,
        hits: impl FnOnce() -> Found,
    ) -> Result<Option<(Asked, String, Vec<Hit>)>, String> {
        let wrong = |error: TemplateError| error.to_string();
        if !self.prompt.holds(scope).map_err(wrong)? {
            return Ok(None);
        }
        let (hits, form) = hits()?;
        scope.show(&self.spec, &hits);
        let text = self.prompt.render_in(scope).map_err(wrong)?;
        let question = self.question(scope, text.clone());
        if hits.is_empty() || self.prompt.lays_out_examples() {
            return Ok(Some((question, text, hits)));
        }
        if form == Form::Bare && self.spec.tools.is_empty() && matches!(question, Asked::Turn(_)) {
            let prompt = template::examples_before(scope, &hits);
            return Ok(Some((Asked::Turn(prompt.clone()), prompt, hits)));
        }
        if form != Form::Turns && self.prompt.has_input() && matches!(question, Asked::Turn(_)) {
            let prompt = self.prompt.render_with_examples(scope, &hits).map_err(wrong)?;
            return Ok(Some((Asked::Turn(prompt.clone()), prompt, hits)));
        }
        let mut turns = Vec::new();
        let mut shown = Vec::new();
        for hit in hits {
            // An example without the fields that the template names cannot be asked.
            let Ok(asked) = self.prompt.render_in(&self.scope_of(&hit.example)) else { continue };
            turns.push(Message::user(asked));
            turns.push(Message::assistant(hit.example.answer.clone()));
            shown.push(hit);
        }
        match question {
            question if turns.is_empty() => return Ok(Some((question, text, shown))),
            Asked::Chat(own) => turns.extend(own),
            Asked::Turn(text) | Asked::Text(text) => turns.push(Message::user(text)),
        }
        let text = told(&turns);
        Ok(Some((Asked::Chat(turns), text, shown)))
    }

    /// What was in scope where the example comes from.
    fn scope_of(&self, example: &Example) -> Scope {
        let mut scope = Scope::new(&RunRow {
            id: example.row.clone().unwrap_or_default(),
            hash: String::new(),
            part: None,
            stratum: example.stratum.clone(),
            fields: example.fields.clone(),
            input: example.input.clone(),
            turns: Vec::new(),
            gold: None,
        });
        for stage in &self.before {
            match example.outputs.get(&stage.name) {
                Some(output) => scope.add(stage, output),
                None => scope.skip(&stage.name),
            }
        }
        scope
    }

    /// The rendered prompt; a bare one of a row that is a conversation is its turns.
    fn question(&self, scope: &Scope, prompt: String) -> Asked {
        match scope.turns() {
            [] => Asked::Turn(prompt),
            // A conversation has no place for tools that are described in text.
            turns if self.spec.is_bare() && (self.spec.tools.is_empty() || self.prompt.is_native()) => {
                Asked::Chat(turns.iter().map(Message::from).collect())
            }
            _ => Asked::Turn(prompt),
        }
    }

    /// An endpoint that is given tools holds its calls to their parameters itself.
    fn constraint(&self) -> Option<Constraint> {
        let endpoint = matches!(self.spec.model.source, ModelSource::Endpoint { .. });
        self.spec.constraint.clone().filter(|_| !endpoint || self.spec.tools.is_empty())
    }

    fn decoding(&self, attempt: u32, sample: u32) -> Decoding {
        let mut decoding = self.spec.decoding.clone();
        // Far enough apart that no retry of one answer is another one.
        decoding.seed = decoding.seed.wrapping_add(u64::from(sample) * SAMPLE_SEEDS);
        if attempt > 0 {
            decoding.seed = decoding.seed.wrapping_add(u64::from(attempt));
            if decoding.temperature == 0.0 {
                decoding.temperature = RETRY_TEMPERATURE;
            }
        }
        decoding
    }
}

/// A conversation as a trace has it.
fn told(turns: &[Message]) -> String {
    turns.iter().map(|turn| format!("[{}]\n{}", turn.role, turn.content)).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
pub mod tests;
