//! The nearest rows of each row by the built-in embedder, kept with the index.
//!
//! Up to [`ALL_PAIRS`] rows each is held against all. Beyond, rows are put into lists around centroids, and each list is held against the
//! [`PROBES`] lists whose centroids are nearest to its own (an inverted file: Jégou, Douze and Schmid 2011, "Product quantization for
//! nearest neighbor search", section IV).
//!
//! In memory: 128 bytes a row (64 numbers of 16 bits) and 4 for its list, 132 MB of a million rows.

use std::sync::Arc;

use half::f16;
use rayon::prelude::*;

use crate::data::{Column, DataError, Dataset, Of};
use crate::embed::{Embedder, Vectors, dot};
use crate::strata::kmeans;

const VERSION: u32 = 2;
/// Neighbours of each row.
pub const NEIGHBOURS: usize = 10;
const ALL_PAIRS: usize = 4_096;
const PROBES: usize = 8;
/// Centroids are found among so many rows.
const SAMPLE: usize = 16_384;
/// The embedder is fitted on so many rows.
const FIT: usize = 20_000;
const WINDOW: usize = 8_192;
const SEED: u64 = 7;
/// Of a cosine as it is kept.
const PRECISION: f32 = 1000.0;

/// What was kept, or found now. `tell` is told how many rows have a vector, which is most of the work.
///
/// # Errors
/// Data that has changed meanwhile.
pub fn of(data: &Dataset, tell: &dyn Fn(usize)) -> Result<Arc<Column>, DataError> {
    let name = format!("neighbours {VERSION} {NEIGHBOURS}");
    if let Some(kept) = data.found(&name) {
        return Ok(kept);
    }
    let inputs = data.columns(&[Of::Input])?;
    let text = |at: usize| inputs.first().and_then(|inputs| inputs.get(at)).unwrap_or_default();
    let found = find(data.len(), &text, tell);
    let line = |near: &[(u32, f32)]| {
        let places: Vec<String> =
            near.iter().map(|(at, cosine)| format!("{at}:{:.0}", cosine * PRECISION)).collect();
        (!places.is_empty()).then(|| places.join(" "))
    };
    data.keep(&name, found.iter().map(|near| line(near)))
}

/// Places of a row's neighbours with their cosines to a thousandth, the nearest first.
pub fn read(kept: &Column, at: usize) -> Vec<(u32, f32)> {
    let one = |text: &str| {
        let (at, cosine) = text.split_once(':')?;
        Some((at.parse().ok()?, cosine.parse::<f32>().ok()? / PRECISION))
    };
    kept.get(at).into_iter().flat_map(|line| line.split(' ')).filter_map(one).collect()
}

/// The neighbours of each of `n` texts, the nearest first. A text that shares nothing with the others has none.
fn find<'t>(
    n: usize,
    text: &(dyn Fn(usize) -> &'t str + Sync),
    tell: &dyn Fn(usize),
) -> Vec<Vec<(u32, f32)>> {
    let spread = |count: usize| {
        let count = count.min(n);
        (0..count).map(move |i| i * n / count.max(1))
    };
    let sample: Vec<&str> = spread(FIT).map(text).collect();
    let embedder = Embedder::fit(&sample, SEED);
    let dimensions = embedder.dimensions();
    let mut data: Vec<f16> = Vec::with_capacity(n * dimensions);
    for window in (0..n).step_by(WINDOW) {
        tell(window);
        let texts: Vec<&str> = (window..n.min(window + WINDOW)).map(text).collect();
        data.extend(embedder.embed(&texts).data.into_iter().map(f16::from_f32));
    }
    let vectors = Half { dimensions, data };
    if n <= ALL_PAIRS {
        let all: Vec<u32> = (0..n as u32).collect();
        return search(&vectors, &all, &all);
    }
    let lists = (n as f64).sqrt() as usize;
    let places: Vec<u32> = spread(SAMPLE).map(|at| at as u32).collect();
    let centroids = kmeans::full(&vectors.unpacked(&places), lists, 4, SEED).centroids;
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); centroids.len()];
    for window in (0..n).step_by(WINDOW) {
        let places: Vec<u32> = (window as u32..n.min(window + WINDOW) as u32).collect();
        let (assigned, _) = kmeans::assign(&vectors.unpacked(&places), &centroids);
        for (place, list) in places.into_iter().zip(assigned) {
            members[list].push(place);
        }
    }
    let found: Vec<(u32, Vec<(u32, f32)>)> = (0..members.len())
        .into_par_iter()
        .flat_map_iter(|list| {
            let own = centroids.row(list);
            let mut near: Vec<(f32, usize)> = (0..centroids.len())
                .map(|other| (kmeans::squared_distance(own, centroids.row(other)), other))
                .collect();
            near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let among: Vec<u32> =
                near.iter().take(PROBES).flat_map(|(_, other)| members[*other].iter().copied()).collect();
            let found = search(&vectors, &members[list], &among);
            members[list].clone().into_iter().zip(found)
        })
        .collect();
    let mut all = vec![Vec::new(); n];
    for (at, near) in found {
        all[at as usize] = near;
    }
    all
}

