//! Drawing rows: by strata, by how candidates do there, by what candidates are unsure of. One implementation for `data sample`, the screen and
//! the rows that a training run learns from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::rows::{self, Loaded};
use super::standing::{self, Scored};
use super::state::{Engine, bad_input};
use super::{export_rows, strata};
use crate::domain::api::{Decision, Failure, RowQuery};
use crate::domain::row::Part;
use crate::domain::sample::{Drawn, Mode, Picked, Sample, SampleAsk, TrainRows, Wanted};
use crate::domain::settings::TrainSettings;
use crate::domain::words::counted;
use crate::strata::sample::{Drawable, apportion, draw, highest, spread};

/// Bytes of the rows that one answer lists, about.
const LISTED: usize = 400 << 10;
/// Candidates that are looked at for disagreement.
const CANDIDATES: usize = 12;
/// A stratum's weight never falls below this share of that of a stratum that is always wrong.
const LEAST: f64 = 0.05;
/// Rows of a stratum that must have been scored before its accuracy changes its weight in training.
const ENOUGH: usize = 10;

/// A stratum as the best candidate (else the baseline) does on the eval rows.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    right: f64,
    scored: usize,
}

impl Standing {
    /// Share of wrong answers, drawn to one half where few were scored: (wrong + 1) / (n + 2), Laplace's rule of succession.
    fn error(self) -> f64 {
        let n = self.scored as f64;
        (n - self.right * n + 1.0) / (n + 2.0)
    }
}

fn best(engine: &Engine, loaded: &Arc<Loaded>) -> Option<Arc<Scored>> {
    let (base, best) = standing::base_and_best(engine, loaded).unwrap_or_default();
    best.or(base)
}

/// By place in the list of strata.
fn standings(loaded: &Loaded, best: Option<&Arc<Scored>>) -> Vec<Standing> {
    let Some(best) = best else { return Vec::new() };
    let of = |(right, scored): (Option<f64>, usize)| Standing { right: right.unwrap_or(0.0), scored };
    strata::scores(loaded, best).into_iter().map(of).collect()
}

/// The rows of a query that are in strata, and what of them is wanted.
pub fn pick(
    engine: &Engine,
    wanted: &Wanted,
) -> Result<(Arc<Loaded>, Vec<(usize, String)>, Vec<Drawn>), Failure> {
    if wanted.n == 0 {
        return Err(bad_input("0 rows are no sample; expected a whole number of at least 1"));
    }
    let query = RowQuery { text: wanted.filter.clone(), part: wanted.part, ..RowQuery::default() };
    let (loaded, places) = rows::places(engine, &query)?;
    let Some(index) = loaded.strata.clone() else {
        return Err(bad_input("no strata have been built; `tunebench strata build`"));
    };
    let ids: HashMap<u32, String> =
        (0..index.len()).filter_map(|at| Some((at as u32, index.id(at as u32)?))).collect();
    let in_strata: Vec<(usize, u32)> =
        places.iter().filter_map(|&at| Some((at as usize, loaded.stratum(at as usize)?))).collect();
    let rows: Vec<Drawable<'_>> = in_strata
        .iter()
        .filter_map(|(at, s)| Some(Drawable { id: loaded.dataset.id(*at), stratum: ids.get(s)? }))
        .collect();
    let mut counts: BTreeMap<&str, (u32, usize)> = BTreeMap::new();
    for (row, (_, s)) in rows.iter().zip(&in_strata) {
        counts.entry(row.stratum).or_insert((*s, 0)).1 += 1;
    }
    let best = best(engine, &loaded);
    let standings = standings(&loaded, best.as_ref());
    let standing = |s: u32| standings.get(s as usize).copied().unwrap_or_default();
    let quota_by = |weight: &dyn Fn(u32, usize) -> f64| -> BTreeMap<&str, usize> {
        let strata: Vec<(usize, f64)> = counts.values().map(|(s, n)| (*n, weight(*s, *n))).collect();
        counts.keys().copied().zip(apportion(&strata, wanted.n)).collect()
    };
    let by_size = |_: u32, n: usize| n as f64;
    let by_errors = |s: u32, n: usize| n as f64 * standing(s).error().max(LEAST);
    let name = |s: u32| index.name(s).unwrap_or_default();
    let total = rows.len();
    let why = |s: u32| -> String {
        let (own, of) = (counts.values().find(|(t, _)| *t == s).map_or(0, |(_, n)| *n), standing(s));
        match wanted.mode {
            Mode::PerStratum => format!("one of {} of its stratum", wanted.n),
            Mode::Proportional => format!("its stratum is {own} of {}", counted(total, "row")),
            Mode::Weak | Mode::Active if of.scored == 0 => "its stratum was never scored".to_owned(),
            Mode::Weak | Mode::Active => {
                let wrong = (of.scored as f64 * (1.0 - of.right)).round();
                format!("{wrong} of {} wrong in its stratum", of.scored)
            }
        }
    };
    let chosen: Vec<(usize, String)> = match wanted.mode {
        Mode::PerStratum => {
            let quota = counts.keys().map(|stratum| (*stratum, wanted.n)).collect();
            draw(&rows, &quota, wanted.seed).into_iter().map(|i| (i, why(in_strata[i].1))).collect()
        }
        Mode::Proportional => draw(&rows, &quota_by(&by_size), wanted.seed)
            .into_iter()
            .map(|i| (i, why(in_strata[i].1)))
            .collect(),
        Mode::Weak => draw(&rows, &quota_by(&by_errors), wanted.seed)
            .into_iter()
            .map(|i| (i, why(in_strata[i].1)))
            .collect(),
        Mode::Active => {
            let active = Active::new(engine, &loaded, best, &standings)?;
            let (scores, words): (Vec<f64>, Vec<String>) =
                in_strata.iter().map(|&(at, s)| active.score(&loaded, at, s)).unzip();
            highest(&rows, &scores, wanted.n, wanted.seed)
                .into_iter()
                .map(|i| (i, if words[i].is_empty() { why(in_strata[i].1) } else { words[i].clone() }))
                .collect()
        }
    };
    let mut drawn: BTreeMap<u32, usize> = BTreeMap::new();
    for (i, _) in &chosen {
        *drawn.entry(in_strata[*i].1).or_default() += 1;
    }
    let mut shares: Vec<Drawn> = counts
        .values()
        .map(|(s, n)| Drawn {
            stratum: name(*s),
            rows: *n,
            drawn: drawn.get(s).copied().unwrap_or(0),
            accuracy: Some(standing(*s)).filter(|of| of.scored > 0).map(|of| of.right),
            scored: standing(*s).scored,
        })
        .collect();
    shares.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.stratum.cmp(&b.stratum)));
    let chosen = chosen.into_iter().map(|(i, why)| (in_strata[i].0, why)).collect();
    Ok((loaded, chosen, shares))
}

