//! One wrong row: which stage fails, how many rows are like it, and what a prompt edit, a stored example and training rows would fix and take.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::sync::Arc;

use super::candidates::{self, Known};
use super::rows::{self, Loaded, cut};
use super::standing::{self, Scored};
use super::state::{Engine, bad_input};
use super::{honest, launch, power};
use crate::domain::api::Failure;
use crate::domain::candidate::{Candidate, ModelSource};
use crate::domain::event::{Event, EventBody};
use crate::domain::metric::Metric;
use crate::domain::outcome::Outcome;
use crate::domain::preflight::Preflight;
use crate::domain::remedy::{Bound, Price, Remedies, Remedy};
use crate::domain::row::Part;
use crate::domain::run::{Job, RunKind, RunRecord, RunSpec};
use crate::domain::words::counted;
use crate::score;
use crate::score::remedy::Change;
use crate::tuning::prompt::answers_of_plan;
use crate::worker::folder::RunFolder;
use crate::workspace::Workspace;

/// Newest runs of a kind that are evidence.
const PAST: usize = 5;
/// How often rows of the stratum are drawn in the training that is proposed.
const WEIGHT: f64 = 3.0;
/// Candidates that are looked through for one that has the row right, and of these those that are named.
const LOOKED: usize = 20;
const NAMED: usize = 4;
/// Characters of an answer.
const ANSWER: usize = 160;
/// Lines of a run's events in which its preflight stands.
const FIRST_LINES: usize = 200;

/// An earlier run of a kind.
struct Past {
    record: RunRecord,
    spec: RunSpec,
    folder: RunFolder,
}

/// What could be done about a row that a candidate answers wrong; without a name the best candidate that does, else the baseline.
pub fn remedies(engine: &Engine, row: &str, candidate: Option<&str>) -> Result<Remedies, Failure> {
    let loaded = rows::loaded(engine)?;
    let at = loaded.dataset.find(row).ok_or_else(|| bad_input(format!("no row `{row}`")))?;
    let primary = loaded.ws.config.eval.primary_metric().map_err(|e| bad_input(e.to_string()))?;
    let known = candidates::known(engine);
    let (of, scored) = whose(engine, &loaded, &known, candidate, row, &primary)?;
    let stratum = loaded.stratum(at).and_then(|s| loaded.strata.as_ref()?.name(s));
    let mut found = Remedies {
        row: row.to_owned(),
        part: loaded.parts.get(at).copied().flatten(),
        stratum: stratum.clone(),
        candidate: of.name.clone(),
        gold: engine
            .read(|s| s.decisions.gold.get(row).cloned())
            .or_else(|| loaded.text(at).1)
            .map(|gold| one_line(&gold)),
        ..Remedies::default()
    };
    let here = |row: &str| stratum_of(&loaded, row) == stratum;
    if let Some(scored) = &scored {
        let outcome = scored.current.iter().find(|o| o.row == row && o.sample == 0);
        count(&mut found, &of, scored, outcome, &primary, &here);
        if let Some(outcome) = outcome {
            let fields = loaded.dataset.row(at).map(|row| row.fields).unwrap_or_default();
            let gold = |stage: &str| of.stages.iter().find(|s| s.name == stage)?.own_gold(&fields);
            found.stage = score::remedy::failed_stage(outcome, &gold).filter(|_| found.right != Some(true));
        }
    }
    let mut wrong_by = Vec::new();
    for other in standing::some(engine, &loaded, LOOKED)? {
        let outcome = other.current.iter().find(|o| o.row == row && o.sample == 0);
        let name = &other.candidate.name;
        match outcome.and_then(|o| is_right(&primary, o)).filter(|_| *name != of.name) {
            Some(true) => found.right_by.push(name.clone()),
            Some(false) => wrong_by.push(name.clone()),
            None => {}
        }
    }
    found.right_by.truncate(NAMED);
    wrong_by.truncate(NAMED);
    if found.right == Some(true) {
        found.notes.push(format!("{} has this row right: there is nothing to mend", of.name));
        if !wrong_by.is_empty() {
            found.notes.push(format!("wrong by {}: name one of them", wrong_by.join(", ")));
        }
        return Ok(found);
    }
    notes(&mut found);
    let train = Learnable::count(engine, &loaded, &here);
    for kind in [RunKind::Prompt, RunKind::Trajectory, RunKind::Train] {
        let remedy = remedy(engine, &loaded, &known, (&of, &found), kind, &train, &primary)?;
        found.remedies.push(remedy);
    }
    Ok(found)
}

