//! Which rows do what: those that select, fresh ones for every epoch, those of the last comparison, and those that may be learned from.
//!
//! All come from dev, and from train where dev has too few; never from eval. No row does two things at first; fresh rows select from
//! the next epoch on. The rows of the last comparison choose nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::domain::prompt::PromptSettings;
use crate::domain::rng::SplitMix64;
use crate::domain::row::{Part, RunRow};

/// Fewer rows than this tell nothing.
const LEAST: usize = 12;
/// Rows of the last comparison, where there are so many.
const CLAIM: usize = 100;
/// Share of a race that is run on average, for a plan within a budget.
const RUN: f64 = 0.6;

/// Places of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub select: Vec<usize>,
    /// By epoch.
    pub fresh: Vec<Vec<usize>>,
    pub claim: Vec<usize>,
    pub learn: Vec<usize>,
    /// Rows that no epoch of the plan needs.
    pub spare: Vec<usize>,
    pub fan_out: usize,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Rows answered by some version: the start's race, the epochs, the last comparison.
fn cost(survivors: usize, epochs: usize, fan_out: usize, race: usize, claim: usize) -> f64 {
    let each = RUN * (fan_out * race) as f64 + (race * (survivors.min(fan_out) + 1)) as f64;
    race as f64 + epochs as f64 * each + 2.0 * claim as f64
}

/// About how many rows a run by these settings asks for, within its budget of calls, where there are rows enough. `stages`: calls of a row.
pub fn answers_of_plan(settings: &PromptSettings, stages: usize) -> usize {
    let claim = (2 * settings.rows).max(CLAIM);
    let wanted = cost(settings.survivors, settings.epochs, settings.fan_out, settings.rows, claim);
    let most = settings.budget.calls.map_or(f64::INFINITY, |calls| calls as f64 / stages.max(1) as f64);
    wanted.min(most).round() as usize
}

impl Plan {
    /// `stages`: calls of a row.
    pub fn new(rows: &[RunRow], settings: &PromptSettings, stages: usize) -> Result<Self, String> {
        let mut notes = Vec::new();
        let of = |part: Part| -> Vec<usize> {
            let wanted =
                |(i, row): (usize, &RunRow)| (row.part == Some(part) && row.gold.is_some()).then_some(i);
            interleaved(rows, rows.iter().enumerate().filter_map(wanted).collect(), settings.seed)
        };
        let (mut pool, train) = (of(Part::Dev), of(Part::Train));
        let (mut epochs, mut fan_out, mut race) = (settings.epochs, settings.fan_out, settings.rows);
        let mut claim = (2 * race).max(CLAIM);
        if let Some(calls) = settings.budget.calls {
            // First fewer epochs, then fewer proposals and rows.
            let answers = calls as f64 / stages.max(1) as f64;
            while cost(settings.survivors, epochs, fan_out, race, claim) > answers {
                if epochs > 2 {
                    epochs -= 1;
                } else if race > 12 {
                    race -= race.div_ceil(8);
                    claim = (claim * 7 / 8).max(20);
                } else if fan_out > 4 {
                    fan_out -= 1;
                } else if epochs > 1 {
                    epochs -= 1;
                } else if claim > 20 {
                    claim -= 4;
                } else {
                    break;
                }
            }
            if (epochs, fan_out, race) != (settings.epochs, settings.fan_out, settings.rows) {
                notes.push(format!(
                    "{calls} calls are enough for about {epochs} epochs of {fan_out} versions on {race} rows, and that is the plan"
                ));
            }
        }
        let needed = race * (epochs + 1) + claim;
        // Some of train is always left to learn from.
        let lent = needed.saturating_sub(pool.len()).min(train.len() * 3 / 4);
        let (select_too, learn) = train.split_at(lent);
        pool.extend_from_slice(select_too);
        pool = interleaved(rows, pool, settings.seed ^ 1);
        if lent > 0 {
            notes.push(format!("dev has {} rows with gold: {lent} of train select, too", pool.len() - lent));
        }
        if pool.len() < LEAST {
            return Err(format!(
                "dev and train have {} rows with gold to select on, and at least {LEAST} are needed; add rows or gold",
                pool.len()
            ));
        }
        let of_pool = pool.len();
        if of_pool < needed {
            claim = claim.min(pool.len() / 4);
            race = race.min(pool.len() / 4).max(3);
            notes.push(format!(
                "{} rows are fewer than the {needed} that {epochs} epochs want: races have {race}, the last comparison {claim}",
                pool.len()
            ));
        }
        // Every stretch of the pool is a stratified sample of it.
        let mut rest = pool.into_iter();
        let mut take = |n: usize| -> Vec<usize> { rest.by_ref().take(n).collect() };
        let (claim_rows, select) = (take(claim), take(race));
        let left = of_pool.saturating_sub(claim_rows.len() + select.len());
        let each = (left / epochs.max(1)).min(race);
        let fresh = (0..epochs).map(|_| take(each)).collect();
        let spare = rest.collect();
        Ok(Self { select, fresh, claim: claim_rows, learn: learn.to_vec(), spare, fan_out, notes })
    }

    /// More epochs, up to so many, as far as there are fresh rows for them.
    pub fn extend(&mut self, epochs: usize) {
        let each = self.fresh.last().map_or(0, Vec::len);
        while each > 0 && self.fresh.len() < epochs && self.spare.len() >= each {
            self.fresh.push(self.spare.drain(..each).collect());
        }
    }
}

