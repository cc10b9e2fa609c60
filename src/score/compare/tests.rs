use super::super::aggregate::tests::outcome;
use super::*;
use proptest::prelude::*;

mod references;
mod simulated;

fn run(a: &[Outcome], b: &[Outcome], metric: &str) -> Comparison {
    let metric = Metric::comparable(metric).unwrap();
    let side = |name, outcomes| Side { name, outcomes };
    let input = |row: &str| format!("text of {row}");
    let about = About { input: &input, group: None, part: &BTreeMap::new(), seed: 7, whole: true };
    compare(side("a", a), side("b", b), &metric, &about)
}

/// Strata by their names, row by row.
fn coded<'a>(strata: &[&'a str]) -> (Vec<&'a str>, Vec<u32>) {
    let mut names = strata.to_vec();
    names.sort_unstable();
    names.dedup();
    let of = strata.iter().map(|s| names.binary_search(s).unwrap() as u32).collect();
    (names, of)
}

fn answers(all: &[(&str, &str)]) -> Vec<Outcome> {
    all.iter().enumerate().map(|(i, (gold, out))| outcome(&i.to_string(), gold, out, true)).collect()
}

#[test]
fn flips_are_told_apart_and_regressions_come_first() {
    let a = answers(&[("x", "y"), ("x", "x"), ("x", "y"), ("x", "y"), ("x", "x")]);
    let b = answers(&[("x", "x"), ("x", "y"), ("x", "z"), ("x", "y"), ("x", "x")]);
    let got = run(&a, &b, "accuracy");
    assert_eq!((got.n, got.fixed, got.regressed, got.churned), (5, 1, 1, 1));
    assert_eq!((got.a, got.b, got.delta, got.p_value), (0.4, 0.4, 0.0, 1.0));
    let kinds: Vec<_> = got.flips.iter().map(|f| (f.flip, f.row.as_str())).collect();
    assert_eq!(kinds, [(FlipKind::Regressed, "1"), (FlipKind::Fixed, "0"), (FlipKind::Churned, "2")]);
    assert_eq!((got.flips[0].input.as_str(), got.flips[0].b.as_str()), ("text of 1", "y"));
    assert_eq!(got.test, MCNEMAR);
}

#[test]
fn only_rows_at_the_same_content_are_compared() {
    let a = answers(&[("x", "x"), ("x", "x"), ("x", "x")]);
    let mut b = answers(&[("x", "x"), ("x", "y")]);
    b[1].row_hash = "edited".into();
    assert_eq!(run(&a, &b, "accuracy").n, 1);
    assert_eq!(run(&a, &[], "accuracy").n, 0);
    assert_eq!(run(&a, &[], "accuracy").p_value, 1.0);
}

#[test]
fn a_row_answered_again_counts_once_with_its_last_answer() {
    let a = answers(&[("x", "x")]);
    let mut b = answers(&[("x", "y"), ("x", "x")]);
    b[1].row = "0".into();
    b[1].row_hash = "hash-0".into();
    let got = run(&a, &b, "accuracy");
    assert_eq!((got.n, got.regressed), (1, 0));
}

#[test]
fn where_lower_is_better_fixed_means_lower() {
    let mut a = answers(&[("x", "x"), ("x", "x")]);
    let b = a.clone();
    a[0].stages[0].format_ok = false;
    let got = run(&a, &b, "format_error_rate");
    assert_eq!((got.fixed, got.regressed, got.delta), (1, 0, -0.5));
    assert!(got.ci95[0] < -0.5 && got.ci95[1] > -0.5, "{:?}", got.ci95);
}

#[test]
fn graded_scores_go_through_the_bootstrap() {
    let graded = |shift: f64| {
        let mut all = answers(&[("x", "x"); 40]);
        for (i, o) in all.iter_mut().enumerate() {
            o.scores.insert("json_fields".into(), (0.2 + shift + 0.01 * (i % 7) as f64 * shift).min(1.0));
        }
        all
    };
    let got = run(&graded(0.0), &graded(0.3), "json_fields");
    assert_eq!((got.test.as_str(), got.fixed, got.needed), (BOOTSTRAP, 0, 0));
    assert!(got.p_value < 0.01 && got.ci95[0] > 0.29 && got.ci95[1] < 0.33, "{got:?}");
    let tokens = run(&graded(0.0), &graded(0.0), "tokens_out");
    assert_eq!((tokens.test.as_str(), tokens.delta, tokens.p_value), (BOOTSTRAP, 0.0, 1.0));
}

