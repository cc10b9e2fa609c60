//! What people decide: what makes no sense is refused before it is written down for good, and all is told in words.

use super::rows::cut;
use super::state::{Engine, bad_input, failed};
use super::{candidates, examples, feedback, prompts, strata, views};
use crate::domain::api::{Decision, Failure, PICKED_MAX, Response};
use crate::domain::play::{Feedback, SAID};
use crate::domain::problem::EXCLUDED;
use crate::domain::review::SETTLED;
use crate::domain::strata::ByHand;
use crate::domain::words::counted;
use crate::worker::folder::now_ms;

/// Longest note, gold or name.
const TEXT_MAX: usize = 256 << 10;

/// Write a decision down that was checked.
pub fn decide(engine: &Engine, decision: Decision) -> Result<Response, Failure> {
    let message = noted(&decision);
    let decisions = engine
        .store
        .decide(now_ms(), decision)
        .map_err(|e| failed(format!("the decision could not be written down: {e}")))?;
    engine.decided(decisions);
    Ok(Response::Done { message })
}

/// Refuse what makes no sense before it is written down for good.
pub fn check(engine: &Engine, decision: Decision) -> Result<Decision, Failure> {
    let texts: Vec<&String> = match &decision {
        Decision::Mark { row, mark, .. } => vec![row, mark],
        Decision::Gold { row, gold } => [Some(row), gold.as_ref()].into_iter().flatten().collect(),
        Decision::Note { row, note } => [Some(row), note.as_ref()].into_iter().flatten().collect(),
        Decision::NameStratum { stratum, name } => {
            [Some(stratum), name.as_ref()].into_iter().flatten().collect()
        }
        Decision::NameCandidate { candidate, name } => vec![candidate, name],
        Decision::Strata { .. } => return Err(bad_input("strata are arranged by requests of their own")),
        Decision::Grown { .. } => {
            return Err(bad_input("rows that a run made are accepted by a request of their own"));
        }
        // Made here, with the outcomes.
        Decision::Outcomes { .. } => {
            return Err(bad_input("outcomes are imported and removed by requests of their own"));
        }
        Decision::Feedback(f) => {
            [f.row.as_ref(), Some(&f.input), Some(&f.candidate), Some(&f.output), f.edit.as_ref()]
                .into_iter()
                .flatten()
                .collect()
        }
        Decision::AdoptPrompts { files } => files.iter().flat_map(|f| [&f.stage, &f.file, &f.hash]).collect(),
        Decision::TagPrompt { version, tag } => [Some(version), tag.as_ref()].into_iter().flatten().collect(),
        Decision::Review(_) => return Err(bad_input("an opinion on a row is given by a review")),
        Decision::Verdict(_) => return Err(bad_input("a verdict is given on an item of a queue")),
        Decision::Example { store, example, edit } => {
            let texts = [edit.input.as_ref(), edit.answer.as_ref()].into_iter().flatten();
            texts.chain([store, example]).chain(&edit.merges).collect()
        }
        Decision::View { name, view: Some(view) } => {
            let ids = view.query.ids.iter().flatten();
            ids.chain([name, &view.scope, &view.query.text]).collect()
        }
        Decision::View { name, view: None } => vec![name],
        Decision::Together { decisions } => return Ok(Decision::Together { decisions: several(decisions)? }),
    };
    if texts.iter().any(|t| t.len() > TEXT_MAX) {
        return Err(bad_input(format!("at most {} KiB of text are kept", TEXT_MAX >> 10)));
    }
    match decision {
        Decision::View { name, view } => views::decision(engine, &name, view),
        Decision::Mark { ref mark, .. } if mark.trim().is_empty() => Err(bad_input("a mark needs a name")),
        Decision::NameCandidate { candidate, name } => {
            let id = candidates::find(engine, &candidate)?.id;
            let name = candidates::slug(&name);
            if name.is_empty() {
                return Err(bad_input("a candidate's name is made of letters, digits, `-`, `_` and `.`"));
            }
            if candidates::known(engine).iter().any(|k| k.candidate.name == name && k.id != id) {
                return Err(bad_input(format!("another candidate is called `{name}`")));
            }
            Ok(Decision::NameCandidate { candidate: id, name })
        }
        Decision::NameStratum { stratum, name } => {
            let ask = ByHand::Rename { id: stratum, name: name.unwrap_or_default() };
            strata::decision(engine, &ask).map(|(decision, _)| decision)
        }
        Decision::Feedback(said) => feedback::decision(engine, said),
        Decision::AdoptPrompts { files } => prompts::adoption(engine, files),
        Decision::Example { store, example, edit } => examples::decision(engine, &store, &example, edit),
        decision => Ok(decision),
    }
}

