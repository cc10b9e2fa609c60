use super::super::aggregate::tests::{candidate, outcome};
use super::*;
use proptest::prelude::*;

fn accuracy() -> Metric {
    Metric::find("accuracy").unwrap()
}

fn goal(metric: &str, limit: f64) -> Goal {
    Goal { metric: metric.into(), want: Want::AtMost(limit) }
}

/// Four rows, three right; three of them timed.
fn timed() -> Vec<Outcome> {
    let mut all = vec![
        outcome("1", "a", "a", true),
        outcome("2", "a", "b", true),
        outcome("3", "b", "b", true),
        outcome("4", "b", "b", true),
    ];
    for (o, ms) in all.iter_mut().zip([36.0, 36.0, 100.0]) {
        o.latency_ms = Some(ms);
        o.stages[0].ms = ms;
        o.stages[0].ttft_ms = 20.0;
    }
    all
}

fn of(all: &[Outcome], candidate: &Candidate, goals: &[Goal], rows_per_s: Option<f64>) -> Trilemma {
    let scored: Vec<&Outcome> = all.iter().collect();
    measure(candidate, &scored, &accuracy(), goals, Known { rows_per_s, training: None })
}

#[test]
fn what_was_not_measured_is_none_and_never_nought() {
    let t = of(&[], &candidate("x"), &[goal("latency_p95_ms", 50.0)], None);
    assert_eq!(
        t,
        Trilemma { cost: Cost { unpriced: vec!["base".into()], ..Cost::default() }, ..Trilemma::default() }
    );
    // A price and nobody's time or tokens.
    let mut c = candidate("x");
    (c.stages[0].model.usd_per_hour, c.stages[0].model.usd_per_million_input) = (Some(3.6), Some(1.0));
    let t = of(&[], &c, &[], None);
    assert_eq!((t.cost.usd_per_1k, t.cost.tokens_usd_per_1k, t.cost.machine_usd_per_1k), (None, None, None));
    // Tokens are known, time is not: the sum is not.
    let t = of(&[outcome("1", "a", "a", true)], &c, &[], None);
    assert_eq!((t.cost.usd_per_1k, t.cost.tokens_usd_per_1k), (None, Some(0.1)));
}

#[test]
fn a_machine_costs_its_seconds_and_many_rows_at_once_take_fewer() {
    let mut c = candidate("x");
    c.stages[0].model.usd_per_hour = Some(3.6);
    let alone = of(&timed(), &c, &[], None).cost;
    // Mean (36 + 36 + 100) / 3 ms at 3.6 $ an hour is 0.001 $ a second.
    assert!((alone.machine_s_per_row.unwrap() - 0.172 / 3.0).abs() < 1e-12);
    assert!((alone.usd_per_1k.unwrap() - 0.172 / 3.0).abs() < 1e-12);
    let batched = of(&timed(), &c, &[], Some(100.0)).cost;
    assert!((batched.usd_per_1k.unwrap() - 0.01).abs() < 1e-12);
    let m = month(&batched, 1_000_000);
    // 10,000 s: 2.78 h at 3.6 $; the machine stands there 730.5 h all the same.
    assert!((m.usd.unwrap() - 10.0).abs() < 1e-9, "{m:?}");
    assert_eq!(m.machines, Some(1));
    assert!((m.usd_always_on.unwrap() - 3.6 * HOURS_A_MONTH).abs() < 1e-9);
    let many = month(&batched, 1_000_000_000);
    assert_eq!(many.machines, Some(4), "{:?} hours", many.machine_hours);
}

#[test]
fn a_model_without_a_price_leaves_the_cost_open_and_is_named() {
    let mut c = candidate("x");
    let mut second = c.stages[0].clone();
    second.name = "second".into();
    second.model.name = "free".into();
    c.stages[0].model.usd_per_million_input = Some(2.0);
    c.stages.push(second);
    let cost = of(&timed(), &c, &[], None).cost;
    assert_eq!((cost.usd_per_1k, &cost.unpriced[..]), (None, &["free".to_owned()][..]));
    assert_eq!(month(&cost, 1000).usd, None);
    assert_eq!(month(&cost, 1000).usd_always_on, None);
}