/// The candidate in question, with its outcomes where it has any.
fn whose(
    engine: &Engine,
    loaded: &Arc<Loaded>,
    known: &[Known],
    wanted: Option<&str>,
    row: &str,
    primary: &Metric,
) -> Result<(Candidate, Option<Arc<Scored>>), Failure> {
    if let Some(wanted) = wanted {
        return match candidates::find(engine, wanted) {
            Ok(found) => Ok((found.candidate.clone(), standing::scored(engine, loaded, &found)?)),
            // As it stands in the workspace, not scored yet; or the checkpoint of a run.
            Err(failure) => candidates::resolve(engine, &loaded.ws, &loaded.dataset, Some(wanted))
                .map(|candidate| (candidate, None))
                .map_err(|_| failure),
        };
    }
    let (base, best) = standing::base_and_best(engine, loaded)?;
    let of = |scored: &Option<Arc<Scored>>| {
        let scored = scored.as_ref()?;
        is_right(primary, scored.current.iter().find(|o| o.row == row && o.sample == 0)?)
    };
    let chosen = match (of(&best), of(&base)) {
        (Some(false), _) => best,
        (_, Some(false)) => base,
        (Some(true), _) => best,
        _ => base.or(best),
    };
    if let Some(scored) = chosen {
        return Ok((scored.candidate.clone(), Some(scored)));
    }
    // Results made elsewhere alone.
    if let Some(first) = known.first()
        && let Some(scored) = standing::scored(engine, loaded, first)?
    {
        return Ok((scored.candidate.clone(), Some(scored)));
    }
    Err(bad_input(
        "nothing is scored yet, so nothing is known to be wrong; `tunebench run eval` takes a baseline",
    ))
}

fn is_right(primary: &Metric, outcome: &Outcome) -> Option<bool> {
    primary.right(score::rows::value(primary, outcome)?)
}

fn stratum_of(loaded: &Loaded, row: &str) -> Option<String> {
    loaded.strata.as_ref()?.name(loaded.stratum(loaded.dataset.find(row)?)?)
}

/// On one line, and not too long.
fn one_line(text: &str) -> String {
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), ANSWER).into_owned()
}

/// The answer, and how many rows are like it.
fn count(
    found: &mut Remedies,
    of: &Candidate,
    scored: &Scored,
    outcome: Option<&Outcome>,
    primary: &Metric,
    here: &dyn Fn(&str) -> bool,
) {
    if let Some(outcome) = outcome {
        let said = outcome.error.as_ref().map_or_else(|| outcome.output.clone(), |e| format!("({e})"));
        found.answer = Some(one_line(&said));
        found.right = is_right(primary, outcome);
    }
    let mistake = outcome.filter(|_| found.right == Some(false)).map(|o| (&o.gold, o.output.trim()));
    for other in score::board::on_the_board(of, &scored.current) {
        let Some(right) = is_right(primary, other).filter(|_| other.sample == 0) else { continue };
        if here(&other.row) {
            found.scored += 1;
            found.wrong += usize::from(!right);
        }
        if !right && other.gold.is_some() && mistake == Some((&other.gold, other.output.trim())) {
            found.same_mistake += 1;
        }
    }
}

fn notes(found: &mut Remedies) {
    if matches!(found.part, Some(Part::Dev | Part::Eval | Part::Reserve)) {
        let part = found.part.map_or("", Part::name);
        found.notes.push(format!(
            "nothing learns from a row of the {part} part: rows of the train part like it are learned from"
        ));
    }
    if found.stratum.is_none() {
        found
            .notes
            .push("the row is of no stratum (`tunebench strata build`): all rows count as like it".into());
    }
}

