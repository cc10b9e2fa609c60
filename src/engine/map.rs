//! The map of the newest strata, coloured by any key.

use std::collections::HashMap;

use super::filter::Finder;
use super::rows;
use super::state::{Engine, bad_input};
use crate::domain::api::Failure;
use crate::domain::count::{bin_of, bins};
use crate::domain::filter::number;
use crate::domain::map::{Dot, GROUPS_MAX, Layout, MapView};

/// Where a row without a value belongs, and those whose value is none of the most common.
const NONE: &str = "(none)";
const REST: &str = "(others)";

/// The map of the rows, told apart by `by`: a key, or one in bins.
///
/// # Errors
/// No strata yet, or no such key.
pub fn map(engine: &Engine, by: &str, layout: Layout) -> Result<MapView, Failure> {
    let (_, loaded) = rows::shown(engine)?;
    let Some(strata) = &loaded.strata else {
        return Err(bad_input("the map comes with the strata; `tunebench strata build`"));
    };
    let (written, width) = bins(by);
    let key = Finder::new(engine, &loaded).key(written)?;
    let near = layout == Layout::Neighbours && strata.points.iter().all(|p| p.near.is_some());
    let mut dots = Vec::new();
    let mut values: Vec<String> = Vec::new();
    for point in &strata.points {
        // A row that is gone since has no place.
        let Some(at) = loaded.dataset.find(&point.row) else { continue };
        let mut value = None;
        key.each(&loaded, at, &mut |v| {
            value.get_or_insert_with(|| match width {
                Some(width) => number(v).map_or(NONE.to_owned(), |n| bin_of(n, width).to_string()),
                None => v.to_owned(),
            });
        });
        let (x, y) = if near { point.near.unwrap_or((point.x, point.y)) } else { (point.x, point.y) };
        dots.push(Dot { row: point.row.clone(), x, y, group: 0 });
        values.push(value.filter(|v| !v.is_empty()).unwrap_or_else(|| NONE.to_owned()));
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for value in &values {
        *counts.entry(value).or_default() += 1;
    }
    let mut common: Vec<(&str, usize)> = counts.into_iter().collect();
    common.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let rest: usize = common.iter().skip(GROUPS_MAX).map(|(_, n)| n).sum();
    common.truncate(GROUPS_MAX);
    for (dot, value) in dots.iter_mut().zip(&values) {
        dot.group = common.iter().position(|(name, _)| name == value).unwrap_or(GROUPS_MAX);
    }
    let name = |name: &str| rows::cut(name, 60).into_owned();
    let mut groups: Vec<(String, usize)> = common.iter().map(|(n, count)| (name(n), *count)).collect();
    if rest > 0 {
        groups.push((REST.to_owned(), rest));
    }
    let [principal, neighbours] = strata.trust.map_or([None; 2], |t| t.map(Some));
    Ok(MapView {
        by: by.to_owned(),
        layout: if near { Layout::Neighbours } else { Layout::Principal },
        trust: if near { neighbours } else { principal },
        dots,
        groups,
        rows: loaded.dataset.len(),
    })
}
