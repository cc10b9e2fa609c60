//! Growing the data: what a run of kind `grow` is frozen with, what it made, and taking that into the data.
//!
//! Rows that somebody accepts become a file of the data, `data/grown/RUN.jsonl`, which is one more source. Its text is kept by its hash in
//! `.tunebench/grown/`, and the decision in the journal: an undo takes the file away again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use super::launch::Wish;
use super::state::{Engine, bad_input, failed, no_run};
use super::strata::{self, StrataIndex};
use super::{candidates, freeze, models, parts, rows, sample, standing};
use crate::data::{Dataset, Of, Shape, fields_of};
use crate::domain::api::{Decision, Failure};
use crate::domain::candidate::{Candidate, ModelRef};
use crate::domain::filter::{Filter, Test};
use crate::domain::grow::{
    Accepted, Check, GROWN, Grown, GrownAsk, GrownPage, Method, Other, RowForm, SYNTHETIC, Tally,
};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::{Job, RunKind};
use crate::domain::words::{counted, nearest};
use crate::store::{files, lines};
use crate::strata::duplicates::said;
use crate::tuning::grow::{of_kind, shows_others};
use crate::worker::folder::RunFolder;
use crate::workspace::{GROWN_SOURCES, Workspace};

/// Rows of the same stratum and gold that are shown beside those that are grown from, for each of the maker's looks.
const MATES: usize = 4;
/// Rows that one answer lists, and its bytes, about.
const WINDOW: usize = 200;
const BYTES: usize = 400 << 10;
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

/// A run that grew rows, by its name.
fn folder_of(engine: &Engine, run: &str) -> Result<RunFolder, Failure> {
    let found = engine.read(|s| s.runs.get(run).map(|r| (r.record.kind, r.folder.clone())));
    match found.ok_or_else(|| no_run(run))? {
        (RunKind::Grow, folder) => Ok(folder),
        (kind, _) => Err(bad_input(format!("{run} is a run of kind {kind}; only `grow` makes rows"))),
    }
}

/// Every text that the run made so far.
fn all(folder: &RunFolder) -> Result<Vec<Grown>, Failure> {
    let path = folder.dir().join(GROWN);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let (all, _) =
        lines::read_all_long::<Grown>(&path).map_err(|e| failed(format!("{}: {e}", path.display())))?;
    Ok(all)
}

/// What a filter over made texts may name.
const KEYS: [&str; 6] = ["fell", "stratum", "gold", "answer", "parent", "id"];