#[test]
fn goodput_counts_rows_that_are_right_and_in_time() {
    let goals =
        [goal("latency_p50_ms", 1.0), goal("latency_p95_ms", 50.0), goal("route.latency_p99_ms", 2.0)];
    let good = of(&timed(), &candidate("x"), &goals, Some(30.0)).goodput.unwrap();
    // Of three timed rows one is wrong and one is late.
    assert_eq!((good.n, good.good, good.limit_ms), (3, 1, 50.0));
    assert_eq!((good.ci95, good.per_s), (stats::wilson(1, 3), Some(10.0)));
    assert_eq!(of(&timed(), &candidate("x"), &[], None).goodput, None);
}

#[test]
fn the_first_token_waits_for_the_stages_before_the_last() {
    let mut all = timed();
    for o in &mut all {
        let mut second = o.stages[0].clone();
        (second.stage, second.ms, second.ttft_ms) = ("answer".into(), 30.0, 10.0);
        o.stages.push(second);
        o.latency_ms = o.latency_ms.map(|ms| ms + 30.0);
    }
    let t = of(&all, &candidate("x"), &[], None).ttft_ms.unwrap();
    assert_eq!((t.p50, t.p99 > 100.0), (46.0, true), "36 of the first stage, 10 of the second");
}

fn row(name: &str, quality: Option<f64>, p95: Option<f64>, usd: Option<f64>) -> BoardRow {
    let mut row = BoardRow { candidate: name.into(), id: name.into(), n: 100, ..BoardRow::default() };
    row.metrics.extend(quality.map(|q| ("accuracy".to_owned(), q)));
    row.latency_ms = p95.map(|p95| Percentiles { p50: p95, p90: p95, p95, p99: p95 });
    row.trilemma.cost.usd_per_1k = usd;
    row
}

fn board(rows: Vec<BoardRow>) -> Board {
    let mut board = Board { primary: "accuracy".into(), eval_rows: 100, rows, ..Board::default() };
    pareto(&mut board);
    board
}

fn places(board: &Board) -> Vec<String> {
    let place = |r: &BoardRow| match &r.trilemma.pareto {
        Pareto::Front => "front".to_owned(),
        Pareto::Dominated { by } => format!("by {by}"),
        Pareto::Open { missing } => format!("open {}", missing.join(" ")),
    };
    board.rows.iter().map(place).collect()
}

#[test]
fn who_is_dominated_is_told_by_whom() {
    let b = board(vec![
        row("slow and good", Some(0.9), Some(100.0), Some(1.0)),
        row("quick and dear", Some(0.8), Some(10.0), Some(2.0)),
        row("worse everywhere", Some(0.7), Some(200.0), Some(3.0)),
        row("its equal", Some(0.9), Some(100.0), Some(1.0)),
        row("no price", Some(0.1), Some(900.0), None),
        row("not scored", None, None, None),
        row("nan", Some(f64::NAN), Some(1.0), Some(0.1)),
    ]);
    assert_eq!(
        places(&b),
        [
            "front",
            "front",
            "by slow and good",
            "front",
            "open usd_per_1k",
            "open accuracy latency_p95_ms usd_per_1k",
            "open accuracy"
        ]
    );
    assert_eq!(b.axes, ["accuracy", LATENCY, COST]);
}

#[test]
fn an_axis_of_which_nothing_is_known_does_not_count() {
    let b = board(vec![row("a", Some(0.9), Some(5.0), None), row("b", Some(0.8), Some(6.0), None)]);
    assert_eq!(b.axes, ["accuracy", LATENCY]);
    assert_eq!(places(&b), ["front", "by a"]);
    assert_eq!(board(vec![]).axes, [""; 0]);
}