impl Plan {
    /// Rows of one group do not both choose and compare at the end. Groups come to the last comparison in the order of its rows, until there
    /// are as many as before; what else selects is dealt out anew.
    pub fn keep_together<'a>(&mut self, group: impl Fn(usize) -> &'a str) {
        let (claim, race) = (self.claim.len(), self.select.len());
        let mut of: HashMap<&str, usize> = HashMap::new();
        let rest = self.select.iter().chain(self.fresh.iter().flatten());
        let pool: Vec<usize> = self.claim.iter().chain(rest).copied().collect();
        for &place in &pool {
            *of.entry(group(place)).or_default() += 1;
        }
        let (mut claimed, mut n) = (HashSet::new(), 0);
        for &place in &pool {
            if n < claim && claimed.insert(group(place)) {
                n += of.get(group(place)).copied().unwrap_or(0);
            }
        }
        let (claim, others): (Vec<usize>, Vec<usize>) =
            pool.into_iter().partition(|place| claimed.contains(group(*place)));
        self.learn.retain(|place| !claimed.contains(group(*place)));
        self.claim = claim;
        let mut others = others.into_iter();
        let mut take = |n: usize| -> Vec<usize> { others.by_ref().take(n).collect() };
        self.select = take(race);
        for fresh in &mut self.fresh {
            *fresh = take(fresh.len());
        }
    }
}

/// An order in which every stretch has each stratum (and each answer, where there are no strata) in its share.
fn interleaved(rows: &[RunRow], places: Vec<usize>, seed: u64) -> Vec<usize> {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for place in places {
        let row = &rows[place];
        groups
            .entry(row.stratum.as_deref().or(row.gold.as_deref()).unwrap_or_default())
            .or_default()
            .push(place);
    }
    let mut rng = SplitMix64::new(seed ^ 0x726f_7773);
    let mut keyed: Vec<(f64, usize)> = Vec::new();
    for mut group in groups.into_values() {
        rng.shuffle(&mut group);
        let (n, offset) = (group.len() as f64, rng.unit());
        keyed.extend(group.into_iter().enumerate().map(|(i, place)| ((i as f64 + offset) / n, place)));
    }
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    keyed.into_iter().map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::settings::Budget;
    use crate::pipeline::tests::row;

    fn rows(dev: usize, train: usize, eval: usize) -> Vec<RunRow> {
        let part = |i: usize| {
            if i < dev {
                Part::Dev
            } else if i < dev + train {
                Part::Train
            } else {
                Part::Eval
            }
        };
        (0..dev + train + eval)
            .map(|i| RunRow {
                part: Some(part(i)),
                stratum: Some(if i % 5 == 0 { "few" } else { "many" }.into()),
                gold: Some("x".into()),
                ..row(&i.to_string(), "text")
            })
            .collect()
    }

    #[test]
    fn no_row_does_two_things_and_eval_rows_do_none() {
        for (dev, train) in [(1000, 50), (100, 400), (0, 40), (30, 0)] {
            let all = rows(dev, train, 60);
            let plan = Plan::new(&all, &PromptSettings::default(), 1).unwrap();
            let mut used: Vec<usize> = [&plan.select, &plan.claim, &plan.learn]
                .into_iter()
                .chain(&plan.fresh)
                .flatten()
                .copied()
                .collect();
            let n = used.len();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), n);
            assert!(used.iter().all(|&at| at < dev + train), "eval rows never");
            assert!(
                !plan.select.is_empty() && !plan.claim.is_empty() && plan.fresh.iter().all(|f| !f.is_empty()),
                "{plan:?}"
            );
            let few = plan.claim.iter().filter(|at| *at % 5 == 0).count();
            assert!(few.abs_diff(plan.claim.len() / 5) <= 2, "{few} of {}", plan.claim.len());
        }
        assert!(
            Plan::new(&rows(3, 4, 50), &PromptSettings::default(), 1).unwrap_err().contains("at least 12")
        );
    }

    #[test]
    fn answers_to_one_row_do_not_both_choose_and_compare() {
        let all = rows(120, 0, 0);
        let mut plan =
            Plan::new(&all, &PromptSettings { epochs: 2, ..PromptSettings::default() }, 1).unwrap();
        let before = plan.claim.len();
        let groups: Vec<String> = (0..all.len()).map(|at| (at / 3).to_string()).collect();
        plan.keep_together(|at| &groups[at]);
        let claimed: HashSet<&String> = plan.claim.iter().map(|at| &groups[*at]).collect();
        assert!(plan.claim.len() >= before && plan.claim.len() < before + 3, "{plan:?}");
        let others: Vec<usize> = plan.select.iter().chain(plan.fresh.iter().flatten()).copied().collect();
        assert!(!others.is_empty() && others.iter().all(|at| !claimed.contains(&groups[*at])), "{plan:?}");
    }

    #[test]
    fn a_small_budget_makes_a_small_plan() {
        let budget = Budget { calls: Some(400), ..Budget::default() };
        let settings = PromptSettings { budget, ..PromptSettings::default() };
        let plan = Plan::new(&rows(1000, 100, 10), &settings, 1).unwrap();
        let race = plan.select.len() as f64;
        let fresh: usize = plan.fresh.iter().map(Vec::len).sum();
        let cost = race
            + plan.fresh.len() as f64 * RUN * race * plan.fan_out as f64
            + 5.0 * fresh as f64
            + 2.0 * plan.claim.len() as f64;
        assert!(cost <= 440.0 && !plan.notes.is_empty(), "{cost} {plan:?}");
    }
}