/// Rows of the train part with a gold: of the stratum, and all.
struct Learnable {
    here: usize,
    all: usize,
    dev: usize,
}

impl Learnable {
    fn count(engine: &Engine, loaded: &Loaded, here: &dyn Fn(&str) -> bool) -> Self {
        let decided = engine.read(|s| s.decisions.gold.clone());
        let in_file = loaded.ws.config.data.gold.is_some();
        let mut counts = Self { here: 0, all: 0, dev: 0 };
        for (at, part) in loaded.parts.iter().enumerate() {
            let id = loaded.dataset.id(at);
            if !in_file && !decided.contains_key(id) {
                continue;
            }
            match part {
                Some(Part::Train) => {
                    counts.all += 1;
                    counts.here += usize::from(here(id));
                }
                Some(Part::Dev) => counts.dev += 1,
                _ => {}
            }
        }
        counts
    }
}

fn remedy(
    engine: &Engine,
    loaded: &Arc<Loaded>,
    known: &[Known],
    (of, found): (&Candidate, &Remedies),
    kind: RunKind,
    train: &Learnable,
    primary: &Metric,
) -> Result<Remedy, Failure> {
    let stage = found.stage.as_ref().map(|s| s.stage.as_str());
    let (what, set) = start(of, stage, found.stratum.as_deref(), kind, train);
    let refused = refusal(engine, of, stage, kind, &set, train);
    let past = past(engine, kind);
    let expected = {
        let mut changes = Vec::new();
        let pairs = past
            .iter()
            .filter_map(|past| {
                Some((past.record.run.clone(), before_and_after(engine, loaded, known, past)?))
            })
            .collect::<Vec<_>>();
        for (run, (before, after)) in &pairs {
            changes.push((
                run.clone(),
                changed(before, after, primary, &|row| stratum_of(loaded, row) == found.stratum),
            ));
        }
        score::remedy::expected(&changes, found.wrong, found.scored.saturating_sub(found.wrong))
    };
    let ws = loaded.ws.clone().with_settings(Some(kind), &tuned_only(&set));
    let ws = ws.unwrap_or_else(|_| loaded.ws.clone());
    let price = match price(&past, &ws, kind) {
        Some(price) => price,
        None => reckoned(engine, known, of, &ws, kind, train)?,
    };
    Ok(Remedy { kind, what, expected, price, set, refused })
}

/// Without what does not stand in `workspace.toml`.
fn tuned_only(set: &[(String, String)]) -> Vec<(String, String)> {
    set.iter().filter(|(key, _)| key != "candidate").cloned().collect()
}

/// What a run of the kind is started with, and what that does in words.
fn start(
    of: &Candidate,
    stage: Option<&str>,
    stratum: Option<&str>,
    kind: RunKind,
    train: &Learnable,
) -> (String, Vec<(String, String)>) {
    // A JSON string is a TOML string.
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let mut set = vec![("candidate".to_owned(), of.name.clone())];
    let of_stage = stage.map_or_else(String::new, |stage| format!(" of stage {stage}"));
    let what = match kind {
        RunKind::Prompt => {
            set.extend(stage.map(|s| ("tuning.prompt.stages".to_owned(), format!("[{}]", quoted(s)))));
            format!("edits of the prompt{of_stage}, raced and scored on fresh rows")
        }
        RunKind::Trajectory => {
            set.extend(stage.map(|s| ("tuning.trajectory.stages".to_owned(), format!("[{}]", quoted(s)))));
            set.extend(stratum.map(|s| ("tuning.trajectory.strata".to_owned(), format!("[{}]", quoted(s)))));
            let rows = if stratum.is_some() { train.here } else { train.all };
            format!(
                "examples out of {} like this one, kept where they turn wrong answers{of_stage}",
                counted(rows, "train row")
            )
        }
        _ => {
            // A trained stage is trained again from its base.
            if of.stages.iter().any(|s| s.adapter.is_some() && stage.is_none_or(|stage| s.name == stage)) {
                set.clear();
            }
            set.extend(stage.map(|s| ("tuning.train.stage".to_owned(), s.to_owned())));
            set.extend(
                stratum
                    .map(|s| ("tuning.train.weights".to_owned(), format!("{{ {} = {WEIGHT} }}", quoted(s)))),
            );
            match stratum {
                Some(_) => format!(
                    "an adapter{of_stage} on {}, the {} of this stratum {WEIGHT} times as often",
                    counted(train.all, "train row"),
                    train.here
                ),
                None => format!("an adapter{of_stage} on {}", counted(train.all, "train row")),
            }
        }
    };
    (what, set)
}

