use super::*;
use crate::backend::cache::Cached;
use crate::backend::{Ask, BackendError};
use crate::domain::candidate::OutputKind;
use crate::domain::report::Control;
use crate::domain::report::notes::{After, Notes};
use crate::domain::settings::CachePlace;
use crate::pipeline::tests as scripted;

fn rows(n: usize) -> Vec<RunRow> {
    (0..n)
        .map(|i| {
            let mut row = scripted::row(&format!("r{i}"), if i % 4 == 0 { "odd" } else { "even" });
            row.gold = Some(if i % 8 < 4 { "even" } else { "odd" }.to_owned());
            row.fields.insert("own".into(), "even".into());
            row
        })
        .collect()
}

fn evaluate(
    rows: &[RunRow],
    done: &[Outcome],
    notes: &mut Notes,
    curve: bool,
    script: impl Fn(&Ask) -> Result<String, BackendError> + Clone + 'static,
) -> anyhow::Result<Scored> {
    let mut stage = scripted::stage("s", "{{ input }}", OutputKind::Label, &["even", "odd"]);
    stage.gold = Some("own".into());
    let candidate = scripted::candidate(vec![stage]);
    let settings = EvalSettings {
        metrics: ["macro_f1", "s.accuracy", "format_error_rate"].map(String::from).to_vec(),
        latency_rows: 10,
        ..EvalSettings::default()
    };
    Evaluation::new(&candidate, &settings, curve, false)?.run(
        &rows.iter().collect::<Vec<_>>(),
        done,
        &mut |candidate| Ok(scripted::scripted(candidate, script.clone()).0),
        notes,
    )
}

fn echo(ask: &Ask) -> Result<String, BackendError> {
    Ok(ask.text().to_owned())
}

#[test]
fn every_row_is_answered_once_and_scored() {
    let all = rows(100);
    let mut notes = Notes::default();
    let got = evaluate(&all, &[], &mut notes, true, echo).unwrap();
    let ids: HashSet<&str> = notes.outcomes.iter().map(|o| o.row.as_str()).collect();
    assert_eq!((ids.len(), notes.outcomes.len(), got.stopped), (100, 100, false));
    assert_eq!(notes.untraced, 0, "no outcome without its trace");
    assert_eq!(notes.outcomes.iter().filter(|o| o.latency_ms.is_some()).count(), 10);
    // r0, r8, ... say odd for even; r5, r6, r7, ... say even for odd.
    let right = all.iter().filter(|r| r.gold.as_ref() == Some(&r.input)).count();
    assert_eq!(got.metrics["accuracy"], right as f64 / 100.0);
    assert_eq!(got.metrics["s.accuracy"], 0.75);
    assert_eq!((got.metrics["format_error_rate"], got.metrics["tokens_in"]), (0.0, 10.0));
    assert!(got.metrics.contains_key("macro_f1") && got.metrics.contains_key("latency_p95_ms"));
    let last = notes.events.iter().rev().find(|e| matches!(e, EventBody::Progress { .. })).unwrap();
    assert!(matches!(last, EventBody::Progress { done: 100, total: 100, eta_ms: Some(0), .. }), "{last:?}");
    let curve: Vec<_> = notes.events.iter().filter(|e| matches!(e, EventBody::Eval { .. })).collect();
    assert!(curve.len() >= 2, "the running accuracy is told");
}

#[test]
fn what_the_cache_answers_is_counted_and_has_no_latency() {
    let temp = tempfile::tempdir().unwrap();
    let place = CachePlace { dir: temp.path().join("answers"), limit: 1 << 20 };
    let candidate =
        scripted::candidate(vec![scripted::stage("s", "{{ input }} {{ own }}", OutputKind::Text, &[])]);
    let settings = EvalSettings { latency_rows: 10, ..EvalSettings::default() };
    let mut all = rows(40);
    for (i, row) in all.iter_mut().enumerate() {
        row.fields.insert("own".into(), i.into());
    }
    let mut rates = Vec::new();
    for _ in 0..2 {
        let mut notes = Notes::default();
        let mut open = |candidate: &Candidate| {
            let scripted = |_: &_| {
                let asked = Default::default();
                let inner = Box::new(scripted::Scripted { script: Box::new(echo), asked });
                Ok(Cached::wrap(inner, &candidate.stages[0].model, None, &place))
            };
            Ok(Pipeline::with_backends(candidate, &Access::threads(1), &mut { scripted })?)
        };
        let got = Evaluation::new(&candidate, &settings, true, true)
            .unwrap()
            .run(&all.iter().collect::<Vec<_>>(), &[], &mut open, &mut notes)
            .unwrap();
        rates.push((got.metrics["cached_answers"], got.metrics["cached_rate"]));
        let timed: Vec<_> = notes.outcomes.iter().filter(|o| o.latency_ms.is_some()).collect();
        assert_eq!(timed.len(), 10, "the latency pass asks anew");
        assert!(timed.iter().all(|o| o.stages[0].cached == 0));
        let said = notes.events.iter().any(
            |e| matches!(e, EventBody::Log { message } if message.starts_with("30 of 40 answers came from")),
        );
        assert_eq!(said, rates.len() == 2);
    }
    assert_eq!(rates, [(0.0, 0.0), (30.0, 0.75)]);
}

