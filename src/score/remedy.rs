//! Flips to expect of another run, from what earlier runs of its kind did.

use std::collections::BTreeMap;

use super::stats::wilson;
use crate::domain::outcome::{Outcome, StageOutcome};
use crate::domain::remedy::{Expected, FailedStage};

/// Fewer wrong rows of a stratum are no evidence of their own.
const LEAST: usize = 5;

/// A row before an earlier run and after it, on rows that the run did not choose on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    pub row: &'a str,
    /// In the stratum that is asked about.
    pub here: bool,
    pub before: bool,
    pub after: bool,
}

/// Of `wrong` and `right` rows now. Runs on the same rows are no independent evidence: a row counts once, with the mean over the runs.
/// The interval is Wilson's, of the share of wrong rows that became right. None where no row was wrong before any run.
pub fn expected(runs: &[(String, Vec<Change<'_>>)], wrong: usize, right: usize) -> Option<Expected> {
    // Row -> times it was in this state before, and of these how often it was in the other one after.
    let gather = |only_here: bool, before: bool| -> (usize, f64) {
        let mut seen = BTreeMap::<&str, (usize, usize)>::new();
        for change in runs.iter().flat_map(|(_, changes)| changes) {
            if change.before == before && (change.here || !only_here) {
                let counts = seen.entry(change.row).or_default();
                counts.0 += 1;
                counts.1 += usize::from(change.after != before);
            }
        }
        (seen.len(), seen.values().map(|(n, flips)| *flips as f64 / *n as f64).sum())
    };
    let of_stratum = gather(true, false).0 >= LEAST;
    let (seen_wrong, seen_fixed) = gather(of_stratum, false);
    let (seen_right, seen_broken) = gather(of_stratum, true);
    if seen_wrong == 0 {
        return None;
    }
    let share = |flips: f64, n: usize| if n == 0 { 0.0 } else { flips / n as f64 };
    let of_wrong = |share: f64| share * wrong as f64;
    Some(Expected {
        fixed: of_wrong(share(seen_fixed, seen_wrong)),
        fixed95: wilson(seen_fixed.round() as usize, seen_wrong).map(of_wrong),
        broken: share(seen_broken, seen_right) * right as f64,
        seen_wrong,
        seen_fixed,
        seen_right,
        seen_broken,
        of_stratum,
        runs: runs.iter().map(|(run, _)| run.clone()).collect(),
    })
}

/// The stage to mend: the first whose answer could not be read, else the first that misses a gold of its own, else the last that ran.
/// `gold` is a stage's own on this row. None where no stage is known (outcomes made elsewhere).
pub fn failed_stage(outcome: &Outcome, gold: &dyn Fn(&str) -> Option<String>) -> Option<FailedStage> {
    let ran: Vec<&StageOutcome> = outcome.stages.iter().filter(|s| !s.skipped).collect();
    let found = |stage: &StageOutcome, why: String| Some(FailedStage { stage: stage.stage.clone(), why });
    if let Some(stage) = ran.iter().find(|s| !s.format_ok) {
        return found(stage, "its answer could not be read".into());
    }
    let same = |a: &str, b: &str| a.trim().to_lowercase() == b.trim().to_lowercase();
    let missed =
        ran.iter().find_map(|s| gold(&s.stage).filter(|gold| !same(gold, &s.output)).map(|g| (s, g)));
    if let Some((stage, gold)) = missed {
        return found(stage, format!("says {} and its own gold is {gold}", stage.output.trim()));
    }
    let last = ran.last()?;
    let why = match ran.len() {
        1 => "the only one that ran",
        _ if ran.iter().take(ran.len() - 1).all(|s| gold(&s.stage).is_some()) => {
            "the stages before it meet their own gold"
        }
        _ => "the last one that ran; no stage before it misses a gold of its own",
    };
    found(last, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(row: &str, here: bool, before: bool, after: bool) -> Change<'_> {
        Change { row, here, before, after }
    }

    #[test]
    fn without_evidence_nothing_is_expected() {
        assert_eq!(expected(&[], 10, 5), None);
        // Nothing was wrong, so nothing could be fixed.
        assert_eq!(expected(&[("p".into(), vec![change("a", true, true, true)])], 10, 5), None);
    }

    #[test]
    fn a_row_counts_once_whatever_the_number_of_runs() {
        let rows = ["a", "b", "c", "d", "e"];
        let run = |fixed: usize| -> Vec<Change<'_>> {
            rows.iter().enumerate().map(|(i, row)| change(row, true, false, i < fixed)).collect()
        };
        let once = expected(&[("one".into(), run(2))], 10, 0).unwrap();
        let twice = expected(&[("one".into(), run(2)), ("two".into(), run(2))], 10, 0).unwrap();
        assert_eq!((once.fixed, once.fixed95, once.seen_wrong), (4.0, twice.fixed95, twice.seen_wrong));
        assert_eq!(twice.runs, ["one", "two"]);
        let mixed = expected(&[("one".into(), run(5)), ("two".into(), run(0))], 10, 0).unwrap();
        assert_eq!((mixed.seen_fixed, mixed.fixed), (2.5, 5.0));
        let [low, high] = once.fixed95;
        assert!(low < once.fixed && once.fixed < high && high <= 10.0, "{once:?}");
    }

    #[test]
    fn a_stratum_speaks_for_itself_where_enough_of_it_was_wrong() {
        let elsewhere = ["f", "g", "h", "i", "j"].map(|row| change(row, false, false, true));
        let here =
            |n: usize| ["a", "b", "c", "d", "e"].into_iter().take(n).map(|r| change(r, true, false, false));
        let of = |n: usize| {
            let changes = here(n).chain(elsewhere.clone()).chain([change("z", false, true, false)]).collect();
            expected(&[("p".into(), changes)], 10, 10).unwrap()
        };
        let few = of(4);
        assert!(
            !few.of_stratum && few.seen_wrong == 9 && few.seen_fixed == 5.0 && few.broken == 10.0,
            "{few:?}"
        );
        let many = of(5);
        assert!(
            many.of_stratum && many.seen_wrong == 5 && many.fixed == 0.0 && many.seen_right == 0,
            "{many:?}"
        );
    }

    fn ran(name: &str, output: &str, format_ok: bool) -> StageOutcome {
        StageOutcome { stage: name.into(), output: output.into(), format_ok, ..StageOutcome::default() }
    }

    #[test]
    fn the_stage_to_mend_is_the_first_that_is_known_to_be_wrong() {
        let gold = |stage: &str| (stage == "intent").then(|| "refund".to_owned());
        let of = |stages: Vec<StageOutcome>| {
            failed_stage(&Outcome { stages, ..Outcome::default() }, &gold)
                .map(|f| f.stage)
                .unwrap_or_default()
        };
        assert_eq!(of(vec![]), "");
        assert_eq!(of(vec![ran("intent", " Refund ", true), ran("answer", "x", true)]), "answer");
        assert_eq!(of(vec![ran("intent", "transfer", true), ran("answer", "x", true)]), "intent");
        assert_eq!(of(vec![ran("intent", "transfer", true), ran("answer", "x", false)]), "answer");
        let skipped = StageOutcome { skipped: true, ..ran("answer", "", false) };
        assert_eq!(of(vec![ran("intent", "refund", true), skipped]), "intent");
    }
}