/// Why it cannot be started, as far as that is known before.
fn refusal(
    engine: &Engine,
    of: &Candidate,
    stage: Option<&str>,
    kind: RunKind,
    set: &[(String, String)],
    train: &Learnable,
) -> Option<String> {
    if of.stages.is_empty() {
        return Some(format!("{} was made elsewhere: only its outcomes are known", of.name));
    }
    if kind != RunKind::Prompt && train.here == 0 {
        return Some("no row of the train part with a gold is of this stratum".into());
    }
    let endpoint = of.stages.iter().find(|s| {
        stage.is_none_or(|stage| s.name == stage) && !matches!(s.model.source, ModelSource::Local { .. })
    });
    if let Some(endpoint) = endpoint.filter(|_| kind == RunKind::Train) {
        return Some(format!(
            "stage {} is answered by an endpoint; only local models are trained",
            endpoint.name
        ));
    }
    launch::refusal(engine, kind, set).err().map(|failure| failure.message)
}

/// The newest runs of a kind that came to a result, the newest first.
fn past(engine: &Engine, kind: RunKind) -> Vec<Past> {
    let mut runs: Vec<(RunRecord, RunFolder)> = engine.read(|state| {
        let of_kind = state.runs.values().filter(|r| r.record.kind == kind && r.record.state.has_result());
        of_kind.map(|r| (r.record.clone(), r.folder.clone())).collect()
    });
    runs.sort_by(|a, b| (b.0.created_ms, &b.0.run).cmp(&(a.0.created_ms, &a.0.run)));
    runs.into_iter()
        .filter_map(|(record, folder)| Some(Past { record, spec: folder.read_spec().ok()?, folder }))
        .take(PAST)
        .collect()
}

/// What an earlier run started from, and what came of it. A training's start answers by another prompt: the baseline stands for it.
fn before_and_after(
    engine: &Engine,
    loaded: &Arc<Loaded>,
    known: &[Known],
    past: &Past,
) -> Option<(Arc<Scored>, Arc<Scored>)> {
    let made = known.iter().find(|k| k.runs.contains(&past.record.run))?;
    let id = past.spec.candidate.as_ref().map(Candidate::id)?;
    let start = known.iter().find(|k| k.id == id).or_else(|| honest::baseline(known))?;
    let of = |k: &Known| standing::scored(engine, loaded, k).ok().flatten();
    Some((of(start)?, of(made)?))
}

/// The rows of the board that both have, before and after.
fn changed<'a>(
    before: &Scored,
    after: &'a Scored,
    primary: &Metric,
    here: &dyn Fn(&str) -> bool,
) -> Vec<Change<'a>> {
    let board = |scored: &'_ Scored, o: &Outcome| {
        (o.part == Some(Part::Eval) || scored.candidate.stages.is_empty()) && o.sample == 0
    };
    let was: HashMap<&str, bool> = before
        .current
        .iter()
        .filter(|o| board(before, o))
        .filter_map(|o| Some((o.row.as_str(), is_right(primary, o)?)))
        .collect();
    after
        .current
        .iter()
        .filter(|o| board(after, o))
        .filter_map(|o| {
            let (before, after) = (*was.get(o.row.as_str())?, is_right(primary, o)?);
            Some(Change { row: &o.row, here: here(&o.row), before, after })
        })
        .collect()
}