#[test]
fn a_stopped_evaluation_goes_on_where_it_was() {
    let all = rows(60);
    let mut first = Notes::asking(After::Outcomes(15), Control::Stop);
    let got = evaluate(&all, &[], &mut first, true, echo).unwrap();
    assert!(got.stopped && first.outcomes.len() < 60);
    assert!(got.metrics.contains_key("accuracy"), "what was answered is kept and scored");
    let mut second = Notes::default();
    let resumed = evaluate(&all, &first.outcomes, &mut second, true, echo).unwrap();
    assert_eq!(first.outcomes.len() + second.outcomes.len(), 60);
    let mut whole = Notes::default();
    let at_once = evaluate(&all, &[], &mut whole, true, echo).unwrap();
    for name in ["accuracy", "macro_f1", "s.accuracy"] {
        assert_eq!(resumed.metrics[name], at_once.metrics[name], "{name}");
    }
}

#[test]
fn a_stop_from_before_does_not_end_the_final_evaluation_but_a_cancel_does() {
    let all = rows(30);
    let mut stop = Notes::asking(After::Outcomes(0), Control::Stop);
    assert!(!evaluate(&all, &[], &mut stop, false, echo).unwrap().stopped);
    assert_eq!(stop.outcomes.len(), 30);
    assert!(!stop.events.iter().any(|e| matches!(e, EventBody::Eval { .. })), "no second curve");
    let mut cancel = Notes::asking(After::Outcomes(0), Control::Cancel);
    assert!(evaluate(&all, &[], &mut cancel, false, echo).unwrap().stopped);
    assert!(cancel.outcomes.is_empty());
}

#[test]
fn a_failing_row_is_counted_and_the_run_goes_on() {
    let all = rows(40);
    let mut notes = Notes::default();
    let fails = |ask: &Ask| {
        if ask.text() == "odd" { Err(BackendError("too long".into())) } else { Ok(ask.text().to_owned()) }
    };
    evaluate(&all, &[], &mut notes, true, fails).unwrap();
    let failed: Vec<_> = notes.outcomes.iter().filter(|o| o.error.is_some()).collect();
    assert_eq!(failed.len(), 10);
    assert!(failed.iter().all(|o| o.correct == Some(false) && o.latency_ms.is_none()));
    let warnings: Vec<_> = notes
        .events
        .iter()
        .filter_map(|e| if let EventBody::Warning { message } = e { Some(message.as_str()) } else { None })
        .collect();
    assert_eq!(warnings.len(), 2, "the first failure, and how many there were: {warnings:?}");
    assert!(warnings[1].starts_with("10 of 40 rows failed"), "{warnings:?}");
}

#[test]
fn what_fails_for_every_row_ends_the_run() {
    let mut notes = Notes::default();
    let fails = |_: &Ask| Err(BackendError("no such model".into()));
    let said = evaluate(&rows(100), &[], &mut notes, true, fails).err().unwrap().to_string();
    assert!(said.contains("first 20 rows") && said.contains("no such model"), "{said}");
    let said = evaluate(&[], &[], &mut notes, true, echo).err().unwrap().to_string();
    assert!(said.contains("no row to evaluate"), "{said}");
}

#[test]
fn rows_without_gold_are_answered_but_not_judged() {
    let mut all = rows(12);
    for row in &mut all {
        row.gold = None;
    }
    let mut notes = Notes::default();
    let got = evaluate(&all, &[], &mut notes, true, echo).unwrap();
    assert!(!got.metrics.contains_key("accuracy"));
    assert!(
        notes.events.iter().any(|e| matches!(e, EventBody::Warning { message } if message.contains("gold")))
    );
}

#[test]
fn the_eval_part_is_taken_where_there_are_parts() {
    let mut all = rows(4);
    assert_eq!(rows_of(&all, Part::Eval).len(), 4);
    all[1].part = Some(Part::Train);
    all[2].part = Some(Part::Eval);
    assert_eq!(rows_of(&all, Part::Eval).iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["r2"]);
}

