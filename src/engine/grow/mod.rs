//! Growing the data: what a run of kind `grow` is frozen with, what it made ([`texts`]), and taking that into the data ([`taken`]).

pub mod taken;
pub mod texts;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::launch::Wish;
use super::state::{Engine, bad_input, failed};
use super::strata::{self, StrataIndex};
use super::{candidates, freeze, models, parts, rows, sample, standing};
use crate::data::{Dataset, Of, Shape, fields_of};
use crate::domain::api::Failure;
use crate::domain::candidate::{Candidate, ModelRef};
use crate::domain::grow::{Method, Other, RowForm, SYNTHETIC};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::Job;
use crate::domain::words::nearest;
use crate::tuning::grow::{of_kind, shows_others};
use crate::workspace::Workspace;

/// Rows of the same stratum and gold that are shown beside those that are grown from, for each of the maker's looks.
const MATES: usize = 4;
/// Rows whose kind of conversation is looked at.
const LOOKED: usize = 50;

/// Everything that a run works on.
pub struct Frozen {
    pub job: Job,
    pub candidate: Candidate,
    pub rows: Vec<RunRow>,
    pub others: Vec<u8>,
}

/// The model that writes.
pub fn maker(engine: &Engine, ws: &Workspace) -> Result<ModelRef, Failure> {
    if let Some(name) = &ws.config.tuning.grow.maker {
        return models::model_ref(engine, ws, name, "tuning.grow.maker");
    }
    if let Some(critic) = models::critic(engine, ws)? {
        return Ok(critic);
    }
    let first = ws.config.stages.first().map(|stage| stage.model.clone());
    let name = first
        .ok_or_else(|| bad_input(ws.problem("tuning.grow.maker", "name a model of [models]").to_string()))?;
    models::model_ref(engine, ws, &name, "stage.0.model")
}

/// Who answers the new inputs: the candidate that was named, else the best on the board, else the pipeline as it stands.
pub fn checker(engine: &Engine, wish: &Wish, dataset: &Dataset) -> Result<Candidate, Failure> {
    if wish.candidate.is_some() || wish.model.is_some() {
        return wish.resolve(engine, dataset);
    }
    let loaded = rows::loaded(engine)?;
    let (base, best) = standing::base_and_best(engine, &loaded)?;
    let scored = best.into_iter().chain(base).find(|scored| !scored.candidate.stages.is_empty());
    let name = scored.map(|scored| scored.candidate.name.clone());
    candidates::resolve(engine, &wish.ws, dataset, name.as_deref())
}

/// How new rows are written down.
pub fn form(ws: &Workspace, dataset: &Dataset) -> Result<RowForm, Failure> {
    let wrong = |message: String| bad_input(ws.problem("tuning.grow.fields", message).to_string());
    let data = &ws.config.data;
    let guess = dataset.guess();
    let input = data.input.clone().or_else(|| guess.input.clone());
    let gold = data.gold.clone().or_else(|| guess.gold.clone());
    let mut fields = ws.config.tuning.grow.fields.clone();
    if fields.is_empty() {
        fields = match &input {
            Some(template) => {
                let named = fields_of(template);
                let dimensions = &ws.config.strata.dimensions;
                match named.as_slice() {
                    [_] => named,
                    _ => named.into_iter().filter(|name| !dimensions.contains(name)).collect(),
                }
            }
            None => of_shape(dataset)?,
        };
    }
    if fields.is_empty() {
        return Err(wrong(
            "the data's input is no text in fields of its own (it is a conversation, or [data] input names no field); name the fields that the maker is to write, and set [data] input"
                .into(),
        ));
    }
    let known = dataset.fields();
    for name in &fields {
        let first = name.split('.').next().unwrap_or_default();
        if !known.iter().any(|field| field == name || field == first) {
            let near = nearest(name, known.iter().map(String::as_str));
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return Err(wrong(format!("no row has a field `{name}`{near}")));
        }
    }
    Ok(RowForm { fields, input, gold, likeness: ws.config.strata.duplicates })
}

/// The fields that rows of a known shape have their input in.
fn of_shape(dataset: &Dataset) -> Result<Vec<String>, Failure> {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    for at in 0..dataset.len().min(LOOKED) {
        let row = dataset.row(at).map_err(|e| parts::data_error(&e))?;
        let has =
            |name: &str| row.fields.get(name).and_then(|v| v.as_str()).is_some_and(|t| !t.trim().is_empty());
        match Shape::of(&row.fields) {
            Shape::Text => drop(found.insert("text")),
            Shape::Alpaca => {
                found.insert("instruction");
                found.extend(["input", "context"].into_iter().find(|name| has(name)));
            }
            Shape::PromptCompletion => {
                found.extend(
                    ["prompt", "instruction", "question", "query"].into_iter().find(|name| has(name)),
                );
            }
            Shape::Records | Shape::Sharegpt | Shape::Messages | Shape::Preference => {}
        }
    }
    Ok(found.into_iter().map(str::to_owned).collect())
}