#[test]
fn one_right_row_of_one_dominates_nobody() {
    let mut lucky = row("lucky", Some(1.0), Some(1.0), Some(0.1));
    lucky.n = 1;
    let b = board(vec![lucky, row("honest", Some(0.9), Some(2.0), Some(0.2))]);
    assert_eq!(places(&b), ["open accuracy", "front"]);
}

fn trained(name: &str, usd: Option<f64>, per_hour: Option<f64>) -> BoardRow {
    let mut row = row(name, Some(0.9), Some(10.0), usd);
    row.trilemma.training = Some(Training { run: "train-1".into(), hours: 2.0, usd_per_hour: per_hour });
    row
}

#[test]
fn training_pays_after_its_price_over_the_saving() {
    let mut b = board(vec![
        row("called", Some(0.8), Some(10.0), Some(1.5)),
        row("dearer and worse", Some(0.5), Some(10.0), Some(9.0)),
        trained("lora", Some(0.5), Some(3.0)),
        trained("free machine", Some(0.5), None),
        trained("dear", Some(1.5), Some(3.0)),
        trained("unknown", None, Some(3.0)),
    ]);
    at_volume(&mut b, Some(3000), None).unwrap();
    let of = |at: usize| b.rows[at].trilemma.break_even.clone();
    assert_eq!(of(0), None, "was not trained");
    // 6 $ over 1 $ saved per 1,000.
    let paid = of(2).unwrap();
    assert_eq!((paid.against.as_str(), paid.rows, paid.months), ("called", Some(6000), Some(2.0)));
    let free = of(3).unwrap();
    assert_eq!((free.rows, free.training_usd), (Some(0), None));
    assert!(free.note.contains("count as 0"), "{}", free.note);
    assert!(of(4).unwrap().rows.is_none() && of(4).unwrap().note.starts_with("never"));
    assert!(of(5).unwrap().note.starts_with("not known"), "{:?}", of(5));
    assert_eq!(b.rows[0].trilemma.month.map(|m| m.usd), Some(Some(4.5)));
    assert!(at_volume(&mut b, None, Some("nobody")).is_err());
    at_volume(&mut b, None, Some("dearer and worse")).unwrap();
    assert_eq!(b.rows[2].trilemma.break_even.as_ref().unwrap().saving_usd_per_1k, Some(8.5));
    assert_eq!(b.rows[0].trilemma.month, None);
}

proptest! {
    /// By the definition, pair by pair.
    #[test]
    fn the_front_is_who_nobody_dominates(
        all in proptest::collection::vec((0_u8..4, 0_u8..4, proptest::option::of(0_u8..4)), 0..40)
    ) {
        let value = |v: u8| Some(f64::from(v));
        let rows = all.iter().enumerate().map(|(i, (q, l, c))| {
            row(&format!("c{i}"), value(*q), value(*l), c.and_then(value))
        });
        let b = board(rows.collect());
        let cost = b.axes.iter().any(|a| a == COST);
        for (i, x) in all.iter().enumerate() {
            let dominated = all.iter().any(|y| {
                let known = !cost || (x.2.is_some() && y.2.is_some());
                let (cx, cy) = (x.2.unwrap_or(0), y.2.unwrap_or(0));
                known && y.0 >= x.0 && y.1 <= x.1 && cy <= cx && (y.0, y.1, cy) != (x.0, x.1, cx)
            });
            let placed = !cost || x.2.is_some();
            match &b.rows[i].trilemma.pareto {
                Pareto::Open { .. } => prop_assert!(!placed),
                Pareto::Front => prop_assert!(placed && !dominated),
                Pareto::Dominated { by } => {
                    prop_assert!(placed && dominated);
                    let other = b.rows.iter().find(|r| r.candidate == *by).unwrap();
                    prop_assert_eq!(&other.trilemma.pareto, &Pareto::Front);
                }
            }
        }
    }
}
