//! `[[judge]]`, and metrics that name a judge.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::config::{JudgeEntry, ModelEntry};
use super::super::reader::{Fields, clip};
use super::{is_slug, known_model};
use crate::domain::judge::Verdicts;
use crate::domain::metric::Metric;
use crate::domain::words::nearest;

/// More verdicts than keys to give them with.
const VERDICTS: usize = 9;
const WORD: usize = 40;

pub(super) fn read_judges(file: &mut Fields<'_>, models: &BTreeMap<String, ModelEntry>) -> Vec<JudgeEntry> {
    let mut judges: Vec<JudgeEntry> = Vec::new();
    for fields in file.table_list("judge") {
        let judge = read_judge(fields, models, &judges);
        judges.push(judge);
    }
    judges
}

fn read_judge(
    mut fields: Fields<'_>,
    models: &BTreeMap<String, ModelEntry>,
    taken: &[JudgeEntry],
) -> JudgeEntry {
    let name = fields.string("name");
    match &name {
        Some(name) if !is_slug(name) => {
            fields.fault("name", "must be letters, digits, `_` or `-`, at most 64, and start with a letter");
        }
        Some(name) if taken.iter().any(|judge| judge.name == *name) => {
            fields.fault("name", &format!("two judges are called `{name}`"));
        }
        None if !fields.has("name") => fields.missing("name", "give the judge a name, name = \"helpful\""),
        _ => {}
    }
    let model = fields.string("model");
    match &model {
        Some(model) => known_model(&fields, "model", model, models),
        None if !fields.has("model") => {
            fields.missing("model", "name one of the models, model = \"NAME\"");
        }
        None => {}
    }
    let base = JudgeEntry::plain(&name.unwrap_or_default(), &model.unwrap_or_default());
    let rubric = fields.string("rubric").map(PathBuf::from);
    let pairwise = fields.string("pairwise").map(PathBuf::from);
    let verdicts = read_verdicts(&mut fields).unwrap_or_else(|| base.verdicts.clone());
    let judge = JudgeEntry {
        rubric,
        pairwise,
        verdicts,
        two_step: fields.flag("two_step").unwrap_or(base.two_step),
        max_tokens: fields.count("max_tokens", 1..=1 << 20).unwrap_or(base.max_tokens),
        agreement_at_least: fields
            .number("agreement_at_least", "a kappa from 0 to 1", |k| (0.0..=1.0).contains(&k))
            .unwrap_or(base.agreement_at_least),
        people_at_least: fields.count("people_at_least", 2..=1_000_000).unwrap_or(base.people_at_least),
        ..base
    };
    fields.finish();
    judge
}

fn read_verdicts(fields: &mut Fields<'_>) -> Option<Verdicts> {
    let words = fields.strings("verdicts");
    let scale = fields.wholes("scale");
    let right_from = if fields.is_number("right_from") {
        fields.whole("right_from", 0..=1_000_000).map(|n| n.to_string())
    } else {
        fields.string("right_from")
    };
    if fields.has("verdicts") && fields.has("scale") {
        fields.fault("scale", "a judge has verdicts or a scale, not both");
    }
    let mut verdicts = match (words, scale) {
        (Some(words), _) => {
            let words: Vec<String> = words.iter().map(|word| word.trim().to_owned()).collect();
            let slip = if words.len() < 2 || words.len() > VERDICTS {
                Some(format!("needs from 2 to {VERDICTS} words, the worst first"))
            } else if let Some(long) = words.iter().find(|w| w.chars().count() > WORD || w.contains('\n')) {
                Some(format!("`{}` is too long for a verdict; write a word", clip(long)))
            } else {
                let same = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
                let twice = (1..words.len()).find(|&i| words[..i].iter().any(|w| same(w, &words[i])));
                twice.map(|i| format!("`{}` stands twice", clip(&words[i])))
            };
            if let Some(slip) = slip {
                fields.fault("verdicts", &slip);
                return None;
            }
            Verdicts::new(words)
        }
        (None, Some(ends)) => match ends[..] {
            [low, high] if low >= 0 && low < high && high - low < VERDICTS as i64 => {
                Verdicts::scale(low, high)
            }
            _ => {
                let most = VERDICTS;
                fields.fault(
                    "scale",
                    &format!(
                        "must be [LOWEST, HIGHEST], from 0 on and of at most {most} numbers, as in [1, 5]"
                    ),
                );
                return None;
            }
        },
        (None, None) if fields.has("verdicts") || fields.has("scale") => return None,
        (None, None) => return right_from.is_some().then(|| right_place(fields, plain(), right_from)),
    };
    if right_from.is_some() {
        verdicts = right_place(fields, verdicts, right_from);
    }
    Some(verdicts)
}

fn plain() -> Verdicts {
    JudgeEntry::plain("", "").verdicts
}

fn right_place(fields: &Fields<'_>, verdicts: Verdicts, word: Option<String>) -> Verdicts {
    let word = word.unwrap_or_default();
    match verdicts.place(word.trim()) {
        Some(0) => {
            let worst = &verdicts.words[0];
            fields.fault("right_from", &format!("`{worst}` is the worst verdict: everything would be right"));
        }
        Some(place) => return Verdicts { right_from: place, ..verdicts },
        None => {
            let words = verdicts.words.join(", ");
            fields.fault("right_from", &format!("`{}` is none of the verdicts: {words}", clip(&word)));
        }
    }
    verdicts
}

/// `[eval] judge` names a judge, or a model that judges by the built-in rubric.
pub(super) fn check_eval_judge(
    fields: &Fields<'_>,
    name: &str,
    judges: &[JudgeEntry],
    models: &BTreeMap<String, ModelEntry>,
) {
    if judges.iter().any(|judge| judge.name == name) {
        return;
    }
    if judges.is_empty() {
        return known_model(fields, "judge", name, models);
    }
    if !models.contains_key(name) {
        fields.fault("judge", &format!("no judge is called `{}`; {}", clip(name), hint(name, judges)));
    }
}

fn hint(name: &str, judges: &[JudgeEntry]) -> String {
    let names = judges.iter().map(|judge| judge.name.as_str());
    match nearest(name, names.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("judges: {}", names.collect::<Vec<_>>().join(", ")),
    }
}

/// A judged metric needs its judge.
pub(super) fn check_judged(
    fields: &Fields<'_>,
    key: &str,
    metric: &Metric,
    judges: &[JudgeEntry],
    default: Option<&str>,
) {
    let base = metric.entry.name;
    let message = match &metric.argument {
        // What is wrong with the judge of `[eval]` is told there.
        _ if judges.is_empty()
            && default.is_some()
            && metric.argument.as_deref().is_none_or(|n| Some(n) == default) =>
        {
            return;
        }
        _ if judges.is_empty() => {
            format!(
                "`{}` needs a judge; add a table [[judge]] with name, model and rubric",
                clip(&metric.name)
            )
        }
        Some(name) if Some(name.as_str()) == default || judges.iter().any(|j| j.name == *name) => return,
        Some(name) => {
            format!("`{}`: no judge is called `{}`; {}", clip(&metric.name), clip(name), hint(name, judges))
        }
        None if judges.len() == 1 || default.is_some() => return,
        None => format!(
            "`{base}` means one of several judges; write {base}:NAME, or name one in [eval], judge = \"{}\"",
            judges[0].name
        ),
    };
    fields.fault(key, &message);
}