/// The same decision on several rows; the others are asked for one by one.
fn several(decisions: &[Decision]) -> Result<Vec<Decision>, Failure> {
    if decisions.is_empty() || decisions.len() > PICKED_MAX {
        let n = decisions.len();
        return Err(bad_input(format!("one decision is made on 1 to {PICKED_MAX} rows, and these are {n}")));
    }
    let fits = |text: &String| text.len() <= TEXT_MAX / 64;
    for decision in decisions {
        let well = match decision {
            Decision::Mark { row, mark, .. } => fits(row) && fits(mark) && !mark.trim().is_empty(),
            Decision::Gold { row, gold } => fits(row) && gold.as_ref().is_none_or(fits),
            _ => return Err(bad_input("only marks and golds are given to several rows at once")),
        };
        if !well {
            return Err(bad_input(format!(
                "marks and golds of several rows have a name and at most {} KiB",
                (TEXT_MAX >> 10) / 64
            )));
        }
    }
    Ok(decisions.to_vec())
}

/// Several decisions on rows in words; none where they are something else.
fn on_rows(decisions: &[Decision]) -> Option<String> {
    let all = |is: fn(&Decision) -> bool| decisions.iter().all(is);
    match decisions.first()? {
        Decision::Mark { mark, on, .. } if all(|d| matches!(d, Decision::Mark { .. })) => {
            let on = if *on { "on" } else { "off" };
            Some(format!("mark `{}` {on} {}", crate::data::clean_line(mark), counted(decisions.len(), "row")))
        }
        Decision::Gold { .. } if all(|d| matches!(d, Decision::Gold { .. })) => {
            Some(format!("gold of {}", counted(decisions.len(), "row")))
        }
        _ => None,
    }
}

/// What became of a decision.
pub fn noted(decision: &Decision) -> String {
    if let Decision::AdoptPrompts { files } = decision {
        let names: Vec<&str> = files.iter().map(|f| f.file.as_str()).collect();
        return format!("{} written; `tunebench prompts undo` takes it back", names.join(", "));
    }
    if let Decision::Verdict(said) = decision {
        let verdict = said.verdict.as_deref().unwrap_or("nothing");
        return format!("noted: {} says {verdict} of {}", said.annotator, said.item());
    }
    if let Decision::Mark { row, mark, on } = decision
        && mark == EXCLUDED
    {
        let what = if *on { "is left out of learning and scoring" } else { "counts again" };
        return format!("row {row} {what}");
    }
    if let Decision::View { name, view } = decision {
        let what = if view.is_some() { "kept" } else { "deleted" };
        return format!("the view {name} is {what}; undo takes that back");
    }
    let Decision::Together { decisions } = decision else { return "noted".into() };
    if let Some(Decision::Review(said)) = decisions.first() {
        let word = said.opinion.as_ref().map_or("nothing", |opinion| opinion.word());
        let who = if said.annotator == SETTLED { "settled" } else { said.annotator.as_str() };
        return format!("noted: row {}, {who}: {}", said.row, cut(word, 80));
    }
    if let Some((n, on)) = excluded(decisions) {
        let what = if on { "left out of learning and scoring" } else { "taken in again" };
        return format!("{} {what}; undo takes it back", counted(n, "row"));
    }
    if let Some(words) = on_rows(decisions) {
        return format!("noted: {words}; undo takes it back as one");
    }
    match decisions.as_slice() {
        [Decision::Feedback(said), Decision::Gold { row, .. }] if said.row.is_none() => {
            format!("noted: {row} is a row to train on from the next run on")
        }
        [Decision::Feedback(_), Decision::Gold { row, .. }] => format!("noted: the gold of row {row}"),
        _ => "noted".into(),
    }
}