#[test]
fn strata_are_listed_with_the_worst_loss_first() {
    let mut a = answers(&[("x", "x"), ("x", "y"), ("x", "x")]);
    let mut b = answers(&[("x", "y"), ("x", "x"), ("x", "x")]);
    for (i, name) in [Some("north"), Some("south"), None].into_iter().enumerate() {
        a[i].stratum = name.map(str::to_owned);
        b[i].stratum = name.map(str::to_owned);
    }
    let got = run(&a, &b, "accuracy");
    let lines: Vec<_> = got.strata.iter().map(|s| (s.stratum.as_str(), s.n, s.a, s.b)).collect();
    assert_eq!(lines, [("north", 1, 1.0, 0.0), (NO_STRATUM, 1, 1.0, 1.0), ("south", 1, 0.0, 1.0)]);
}

proptest! {
    #[test]
    fn swapping_the_sides_mirrors_everything(flags in prop::collection::vec((any::<bool>(), any::<bool>()), 0..60)) {
        let side = |pick: &dyn Fn(&(bool, bool)) -> bool| {
            answers(&flags.iter().map(|f| ("x", if pick(f) { "x" } else { "y" })).collect::<Vec<_>>())
        };
        let (a, b) = (side(&|f| f.0), side(&|f| f.1));
        let (there, back) = (run(&a, &b, "accuracy"), run(&b, &a, "accuracy"));
        prop_assert_eq!((there.fixed, there.regressed, there.churned), (back.regressed, back.fixed, back.churned));
        prop_assert_eq!(there.p_value, back.p_value);
        prop_assert!((there.delta + back.delta).abs() < 1e-12);
        prop_assert!((there.ci95[0] + back.ci95[1]).abs() < 1e-9);
    }
}

/// Rows of two customers, and one without.
#[test]
fn rows_of_one_group_are_one_cluster() {
    let a = answers(&[("x", "y"); 7]);
    let b = answers(&[("x", "x"); 7]);
    let input = |_: &str| String::new();
    let group = |row: &str| {
        ["ann", "ann", "ann", "bob", "bob", "bob"].get(row.parse::<usize>().unwrap()).map(|g| (*g).to_owned())
    };
    let about = About {
        input: &input,
        group: Some(("customer", &group)),
        part: &BTreeMap::new(),
        seed: 7,
        whole: true,
    };
    let metric = Metric::comparable("accuracy").unwrap();
    let got = compare(Side { name: "a", outcomes: &a }, Side { name: "b", outcomes: &b }, &metric, &about);
    assert_eq!(got.clusters, Some(Clusters { clusters: 3, by: "customer".into() }));
    // Three clusters, all for B: 2 of 8 sign patterns; seven rows alone would say 2 of 128.
    assert_eq!((got.test.as_str(), got.p_value, got.fixed), (CLUSTERED_MCNEMAR, 0.25, 7));
    assert_eq!(got.needed, 3, "2 of 64 is below 0.05");
    assert!(got.ci95[0] < 0.7, "three clusters do not prove that it is always better: {:?}", got.ci95);
}

#[test]
fn samples_of_one_row_are_one_cluster() {
    let mut a = answers(&[("x", "y"); 12]);
    let mut b = answers(&[("x", "x"); 12]);
    for side in [&mut a, &mut b] {
        for (i, o) in side.iter_mut().enumerate() {
            (o.row, o.row_hash, o.sample) = ((i / 2).to_string(), "same".into(), (i % 2) as u32);
        }
    }
    let got = run(&a, &b, "accuracy");
    assert_eq!((got.n, got.clusters.unwrap()), (12, Clusters { clusters: 6, by: "row".into() }));
    assert_eq!(got.p_value, 2.0 / 64.0);
    let graded = run(&a, &b, "tokens_out");
    assert_eq!((graded.test.as_str(), graded.p_value), (CLUSTER_BOOTSTRAP, 1.0));
}

#[test]
fn strata_count_as_much_as_in_the_eval_part() {
    // North (all fixed) has 10 of 14 compared rows, but one fifth of the eval part.
    let mut a = answers(&[("x", "y"); 14]);
    let mut b = answers(&[("x", "x"); 14]);
    for (i, (a, b)) in a.iter_mut().zip(&mut b).enumerate() {
        let north = i < 10;
        a.stratum = Some(if north { "north" } else { "south" }.into());
        b.stratum.clone_from(&a.stratum);
        if !north && i != 13 {
            b.scores.insert("accuracy".into(), 0.0);
        }
    }
    let part = BTreeMap::from([("north".to_owned(), 20), ("south".to_owned(), 80)]);
    let input = |_: &str| String::new();
    let about = About { input: &input, group: None, part: &part, seed: 7, whole: true };
    let metric = Metric::comparable("accuracy").unwrap();
    let got = compare(Side { name: "a", outcomes: &a }, Side { name: "b", outcomes: &b }, &metric, &about);
    let stratified = got.stratified.unwrap();
    assert!((stratified.delta - (0.2 + 0.8 / 4.0)).abs() < 1e-12, "{stratified:?}");
    assert_eq!((stratified.strata, stratified.covered), (2, 1.0));
    assert!((got.delta - 11.0 / 14.0).abs() < 1e-12);
}

