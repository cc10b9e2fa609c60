//! Changes in mid-run, branches, range tests: on the small models of the loop's tests.

use super::*;
use crate::domain::settings::RangeSettings;
use crate::domain::steer::Change;
use crate::tuning::train::range;

/// The changes of the tests, by the step before which they are asked for.
fn asked(step: u64) -> Vec<Change> {
    let changes: &[&str] = match step {
        3 => &["learning_rate=x0.37"],
        7 => &["weight:threes=0", "learning_rate=0.0123"],
        11 => &["weight:threes=2.5"],
        _ => &[],
    };
    changes.iter().map(|text| text.parse().unwrap()).collect()
}

/// A recorder that asks for them, having taken `taken` steps already.
fn steered(recorder: &mut Recorder, taken: u64) {
    let mut step = taken;
    recorder.steer = Box::new(move || {
        step += 1;
        asked(step)
    });
}

fn changes(events: &[EventBody]) -> Vec<(u64, String)> {
    let mut changes: Vec<(u64, String)> = events
        .iter()
        .filter_map(|e| {
            if let EventBody::Change { step, change, refused: None } = e {
                Some((*step, change.to_string()))
            } else {
                None
            }
        })
        .collect();
    changes.dedup();
    changes
}

#[test]
fn a_run_that_was_changed_and_killed_anywhere_goes_on_bit_for_bit() {
    let runs = Runs::new();
    let (mut plain, mut whole) = (Recorder::new(), Recorder::new());
    runs.go(&settings(), &mut plain, 1).unwrap();
    steered(&mut whole, 0);
    runs.go(&settings(), &mut whole, 1).unwrap();
    let want = steps(&whole.events);
    assert_eq!(steps(&plain.events)[..2], want[..2], "nothing changes before the first change");
    assert_ne!(steps(&plain.events)[2], want[2]);
    let peak = 0.37 * settings().learning_rate;
    assert_eq!(
        changes(&whole.events),
        [
            (3, format!("learning_rate={peak:?}")),
            (7, "weight:threes=0.0".into()),
            (7, "learning_rate=0.0123".into()),
            (11, "weight:threes=2.5".into())
        ]
    );

    for kill_at in [8, 12, 17, 21, 24, 30, 33, 41, 53] {
        let mut killed = Recorder::new();
        steered(&mut killed, 0);
        killed.script = Box::new(move |poll| {
            if poll == kill_at { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(Control::Continue) }
        });
        runs.go(&settings(), &mut killed, 1).unwrap_err();
        killed.script = Box::new(|_| Ok(Control::Continue));
        // What was asked for already is not asked for again: it is taken from what the run told.
        let told = changes(&killed.events).last().map_or(0, |c| c.0);
        let mut step = killed.kept().last().copied().unwrap_or(0);
        killed.steer = Box::new(move || {
            step += 1;
            if step > told { asked(step) } else { Vec::new() }
        });
        let seed = if killed.newest().is_some() { 2 } else { 1 };
        runs.go(&settings(), &mut killed, seed).unwrap();
        assert_eq!(steps(&killed.events), want, "killed at poll {kill_at}");
        assert_eq!(changes(&killed.events), changes(&whole.events), "killed at poll {kill_at}");
        assert_eq!(model_bytes(&killed.newest().unwrap()), model_bytes(&whole.newest().unwrap()));
    }
}

#[test]
fn rows_of_a_stratum_of_weight_zero_are_not_drawn_from_that_step_on() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    steered(&mut recorder, 0);
    runs.go(&settings(), &mut recorder, 1).unwrap();
    let of_threes = |row: &String| row.trim_start_matches("row-").parse::<u32>().unwrap() % 3 == 0;
    for event in &recorder.events {
        if let EventBody::Step { step, rows, .. } = event {
            assert!(!(rows.iter().any(of_threes) && (7..11).contains(step)), "step {step}: {rows:?}");
        }
    }
}

