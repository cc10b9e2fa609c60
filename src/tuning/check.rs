//! What a run would refuse, or stumble over on many rows, found before it starts.
//!
//! `check`, `init` and the launch of a run ask the same questions here, of the same sample of rows.

use std::path::Path;

use serde_json::{Map, Value};

use crate::data::{Dataset, Resolver};
use crate::domain::candidate::{
    Candidate, Constraint, Decoding, Limits, ModelRef, ModelSource, OutputKind, StageCandidate,
};
use crate::domain::row::RunRow;
use crate::domain::settings::{Method, TrainSettings};
use crate::domain::tool::{Tool, call_schema};
use crate::domain::words::counted;
use crate::model::ModelError;
use crate::model::chat::{ChatTemplate, answer_tokens, prompt_tokens};
use crate::model::config::ModelConfig;
use crate::model::constraint::{self, Grammars};
use crate::model::lora::check_targets;
use crate::model::sampling;
use crate::model::tokenizer::Tokenizer;
use crate::pipeline::template::{Prompt, Scope};
use crate::workspace::config::{Constrain, ModelPlace, Stage};
use crate::workspace::{Problem, Problems, Workspace};

/// Rows spread evenly over the data, and the longest of the others; where there are no more than both, all are looked at.
const EVEN: usize = 200;
const LONGEST: usize = 56;

/// Something a run would refuse (`refused`), or that goes wrong on a few rows only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The key of `workspace.toml` that it is about.
    pub key: String,
    pub message: String,
    pub refused: bool,
}

impl Finding {
    fn refused(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), refused: true }
    }

    /// With the file and the line.
    pub fn problem(&self, ws: &Workspace) -> Problem {
        // A key that is not written stands for its table.
        let table = self.key.rsplit_once('.').map_or("", |(table, _)| table);
        let line = Some(ws.line_of(&self.key)).filter(|&line| line > 0);
        let line = line.unwrap_or_else(|| ws.line_of(table));
        Problem { line, ..ws.problem(&self.key, format!("`{}`: {}", self.key, self.message)) }
    }
}

/// The rows that are looked at.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    even: Vec<RunRow>,
    long: Vec<RunRow>,
    total: usize,
}

impl Sample {
    /// `sizes`: bytes of every row. `read` gives a row, or none where it cannot be read.
    pub fn choose(sizes: &[u64], mut read: impl FnMut(usize) -> Option<RunRow>) -> Self {
        let total = sizes.len();
        let all = total <= EVEN + LONGEST;
        let even: Vec<usize> =
            if all { (0..total).collect() } else { (0..EVEN).map(|i| i * total / EVEN).collect() };
        let mut rest: Vec<usize> = (0..total).filter(|i| even.binary_search(i).is_err()).collect();
        rest.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), i));
        rest.truncate(LONGEST);
        let mut rows = |places: Vec<usize>| places.into_iter().filter_map(&mut read).collect();
        Self { even: rows(even), long: rows(rest), total }
    }

    /// Of imported data.
    pub fn of_dataset(dataset: &Dataset) -> Self {
        let sizes: Vec<u64> = (0..dataset.len()).map(|i| dataset.bytes(i)).collect();
        Self::choose(&sizes, |i| {
            let row = dataset.row(i).ok()?;
            let (input, gold) = dataset.resolve(&row).ok()?;
            let turns = dataset.turns(&row);
            Some(RunRow {
                id: row.id,
                hash: row.hash,
                part: None,
                stratum: None,
                fields: row.fields,
                input,
                turns,
                gold,
            })
        })
    }

    /// Of rows as a quick look at the files found them.
    pub fn of_fields(rows: &[Map<String, Value>], resolver: &Resolver) -> Self {
        let sizes: Vec<u64> = rows.iter().map(bytes).collect();
        Self::choose(&sizes, |i| {
            let (input, gold) = resolver.resolve(rows.get(i)?).ok()?;
            Some(RunRow {
                id: i.to_string(),
                hash: String::new(),
                part: None,
                stratum: None,
                fields: rows.get(i)?.clone(),
                input,
                turns: resolver.turns(rows.get(i)?),
                gold,
            })
        })
    }

    /// `3 of 120 rows`
    fn share(&self, count: usize) -> String {
        let looked = self.even.len() + self.long.len();
        if looked == self.total {
            format!("{count} of {}", counted(looked, "row"))
        } else {
            format!("{count} of {looked} rows looked at (of {}, the longest among them)", self.total)
        }
    }
}

