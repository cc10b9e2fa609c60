//! A candidate's row on the board, from its outcomes.

use super::aggregate;
use super::bootstrap;
use super::metric::Metric;
use super::repeats;
use super::stats;
use crate::domain::board::{BoardRow, Goal, GoalResult};
use crate::domain::candidate::Candidate;
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;
use crate::domain::settings::EvalSettings;

pub use crate::domain::candidate::IMPORTED;

/// Score a candidate. Of its outcomes those on the eval part count, unless they were imported or know no parts; where a row stands several
/// times, its last outcome. Unknown metric names are left out (the workspace is checked before).
pub fn row(
    candidate: &Candidate,
    run: Option<String>,
    outcomes: &[Outcome],
    settings: &EvalSettings,
    goals: &[Goal],
) -> BoardRow {
    let scored = on_the_board(candidate, outcomes);
    let mut names: Vec<&str> = vec![&settings.primary];
    names.extend(settings.metrics.iter().chain(goals.iter().map(|goal| &goal.metric)).map(String::as_str));
    let known = settings.known();
    let metrics: Vec<Metric> = names.iter().filter_map(|name| known.find(name).ok()).collect();
    let values = aggregate::values(&metrics, &scored, Some(candidate));
    let of = |name: &str| {
        Metric::find(name).ok().and_then(|metric| aggregate::value(&metric, &scored, Some(candidate)))
    };
    BoardRow {
        regression: None,
        sets: std::collections::BTreeMap::new(),
        // What only the caller knows.
        runs: Vec::new(),
        stale: 0,
        judges: Vec::new(),
        judged: Vec::new(),
        trilemma: Default::default(),
        candidate: candidate.name.clone(),
        id: candidate.id(),
        rung: candidate.rung.clone(),
        run,
        n: repeats::count(&scored),
        primary: Some(settings.primary.clone()),
        honest: None,
        checkpoints: None,
        against: None,
        errors: scored.iter().filter(|o| o.error.is_some()).count(),
        ci95: settings.primary_metric().ok().and_then(|primary| interval(&primary, &scored)),
        latency_ms: aggregate::latency(&scored),
        tokens_in: of("tokens_in").unwrap_or(0.0),
        tokens_out: of("tokens_out").unwrap_or(0.0),
        usd_per_1k: of("usd_per_1k"),
        goals: goals.iter().map(|goal| against(goal, values.get(&goal.metric).copied())).collect(),
        metrics: values,
    }
}

/// The outcomes that count on the board.
pub fn on_the_board<'a>(candidate: &Candidate, outcomes: &'a [Outcome]) -> Vec<&'a Outcome> {
    let every = candidate.rung == IMPORTED || outcomes.iter().all(|o| o.part.is_none());
    let latest: std::collections::HashMap<(&str, u32), usize> =
        outcomes.iter().enumerate().map(|(i, o)| ((o.row.as_str(), o.sample), i)).collect();
    outcomes
        .iter()
        .enumerate()
        .filter(|(i, o)| {
            (every || o.part == Some(Part::Eval)) && latest.get(&(o.row.as_str(), o.sample)) == Some(i)
        })
        .map(|(_, o)| o)
        .collect()
}

/// 95% interval of a metric that has a value on each row: Wilson where each row is right or wrong, else bootstrap over rows.
pub fn interval(metric: &Metric, outcomes: &[&Outcome]) -> Option<[f64; 2]> {
    let values = repeats::values(metric, outcomes);
    if values.is_empty() {
        return None;
    }
    if values.iter().all(|v| *v == 0.0 || *v == 1.0) {
        return Some(stats::wilson(values.iter().filter(|v| **v == 1.0).count(), values.len()));
    }
    // A fixed seed: the board looks the same each time it is drawn up.
    Some(bootstrap::mean(&values, bootstrap::ROUNDS, 0).ci95)
}

/// A goal against what was measured.
pub fn against(goal: &Goal, got: Option<f64>) -> GoalResult {
    let state = match got {
        None => "open",
        Some(value) if goal.want.holds(value) => "pass",
        Some(_) => "fail",
    };
    GoalResult {
        metric: goal.metric.clone(),
        want: goal.want.to_string(),
        got,
        state: state.to_owned(),
        why: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::aggregate::tests::{candidate, outcome};
    use super::*;
    use crate::domain::board::Want;

    fn scored() -> Vec<Outcome> {
        let mut all = vec![
            outcome("1", "a", "a", true),
            outcome("2", "a", "b", true),
            outcome("3", "b", "b", true),
            outcome("4", "b", "b", true),
        ];
        for (o, part) in all.iter_mut().zip([Part::Eval, Part::Eval, Part::Eval, Part::Train]) {
            o.part = Some(part);
        }
        all[0].latency_ms = Some(36.0);
        all
    }

    #[test]
    fn the_board_scores_the_eval_part() {
        let got = row(&candidate("base"), Some("eval-1".into()), &scored(), &EvalSettings::default(), &[]);
        assert_eq!((got.n, got.errors, got.tokens_in, got.tokens_out), (3, 0, 100.0, 10.0));
        assert!((got.metrics["accuracy"] - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(got.ci95, Some(stats::wilson(2, 3)));
        assert_eq!(got.latency_ms.unwrap().p95, 36.0);
        assert_eq!(got.metrics["latency_p95_ms"], 36.0);
        assert_eq!(got.usd_per_1k, None);
        let mut imported = candidate("elsewhere");
        imported.rung = IMPORTED.into();
        assert_eq!(row(&imported, None, &scored(), &EvalSettings::default(), &[]).n, 4);
    }

    #[test]
    fn goals_pass_fail_or_stay_open() {
        let goal = |metric: &str, want| Goal { metric: metric.into(), want };
        let goals = [
            goal("accuracy", Want::AtLeast(0.6)),
            goal("latency_p95_ms", Want::AtMost(20.0)),
            goal("usd_per_1k", Want::AtMost(1.0)),
        ];
        let got = row(&candidate("base"), None, &scored(), &EvalSettings::default(), &goals);
        let states: Vec<_> = got.goals.iter().map(|g| (g.want.as_str(), g.state.as_str())).collect();
        assert_eq!(states, [(">= 0.6", "pass"), ("<= 20", "fail"), ("<= 1", "open")]);
    }
}
