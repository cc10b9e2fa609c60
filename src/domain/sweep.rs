//! Sweeps: runs launched as a group, one for each combination of some settings' values; and which of them are hopeless.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::words::counted;

/// Runs of one sweep: a slip of the finger is not to fill the disk.
pub const MOST_RUNS: usize = 64;

/// The sweep that a run belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    /// Runs that fall behind are stopped ([`hopeless`]).
    #[serde(default)]
    pub drop_hopeless: bool,
}

/// A setting and the values that are tried.
pub type Axis = (String, Vec<String>);

/// `4,8,16`, cut at the commas that stand in no brackets and no quotes.
pub fn values(text: &str) -> Vec<String> {
    let (mut depth, mut quoted) = (0_usize, false);
    let mut found = vec![String::new()];
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = found.last_mut() {
            last.push(c);
        }
    }
    found.into_iter().map(|value| value.trim().to_owned()).collect()
}

/// Every combination of the values, the last axis changing fastest.
///
/// # Errors
/// No values, the same setting twice, the same value twice, too many runs.
pub fn combinations(axes: &[Axis]) -> Result<Vec<Vec<(String, String)>>, String> {
    let mut all = vec![Vec::new()];
    for (at, (key, values)) in axes.iter().enumerate() {
        if values.is_empty() || values.iter().any(String::is_empty) {
            return Err(format!("{key}: a value is missing; write them as in rank=4,8,16"));
        }
        if axes[..at].iter().any(|(other, _)| other == key) {
            return Err(format!("{key} is swept twice; write all its values in one list"));
        }
        if let Some(twice) = values.iter().enumerate().find(|(i, v)| values[..*i].contains(v)) {
            return Err(format!("{key}: {} stands twice in the list", twice.1));
        }
        if all.len() * values.len() > MOST_RUNS {
            return Err(format!("a sweep has at most {}", counted(MOST_RUNS, "run")));
        }
        all = all
            .iter()
            .flat_map(|set| {
                values.iter().map(move |value| {
                    let mut set: Vec<(String, String)> = set.clone();
                    set.push((key.clone(), value.clone()));
                    set
                })
            })
            .collect();
    }
    Ok(all)
}

/// Dev losses of a run, by step.
pub type Losses = BTreeMap<u64, f64>;

/// Evaluations after the first step before a run may be called hopeless: what warm-up does says nothing yet.
const LEAST_EVALUATIONS: usize = 3;
/// Other runs that must have come as far: a median of one is that one.
const LEAST_OTHERS: usize = 2;