/// Tokens of rows against a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Of the evenly spread rows.
    pub even: Vec<usize>,
    /// Of the longest of the others.
    pub long: Vec<usize>,
}

impl Lengths {
    fn of(sample: &Sample, tokens: impl Fn(&RunRow) -> Option<usize>) -> Self {
        Self {
            even: sample.even.iter().filter_map(&tokens).collect(),
            long: sample.long.iter().filter_map(&tokens).collect(),
        }
    }

    /// How many are above `limit`, the longest, and whether it is most of the data.
    fn above(&self, limit: usize) -> Option<(usize, usize, bool)> {
        let above = |lengths: &[usize]| lengths.iter().filter(|&&n| n > limit).count();
        let (even, long) = (above(&self.even), above(&self.long));
        let longest = self.even.iter().chain(&self.long).max()?;
        (even + long > 0).then_some((even + long, *longest, even * 2 > self.even.len()))
    }
}

fn bytes(fields: &Map<String, Value>) -> u64 {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string().len(), str::len);
    fields.values().map(|value| text(value) as u64).sum()
}

/// How a model reads, and how much of it.
#[derive(Debug)]
struct Reader {
    config: ModelConfig,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl Reader {
    fn open(dir: &Path) -> Result<Self, ModelError> {
        Ok(Self {
            config: ModelConfig::load(dir)?,
            tokenizer: Tokenizer::load(dir)?,
            template: ChatTemplate::load(dir)?,
        })
    }

    fn prompt(&self, text: &str) -> Option<usize> {
        prompt_tokens(&self.tokenizer, self.template.as_ref(), text).ok().map(|t| t.len())
    }

    fn answer(&self, text: &str, gold: &str) -> Option<usize> {
        answer_tokens(&self.tokenizer, self.template.as_ref(), text, gold).ok().map(|t| t.len())
    }
}

/// Several answers to a row, where they can only be the same: every stage is a local model that takes the likeliest token. (What stands behind
/// an endpoint may answer otherwise at temperature 0, too.)
pub fn pointless_samples(candidate: &Candidate, samples: u32) -> Option<Finding> {
    let greedy = |s: &StageCandidate| {
        s.decoding.temperature == 0.0 && matches!(s.model.source, ModelSource::Local { .. })
    };
    (samples > 1 && !candidate.stages.is_empty() && candidate.stages.iter().all(greedy)).then(|| {
        Finding::refused(
            "eval.samples",
            format!(
                "{samples} answers to each row would all be the same at temperature 0; set `temperature` of a stage above 0, as in --set stage.{}.temperature=0.7",
                candidate.stages.last().map_or("NAME", |s| &s.name)
            ),
        )
    })
}

/// Everything that a run of `candidate` (a training run, with `train`) would refuse, and what it would leave out on some rows.
///
/// A model that cannot be read at all is not told here: opening it says so.
pub fn examine(candidate: &Candidate, train: Option<&TrainSettings>, sample: &Sample) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut readers: Vec<(&str, Option<Reader>)> = Vec::new();
    for (at, stage) in candidate.stages.iter().enumerate() {
        if let Some(Err(e)) = stage.constraint.as_ref().map(constraint::check) {
            found.push(Finding::refused(format!("stage.{at}.constrain"), e.to_string()));
        }
        if let Err(e) = sampling::check(&stage.decoding) {
            found.push(Finding::refused(format!("stage.{at}"), e.to_string()));
        }
        let path = match &stage.model.source {
            ModelSource::Local { path } => path.as_str(),
            ModelSource::Endpoint { .. } => {
                if matches!(stage.constraint, Some(Constraint::Regex(_))) {
                    found.push(Finding::refused(
                        format!("stage.{at}.constrain"),
                        format!(
                            "the model `{}` stands behind an endpoint, which cannot be held to a regular expression; use a JSON schema, or a local model",
                            stage.model.name
                        ),
                    ));
                }
                if train.is_some_and(|train| is_trained(candidate, stage, train)) {
                    found.push(Finding::refused(
                        ENDPOINT_STAGE,
                        format!(
                            "the model `{}` of stage `{}` stands behind an endpoint, and only a model with a `path` can be trained",
                            stage.model.name, stage.name
                        ),
                    ));
                }
                continue;
            }
        };
        let known = readers.iter().position(|(dir, _)| *dir == path).unwrap_or_else(|| {
            readers.push((path, Reader::open(Path::new(path)).ok()));
            readers.len() - 1
        });
        let Some(reader) = readers.get(known).and_then(|(_, reader)| reader.as_ref()) else { continue };
        found.extend(unwritable(stage, at, reader));
        found.extend(too_long(candidate, at, reader, sample));
        if let Some(train) = train
            && is_trained(candidate, stage, train)
        {
            found.extend(training(candidate, at, train, reader, sample));
        }
    }
    found
}

