//! Launching a prompt run that tunes a judge: the answers that people judged, frozen as they stand, with what most of them said.

use std::collections::BTreeMap;

use super::judges;
use super::rows;
use super::standing;
use super::state::{Engine, bad_input, failed};
use super::{candidates, parts};
use crate::domain::api::Failure;
use crate::domain::candidate::{Candidate, Decoding, OutputKind, StageCandidate};
use crate::domain::judge::{Judge, JudgedAnswer, PersonVerdict, item_id, output_hash};
use crate::domain::outcome::Outcome;
use crate::domain::prompt::PromptSettings;
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunKind;
use crate::domain::settings::EvalSettings;
use crate::score::agreement::{self, Answer};
use crate::workspace::Workspace;

/// From so many answers on, some are kept to learn from: nothing is scored on them.
const MANY: usize = 60;
/// One row in so many of those.
const LEARN: u8 = 5;

/// Everything that the run works on.
pub struct Frozen {
    pub judge: Judge,
    /// The judge as a pipeline of one stage, whose prompt is the rubric.
    pub candidate: Candidate,
    pub prompt: PromptSettings,
    pub eval: EvalSettings,
    /// By answer: the row's fields and input, and the verdict of people for its gold.
    pub rows: Vec<RunRow>,
    /// `judged.jsonl`.
    pub bytes: Vec<u8>,
}

pub fn no_file(name: &str) -> Failure {
    bad_input(format!(
        "judge `{name}` has no rubric of its own to tune; write rubric = \"prompts/judge-{name}.md\" into its [[judge]] and make the file"
    ))
}

/// The judge of that name on every answer that people judged, at the content that its row has now.
pub fn frozen(engine: &Engine, ws: &Workspace, name: &str) -> Result<Frozen, Failure> {
    let entry = judges::named(ws, Some(name))?;
    if entry.rubric.is_none() {
        return Err(no_file(name));
    }
    let judge = judges::frozen(engine, ws, entry)?;
    let people: Vec<PersonVerdict> = engine
        .read(|s| s.decisions.verdicts.values().filter(|said| said.judge == judge.name).cloned().collect());
    let said = agreement::majorities(&people.iter().collect::<Vec<_>>(), &judge.verdicts);
    let answers = answers(engine, &said)?;
    let loaded = rows::loaded(engine)?;
    let gold = engine.read(|s| s.decisions.gold.clone());
    let (mut found, mut of_rows, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for ((row, row_hash, hash), verdict) in &said {
        let key = (row.clone(), row_hash.clone(), hash.clone());
        let (Some(at), Some(outcome)) = (loaded.dataset.find(row), answers.get(&key)) else { continue };
        let data = loaded.dataset.row(at).map_err(|e| parts::data_error(&e))?;
        let (input, in_file) = loaded.dataset.resolve(&data).map_err(|e| parts::data_error(&e))?;
        let (own, content) = rows::with_gold(&data.id, &data.hash, in_file, &gold);
        if content != *row_hash {
            continue;
        }
        let answer = JudgedAnswer {
            row: row.clone(),
            row_hash: row_hash.clone(),
            output: outcome.output.clone(),
            gold: own,
        };
        serde_json::to_writer(&mut bytes, &answer).map_err(|e| failed(e.to_string()))?;
        bytes.push(b'\n');
        of_rows.push(row.as_str());
        found.push(RunRow {
            id: item_id(row, row_hash, hash),
            hash: hash.clone(),
            part: Some(Part::Dev),
            stratum: outcome.stratum.clone(),
            fields: data.fields,
            input,
            turns: Vec::new(),
            gold: Some(verdict.clone()),
        });
    }
    if found.len() >= MANY {
        // Answers to one row go one way.
        for (row, of) in found.iter_mut().zip(&of_rows) {
            if blake3::hash(of.as_bytes()).as_bytes()[0].is_multiple_of(LEARN) {
                row.part = Some(Part::Train);
            }
        }
    }
    if found.is_empty() {
        return Err(bad_input(format!(
            "people have judged no answer with `{name}` yet: `tunebench judge queue --judge {name}`"
        )));
    }
    let stage = StageCandidate {
        name: judge.stage(),
        model: judge.model.clone(),
        adapter: None,
        prompt: judge.rubric.clone(),
        prompt_name: judge.rubric_name.clone(),
        output: OutputKind::Label,
        labels: judge.verdicts.words.clone(),
        decoding: Decoding { max_tokens: judge.max_tokens, ..Decoding::default() },
        when: None,
        retries: 0,
        constraint: None,
        tools: Vec::new(),
        gold: None,
        examples: None,
    };
    let settings = &ws.config.tuning.prompt;
    let held = |pin: &String| judge.rubric.contains(pin.as_str());
    let prompt = PromptSettings {
        // Those of the pipeline are not the rubric's.
        stages: Vec::new(),
        pins: settings.pins.iter().filter(|pin| held(pin)).cloned().collect(),
        ..settings.clone()
    };
    let accuracy = || "accuracy".to_owned();
    let eval = EvalSettings { primary: accuracy(), metrics: vec![accuracy()], ..EvalSettings::default() };
    let candidate = Candidate { name: judge.stage(), rung: "judge".into(), stages: vec![stage] };
    Ok(Frozen { judge, candidate, prompt, eval, rows: found, bytes })
}

/// The answers by their content, from whoever gave them.
fn answers(engine: &Engine, said: &BTreeMap<Answer, String>) -> Result<BTreeMap<Answer, Outcome>, Failure> {
    let mut found = BTreeMap::new();
    if said.is_empty() {
        return Ok(found);
    }
    for known in candidates::known(engine).iter() {
        for outcome in standing::outcomes(engine, known)?.iter().filter(|o| o.error.is_none()) {
            let answer = (outcome.row.clone(), outcome.row_hash.clone(), output_hash(&outcome.output));
            if said.contains_key(&answer) {
                found.entry(answer).or_insert_with(|| outcome.clone());
            }
        }
    }
    Ok(found)
}

/// What tuned judges said of answers that people judged: an adopted one need not be asked again.
pub fn told(engine: &Engine) -> Result<Vec<Outcome>, Failure> {
    let folders: Vec<_> = engine.read(|s| {
        let tuned = |r: &&super::state::Run| {
            let judge = r.record.settings.iter().any(|(key, _)| key == "judge");
            judge && r.record.kind == RunKind::Prompt && r.record.state.has_result()
        };
        s.runs.values().filter(tuned).map(|r| (r.record.run.clone(), r.folder.clone())).collect()
    });
    let mut all = Vec::new();
    for (run, folder) in folders {
        all.extend(folder.read_outcomes().map_err(|e| failed(format!("{run}: {e}")))?);
    }
    Ok(all)
}