/// What the newest run took that had the same settings, else the newest.
fn price(past: &[Past], ws: &Workspace, kind: RunKind) -> Option<Price> {
    let alike = |p: &&Past| match &p.spec.job {
        Job::Prompt { prompt, .. } => {
            let stages = ws.config.tuning.prompt.stages.clone();
            crate::domain::prompt::PromptSettings { stages, ..prompt.clone() } == ws.config.tuning.prompt
        }
        Job::Trajectory { trajectory, .. } => {
            let (stages, strata) =
                (ws.config.tuning.trajectory.stages.clone(), ws.config.tuning.trajectory.strata.clone());
            crate::domain::trajectory::TrajectorySettings { stages, strata, ..trajectory.clone() }
                == ws.config.tuning.trajectory
        }
        Job::Train { train, .. } => {
            let (stage, weights) =
                (ws.config.tuning.train.stage.clone(), ws.config.tuning.train.weights.clone());
            crate::domain::settings::TrainSettings { stage, weights, ..train.clone() }
                == ws.config.tuning.train
        }
        _ => false,
    };
    let took = |p: &&Past| p.record.ran_ms > 0;
    let same = past.iter().filter(took).find(alike);
    let of = same.or_else(|| past.iter().find(took))?;
    let figure = |name: &str| of.record.metrics.get(name).copied().filter(|v| *v >= 0.0);
    let hours = of.record.ran_ms as f64 / 3_600_000.0;
    let other = if same.is_some() { "" } else { ", with other settings" };
    let (tokens, usd) = match kind {
        RunKind::Train => {
            let hourly = of.spec.candidate.iter().flat_map(|c| &c.stages).find_map(|s| s.model.usd_per_hour);
            (preflight(&of.folder).map(|p| p.tokens), hourly.map(|usd| usd * hours))
        }
        _ => (figure("tokens").map(|n| n as u64), figure("usd").filter(|usd| *usd > 0.0)),
    };
    Some(Price {
        bound: Bound::About,
        seconds: Some(of.record.ran_ms as f64 / 1e3),
        calls: figure("calls").map(|n| n as u64),
        tokens,
        usd,
        from: format!("as {} took{other}", of.record.run),
    })
}

/// What a training run reckoned before its first step.
fn preflight(folder: &RunFolder) -> Option<Preflight> {
    let file = std::fs::File::open(folder.events()).ok()?;
    let lines = std::io::BufReader::new(file).lines().take(FIRST_LINES).map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_str::<Event>(&line).ok()).find_map(|event| match event.body {
        EventBody::Preflight(preflight) => Some(preflight),
        _ => None,
    })
}

/// By the settings, and what an answer took in the newest evaluation.
fn reckoned(
    engine: &Engine,
    known: &[Known],
    of: &Candidate,
    ws: &Workspace,
    kind: RunKind,
    train: &Learnable,
) -> Result<Price, Failure> {
    let own = known.iter().find(|k| k.candidate.name == of.name);
    let tuning = &ws.config.tuning;
    let (answers, bound, how) = match kind {
        RunKind::Prompt => (answers_of_plan(&tuning.prompt, of.stages.len()), Bound::AtMost, "the settings"),
        RunKind::Trajectory => {
            let rows = if tuning.trajectory.strata.is_empty() { train.all } else { train.here };
            (rows.min(tuning.trajectory.rows) + 2 * train.dev, Bound::AtLeast, "each row asked once or twice")
        }
        _ => (
            (train.all as f64 * tuning.train.epochs).round() as usize,
            Bound::About,
            "epochs over the train rows",
        ),
    };
    let none = || Price { from: format!("no {kind} run was finished here"), ..Price::default() };
    let Some(cost) = power::cost(engine, known, own, answers)? else { return Ok(none()) };
    let tokens = Some(cost.tokens_in + cost.tokens_out);
    if kind == RunKind::Train {
        let from = format!("{how}; no training run tells how long yet");
        return Ok(Price { bound, tokens, from, ..Price::default() });
    }
    let from = format!("{how}, by what answers took in {}; no {kind} run tells yet", cost.run);
    Ok(Price { bound, seconds: cost.seconds, calls: Some(cost.calls), tokens, usd: cost.usd, from })
}