/// The key of the finding that the stage to train has no weights here.
pub const ENDPOINT_STAGE: &str = "tuning.train.stage";

fn is_trained(candidate: &Candidate, stage: &StageCandidate, train: &TrainSettings) -> bool {
    stage.name == train.stage || (train.stage.is_empty() && candidate.stages.len() == 1)
}

/// A form of answers that the model's tokenizer cannot write.
fn unwritable(stage: &StageCandidate, at: usize, reader: &Reader) -> Option<Finding> {
    let form = stage.constraint.as_ref().filter(|c| !matches!(c, Constraint::Labels(_)))?;
    // What is wrong for every model is told already.
    constraint::check(form).ok()?;
    let error = Grammars::new(&reader.tokenizer).and_then(|grammars| grammars.matcher(form)).err()?;
    Some(Finding::refused(
        format!("stage.{at}.constrain"),
        format!("the model `{}`: {error}", stage.model.name),
    ))
}

/// Prompts that leave no room for `max_tokens` in the model's context.
fn too_long(candidate: &Candidate, at: usize, reader: &Reader, sample: &Sample) -> Option<Finding> {
    let stage = &candidate.stages[at];
    let (context, room) = (reader.config.max_positions, stage.decoding.max_tokens);
    let lengths = prompt_lengths(candidate, at, reader, sample)?;
    let (count, longest, refused) = lengths.above(context.saturating_sub(room))?;
    let message = format!(
        "{} are too long: the longest is {} tokens ({longest} of the prompt, {room} of max_tokens), the model `{}` has {context}; shorten the prompt or the input, lower max_tokens, or take a model with a longer context",
        sample.share(count),
        longest + room,
        stage.model.name,
    );
    Some(Finding { key: format!("stage.{at}.max_tokens"), message, refused })
}

fn prompt_lengths(candidate: &Candidate, at: usize, reader: &Reader, sample: &Sample) -> Option<Lengths> {
    let prompt = Prompt::new(candidate.stages.get(at)?).ok()?;
    Some(Lengths::of(sample, |row| reader.prompt(&rendered(candidate, at, &prompt, row)?)))
}

/// Tokens of the prompts of the first stage, and the context they must fit in.
///
/// # Errors
/// A model that cannot be read.
pub fn first_prompts(
    stage: &StageCandidate,
    dir: &Path,
    sample: &Sample,
) -> Result<(Lengths, usize), ModelError> {
    let reader = Reader::open(dir)?;
    let candidate = Candidate { name: String::new(), rung: String::new(), stages: vec![stage.clone()] };
    let lengths = prompt_lengths(&candidate, 0, &reader, sample).unwrap_or_default();
    Ok((lengths, reader.config.max_positions))
}

/// Which rows are too long for the local models of a workspace's stages.
#[derive(Debug)]
pub struct Contexts {
    candidate: Candidate,
    /// Stage, how its model reads, its prompt, the tokens that an empty prompt takes.
    stages: Vec<(usize, Reader, Prompt, usize)>,
    /// Changes with whatever decides.
    pub key: String,
}

impl Contexts {
    /// None where no stage has a model that can be read here.
    pub fn of(ws: &Workspace) -> Option<Self> {
        let candidate = candidate(ws);
        let mut key = blake3::Hasher::new();
        let mut stages = Vec::new();
        for (at, stage) in candidate.stages.iter().enumerate() {
            let ModelSource::Local { path } = &stage.model.source else { continue };
            let (Ok(reader), Ok(prompt)) = (Reader::open(Path::new(path)), Prompt::new(stage)) else {
                continue;
            };
            for file in ["tokenizer.json", "config.json", "tokenizer_config.json", "chat_template.jinja"] {
                key.update(&std::fs::read(Path::new(path).join(file)).unwrap_or_default());
            }
            key.update(
                format!("{:?}", (at, &stage.prompt, stage.decoding.max_tokens, &stage.when)).as_bytes(),
            );
            let frame = reader.prompt("").unwrap_or(64);
            stages.push((at, reader, prompt, frame));
        }
        let key = key.finalize().to_hex()[..16].to_owned();
        (!stages.is_empty()).then_some(Self { candidate, stages, key })
    }