/// How many rows were left out, or taken in again, where that is all that was decided.
fn excluded(decisions: &[Decision]) -> Option<(usize, bool)> {
    let mark = |d: &Decision| match d {
        Decision::Mark { mark, on, .. } if mark == EXCLUDED => Some(*on),
        _ => None,
    };
    let all: Vec<bool> = decisions.iter().filter_map(mark).collect();
    let on = *all.first()?;
    (all.len() == decisions.len() && all.iter().all(|one| *one == on)).then_some((all.len(), on))
}

/// Which answer: on the screen may be another by now.
fn said_of(said: &Feedback) -> String {
    let input = cut(said.input.lines().next().unwrap_or_default(), 40);
    format!("{SAID} to \"{}\"", crate::data::clean_line(&input))
}

pub fn describe(entry: &crate::store::journal::Entry) -> String {
    match entry.effect() {
        Some(Decision::Verdict(said)) => format!("verdict of {} on {}", said.annotator, said.item()),
        Some(Decision::Feedback(said)) => said_of(&said),
        Some(Decision::Review(said)) => format!("review of row {}", said.row),
        Some(Decision::Together { decisions }) if matches!(decisions.first(), Some(Decision::Review(_))) => {
            match decisions.first() {
                Some(Decision::Review(said)) => format!("review of row {}", said.row),
                _ => "a review".to_owned(),
            }
        }
        Some(Decision::Together { decisions })
            if matches!(decisions.first(), Some(Decision::Strata { .. })) =>
        {
            format!("names of {}", counted(decisions.len(), "cluster"))
        }
        Some(Decision::Together { decisions }) if excluded(&decisions).is_some() => {
            format!("what was left out or taken in ({})", counted(decisions.len(), "row"))
        }
        Some(Decision::Together { decisions }) if on_rows(&decisions).is_some() => {
            on_rows(&decisions).unwrap_or_default()
        }
        Some(Decision::Together { decisions }) => decisions
            .iter()
            .find_map(|d| if let Decision::Feedback(said) = d { Some(said_of(said)) } else { None })
            .unwrap_or_else(|| SAID.to_owned()),
        Some(Decision::Mark { row, mark, on }) => {
            format!("mark `{mark}` {} row {row}", if on { "on" } else { "off" })
        }
        Some(Decision::Gold { row, .. }) => format!("gold of row {row}"),
        Some(Decision::Example { store, example, .. }) => {
            format!("what was decided on example {example} of {store}")
        }
        Some(Decision::Note { row, .. }) => format!("note on row {row}"),
        Some(Decision::View { name, .. }) => format!("the view {name}"),
        Some(Decision::NameStratum { stratum, .. }) => format!("name of stratum {stratum}"),
        Some(Decision::Strata { act: Some(act), .. }) => act.words(),
        Some(Decision::Strata { number, act: None }) => {
            format!("taking back decision {number} on the strata")
        }
        Some(Decision::AdoptPrompts { files }) => {
            let names: Vec<&str> = files.iter().map(|f| f.file.as_str()).collect();
            format!("the adoption of {}", names.join(", "))
        }
        Some(Decision::TagPrompt { version, .. }) => format!("tag of version {}", cut(&version, 12)),
        Some(Decision::NameCandidate { name, .. }) => format!("name of candidate {name}"),
        Some(Decision::Grown { run, accepted: Some(accepted) }) => {
            format!("{} that {run} made, taken into the data", counted(accepted.rows, "row"))
        }
        Some(Decision::Grown { run, accepted: None }) => format!("taking the rows of {run} out of the data"),
        Some(Decision::Outcomes { candidate, import: Some(_) }) => {
            format!("import of the outcomes of {candidate}")
        }
        Some(Decision::Outcomes { candidate, import: None }) => {
            format!("removal of the outcomes of {candidate}")
        }
        None => entry.op.clone(),
    }
}