#[test]
fn of_many_candidates_the_adjusted_p_decides() {
    let mut all: Vec<Comparison> =
        [0.04, 0.3, 0.001].map(|p_value| Comparison { p_value, ..Comparison::default() }).to_vec();
    assert!(all[0].is_significant());
    adjust(&mut all);
    let got: Vec<_> = all.iter().map(|c| (c.deciding_p(), c.is_significant())).collect();
    assert_eq!(got, [(0.08, false), (0.3, false), (0.003, true)]);
}

proptest! {
    #[test]
    fn clusters_of_one_row_are_mcnemars_test(fixed in 0..60usize, regressed in 0..60usize, same in 0..9usize) {
        let mut sums = vec![1; fixed];
        sums.extend(vec![-1; regressed]);
        sums.extend(vec![0; same]);
        let (got, want) = (clustered_mcnemar(&sums, 0), super::super::stats::mcnemar_exact(fixed, regressed));
        prop_assert!((got - want).abs() <= 1e-9 * want, "{} {}", got, want);
        let more = clustered_mcnemar(&sums, 3);
        let want = super::super::stats::mcnemar_exact(fixed + 3, regressed);
        prop_assert!((more - want).abs() <= 1e-9 * want);
    }

    #[test]
    fn holm_never_lowers_a_p_and_keeps_their_order(p_values in prop::collection::vec(0.0..1.0, 0..12)) {
        let adjusted = holm(&p_values);
        for (i, p) in p_values.iter().enumerate() {
            prop_assert!(adjusted[i] >= *p && adjusted[i] <= 1.0);
            for (j, q) in p_values.iter().enumerate() {
                prop_assert!(p > q || adjusted[i] <= adjusted[j], "{} {}", i, j);
            }
        }
    }
}

/// Who scores what and in which order, for pairing.
fn scored(rows: &[(u8, u8, bool, u8)]) -> Vec<Outcome> {
    let one = |(row, hash, right, stratum): &(u8, u8, bool, u8)| Outcome {
        row: format!("r{row}"),
        row_hash: format!("h{hash}"),
        stratum: (*stratum > 0).then(|| format!("s{stratum}")),
        output: format!("{}", u32::from(*stratum) + 7 * u32::from(*row)),
        scores: [("accuracy".to_owned(), f64::from(u8::from(*right)))].into(),
        ..Outcome::default()
    };
    rows.iter().map(one).collect()
}

proptest! {
    /// Pairing over columns is what a table of rows would say, in whatever order and however often rows stand there.
    #[test]
    fn rows_are_paired_by_id_and_content(
        a in prop::collection::vec((0..6u8, 0..2u8, any::<bool>(), 0..3u8), 0..14),
        b in prop::collection::vec((0..6u8, 0..2u8, any::<bool>(), 0..3u8), 0..14),
        same in any::<bool>(),
    ) {
        let (a, mut b) = (scored(&a), scored(&b));
        if same {
            // The other way of pairing: the same rows in one order.
            b.clone_from(&a);
            b.iter_mut().step_by(2).for_each(|o| o.output.push('!'));
        }
        let got = run(&a, &b, "accuracy");
        let last = |all: &[Outcome]| -> Vec<Outcome> {
            let mut kept: Vec<Outcome> = Vec::new();
            for o in all {
                kept.retain(|k| k.row != o.row);
                kept.push(o.clone());
            }
            kept
        };
        let (a, b) = (last(&a), last(&b));
        let mut flips = Vec::new();
        let mut n = 0;
        for o in &b {
            let Some(other) = a.iter().find(|k| k.row == o.row && k.row_hash == o.row_hash) else { continue };
            n += 1;
            let right = |o: &Outcome| o.scores["accuracy"] == 1.0;
            let flip = match (right(other), right(o)) {
                (true, false) => FlipKind::Regressed,
                (false, true) => FlipKind::Fixed,
                (false, false) if other.output != o.output => FlipKind::Churned,
                _ => continue,
            };
            let stratum = o.stratum.clone().or_else(|| other.stratum.clone());
            flips.push((flip as usize, o.row.clone(), stratum, other.output.clone(), o.output.clone()));
        }
        let order = |kind: FlipKind| [1, 0, 2][kind as usize];
        flips.sort_by_key(|f| [1, 0, 2][f.0]);
        prop_assert_eq!(got.n, n);
        let found: Vec<_> = got.flips.iter().map(|f| (f.flip as usize, f.row.clone(), f.stratum.clone(), f.a.clone(), f.b.clone())).collect();
        prop_assert_eq!(found, flips);
        prop_assert!(got.flips.is_sorted_by_key(|f| order(f.flip)));
        prop_assert_eq!(got.strata.iter().map(|s| s.n).sum::<usize>(), if got.strata.is_empty() { 0 } else { n });
    }
}