    /// Why a row does not fit.
    pub fn above(&self, row: &RunRow) -> Option<String> {
        self.stages.iter().find_map(|(at, reader, prompt, frame)| {
            let stage = &self.candidate.stages[*at];
            let (context, room) = (reader.config.max_positions, stage.decoding.max_tokens);
            let limit = context.saturating_sub(room);
            let text = rendered(&self.candidate, *at, prompt, row)?;
            // No token is shorter than a byte: most rows need not be taken apart.
            if text.len() + frame <= limit {
                return None;
            }
            let tokens = reader.prompt(&text)?;
            (tokens > limit).then(|| {
                format!(
                    "{tokens} tokens for stage `{}`, the model `{}` reads {context} with {room} for the answer",
                    stage.name, stage.model.name
                )
            })
        })
    }
}

/// What the stage is asked on a row; none where its `when` does not hold or the template does not fit the row.
fn rendered(candidate: &Candidate, at: usize, prompt: &Prompt, row: &RunRow) -> Option<String> {
    let mut scope = Scope::new(row);
    for earlier in &candidate.stages[..at] {
        // What an earlier stage will say is not known; its gold is the best guess.
        scope.add(earlier, &earlier.own_gold(&row.fields).unwrap_or_default());
    }
    if !prompt.holds(&scope).ok()? {
        return None;
    }
    prompt.render_in(&scope).ok()
}

/// Targets that the model has not; rows that are too long to be trained on.
fn training(
    candidate: &Candidate,
    at: usize,
    train: &TrainSettings,
    reader: &Reader,
    sample: &Sample,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let stage = &candidate.stages[at];
    if train.method == Method::Lora
        && stage.adapter.is_none()
        && let Err(e) = check_targets(reader.config.layers, &train.targets)
    {
        found.push(Finding::refused("tuning.train.targets", e.to_string()));
    }
    let context = reader.config.max_positions;
    let limit = train.max_length.min(context);
    let Ok(prompt) = Prompt::new(stage) else { return found };
    let lengths = Lengths::of(sample, |row| {
        let gold = if stage.gold.is_some() { stage.own_gold(&row.fields) } else { row.gold.clone() }?;
        let text = rendered(candidate, at, &prompt, row)?;
        Some(reader.prompt(&text)? + reader.answer(&text, &gold)?)
    });
    if let Some((count, longest, refused)) = lengths.above(limit) {
        let remedy = if limit < context {
            format!("max_length is {limit} (the model `{}` has {context}); raise it", stage.model.name)
        } else {
            format!(
                "the model `{}` has {context}; train on a shorter prompt (prompt = \"bare\") or input",
                stage.model.name
            )
        };
        let message = format!(
            "{} are too long to be trained on: the longest is {longest} tokens with its answer, {remedy}",
            sample.share(count)
        );
        found.push(Finding { key: "tuning.train.max_length".into(), message, refused });
    }
    found
}

/// The pipeline of `workspace.toml` as far as these questions need it. A prompt that cannot be read is left empty: that is told elsewhere.
pub fn candidate(ws: &Workspace) -> Candidate {
    let stages = ws.config.stages.iter().map(|stage| {
        let source = match ws.config.models.get(&stage.model).map(|m| &m.place) {
            Some(ModelPlace::Endpoint { endpoint, model, api_key_env }) => ModelSource::Endpoint {
                endpoint: endpoint.clone(),
                model: model.clone(),
                api_key_env: api_key_env.clone(),
            },
            Some(ModelPlace::Local { path }) => {
                ModelSource::Local { path: ws.resolve(path).display().to_string() }
            }
            None => ModelSource::Local { path: String::new() },
        };
        let prompt =
            stage.prompt.as_ref().map(|p| std::fs::read_to_string(ws.resolve(p)).unwrap_or_default());
        StageCandidate {
            // Which labels there are is known once the data is read, and a schema that cannot be read is told elsewhere.
            constraint: match &stage.constrain {
                None | Some(Constrain::Labels) => None,
                Some(_) => constraint_of(ws, stage, &[]).ok().flatten(),
            },
            when: stage.when.clone(),
            gold: stage.gold.clone(),
            tools: stage.tools.iter().filter_map(|path| ws.tool(path).ok()).collect(),
            ..asked(
                &stage.name,
                &stage.model,
                source,
                prompt.as_deref().unwrap_or(StageCandidate::BARE),
                stage.output,
                decoding_of(stage),
            )
        }
    });
    Candidate { name: "baseline".into(), rung: "baseline".into(), stages: stages.collect() }
}