/// The rows that a run grows from, those shown beside them, and all others, which its rows must not repeat.
pub fn frozen(engine: &Engine, wish: &Wish) -> Result<Frozen, Failure> {
    let ws = &wish.ws;
    let dataset = &parts::dataset(engine, ws)?;
    let settings = &ws.config.tuning.grow;
    let (candidate, maker, form) = (checker(engine, wish, dataset)?, maker(engine, ws)?, form(ws, dataset)?);
    let strata = strata::latest(engine)?;
    let parts = parts::assign(engine, ws, dataset, strata.as_deref())?;
    let (gold, excluded) = engine.read(|s| {
        let excluded: HashSet<String> = s.decisions.excluded().map(str::to_owned).collect();
        (s.decisions.gold.clone(), excluded)
    });
    let made = parts::parents(dataset)?;
    // What is drawn must be what can be grown from.
    let mut written = settings.rows.clone();
    if written.trim_start().starts_with("sample:") {
        written.push_str(" -mark:excluded");
        if !made.is_empty() {
            written.push_str(" -synthetic:*");
        }
    }
    let wanted = sample::train_rows(engine, &written)?;
    let columns = dataset.columns(&[Of::Input, Of::Gold]).map_err(|e| parts::data_error(&e))?;
    let [inputs, golds] = columns.as_slice() else { return Err(failed("the columns cannot be read")) };
    let of_row = freeze::strata_of(strata.as_deref(), dataset);
    let gold_of = |at: usize| {
        let own = gold.get(dataset.id(at)).map(String::as_str);
        own.or_else(|| golds.get(at)).filter(|gold| !gold.trim().is_empty())
    };
    let can = |at: &usize| {
        parts.get(*at) == Some(&Some(Part::Train))
            && !excluded.contains(dataset.id(*at))
            && !made.contains_key(at)
            && gold_of(*at).is_some()
    };
    let usable: Vec<usize> = (0..dataset.len()).filter(can).collect();
    let mut chosen: Vec<usize> = usable
        .iter()
        .copied()
        .filter(|at| wanted.as_ref().is_none_or(|ids| ids.contains(dataset.id(*at))))
        .collect();
    if chosen.is_empty() {
        let message = format!(
            "rows = \"{}\" leaves no row of the train part that has a gold and was not made itself",
            settings.rows
        );
        return Err(bad_input(ws.problem("tuning.grow.rows", message).to_string()));
    }
    let order =
        |at: &usize| *blake3::hash(format!("{}\0{}", settings.seed, dataset.id(*at)).as_bytes()).as_bytes();
    chosen.sort_by_cached_key(order);
    let from = chosen.len();
    let kind = |at: usize| (of_row.get(at).copied().flatten(), gold_of(at).unwrap_or_default().trim());
    let mut all = chosen;
    if shows_others(settings) > 1 {
        let mut open: HashMap<_, usize> = HashMap::new();
        open.extend(all.iter().map(|at| (kind(*at), MATES * settings.shown)));
        let taken: HashSet<usize> = all.iter().copied().collect();
        let mut mates: Vec<usize> = usable.into_iter().filter(|at| !taken.contains(at)).collect();
        mates.sort_by_cached_key(order);
        mates.retain(|at| match open.get_mut(&kind(*at)) {
            Some(left @ 1..) => {
                *left -= 1;
                true
            }
            _ => false,
        });
        all.extend(mates);
    }
    let mut rows = Vec::with_capacity(all.len());
    for at in all {
        let row = dataset.row(at).map_err(|e| parts::data_error(&e))?;
        let (input, in_file) = dataset.resolve(&row).map_err(|e| parts::data_error(&e))?;
        let (gold, hash) = rows::with_gold(&row.id, &row.hash, in_file, &gold);
        rows.push(RunRow {
            id: row.id,
            hash,
            part: Some(Part::Train),
            stratum: name_of(strata.as_deref(), of_row.get(at).copied().flatten()),
            fields: row.fields,
            input,
            turns: Vec::new(),
            gold,
        });
    }
    refuse_alone(ws, &rows)?;
    let mut others = Vec::new();
    for at in 0..dataset.len() {
        let other = Other {
            id: dataset.id(at).to_owned(),
            part: parts.get(at).copied().flatten(),
            input: inputs.get(at).unwrap_or_default().to_owned(),
        };
        serde_json::to_writer(&mut others, &other).map_err(|e| failed(e.to_string()))?;
        others.push(b'\n');
    }
    let (grow, eval) = (settings.clone(), ws.config.eval.clone());
    let job = Job::Grow { grow, form, maker: Box::new(maker), from, eval };
    Ok(Frozen { job, candidate, rows, others })
}

fn name_of(strata: Option<&StrataIndex>, of: Option<u32>) -> Option<String> {
    strata?.name(of?)
}

/// Self-play needs rows that stand for each other.
fn refuse_alone(ws: &Workspace, rows: &[RunRow]) -> Result<(), Failure> {
    let settings = &ws.config.tuning.grow;
    let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for row in rows {
        *kinds.entry(of_kind(row)).or_default() += 1;
    }
    if settings.method == Method::SelfPlay && kinds.values().all(|n| *n < 2) {
        let message = "no two of the rows are of one stratum with one gold, so the maker has nothing to play by; paraphrase or reverse them";
        return Err(bad_input(ws.problem("tuning.grow.method", message).to_string()));
    }
    Ok(())
}

/// Rows that were made, with a parent that is scored on, and those that were made and are not in the train part: they are in no run.
pub fn torn(dataset: &Dataset, parts: &[Option<Part>]) -> Result<HashSet<usize>, Failure> {
    let of = |at: usize| parts.get(at).copied().flatten();
    let scored =
        |id: &String| dataset.find(id).is_some_and(|at| of(at).is_some_and(|part| part != Part::Train));
    let made = parts::parents(dataset)?;
    let torn =
        made.into_iter().filter(|(at, parents)| of(*at) != Some(Part::Train) || parents.iter().any(scored));
    Ok(torn.map(|(at, _)| at).collect())
}

/// Whether the data has rows that were made.
pub fn has_made(dataset: &Dataset) -> bool {
    dataset.fields().iter().any(|field| field == SYNTHETIC)
}
