//! General-ability sets: rows beside the task's, answered by the same weights, so that forgetting shows.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use anyhow::Context as _;

use super::Scored;
use crate::backend::Access;
use crate::domain::candidate::{Candidate, OutputKind, StageCandidate};
use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::report::{Control, Reporter};
use crate::domain::row::RunRow;
use crate::domain::sets::{SetInputs, SetPrompt, SetSettings};
use crate::domain::settings::EvalSettings;
use crate::domain::words::counted;
use crate::pipeline::Pipeline;
use crate::score::metric::Known;
use crate::score::scorer::Scorer;
use crate::score::sets as scoring;

/// Rows answered at once; requests to stop are looked for between.
const BATCH: usize = 64;

/// Evaluate a candidate on each of the sets. The figures are `set.NAME`, the share of right rows. Traces are not kept.
pub fn sets(
    candidate: &Candidate,
    sets: &[SetInputs],
    access: &Access,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<Scored> {
    let mut scored = Scored { metrics: BTreeMap::new(), stopped: false };
    for inputs in sets {
        let name = &inputs.set.name;
        let metric = Known::default().primary(&inputs.set.metric).with_context(|| format!("set `{name}`"))?;
        // What stands beside must not cost the run its own result.
        let asked = match asked(candidate, &inputs.set) {
            Ok(asked) => asked,
            Err(e) => {
                let message = format!("set {name} is left out: {e:#}");
                reporter.event(EventBody::Warning { message })?;
                continue;
            }
        };
        let settings = EvalSettings {
            primary: inputs.set.metric.clone(),
            metrics: Vec::new(),
            ..EvalSettings::default()
        };
        let golds = inputs.rows.iter().filter_map(|row| row.gold.as_deref());
        let scorer = Scorer::new(&settings, &asked.stages, golds).with_context(|| format!("set `{name}`"))?;
        let wanted: HashSet<(&str, &str)> = inputs.rows.iter().map(key).collect();
        let of_set = |o: &&Outcome| wanted.contains(&(o.row.as_str(), o.row_hash.as_str()));
        let mut outcomes: Vec<Outcome> = inputs.done.iter().filter(of_set).cloned().collect();
        let done: HashSet<(String, String)> =
            outcomes.iter().map(|o| (o.row.clone(), o.row_hash.clone())).collect();
        let open: Vec<&RunRow> =
            inputs.rows.iter().filter(|r| !done.contains(&(r.id.clone(), r.hash.clone()))).collect();
        if !open.is_empty() {
            let mut pipeline = match Pipeline::new(&asked, access) {
                Ok(pipeline) => pipeline,
                Err(e) => {
                    let message = format!("set {name} is left out, since it cannot be asked: {e}");
                    reporter.event(EventBody::Warning { message })?;
                    continue;
                }
            };
            let began = Instant::now();
            for (at, batch) in open.chunks(BATCH).enumerate() {
                if !matches!(reporter.poll_control()?, Control::Continue | Control::Checkpoint) {
                    scored.stopped = true;
                    return Ok(scored);
                }
                let answers = pipeline.answer(batch);
                for (row, answered) in batch.iter().zip(answers) {
                    let mut outcome = Outcome {
                        row: row.id.clone(),
                        row_hash: row.hash.clone(),
                        output: answered.output,
                        gold: row.gold.clone(),
                        stages: answered.stages,
                        error: answered.error,
                        ..Outcome::default()
                    };
                    let kind = asked.stages.last().map_or(OutputKind::Text, |stage| stage.output);
                    scorer.fill(&mut outcome, kind, Some(row));
                    reporter.set_outcome(name, &outcome)?;
                    outcomes.push(outcome);
                }
                let now = at * BATCH + batch.len();
                let left = open.len() - now;
                let eta = began.elapsed().as_secs_f64() * 1e3 / now as f64 * left as f64;
                reporter.event(EventBody::Progress {
                    phase: format!("set {name}"),
                    done: (outcomes.len()) as u64,
                    total: inputs.rows.len() as u64,
                    eta_ms: Some(eta as u64),
                })?;
            }
        }
        let score = scoring::score(&metric, &outcomes, None);
        let failed = outcomes.iter().filter(|o| o.error.is_some()).count();
        if failed > 0 {
            let message = format!(
                "set {name}: {failed} of {} failed and count as wrong",
                counted(outcomes.len(), "row")
            );
            reporter.event(EventBody::Warning { message })?;
        }
        if score.n > 0 {
            scored.metrics.insert(format!("set.{name}"), score.right as f64 / score.n as f64);
        }
    }
    Ok(scored)
}

fn key(row: &RunRow) -> (&str, &str) {
    (&row.id, &row.hash)
}

/// Who answers a set: the whole pipeline, or one stage's model and adapter with nothing but the input before them.
fn asked(candidate: &Candidate, set: &SetSettings) -> anyhow::Result<Candidate> {
    if set.prompt == SetPrompt::Same {
        return Ok(candidate.clone());
    }
    let stage = match &set.stage {
        None => candidate.stages.last(),
        Some(name) => candidate.stages.iter().find(|stage| stage.name == *name),
    };
    let stage = stage
        .with_context(|| format!("the candidate has no stage `{}`", set.stage.as_deref().unwrap_or("-")))?;
    let mut decoding = stage.decoding.clone();
    decoding.max_tokens = set.max_tokens.unwrap_or(decoding.max_tokens);
    let bare = StageCandidate {
        prompt: StageCandidate::BARE.to_owned(),
        prompt_name: "bare".to_owned(),
        output: OutputKind::Text,
        labels: Vec::new(),
        decoding,
        when: None,
        retries: 0,
        constraint: None,
        tools: Vec::new(),
        gold: None,
        ..stage.clone()
    };
    Ok(Candidate { stages: vec![bare], ..candidate.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::candidate::Constraint;
    use crate::score::aggregate::tests::candidate;

    #[test]
    fn a_bare_set_asks_the_weights_and_nothing_else() {
        let mut whole = candidate("c");
        whole.stages[0].prompt = "Which team? {{ input }}".into();
        whole.stages[0].constraint = Some(Constraint::Json);
        let set = SetSettings { max_tokens: Some(5), ..SetSettings::default() };
        let bare = asked(&whole, &set).unwrap();
        let stage = &bare.stages[0];
        assert!(stage.is_bare() && stage.constraint.is_none() && stage.labels.is_empty());
        assert_eq!((stage.output, stage.decoding.max_tokens), (OutputKind::Text, 5));
        assert_eq!(stage.model, whole.stages[0].model);
        let same = SetSettings { prompt: SetPrompt::Same, ..SetSettings::default() };
        assert_eq!(asked(&whole, &same).unwrap(), whole);
        let other = SetSettings { stage: Some("none".into()), ..SetSettings::default() };
        assert!(asked(&whole, &other).unwrap_err().to_string().contains("no stage `none`"));
    }
}
