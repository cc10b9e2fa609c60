//! Samples of rows: how many of each stratum, and which. What is drawn depends on seed, ids and strata, never on the order of the rows.

use std::collections::BTreeMap;

/// A row that may be drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawable<'a> {
    pub id: &'a str,
    pub stratum: &'a str,
}

/// Place in the order by lot.
pub fn lot(seed: u64, id: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(b"sample").update(id.as_bytes());
    *hasher.finalize().as_bytes()
}

/// Places of the rows of each stratum, by lot.
fn shuffled<'a>(rows: &[Drawable<'a>], seed: u64) -> BTreeMap<&'a str, Vec<usize>> {
    let mut by_stratum: BTreeMap<&str, Vec<([u8; 32], usize)>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        by_stratum.entry(row.stratum).or_default().push((lot(seed, row.id), at));
    }
    let sorted = |mut rows: Vec<([u8; 32], usize)>| {
        rows.sort_unstable();
        rows.into_iter().map(|(_, at)| at).collect()
    };
    by_stratum.into_iter().map(|(stratum, rows)| (stratum, sorted(rows))).collect()
}

/// So many rows of each stratum (all, where it has fewer); stratum by stratum, in the order of a seeded hash. More asked only adds rows.
pub fn draw(rows: &[Drawable<'_>], quota: &BTreeMap<&str, usize>, seed: u64) -> Vec<usize> {
    let of = |stratum: &str| quota.get(stratum).copied().unwrap_or(0);
    shuffled(rows, seed)
        .into_iter()
        .flat_map(|(stratum, rows)| rows.into_iter().take(of(stratum)).collect::<Vec<_>>())
        .collect()
}

/// How many of `n` rows each stratum gives by its weight, none more than it has: `min(n, sum of counts)` in all.
///
/// Hamilton's method of largest remainders; where a stratum's claim is more than it has, it gives all, and the rest is shared anew among the
/// others. Equal remainders go to the larger weight, then to the first.
pub fn apportion(strata: &[(usize, f64)], n: usize) -> Vec<usize> {
    let mut given = vec![0; strata.len()];
    let mut open: Vec<usize> = (0..strata.len()).filter(|&i| strata[i].0 > 0).collect();
    let mut left = n.min(strata.iter().map(|s| s.0).sum());
    while left > 0 && !open.is_empty() {
        let weight = |i: usize| if strata[i].1.is_finite() { strata[i].1.max(0.0) } else { 0.0 };
        let total: f64 = open.iter().map(|&i| weight(i)).sum();
        // Nobody has a claim: by size.
        let weight = |i: usize| if total > 0.0 { weight(i) } else { strata[i].0 as f64 };
        let total: f64 = open.iter().map(|&i| weight(i)).sum();
        let claim = |i: usize| left as f64 * weight(i) / total;
        let full: Vec<usize> = open.iter().copied().filter(|&i| claim(i) >= strata[i].0 as f64).collect();
        if !full.is_empty() {
            for &i in &full {
                given[i] = strata[i].0;
                left -= strata[i].0.min(left);
            }
            open.retain(|i| !full.contains(i));
            continue;
        }
        let mut rest = left;
        for &i in &open {
            given[i] = claim(i) as usize;
            rest -= given[i].min(rest);
        }
        let mut order = open.clone();
        order.sort_by(|&a, &b| {
            claim(b)
                .fract()
                .total_cmp(&claim(a).fract())
                .then(weight(b).total_cmp(&weight(a)))
                .then(a.cmp(&b))
        });
        for i in order.into_iter().filter(|&i| weight(i) > 0.0).cycle().take(rest) {
            given[i] += 1;
        }
        break;
    }
    given
}

/// The `n` rows with the highest scores, spread over the strata: the best row of each stratum first, the best of them all before the others;
/// then always the stratum with the highest sum of scores by the rows that it has given and one more, without any giving more than its share
/// of them rounded up (the quota method of Balinski and Young 1975, "The quota method of apportionment"). Where scores are equal the larger
/// stratum comes first, and rows by lot. A larger `n` only adds rows.
pub fn highest(rows: &[Drawable<'_>], scores: &[f64], n: usize, seed: u64) -> Vec<usize> {
    struct Stratum {
        /// Its rows, the best last.
        rows: Vec<usize>,
        weight: f64,
        given: usize,
        lot: [u8; 32],
    }
    let score = |at: usize| scores.get(at).copied().filter(|score| score.is_finite()).unwrap_or(0.0).max(0.0);
    let mut strata: Vec<Stratum> = shuffled(rows, seed)
        .into_iter()
        .map(|(stratum, mut rows)| {
            // By lot already: a stable sort keeps that among equals.
            rows.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
            rows.reverse();
            let weight = rows.iter().map(|at| score(*at)).sum();
            Stratum { rows, weight, given: 0, lot: lot(seed, stratum) }
        })
        .collect();
    if strata.iter().all(|s| s.weight <= 0.0) {
        for s in &mut strata {
            s.weight = s.rows.len() as f64;
        }
    }
    let best = |s: &Stratum| s.rows.last().map_or(0.0, |at| score(*at));
    strata.sort_by(|a, b| {
        best(b).total_cmp(&best(a)).then(b.weight.total_cmp(&a.weight)).then(a.lot.cmp(&b.lot))
    });
    let mut chosen: Vec<usize> = strata
        .iter_mut()
        .take(n)
        .filter_map(|s| {
            s.given = 1;
            s.rows.pop()
        })
        .collect();
    let total: f64 = strata.iter().map(|s| s.weight).sum();
    while chosen.len() < n.min(rows.len()) {
        let share = (chosen.len() + 1) as f64 / total;
        // One that has no more rows leaves its share to the others.
        let next = |within: bool| {
            strata
                .iter()
                .enumerate()
                .filter(|(_, s)| !s.rows.is_empty())
                .filter(|(_, s)| !within || s.given < (s.weight * share - 1e-9).ceil() as usize)
                .max_by(|(i, a), (j, b)| {
                    let claim = |s: &Stratum| s.weight / (s.given + 1) as f64;
                    claim(a).total_cmp(&claim(b)).then(j.cmp(i))
                })
                .map(|(i, _)| i)
        };
        let Some(next) = next(true).or_else(|| next(false)) else { break };
        strata[next].given += 1;
        chosen.extend(strata[next].rows.pop());
    }
    chosen
}

/// The first `n` rows in an order in which every stratum is spread evenly: the k-th of its m rows, by lot, stands at `(k + u) / m`, where
/// `u` is the stratum's own shift. Each stratum gives its share to within a row, and a larger `n` only adds rows.
pub fn spread(rows: &[Drawable<'_>], n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<(f64, [u8; 32], usize)> = Vec::with_capacity(rows.len());
    for (stratum, places) in shuffled(rows, seed) {
        let first = lot(seed, stratum);
        let shift = f64::from(u32::from_le_bytes([first[0], first[1], first[2], first[3]])) / 2f64.powi(32);
        let m = places.len() as f64;
        order.extend(
            places
                .into_iter()
                .enumerate()
                .map(|(k, at)| ((k as f64 + shift) / m, lot(seed, rows[at].id), at)),
        );
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    order.into_iter().take(n).map(|(.., at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn remainders_are_given_to_the_largest() {
        // Hamilton's 1792 example in small: claims 4.6, 3.3, 2.1 of 10.
        assert_eq!(apportion(&[(46, 46.0), (33, 33.0), (21, 21.0)], 10), [5, 3, 2]);
        assert_eq!(
            apportion(&[(2, 100.0), (50, 1.0), (50, 1.0)], 12),
            [2, 5, 5],
            "who has too few gives all"
        );
        assert_eq!(apportion(&[(5, 0.0), (5, 0.0)], 4), [2, 2]);
        assert_eq!(apportion(&[(5, 1.0), (5, 0.0)], 7), [5, 2]);
        assert_eq!(apportion(&[], 3), Vec::<usize>::new());
    }

    fn rows_of(sizes: &[usize]) -> Vec<(String, String)> {
        let of = |(s, n): (usize, &usize)| {
            (0..*n).map(move |i| (format!("r{s}-{i}"), format!("s{s}"))).collect::<Vec<_>>()
        };
        sizes.iter().enumerate().flat_map(of).collect()
    }

    fn drawable(rows: &[(String, String)]) -> Vec<Drawable<'_>> {
        rows.iter().map(|(id, stratum)| Drawable { id, stratum }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn counts_are_exact(strata in prop::collection::vec((0..30usize, 0.0..3.0f64), 1..9), n in 0..200usize) {
            let given = apportion(&strata, n);
            let all: usize = strata.iter().map(|s| s.0).sum();
            prop_assert_eq!(given.iter().sum::<usize>(), n.min(all));
            prop_assert!(given.iter().zip(&strata).all(|(got, (has, _))| got <= has));
            // In proportion to their sizes nobody is off by a row or more.
            let sizes: Vec<(usize, f64)> = strata.iter().map(|s| (s.0, s.0 as f64)).collect();
            for (got, (has, _)) in apportion(&sizes, n).iter().zip(&sizes) {
                let claim = n.min(all) as f64 * *has as f64 / all.max(1) as f64;
                prop_assert!((*got as f64 - claim).abs() < 1.0, "{got} of {claim}");
            }
        }

        #[test]
        fn the_highest_are_of_every_stratum_and_of_none_more_than_its_share_where_all_are_alike(
            sizes in prop::collection::vec(1..40usize, 1..9), n in 1..60usize, seed: u64,
        ) {
            let rows = rows_of(&sizes);
            let rows = drawable(&rows);
            let of = |chosen: &[usize]| -> Vec<usize> {
                let of = |s: usize| chosen.iter().filter(|&&at| rows[at].stratum == format!("s{s}")).count();
                (0..sizes.len()).map(of).collect()
            };
            let all = rows.len();
            for score in [0.0, 0.7] {
                let given = of(&highest(&rows, &vec![score; all], n, seed));
                prop_assert_eq!(given.iter().sum::<usize>(), n.min(all));
                for (given, size) in given.iter().zip(&sizes) {
                    let share = (n.min(all) * size).div_ceil(all);
                    prop_assert!(*given <= share.max(1), "{given} of a share of {share}");
                    prop_assert!(n < sizes.len() || *given >= 1);
                }
            }
            // One stratum has all the high scores: it leads, and is not alone.
            let high: Vec<f64> = rows.iter().map(|row| if row.stratum == "s0" { 3.0 } else { 0.1 }).collect();
            let chosen = highest(&rows, &high, n, seed);
            prop_assert_eq!(rows[chosen[0]].stratum, "s0");
            prop_assert!(n < sizes.len() || of(&chosen).iter().all(|given| *given >= 1));
            let mut own = chosen.iter().filter(|&&at| rows[at].stratum == "s0").count();
            own += usize::from(own < sizes[0]);
            prop_assert!(n < 2 * sizes.len() || own * 2 >= n.min(sizes[0]), "{own} of {n}");
        }

        #[test]
        fn a_draw_has_no_row_twice_is_made_again_by_its_seed_and_asks_nothing_of_the_order(
            sizes in prop::collection::vec(0..20usize, 1..6), n in 0..40usize, seed: u64,
        ) {
            let rows = rows_of(&sizes);
            let forward = drawable(&rows);
            let mut backward = forward.clone();
            backward.reverse();
            let names = |rows: &[Drawable<'_>], places: Vec<usize>| -> Vec<String> { places.iter().map(|&i| rows[i].id.to_owned()).collect() };
            let strata: Vec<String> = (0..sizes.len()).map(|s| format!("s{s}")).collect();
            let quota: BTreeMap<&str, usize> = strata.iter().map(|s| (s.as_str(), n)).collect();
            let scores = |rows: &[Drawable<'_>]| rows.iter().map(|r| (r.id.len() % 3) as f64).collect::<Vec<_>>();
            type Way<'a> = Box<dyn Fn(&[Drawable<'_>], usize) -> Vec<usize> + 'a>;
            let ways: [Way<'_>; 3] = [
                Box::new(|rows, _| draw(rows, &quota, seed)),
                Box::new(|rows, n| highest(rows, &scores(rows), n, seed)),
                Box::new(|rows, n| spread(rows, n, seed)),
            ];
            for (which, way) in ways.iter().enumerate() {
                let got = names(&forward, way(&forward, n));
                prop_assert_eq!(&got, &names(&backward, way(&backward, n)));
                prop_assert_eq!(got.iter().collect::<HashSet<_>>().len(), got.len());
                if which > 0 {
                    prop_assert_eq!(got.len(), n.min(rows.len()));
                    let more = names(&forward, way(&forward, n + 3));
                    prop_assert_eq!(&more[..got.len()], &got[..], "more asked only adds");
                } else {
                    prop_assert_eq!(got.len(), sizes.iter().map(|s| (*s).min(n)).sum::<usize>());
                }
            }
            for (s, size) in sizes.iter().enumerate() {
                let own = spread(&forward, n, seed).iter().filter(|&&i| rows[i].1 == format!("s{s}")).count();
                let claim = n.min(rows.len()) as f64 * *size as f64 / rows.len().max(1) as f64;
                prop_assert!((own as f64 - claim).abs() <= 2.0, "{own} of {claim}");
            }
        }
    }
}
