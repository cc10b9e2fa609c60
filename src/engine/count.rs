//! Frequency tables of rows.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::filter::{Finder, Key};
use super::rows::{self, Loaded, cut};
use super::standing::{self, Scored};
use super::state::{Engine, bad_input};
use crate::domain::api::{Failure, RowQuery};
use crate::domain::count::{AUTO, Counts, GROUPS_MAX, Group, bin_of, bins, round_width};
use crate::domain::filter::number;

/// Keys that are crossed at most.
const KEYS_MAX: usize = 4;
/// Different values at most; more are an id rather than a dimension.
const DISTINCT_MAX: usize = 200_000;
/// Characters of a value.
const VALUE: usize = 200;

type Values = Vec<Option<Box<str>>>;

/// Counts the rows of a query by some keys.
///
/// # Errors
/// A key that no row has, none or too many keys, or too many different values.
pub fn count(engine: &Engine, query: &RowQuery, by: &[String], limit: usize) -> Result<Counts, Failure> {
    if by.is_empty() || by.len() > KEYS_MAX {
        return Err(bad_input(format!("counting takes 1 to {KEYS_MAX} keys, such as `stratum` or `len/20`")));
    }
    let (loaded, places) = rows::places(engine, query)?;
    let (base, best) = standing::base_and_best(engine, &loaded)?;
    loaded.strata_of_rows();
    let finder = Finder::new(engine, &loaded);
    let histogram = by.iter().any(|written| written.ends_with(AUTO));
    let by = by
        .iter()
        .map(|written| match written.strip_suffix(AUTO) {
            Some(key) => chosen(&finder.key(key)?, key, &loaded, &places),
            None => Ok(written.clone()),
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let keys = by
        .iter()
        .map(|written| {
            let (key, width) = bins(written);
            Ok((finder.key(key)?, width))
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let groups = places
        .par_chunks(4096)
        .try_fold(HashMap::new, |mut groups: HashMap<Values, Group>, places| {
            for &at in places {
                let at = at as usize;
                for values in combinations(&keys, &loaded, at) {
                    let group = groups.entry(values).or_default();
                    group.rows += 1;
                    tally(&mut group.base, base.as_ref(), loaded.dataset.id(at));
                    tally(&mut group.best, best.as_ref(), loaded.dataset.id(at));
                }
            }
            (groups.len() <= DISTINCT_MAX).then_some(groups)
        })
        .try_reduce(HashMap::new, |a, b| {
            let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
            for (values, more) in small {
                let group = large.entry(values).or_default();
                group.rows += more.rows;
                for (sum, more) in [(&mut group.base, more.base), (&mut group.best, more.best)] {
                    *sum = (sum.0 + more.0, sum.1 + more.1);
                }
            }
            (large.len() <= DISTINCT_MAX).then_some(large)
        })
        .ok_or_else(|| {
            bad_input(format!(
                "there are more than {DISTINCT_MAX} different values of {}; count numbers in bins (`len/20`), or filter first",
                by.join(" x ")
            ))
        })?;
    let distinct = groups.len();
    let mut groups: Vec<Group> = groups
        .into_iter()
        .map(|(values, group)| {
            let values = values.into_iter().map(|v| v.map(|v| cut(&v, VALUE).into_owned())).collect();
            Group { values, ..group }
        })
        .collect();
    let binned = keys.first().is_some_and(|(_, width)| width.is_some());
    let first = |g: &Group| g.values.first().cloned().flatten().and_then(|v| v.parse::<f64>().ok());
    groups.sort_by(|a, b| {
        let by_bin = first(a).unwrap_or(f64::INFINITY).total_cmp(&first(b).unwrap_or(f64::INFINITY));
        let by_rows = b.rows.cmp(&a.rows).then_with(|| a.values.cmp(&b.values));
        if binned { by_bin.then(by_rows) } else { by_rows }
    });
    if let (true, [written]) = (histogram, by.as_slice())
        && let (_, Some(width)) = bins(written)
    {
        groups = with_gaps(groups, width);
    }
    groups.truncate(limit.clamp(1, GROUPS_MAX));
    let name = |scored: Option<Arc<Scored>>| scored.map(|s| s.candidate.name.clone());
    Ok(Counts { by, rows: places.len(), distinct, groups, base: name(base), best: name(best) })
}

/// Bins in their order with the empty ones between them, which belong to the picture of a distribution; as they are where these are too many.
fn with_gaps(groups: Vec<Group>, width: f64) -> Vec<Group> {
    let start = |g: &Group| g.values.first().cloned().flatten().and_then(|v| v.parse::<f64>().ok());
    let starts: Vec<f64> = groups.iter().filter_map(start).collect();
    let (Some(low), Some(high)) = (starts.first(), starts.last()) else { return groups };
    let bins = ((high - low) / width).round();
    if bins.is_nan() || bins >= GROUPS_MAX as f64 {
        return groups;
    }
    let mut all: Vec<Group> = Vec::with_capacity(bins as usize + 1);
    for group in groups {
        if let (Some(here), Some(last)) = (start(&group), all.last().and_then(start)) {
            let missing = ((here - last) / width).round() as usize;
            all.extend((1..missing).map(|i| Group {
                values: vec![Some(bin_of((i as f64 + 0.5).mul_add(width, last), width).to_string())],
                ..Group::default()
            }));
        }
        all.push(group);
    }
    all
}

/// A key in bins of a round width over the numbers of these rows.
fn chosen(key: &Key, name: &str, loaded: &Loaded, places: &[u32]) -> Result<String, Failure> {
    let range = |some: &[u32]| {
        let mut range: Option<(f64, f64)> = None;
        for &at in some {
            key.each(loaded, at as usize, &mut |value| {
                if let Some(n) = number(value).filter(|n| n.is_finite()) {
                    range = Some(range.map_or((n, n), |(low, high)| (low.min(n), high.max(n))));
                }
            });
        }
        range
    };
    let joined = |a: Option<(f64, f64)>, b: Option<(f64, f64)>| match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    };
    match places.par_chunks(4096).map(range).reduce(|| None, joined) {
        Some((low, high)) => Ok(format!("{name}/{}", round_width(low, high))),
        None => Err(bad_input(format!("no row here has a number under `{name}`; `F` counts its values"))),
    }
}

fn tally(sum: &mut (usize, usize), scored: Option<&Arc<Scored>>, row: &str) {
    if let Some(right) = scored.and_then(|s| s.outcome(row)).and_then(|o| o.correct) {
        *sum = (sum.0 + usize::from(right), sum.1 + 1);
    }
}

/// A row's values of all keys. A row with two marks is counted under each.
fn combinations(keys: &[(Key, Option<f64>)], loaded: &Loaded, at: usize) -> Vec<Values> {
    let mut all: Vec<Values> = vec![Vec::with_capacity(keys.len())];
    for (key, width) in keys {
        let mut values: Values = Vec::new();
        key.each(loaded, at, &mut |value| {
            values.push(match width {
                Some(width) => number(value).map(|n| bin_of(n, *width).to_string().into()),
                None => Some(value.into()),
            });
        });
        if values.is_empty() {
            values.push(None);
        }
        all = all
            .into_iter()
            .flat_map(|before| {
                values.iter().map(move |value| before.iter().chain([value]).cloned().collect::<Values>())
            })
            .collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_its_empty_bins() {
        let group = |value: Option<&str>, rows| Group {
            values: vec![value.map(str::to_owned)],
            rows,
            ..Group::default()
        };
        let told = |groups: Vec<Group>| -> Vec<(String, usize)> {
            groups.into_iter().map(|g| (g.values[0].clone().unwrap_or_default(), g.rows)).collect()
        };
        let found = vec![group(Some("-0.05"), 2), group(Some("0.1"), 1), group(None, 4)];
        let want = [("-0.05", 2), ("0", 0), ("0.05", 0), ("0.1", 1), ("", 4)];
        assert_eq!(told(with_gaps(found, 0.05)), want.map(|(v, n)| (v.to_owned(), n)));
        let far = vec![group(Some("0"), 1), group(Some("1000000"), 1)];
        assert_eq!(told(with_gaps(far, 1.0)).len(), 2, "one that is far away makes no million of lines");
    }
}