/// What makes a row worth a person's time.
struct Active {
    best: Option<Arc<Scored>>,
    candidates: Vec<Arc<Scored>>,
    /// By stratum: how far its share of train is below its share of all rows, 0 to 1; wrong answers to be expected, of the most.
    lacking: Vec<f64>,
    impact: Vec<f64>,
}

impl Active {
    fn new(
        engine: &Engine,
        loaded: &Arc<Loaded>,
        best: Option<Arc<Scored>>,
        standings: &[Standing],
    ) -> Result<Self, Failure> {
        let strata = loaded.strata.as_ref().map_or(0, |s| s.len());
        let (mut all, mut train) = (vec![0usize; strata], vec![0usize; strata]);
        for (at, part) in loaded.parts.iter().enumerate() {
            let Some(s) = loaded.stratum(at).map(|s| s as usize).filter(|s| *s < strata) else { continue };
            all[s] += 1;
            train[s] += usize::from(*part == Some(Part::Train));
        }
        let (rows, trained): (usize, usize) = (all.iter().sum(), train.iter().sum());
        let lacking = all.iter().zip(&train).map(|(all, train)| {
            let (share, own) = (*all as f64 / rows.max(1) as f64, *train as f64 / trained.max(1) as f64);
            if share > 0.0 && trained > 0 { (1.0 - own / share).clamp(0.0, 1.0) } else { 0.0 }
        });
        let expected: Vec<f64> = (0..strata)
            .map(|s| all[s] as f64 * standings.get(s).copied().unwrap_or_default().error())
            .collect();
        let most = expected.iter().copied().fold(0.0, f64::max);
        let impact = expected.iter().map(|e| if most > 0.0 { e / most } else { 0.0 }).collect();
        let candidates = standing::some(engine, loaded, CANDIDATES)?;
        Ok(Self { best, candidates, lacking: lacking.collect(), impact })
    }

    /// The sum of what speaks for a row, each from 0 to 1, and that in words, the strongest first.
    fn score(&self, loaded: &Loaded, at: usize, stratum: u32) -> (f64, String) {
        let id = loaded.dataset.id(at);
        let sure = self.best.as_ref().and_then(|b| b.outcome(id)?.stages.last()?.probability);
        let unsure = sure.map_or(0.0, |p| (1.0 - p).clamp(0.0, 1.0));
        let mut answers: BTreeMap<&str, usize> = BTreeMap::new();
        for scored in &self.candidates {
            if let Some(outcome) = scored.outcome(id).filter(|o| o.error.is_none()) {
                *answers.entry(outcome.output.trim()).or_default() += 1;
            }
        }
        let (asked, most) = (answers.values().sum::<usize>(), answers.values().max().copied().unwrap_or(0));
        let apart = if asked > 1 { 1.0 - most as f64 / asked as f64 } else { 0.0 };
        let of = |all: &[f64]| all.get(stratum as usize).copied().unwrap_or(0.0);
        let (lacking, impact) = (of(&self.lacking), of(&self.impact));
        let mut reasons = [
            (unsure, format!("unsure: {:.2} of its answer", sure.unwrap_or(1.0))),
            (apart, format!("candidates part: {} of {asked} say otherwise", asked - most)),
            (lacking, format!("its stratum is {:.0}% short in train", 100.0 * lacking)),
            (impact, format!("errors x size of its stratum: {:.0}% of the worst", 100.0 * impact)),
        ];
        let score = reasons.iter().map(|(weight, _)| weight).sum();
        reasons.sort_by(|a, b| b.0.total_cmp(&a.0));
        let told: Vec<String> = reasons
            .into_iter()
            .filter(|(weight, _)| *weight >= 0.1)
            .take(2)
            .map(|(_, words)| words)
            .collect();
        (score, told.join("; "))
    }
}