/// Three answers to each row of a stage that is asked with this script.
fn evaluate_thrice(
    rows: &[RunRow],
    done: &[Outcome],
    notes: &mut Notes,
    settings: &EvalSettings,
    script: impl Fn(&Ask) -> Result<String, BackendError> + Clone + 'static,
) -> Scored {
    let mut stage = scripted::stage("s", "{{ input }}", OutputKind::Label, &["even", "odd"]);
    stage.decoding.temperature = 0.7;
    let candidate = scripted::candidate(vec![stage]);
    Evaluation::new(&candidate, settings, true, false)
        .unwrap()
        .run(
            &rows.iter().collect::<Vec<_>>(),
            done,
            &mut |candidate| Ok(scripted::scripted(candidate, script.clone()).0),
            notes,
        )
        .unwrap()
}

#[test]
fn every_row_is_asked_as_often_as_wished_each_time_with_another_seed() {
    let settings = EvalSettings {
        metrics: ["accuracy", "pass_at:1", "pass_at:3", "majority", "row_variance"]
            .map(String::from)
            .to_vec(),
        latency_rows: 4,
        samples: 3,
        ..EvalSettings::default()
    };
    let all = rows(12);
    let mut notes = Notes::default();
    // The second answer is the other label; the seeds tell the answers apart.
    let seeds = std::rc::Rc::new(std::cell::RefCell::new(HashSet::new()));
    let seen = seeds.clone();
    let script = move |ask: &Ask| {
        seen.borrow_mut().insert((ask.sample, ask.decoding.seed));
        let flip = ask.sample == 1;
        Ok(if (ask.text() == "even") == flip { "odd" } else { "even" }.to_owned())
    };
    let got = evaluate_thrice(&all, &[], &mut notes, &settings, script.clone());
    assert_eq!(notes.outcomes.len(), 36);
    let asked: HashSet<(&str, u32)> = notes.outcomes.iter().map(|o| (o.row.as_str(), o.sample)).collect();
    assert_eq!(asked.len(), 36);
    assert_eq!(seeds.borrow().len(), 3);
    assert_eq!(seeds.borrow().iter().map(|(_, seed)| seed).collect::<HashSet<_>>().len(), 3);
    assert!(notes.outcomes.iter().all(|o| o.latency_ms.is_none() || o.sample == 0));
    assert_eq!(notes.outcomes.iter().filter(|o| o.latency_ms.is_some()).count(), 4);
    // A row that is right at first is right twice of three times, one that is wrong once.
    let right = all.iter().filter(|r| r.gold.as_ref() == Some(&r.input)).count() as f64;
    let rows_ = all.len() as f64;
    let close = |name: &str, want: f64| {
        assert!((got.metrics[name] - want).abs() < 1e-12, "{name} {} {want}", got.metrics[name]);
    };
    close("accuracy", (right * 2.0 + (rows_ - right)) / 3.0 / rows_);
    close("pass_at:1", got.metrics["accuracy"]);
    close("pass_at:3", 1.0);
    close("majority", right / rows_);
    close("row_variance", 1.0 / 3.0);

    // What was answered before is not asked again.
    let done: Vec<Outcome> = notes.outcomes.iter().take(20).cloned().collect();
    let mut rest = Notes::default();
    let again = evaluate_thrice(&all, &done, &mut rest, &settings, script);
    assert_eq!((rest.outcomes.len(), &again.metrics["accuracy"]), (16, &got.metrics["accuracy"]));
}

#[test]
fn a_metric_that_cannot_be_worked_out_on_some_rows_is_told_and_the_run_goes_on() {
    let own = |name: &str, expression: &str| crate::domain::metric::OwnMetric {
        name: name.into(),
        expression: expression.into(),
        threshold: Some(0.5),
        ..crate::domain::metric::OwnMetric::default()
    };
    let settings = EvalSettings {
        primary: "brief".into(),
        metrics: vec!["odd_field".into(), "accuracy".into()],
        own: vec![own("brief", "correct and tokens_out < 40"), own("odd_field", "fields.rare + 1")],
        latency_rows: 0,
        ..EvalSettings::default()
    };
    let mut all = rows(8);
    all[3].fields.insert("rare".into(), 4.into());
    all[4].fields.insert("rare".into(), "text".into());
    let mut notes = Notes::default();
    let got = evaluate_thrice(&all, &[], &mut notes, &settings, echo);
    assert_eq!(got.metrics["brief"], got.metrics["accuracy"], "every answer is brief");
    assert_eq!(got.metrics["odd_field"], 5.0, "of the one row that has a value");
    assert!(notes.outcomes.iter().all(|o| o.correct.is_some()));
    let warnings: Vec<&String> = notes
        .events
        .iter()
        .filter_map(|e| match e {
            EventBody::Warning { message } => Some(message),
            _ => None,
        })
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("`odd_field` could not be worked out on 7 of 8 answers; the first, row `r")
    );
    assert!(
        notes
            .outcomes
            .iter()
            .any(|o| o.unscored.values().any(|why| why.contains("`fields.rare` is not in scope")))
    );
}