/// How a stage's answers are drawn.
pub fn decoding_of(stage: &Stage) -> Decoding {
    Decoding {
        max_tokens: stage.max_tokens,
        temperature: stage.temperature,
        top_k: stage.top_k,
        top_p: stage.top_p,
        min_p: stage.min_p,
        repetition_penalty: stage.repetition_penalty,
        stop: stage.stop.clone(),
        seed: stage.seed,
    }
}

/// What a stage's answers must look like; `labels` are those that it can answer.
///
/// # Errors
/// A schema's file that cannot be read.
pub fn constraint_of(
    ws: &Workspace,
    stage: &Stage,
    labels: &[String],
) -> Result<Option<Constraint>, Problems> {
    Ok(match &stage.constrain {
        None => None,
        Some(Constrain::Labels) => Some(Constraint::Labels(labels.to_vec())),
        Some(Constrain::Json) => Some(Constraint::Json),
        Some(Constrain::Call) => {
            let tools: Vec<Tool> = stage.tools.iter().map(|path| ws.tool(path)).collect::<Result<_, _>>()?;
            Some(Constraint::Schema(call_schema(&tools)))
        }
        Some(Constrain::Regex(regex)) => Some(Constraint::Regex(regex.clone())),
        Some(Constrain::Schema(path)) => Some(Constraint::Schema(ws.schema(path)?)),
    })
}

/// A stage with what decides how long its prompts are.
pub fn asked(
    name: &str,
    model: &str,
    source: ModelSource,
    prompt: &str,
    output: OutputKind,
    decoding: Decoding,
) -> StageCandidate {
    StageCandidate {
        name: name.to_owned(),
        model: ModelRef {
            name: model.to_owned(),
            source,
            hash: String::new(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        },
        adapter: None,
        prompt: prompt.to_owned(),
        prompt_name: String::new(),
        output,
        labels: Vec::new(),
        decoding,
        when: None,
        retries: 0,
        constraint: None,
        tools: Vec::new(),
        gold: None,
        examples: None,
    }
}

/// The pipeline as a training run asks it: the stage under training with its own prompt.
pub fn candidate_for_training(ws: &Workspace) -> Candidate {
    let train = &ws.config.tuning.train;
    let mut candidate = candidate(ws);
    let only = candidate.stages.len() == 1;
    let named = |s: &&mut StageCandidate| s.name == train.stage || (only && train.stage.is_empty());
    if let Some(stage) = candidate.stages.iter_mut().find(named) {
        match train.prompt.as_str() {
            "same" => {}
            "bare" => StageCandidate::BARE.clone_into(&mut stage.prompt),
            file => stage.prompt = std::fs::read_to_string(ws.resolve(file)).unwrap_or_default(),
        }
    }
    candidate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(i: usize) -> RunRow {
        RunRow {
            id: i.to_string(),
            hash: String::new(),
            part: None,
            stratum: None,
            fields: Map::new(),
            input: String::new(),
            turns: Vec::new(),
            gold: None,
        }
    }

    #[test]
    fn few_rows_are_all_looked_at_and_of_many_the_longest_too() {
        let sample = Sample::choose(&[5; 120], |i| Some(row(i)));
        assert_eq!((sample.even.len(), sample.long.len()), (120, 0));
        assert_eq!(sample.share(3), "3 of 120 rows");
        let mut sizes = vec![5; 10_000];
        sizes[7_777] = 6;
        let sample = Sample::choose(&sizes, |i| Some(row(i)));
        assert_eq!((sample.even.len(), sample.long.len()), (EVEN, LONGEST));
        assert_eq!(sample.long[0].id, "7777");
        assert_eq!(sample.even[EVEN - 1].id, "9950", "spread over all of the data");
        assert!(sample.share(3).contains("3 of 256 rows looked at (of 10000"));
    }

    #[test]
    fn most_of_the_data_too_long_is_refused_and_a_few_rows_are_not() {
        let lengths = |even: &[usize], long: &[usize]| Lengths { even: even.to_vec(), long: long.to_vec() };
        assert_eq!(lengths(&[1, 2, 10], &[10]).above(10), None);
        assert_eq!(lengths(&[1, 2, 11], &[12]).above(10), Some((2, 12, false)));
        assert_eq!(lengths(&[1, 12, 11], &[]).above(10), Some((2, 12, true)));
        assert_eq!(lengths(&[], &[]).above(10), None);
    }
}