/// Reads a filter: `kept`, where texts fell (`disputed`, `leak`, ...), `stratum:`, `gold:`, `answer:`, `parent:`, `id:`, and words of the text.
fn reads(filter: &str) -> Result<Filter, Failure> {
    let filter = Filter::parse(filter);
    for term in &filter.terms {
        if let Test::Key { key, .. } = &term.test
            && !KEYS.contains(&key.as_str())
        {
            let near = nearest(key, KEYS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return Err(bad_input(format!(
                "a made text has no `{key}`{near} A filter here is made of kept, {}, {}: and words of the text",
                Check::ALL.map(Check::name).join(", "),
                KEYS.join(":, ")
            )));
        }
    }
    Ok(filter)
}

fn fits(one: &Grown, filter: &Filter) -> bool {
    let contains = |text: &str, wanted: &str| text.to_lowercase().contains(&wanted.to_lowercase());
    let fell = one.fell.map_or("kept", Check::name);
    filter.terms.iter().all(|term| {
        let holds = match &term.test {
            Test::Word(word) if word == "kept" || Check::ALL.iter().any(|check| check.name() == word) => {
                fell == word
            }
            Test::Word(word) => contains(&one.text, word),
            Test::Key { key, values, .. } => values.iter().any(|value| match key.as_str() {
                "fell" => fell == value,
                "stratum" => one.stratum.as_ref().is_some_and(|text| contains(text, value)),
                "gold" => one.gold.as_ref().is_some_and(|text| contains(text, value)),
                "answer" => one.answer.as_ref().is_some_and(|text| contains(text, value)),
                "parent" => one.parents.iter().any(|parent| parent == value),
                _ => one.id == *value,
            }),
        };
        holds != term.negated
    })
}

/// A window on what a run made.
pub fn page(engine: &Engine, ask: &GrownAsk) -> Result<GrownPage, Failure> {
    let folder = folder_of(engine, &ask.run)?;
    let filter = reads(&ask.filter)?;
    let all = all(&folder)?;
    let mut counts = Tally::default();
    for one in &all {
        counts.add(one);
    }
    let spec = folder.read_spec().ok();
    let (method, maker) = match spec.as_ref().map(|spec| &spec.job) {
        Some(Job::Grow { grow, maker, .. }) => (grow.method, maker.name.clone()),
        _ => (Method::default(), String::new()),
    };
    let found: Vec<Grown> = all.into_iter().filter(|one| fits(one, &filter)).collect();
    let total = found.len();
    let mut room = BYTES;
    let rows = found.into_iter().skip(ask.offset).take(ask.count.min(WINDOW)).map(|one| Grown {
        row: serde_json::Map::new(),
        text: rows::cut(&one.text, 2_000).into_owned(),
        gold: one.gold.as_deref().map(|gold| rows::cut(gold, 500).into_owned()),
        answer: one.answer.as_deref().map(|answer| rows::cut(answer, 500).into_owned()),
        ..one
    });
    let rows = rows.take_while(|one| {
        let size = serde_json::to_vec(one).map_or(usize::MAX, |bytes| bytes.len());
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    });
    Ok(GrownPage {
        run: ask.run.clone(),
        method,
        maker,
        checker: spec.and_then(|spec| spec.candidate).map(|c| c.name).unwrap_or_default(),
        counts,
        accepted: engine.read(|s| s.decisions.grown.get(&ask.run).cloned()),
        file: file_of(&ask.run),
        total,
        offset: ask.offset.min(total),
        rows: rows.collect(),
    })
}

/// The file of the data that the rows of a run stand in, relative to the workspace.
pub fn file_of(run: &str) -> String {
    format!("{GROWN_SOURCES}/{run}.jsonl")
}

fn kept_path(engine: &Engine, hash: &str) -> PathBuf {
    engine.state_dir.join("grown").join(format!("{hash}.jsonl"))
}

fn keep(engine: &Engine, bytes: &[u8]) -> Result<String, Failure> {
    let hash = blake3::hash(bytes).to_hex().to_string();
    let path = kept_path(engine, &hash);
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if path.exists() { Ok(()) } else { files::write_atomic(&path, bytes) }
    };
    write().map_err(|e| failed(format!("{} could not be written: {e}", path.display())))?;
    Ok(hash)
}

/// What came of taking rows in, and why some stayed out.
#[derive(Default)]
struct Left {
    /// A row that is scored on by now is among its parents, or a parent is gone from the train part.
    parents: usize,
    /// By now another row says the same.
    said: usize,
    fell: usize,
}

impl Left {
    fn words(&self) -> String {
        let some = [
            (self.fell, "fell at a check of its text, or says what another row says"),
            (self.parents, "has a parent that is not in the train part any more"),
            (self.said, "says what another row says by now"),
        ];
        let told: Vec<String> = some
            .into_iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, why)| format!("{} {why}", counted(n, "row")))
            .collect();
        if told.is_empty() { String::new() } else { format!("; left out: {}", told.join(", ")) }
    }
}

