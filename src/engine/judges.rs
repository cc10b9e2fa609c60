//! Judges of the workspace, frozen; and how far they are to be trusted.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::candidates;
use super::judging;
use super::rows::{self, Loaded, cut};
use super::standing;
use super::state::{Engine, bad_input};
use crate::domain::api::Failure;
use crate::domain::board::{BoardRow, JudgedCount};
use crate::domain::judge::{Agreement, Judge, PersonVerdict, output_hash};
use crate::domain::metric::Metric;
use crate::domain::outcome::Outcome;
use crate::domain::words::counted;
use crate::pipeline::rubric::{PLAIN, PLAIN_PAIRWISE, Rubric};
use crate::score::agreement::{self, Answer, Asked};
use crate::workspace::Workspace;
use crate::workspace::config::JudgeEntry;

/// The judges that the metrics and goals of an evaluation need, the one that `judge` means first.
pub fn of_eval(engine: &Engine, ws: &Workspace) -> Result<Vec<Judge>, Failure> {
    ws.config.judges_of_eval().into_iter().map(|entry| frozen(engine, ws, entry)).collect()
}

/// A judge by its name; with none, the one that `judge` means.
pub fn named<'a>(ws: &'a Workspace, name: Option<&str>) -> Result<&'a JudgeEntry, Failure> {
    ws.config.judge_named(name).ok_or_else(|| {
        let names: Vec<&str> = ws.config.judges.iter().map(|judge| judge.name.as_str()).collect();
        bad_input(match (name, names.is_empty()) {
            (_, true) => {
                "workspace.toml has no judge; add a table [[judge]] with name, model and rubric".to_owned()
            }
            (Some(name), false) => format!("no judge is called `{name}`; judges: {}", names.join(", ")),
            (None, false) => format!(
                "which judge? Name one in [eval], judge = \"NAME\", or with --judge; there are: {}",
                names.join(", ")
            ),
        })
    })
}

/// A judge with its rubrics' texts and its model's content.
pub fn frozen(engine: &Engine, ws: &Workspace, entry: &JudgeEntry) -> Result<Judge, Failure> {
    let at = ws.config.judges.iter().position(|judge| judge.name == entry.name).unwrap_or(0);
    let text = |path: Option<&Path>, plain: &str| -> Result<(String, String), Failure> {
        let Some(path) = path else { return Ok((plain.to_owned(), "the built-in rubric".to_owned())) };
        let shown = path.display().to_string();
        let text = fs::read_to_string(ws.resolve(path))
            .map_err(|e| bad_input(format!("{shown}: cannot be read: {e}")))?;
        Ok((text, shown))
    };
    let (rubric, rubric_name) = text(entry.rubric.as_deref(), PLAIN)?;
    let (pairwise, pairwise_name) = text(entry.pairwise.as_deref(), PLAIN_PAIRWISE)?;
    let slip = |e: crate::pipeline::template::TemplateError| bad_input(e.to_string());
    Rubric::of_one(&rubric_name, &rubric).map_err(slip)?;
    Rubric::of_two(&pairwise_name, &pairwise).map_err(slip)?;
    Ok(Judge {
        name: entry.name.clone(),
        model: super::models::model_ref(engine, ws, &entry.model, &format!("judge.{at}.model"))?,
        rubric,
        rubric_name,
        pairwise,
        pairwise_name,
        verdicts: entry.verdicts.clone(),
        two_step: entry.two_step,
        max_tokens: entry.max_tokens,
        agreement_at_least: entry.agreement_at_least,
        people_at_least: entry.people_at_least,
    })
}

/// Characters of an answer in a list of partings.
const SHOWN: usize = 400;

/// The judge of that name beside people.
pub fn agreement(engine: &Engine, name: Option<&str>) -> Result<Agreement, Failure> {
    let loaded = rows::loaded(engine)?;
    let entry = named(&loaded.ws, name)?;
    let judge = frozen(engine, &loaded.ws, entry)?;
    beside_people(engine, &judge)
}