/// The median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2.2): a run is hopeless at step `s` when its best dev loss
/// up to `s` is above the median, over the other runs that came as far, of their mean dev losses up to `s`. Those need not have ended
/// here, as runs of a sweep go side by side; `s` is the last step that enough of them came to. The run with the lowest dev loss is
/// never dropped: every other's mean is at least that run's lowest. Returns why.
pub fn hopeless(own: &Losses, others: &[&Losses]) -> Option<String> {
    // The loss before the first step is that of the base, the same for all.
    let until = |losses: &Losses, step: u64| -> Vec<f64> {
        let after_first = losses.range(..=step).filter(|(at, _)| **at > 0);
        after_first.map(|(_, loss)| *loss).filter(|loss| loss.is_finite()).collect()
    };
    let mut lasts: Vec<u64> = others.iter().filter_map(|losses| losses.keys().next_back().copied()).collect();
    lasts.sort_unstable_by(|a, b| b.cmp(a));
    let (step, _) = own.range(..=*lasts.get(LEAST_OTHERS - 1)?).next_back()?;
    let step = *step;
    let mine = until(own, step);
    if mine.len() < LEAST_EVALUATIONS {
        return None;
    }
    let best = mine.into_iter().fold(f64::INFINITY, f64::min);
    let mut means: Vec<f64> = others
        .iter()
        .filter(|losses| losses.keys().next_back().is_some_and(|last| *last >= step))
        .map(|losses| until(losses, step))
        .filter(|losses| !losses.is_empty())
        .map(|losses| losses.iter().sum::<f64>() / losses.len() as f64)
        .collect();
    if means.len() < LEAST_OTHERS {
        return None;
    }
    means.sort_by(f64::total_cmp);
    let median = f64::midpoint(means[(means.len() - 1) / 2], means[means.len() / 2]);
    (best > median).then(|| {
        format!(
            "dropped as hopeless at step {step}: its best dev loss {best:.4} is above {median:.4}, the median of the means of {} \
             that came as far",
            counted(means.len(), "other run")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn axis(key: &str, list: &str) -> Axis {
        (key.into(), values(list))
    }

    #[test]
    fn lists_of_lists_are_cut_between_them() {
        assert_eq!(values("4, 8,16"), ["4", "8", "16"]);
        assert_eq!(values("[\"q_proj\", \"v_proj\"],all-linear"), ["[\"q_proj\", \"v_proj\"]", "all-linear"]);
        assert_eq!(values("\"a,b\",c"), ["\"a,b\"", "c"]);
        assert_eq!(values("4,"), ["4", ""]);
    }

    #[test]
    fn before_the_first_step_nobody_is_hopeless() {
        let first = Losses::from([(0, 2.0)]);
        assert_eq!(hopeless(&first, &[&first, &first]), None);
        assert_eq!(hopeless(&Losses::new(), &[&first, &first]), None);
        let further = Losses::from([(0, 2.0), (10, 1.0), (20, 0.9), (30, 0.8)]);
        assert_eq!(hopeless(&first, &[&further, &further]), None);
        assert_eq!(hopeless(&further, &[&first, &first]), None);
    }

    #[test]
    fn a_sweep_is_every_combination_once() {
        let all = combinations(&[axis("rank", "4,8"), axis("learning_rate", "1e-4,3e-4,1e-3")]).unwrap();
        let told: Vec<String> =
            all.iter().map(|set| set.iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(told, ["4 1e-4", "4 3e-4", "4 1e-3", "8 1e-4", "8 3e-4", "8 1e-3"]);
        for (axes, says) in [
            (vec![axis("rank", "4,,8")], "a value is missing"),
            (vec![axis("rank", "4"), axis("rank", "8")], "twice"),
            (vec![axis("rank", "4,8,4")], "4 stands twice"),
            (vec![axis("rank", "1,2,3,4,5,6,7,8,9"), axis("seed", "1,2,3,4,5,6,7,8")], "at most 64 runs"),
        ] {
            let error = combinations(&axes).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    fn losses(values: &[f64]) -> Losses {
        values.iter().enumerate().map(|(i, loss)| (10 * i as u64, *loss)).collect()
    }

    #[test]
    fn a_run_whose_best_is_above_the_others_median_mean_is_dropped() {
        let good = losses(&[3.0, 2.0, 1.0, 0.9]);
        let fair = losses(&[3.0, 2.2, 1.2, 1.0]);
        let bad = losses(&[3.0, 2.9, 2.8, 2.7]);
        let why = hopeless(&bad, &[&good, &fair]).unwrap();
        // Means 1.3 and 1.4667; their median 1.3833.
        assert!(why.contains("step 30") && why.contains("2.7000") && why.contains("1.3833"), "{why}");
        assert_eq!(hopeless(&good, &[&bad, &fair]), None);
        assert_eq!(hopeless(&fair, &[&bad, &good]), None);
    }

    #[test]
    fn nothing_is_dropped_on_little_evidence() {
        let good = losses(&[3.0, 1.0, 1.0, 1.0]);
        let bad = losses(&[3.0, 9.0, 9.0, 9.0]);
        assert_eq!(hopeless(&losses(&[3.0, 9.0, 9.0]), &[&good, &good]), None, "two evaluations");
        assert_eq!(hopeless(&bad, &[&good]), None, "one other run");
        let behind = losses(&[3.0, 1.0, 1.0]);
        assert_eq!(hopeless(&bad, &[&good, &behind]), None, "only one other came as far");
        let ahead = losses(&[3.0, 9.0, 9.0, 9.0, 9.0, 9.0]);
        assert!(hopeless(&ahead, &[&good, &good]).unwrap().contains("step 30"), "judged where others are");
        assert_eq!(hopeless(&Losses::new(), &[&good, &good]), None);
    }

    proptest! {
        /// Whatever the curves, somebody is left: the one with the lowest loss.
        #[test]
        fn the_best_run_is_never_dropped(curves in prop::collection::vec(prop::collection::vec(0.0..10.0_f64, 4), 1..8)) {
            let all: Vec<Losses> = curves.iter().map(|c| losses(c)).collect();
            let low = |l: &Losses| l.range(1..).map(|(_, v)| *v).fold(f64::INFINITY, f64::min);
            let best = (0..all.len()).min_by(|a, b| low(&all[*a]).total_cmp(&low(&all[*b]))).unwrap();
            let others: Vec<&Losses> = all.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, l)| l).collect();
            prop_assert_eq!(hopeless(&all[best], &others), None);
        }
    }
}