/// The sample, written and marked as asked; the decision that the marks are is the caller's to write down.
pub fn sample(engine: &Engine, ask: &SampleAsk) -> Result<(Sample, Option<Decision>), Failure> {
    if ask.mark.as_ref().is_some_and(|mark| mark.trim().is_empty()) {
        return Err(bad_input("a mark needs a name"));
    }
    let (loaded, chosen, strata) = pick(engine, &ask.wanted)?;
    let id = |at: usize| loaded.dataset.id(at).to_owned();
    let mut done = Vec::new();
    if let Some(file) = &ask.out {
        let ids = Some(chosen.iter().map(|(at, _)| id(*at)).collect());
        done.push(export_rows::write(engine, &RowQuery { ids, ..RowQuery::default() }, file, ask.force)?);
    }
    let marks = ask.mark.as_ref().filter(|_| !chosen.is_empty()).map(|mark| {
        let mark = mark.trim().to_owned();
        done.push(format!("{} marked `{mark}`", counted(chosen.len(), "row")));
        let decisions =
            chosen.iter().map(|(at, _)| Decision::Mark { row: id(*at), mark: mark.clone(), on: true });
        Decision::Together { decisions: decisions.collect() }
    });
    let total = chosen.len();
    let mut room = LISTED;
    let mut listed = Vec::new();
    for (at, why) in chosen {
        let stratum = loaded.stratum(at).and_then(|s| loaded.strata.as_ref()?.name(s)).unwrap_or_default();
        let row = Picked { id: id(at), stratum, why };
        let size = row.id.len() + row.stratum.len() + row.why.len() + 48;
        if size > room {
            break;
        }
        room -= size;
        listed.push(row);
    }
    Ok((Sample { mode: ask.wanted.mode, rows: listed, total, strata, done }, marks))
}

/// Ids of the train rows that a run learns from; none: all of them.
pub fn train_rows(
    engine: &Engine,
    written: &str,
) -> Result<Option<std::collections::HashSet<String>>, Failure> {
    let wanted = match written.parse::<TrainRows>().map_err(bad_input)? {
        TrainRows::All => return Ok(None),
        TrainRows::Store(run) => {
            return super::examples::rows_of(engine, &run).map(|ids| Some(ids.into_iter().collect()));
        }
        TrainRows::Where(filter) => {
            let query = RowQuery { text: filter, part: Some(Part::Train), ..RowQuery::default() };
            let (loaded, places) = rows::places(engine, &query)?;
            return Ok(Some(places.iter().map(|&at| loaded.dataset.id(at as usize).to_owned()).collect()));
        }
        TrainRows::Share { share, seed } => {
            let query = RowQuery { part: Some(Part::Train), ..RowQuery::default() };
            let (loaded, places) = rows::places(engine, &query)?;
            let strata: Vec<String> = places
                .iter()
                .map(|&at| loaded.stratum(at as usize).map(|s| s.to_string()).unwrap_or_default())
                .collect();
            let rows: Vec<Drawable<'_>> = places
                .iter()
                .zip(&strata)
                .map(|(&at, stratum)| Drawable { id: loaded.dataset.id(at as usize), stratum })
                .collect();
            let n = ((rows.len() as f64 * share).round() as usize).max(1);
            return Ok(Some(spread(&rows, n, seed).into_iter().map(|i| rows[i].id.to_owned()).collect()));
        }
        TrainRows::Sample(wanted) => wanted,
    };
    let (loaded, chosen, _) = pick(engine, &wanted)?;
    Ok(Some(chosen.into_iter().map(|(at, _)| loaded.dataset.id(at).to_owned()).collect()))
}

/// Weights of the strata that the best candidate does well on: they shrink in train, and stay as they are in eval. A weight that somebody
/// gave by hand holds.
pub fn shrink(engine: &Engine, train: &mut TrainSettings) -> Result<(), Failure> {
    let Some(above) = train.shrink_above else { return Ok(()) };
    let loaded = rows::loaded(engine)?;
    let best = best(engine, &loaded);
    let Some(index) = &loaded.strata else { return Ok(()) };
    for (at, standing) in standings(&loaded, best.as_ref()).into_iter().enumerate() {
        if standing.scored >= ENOUGH
            && standing.right > above
            && let Some(name) = index.name(at as u32)
        {
            train.weights.entry(name).or_insert(train.shrink_to);
        }
    }
    Ok(())
}