/// The decision that takes rows of a run into the data, with what becomes of it in words. Rows that fell at the check of their gold or
/// meaning are taken where the filter names them: people know better.
pub fn acceptance(engine: &Engine, run: &str, filter: &str) -> Result<(Decision, String), Failure> {
    let folder = folder_of(engine, run)?;
    let named = reads(filter)?;
    let says_where = named.terms.iter().any(|term| match &term.test {
        Test::Word(word) => word == "kept" || Check::ALL.iter().any(|check| check.name() == word),
        Test::Key { key, .. } => key == "fell",
    });
    let loaded = rows::loaded(engine)?;
    let dataset = &loaded.dataset;
    let inputs = dataset.columns(&[Of::Input]).map_err(|e| parts::data_error(&e))?;
    let own = file_of(run);
    let mut known: HashSet<[u8; 16]> = HashSet::new();
    for at in (0..dataset.len()).filter(|at| dataset.source(*at) != own) {
        known.extend(inputs.first().and_then(|inputs| inputs.get(at)).and_then(said));
    }
    let in_train = |id: &String| {
        dataset
            .find(id)
            .is_none_or(|at| loaded.parts.get(at).copied().flatten().is_none_or(|p| p == Part::Train))
    };
    let (mut left, mut bytes, mut taken) = (Left::default(), Vec::new(), 0);
    for one in all(&folder)?.into_iter().filter(|one| fits(one, &named)) {
        let may = match one.fell {
            None => true,
            Some(Check::Unanswered | Check::Disputed | Check::Meaning) => says_where,
            Some(_) => {
                left.fell += usize::from(says_where);
                continue;
            }
        };
        if !may || one.row.is_empty() {
            continue;
        }
        if !one.parents.iter().all(in_train) {
            left.parents += 1;
        } else if said(&one.text).is_none_or(|said| !known.insert(said)) {
            left.said += 1;
        } else {
            serde_json::to_writer(&mut bytes, &one.row).map_err(|e| failed(e.to_string()))?;
            bytes.push(b'\n');
            taken += 1;
        }
    }
    if taken == 0 {
        return Err(bad_input(format!(
            "{run} has no row to take in{}; `tunebench data grown {run}` shows what it made",
            left.words()
        )));
    }
    let hash = keep(engine, &bytes)?;
    let message = format!(
        "{} in {own}, a source of the data from now on, in the train part; one undo takes them back{}",
        counted(taken, "row"),
        left.words()
    );
    let accepted = Some(Accepted { hash, rows: taken });
    Ok((Decision::Grown { run: run.to_owned(), accepted }, message))
}

/// The decision that takes the rows of a run out of the data again.
pub fn withdrawal(engine: &Engine, run: &str) -> Result<Decision, Failure> {
    folder_of(engine, run)?;
    if !engine.read(|s| s.decisions.grown.contains_key(run)) {
        return Err(bad_input(format!("no rows of {run} are in the data")));
    }
    Ok(Decision::Grown { run: run.to_owned(), accepted: None })
}

/// Bring the file of an acceptance that was decided (or taken back) up to it. What somebody wrote into it in the meantime is kept first.
pub fn write(engine: &Engine, decision: &Decision) -> Result<(), Failure> {
    let Decision::Grown { run, accepted } = decision else { return Ok(()) };
    let path = engine.root.join(file_of(run));
    let io = |e: std::io::Error| failed(format!("{} could not be written: {e}", path.display()));
    if let Ok(now) = fs::read(&path) {
        keep(engine, &now)?;
    }
    match accepted {
        Some(accepted) => {
            let kept = kept_path(engine, &accepted.hash);
            let bytes = fs::read(&kept).map_err(|e| failed(format!("{}: {e}", kept.display())))?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(io)?;
            }
            files::write_atomic(&path, &bytes).map_err(io)?;
        }
        None if path.exists() => fs::remove_file(&path).map_err(io)?,
        None => {}
    }
    // Whoever looks at the rows next imports them, too.
    if let Err(failure) = parts::import(engine, false) {
        tracing::warn!("the rows of {run} are not indexed yet: {}", failure.message);
    }
    Ok(())
}

/// Files of accepted rows that are gone are written again.
pub fn restore(engine: &Engine) -> anyhow::Result<()> {
    for (run, accepted) in engine.read(|s| s.decisions.grown.clone()) {
        if !engine.root.join(file_of(&run)).exists() {
            let decision = Decision::Grown { run, accepted: Some(accepted) };
            write(engine, &decision).map_err(|failure| anyhow::anyhow!(failure.message))?;
        }
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