#[test]
fn a_change_that_cannot_be_made_is_told_and_not_recorded() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    let mut wanted = vec!["weight:nobody=2".parse().unwrap()];
    recorder.steer = Box::new(move || std::mem::take(&mut wanted));
    let fitted = runs.go(&settings(), &mut recorder, 1).unwrap();
    assert_eq!((fitted.state.changes.len(), changes(&recorder.events).len()), (0, 0));
    let told = |e: &&EventBody| matches!(e, EventBody::Change { refused: Some(why), .. } if why.contains("`nobody`") && why.contains("others, threes"));
    assert_eq!(recorder.events.iter().filter(told).count(), 1);
}

#[test]
fn weights_of_the_settings_hold_from_the_first_step_and_unknown_strata_are_refused() {
    let runs = Runs::new();
    let weights = |stratum: &str, weight| TrainSettings {
        weights: [(stratum.to_owned(), weight)].into(),
        ..settings()
    };
    let mut recorder = Recorder::new();
    runs.go(&weights("others", 0.0), &mut recorder, 1).unwrap();
    let threes = runs.train.iter().filter(|e| e.stratum.as_deref() == Some("threes")).count();
    let mut drawn: Vec<&String> = recorder
        .events
        .iter()
        .filter_map(|e| if let EventBody::Step { rows, .. } = e { Some(rows) } else { None })
        .flatten()
        .collect();
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), threes);
    let error = runs.go(&weights("nobody", 2.0), &mut Recorder::new(), 1).unwrap_err().to_string();
    assert!(error.contains("`nobody`") && error.contains("others, threes"), "{error}");
}

#[test]
fn a_branch_begins_with_its_parents_weights_and_moments() {
    let runs = Runs::new();
    let mut parent = Recorder::new();
    parent.stop_at_poll(poll_of_step(&runs, 8));
    runs.go(&settings(), &mut parent, 1).unwrap();
    let mut model = model(2);
    state::load_model(&parent.newest().unwrap(), &mut model).unwrap();
    assert_eq!(model.steps(), 8);
    let mut branch = Recorder::new();
    let settings = TrainSettings { learning_rate: 0.001, epochs: 1.0, ..settings() };
    let data = Data { train: &runs.train, dev: &runs.dev };
    let fitted = fit(&mut model, data, &settings, Past::default(), &mut no_samples, &mut branch).unwrap();
    assert_eq!(branch.evals()[0].1, parent.evals().last().unwrap().1, "bit for bit the same model");
    assert_eq!((fitted.state.step, model.steps()), (5, 13));
    assert!(branch.evals().last().unwrap().1 < branch.evals()[0].1);
}

#[test]
fn a_range_test_takes_the_steps_of_training_and_keeps_nothing() {
    let runs = Runs::new();
    let mut training = Recorder::new();
    runs.go(&settings(), &mut training, 1).unwrap();
    let rows = |events: &[EventBody]| -> Vec<Vec<String>> {
        events
            .iter()
            .filter_map(|e| if let EventBody::Step { rows, .. } = e { Some(rows.clone()) } else { None })
            .collect()
    };
    let mut recorder = Recorder::new();
    let range = RangeSettings { lr_min: 1e-5, lr_max: 1.0, steps: 80 };
    let (points, end) = range::sweep(&mut model(1), &runs.train, &settings(), &range, &mut recorder).unwrap();
    assert_eq!((end, points.len()), (range::End::Whole, 80));
    assert_eq!(rows(&recorder.events)[..20], rows(&training.events)[..]);
    assert_eq!(points[0].1, steps(&training.events)[0].1, "the first loss is that of training");
    let found = range::suggest(&points).unwrap();
    assert!((2e-3..0.1).contains(&found.suggested), "{found:?}");
    assert_eq!(recorder.kept(), [0u64; 0], "no checkpoint");
    // Half of the curve is a curve; cancelled is none.
    for (control, want) in [(Control::Stop, range::End::Stopped), (Control::Cancel, range::End::Cancelled)] {
        let mut recorder = Recorder::new();
        recorder.script = Box::new(move |poll| Ok(if poll > 30 { control } else { Control::Continue }));
        let (points, end) =
            range::sweep(&mut model(1), &runs.train, &settings(), &range, &mut recorder).unwrap();
        assert_eq!((end, points.len()), (want, 15));
    }
}