/// What the judge, as it stands, said of the answers that people judged; held against what they said.
fn beside_people(engine: &Engine, judge: &Judge) -> Result<Agreement, Failure> {
    let people: Vec<PersonVerdict> = engine
        .read(|s| s.decisions.verdicts.values().filter(|said| said.judge == judge.name).cloned().collect());
    let rows: HashSet<&str> = people.iter().map(|said| said.row.as_str()).collect();
    let id = judge.id();
    let (mut machine, mut texts) = (HashMap::<Answer, String>::new(), HashMap::new());
    // Without people there is nothing to look for.
    let known = if people.is_empty() { Arc::default() } else { candidates::known(engine) };
    for known in known.iter() {
        for outcome in standing::outcomes(engine, known)?.iter() {
            if !rows.contains(outcome.row.as_str()) || outcome.error.is_some() {
                continue;
            }
            let answer = (outcome.row.clone(), outcome.row_hash.clone(), output_hash(&outcome.output));
            let said = outcome.judged_by(Some(&judge.name)).filter(|judged| judged.id == id);
            if let Some(verdict) = said.and_then(|judged| judged.verdict.clone()) {
                machine.insert(answer.clone(), verdict);
            }
            texts
                .entry(answer)
                .or_insert_with(|| (outcome.stratum.clone(), cut(&outcome.output, SHOWN).into_owned()));
        }
    }
    for outcome in judging::told(engine)? {
        let said = outcome.judged_by(Some(&judge.name)).filter(|judged| judged.id == id);
        if let Some(verdict) = said.and_then(|judged| judged.verdict.clone()) {
            let answer = (outcome.row.clone(), outcome.row_hash.clone(), output_hash(&outcome.output));
            machine.entry(answer).or_insert(verdict);
        }
    }
    let shown = |answer: &Answer| texts.get(answer).cloned().unwrap_or_default();
    let asked = Asked {
        judge: &judge.name,
        verdicts: &judge.verdicts,
        at_least: judge.agreement_at_least,
        people_at_least: judge.people_at_least,
    };
    Ok(agreement::agreement(asked, &people.iter().collect::<Vec<_>>(), &machine, &shown))
}

/// A judge that figures of the board lean on, as it stands.
pub struct Standing {
    name: String,
    /// [`Judge::id`]; none where it cannot be read.
    id: Option<String>,
    /// Why it is not to be trusted.
    distrust: Option<String>,
    /// `judge` without a name means it.
    default: bool,
}

/// Every judge that metrics or goals name.
pub fn standing(engine: &Engine, loaded: &Loaded) -> Result<Vec<Standing>, Failure> {
    let config = &loaded.ws.config;
    let default = config.judge_named(None).map(|judge| judge.name.clone());
    let entries = config.judges_of_eval().into_iter();
    entries
        .map(|entry| {
            let name = entry.name.clone();
            let default = default.as_ref() == Some(&name);
            Ok(match frozen(engine, &loaded.ws, entry) {
                Ok(judge) => {
                    let distrust = beside_people(engine, &judge)?.distrust;
                    Standing { name, id: Some(judge.id()), distrust, default }
                }
                Err(failure) => Standing { name, id: None, distrust: Some(failure.message), default },
            })
        })
        .collect()
}

/// What judges said of the rows that count.
pub fn counts(outcomes: &[&Outcome]) -> Vec<JudgedCount> {
    let mut all: Vec<JudgedCount> = Vec::new();
    for judged in outcomes.iter().flat_map(|o| &o.judged) {
        let at = all.iter().position(|count| count.judge == judged.judge).unwrap_or_else(|| {
            all.push(JudgedCount { judge: judged.judge.clone(), ..JudgedCount::default() });
            all.len() - 1
        });
        all[at].silent += usize::from(judged.verdict.is_none() && judged.right.is_none());
        *all[at].by_id.entry(judged.id.clone()).or_default() += 1;
    }
    all
}

/// The row with what is to be known of its judges; goals that lean on one that is not to be trusted are open.
pub fn remark(mut row: BoardRow, judges: &[Standing]) -> BoardRow {
    if judges.is_empty() {
        return row;
    }
    let of = |metric: &str| {
        let metric = Metric::find(metric).ok().filter(Metric::is_judged)?;
        judges.iter().find(|judge| match &metric.argument {
            Some(name) => judge.name == *name,
            None => judge.default,
        })
    };
    for goal in &mut row.goals {
        if let Some(judge) = of(&goal.metric)
            && let Some(why) = &judge.distrust
            && goal.got.is_some()
        {
            goal.state = "open".into();
            goal.why = Some(format!("the judge `{}` is not to be trusted: {why}", judge.name));
        }
    }
    let shown: Vec<&str> =
        row.metrics.keys().filter_map(|metric| of(metric)).map(|j| j.name.as_str()).collect();
    for judge in judges.iter().filter(|judge| shown.contains(&judge.name.as_str())) {
        if let Some(why) = &judge.distrust {
            row.judges.push(format!("the judge `{}` is not to be trusted: {why}", judge.name));
        }
        let Some(said) = row.judged.iter().find(|count| count.judge == judge.name) else { continue };
        if said.silent > 0 {
            let answers = counted(said.silent, "answer");
            row.judges
                .push(format!("{answers} without a verdict of `{}`: neither right nor wrong", judge.name));
        }
        let older: usize = said
            .by_id
            .iter()
            .filter(|(id, _)| judge.id.as_ref().is_some_and(|now| now != *id))
            .map(|(_, n)| n)
            .sum();
        if older > 0 {
            let answers = counted(older, "verdict");
            row.judges.push(format!("{answers} of `{}` as it was before: evaluate again", judge.name));
        }
    }
    row
}