/// Vectors of length 1 in half precision.
struct Half {
    dimensions: usize,
    data: Vec<f16>,
}

impl Half {
    fn unpacked(&self, places: &[u32]) -> Vectors {
        let row = |at: &u32| {
            let from = *at as usize * self.dimensions;
            self.data[from..from + self.dimensions].iter().map(|x| x.to_f32())
        };
        Vectors { dimensions: self.dimensions, data: places.iter().flat_map(row).collect() }
    }
}

/// For each of `places` its nearest of `among`, without itself.
fn search(vectors: &Half, places: &[u32], among: &[u32]) -> Vec<Vec<(u32, f32)>> {
    let others = vectors.unpacked(among);
    let own = vectors.unpacked(places);
    places
        .par_iter()
        .enumerate()
        .map(|(i, place)| {
            let vector = own.row(i);
            // The nearest so far, the least near last.
            let mut near: Vec<(f32, u32)> = Vec::with_capacity(NEIGHBOURS + 1);
            for (other, at) in others.rows().zip(among) {
                let cosine = dot(vector, other);
                if at == place
                    || cosine <= 0.0
                    || near.len() == NEIGHBOURS && near.last().is_some_and(|l| l.0 >= cosine)
                {
                    continue;
                }
                let to = near.partition_point(|(known, _)| *known >= cosine);
                near.insert(to, (cosine, *at));
                near.truncate(NEIGHBOURS);
            }
            near.into_iter().map(|(cosine, at)| (at, cosine)).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(n: usize) -> Vec<String> {
        const ABOUT: [&str; 6] = [
            "card arrival delivery late",
            "refund money back purchase",
            "app crash login error",
            "transfer abroad pending euro",
            "address change moved house",
            "exchange rate wrong dollar",
        ];
        (0..n).map(|i| format!("{} {} {}", ABOUT[i % 6], i / 6 % 37, i % 11)).collect()
    }

    #[test]
    fn neighbours_speak_of_the_same_and_lists_find_nearly_all_of_them() {
        let texts = texts(ALL_PAIRS + 904);
        let found = find(texts.len(), &|at| texts[at].as_str(), &|_| {});
        let mut same = 0;
        for (at, near) in found.iter().enumerate() {
            assert_eq!(near.len(), NEIGHBOURS, "{at}");
            assert!(near.iter().all(|(other, _)| *other as usize != at));
            same += near.iter().filter(|(other, _)| *other as usize % 6 == at % 6).count();
        }
        assert!(same * 100 >= texts.len() * NEIGHBOURS * 99, "{same}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| find(texts.len(), &|at| texts[at].as_str(), &|_| {})), found);
    }

    #[test]
    fn tiny_and_empty_data_are_no_trouble() {
        for texts in [vec![], vec![""], vec!["one"], vec!["same", "same"], vec!["", "", "a b"]] {
            let found = find(texts.len(), &|at| texts[at], &|_| {});
            assert_eq!(found.len(), texts.len());
            assert!(found.iter().enumerate().all(|(at, near)| near.iter().all(|(o, _)| *o as usize != at)));
        }
    }
}
