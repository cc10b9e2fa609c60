//! What one does to a training run on screen 4: steer, branch, follow the doctor, test learning rates.

use super::{play, press, shown, type_text};
use crate::domain::api::{FromEngine, Push, Request, ToEngine};
use crate::domain::event::{Event, EventBody};
use crate::domain::finding::{Finding, Lower, Remedy, Rule};
use crate::domain::run::{RunAction, RunKind, RunRecord, RunState};
use crate::domain::steer::{Change, Origin};
use crate::tui::app::{App, Effect, Message};
use crate::tui::sample::{self, NOW_MS};
use crate::tui::signs::Signs;

fn app(size: (u16, u16)) -> App {
    let mut app = sample::app(size, "dark", Signs::unicode());
    play(&mut app, "4");
    app
}

fn push(app: &mut App, push: Push) {
    let effects = app.update(Message::Engine(FromEngine::Push { push }), NOW_MS);
    sample::settle(app, effects);
}

fn asked(effects: &[Effect]) -> Vec<Request> {
    effects
        .iter()
        .filter_map(|e| {
            if let Effect::Send(ToEngine::Ask { request, .. }) = e { Some(request.clone()) } else { None }
        })
        .collect()
}

fn finding(rule: Rule, remedy: Option<Remedy>) -> Finding {
    let evidence = "the loss is 1.412 over the last 40 steps, it was 0.655 at steps 401 to 440".to_owned();
    Finding { rule, evidence, advice: "the learning rate is too high: take 0.3 of it".into(), remedy }
}

fn ailing(remedy: Remedy) -> RunRecord {
    let findings = vec![finding(Rule::LossOscillates, Some(remedy))];
    RunRecord { findings, ..sample::run("lora-12", RunKind::Train, RunState::Running) }
}

fn change(app: &mut App, step: u64, change: &str) {
    let body = EventBody::Change { step, change: change.parse().unwrap(), refused: None };
    let seq = app.series["lora-12"].last_seq + 1;
    push(app, Push::Events { run: "lora-12".into(), events: vec![Event { seq, t_ms: NOW_MS, body }] });
}

#[test]
fn findings_stand_in_the_doctors_pane_and_changes_on_the_curve() {
    for size in [(80, 24), (120, 40)] {
        let mut app = app(size);
        push(&mut app, Push::RunChanged { run: ailing(Remedy::LearningRate { times: 0.3 }) });
        change(&mut app, 480, "learning_rate=1e-4");
        if size.0 < 100 {
            play(&mut app, "w w");
        }
        insta::assert_snapshot!(format!("train_doctor_{}x{}", size.0, size.1), shown(&app));
    }
}

#[test]
fn the_doctors_remedy_is_one_key_away() {
    let run = "lora-12".to_owned();
    let steer = Request::Steer { run: run.clone(), changes: vec![Change::LearningRateTimes(0.3)] };
    for (remedy, want) in [
        (Remedy::LearningRate { times: 0.3 }, steer),
        (Remedy::Stop, Request::Control { run, action: RunAction::Stop, keys: Default::default() }),
    ] {
        let mut app = app((80, 24));
        push(&mut app, Push::RunChanged { run: ailing(remedy) });
        press(&mut app, "d");
        assert_eq!(asked(&press(&mut app, "enter")), [want]);
    }
    let mut again = app((80, 24));
    let lower = Lower::Batch { batch_size: 4, accumulate: 6 };
    push(&mut again, Push::RunChanged { run: ailing(Remedy::Again { lower }) });
    press(&mut again, "d");
    let asked = asked(&press(&mut again, "enter"));
    let [Request::Launch { kind: RunKind::Train, set, from: None, .. }] = asked.as_slice() else {
        panic!("{asked:?}")
    };
    for (key, value) in [("batch_size", "4"), ("accumulate", "6")] {
        let found: Vec<_> = set.iter().filter(|(k, _)| k.ends_with(&format!(".{key}"))).collect();
        assert!(found.len() == 1 && found[0].1 == value, "{set:?}");
    }
    let mut app = app((80, 24));
    push(&mut app, Push::RunChanged { run: ailing(Remedy::Rows { step: 333 }) });
    play(&mut app, "d enter");
    assert!(shown(&app).contains("rows of step 333 of lora-12 by loss"), "{}", shown(&app));
    let losses: Vec<f32> = app.strata.window.rows.iter().map(|r| app.strata.losses[&r.id]).collect();
    assert!(losses.len() == 8 && losses.is_sorted_by(|a, b| a >= b), "the costliest first: {losses:?}");
}

#[test]
fn a_run_without_findings_is_told_so() {
    let mut app = app((80, 24));
    play(&mut app, "d");
    assert!(shown(&app).contains("the doctor finds nothing wrong with lora-12"));
}

#[test]
fn the_steer_form_sends_changes_and_comes_back_with_what_is_wrong() {
    let mut app = app((80, 24));
    press(&mut app, "a");
    type_text(&mut app, "x0.5");
    press(&mut app, "down right down");
    type_text(&mut app, "-2");
    let effects = press(&mut app, "enter");
    assert_eq!(asked(&effects), []);
    assert!(shown(&app).contains("a weight from 0 to 1000"), "{}", shown(&app));
    // What was typed is still there.
    press(&mut app, "down down ctrl-u");
    type_text(&mut app, "2");
    insta::assert_snapshot!("layer_steer_form", shown(&app));
    let effects = press(&mut app, "enter");
    let stratum = app.strata.view.as_ref().unwrap().strata[0].name.clone();
    let changes = vec![Change::LearningRateTimes(0.5), Change::Weight { stratum, weight: 2.0 }];
    assert_eq!(asked(&effects), [Request::Steer { run: "lora-12".into(), changes }]);
}

#[test]
fn a_branch_starts_at_the_checkpoint_under_the_cursor_with_the_rate_as_it_had_become() {
    let mut app = app((80, 24));
    change(&mut app, 480, "learning_rate=1.5e-4");
    press(&mut app, "left home home b");
    insta::assert_snapshot!("layer_branch_form", shown(&app));
    let effects = press(&mut app, "enter");
    let [Request::Launch { kind: RunKind::Train, set, from: Some(from), .. }] = &asked(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(from, "lora-12@400");
    assert_eq!(set[..], [("tuning.train.learning_rate".to_owned(), "1.5e-4".to_owned())]);
    // Without a cursor: from its best checkpoint. A run that has ended takes the doctor's rate as a branch.
    let mut done = ailing(Remedy::LearningRate { times: 0.3 });
    done.state = RunState::Done;
    push(&mut app, Push::RunChanged { run: done });
    press(&mut app, "esc esc esc d enter");
    let effects = press(&mut app, "enter");
    let [Request::Launch { set, from: Some(from), .. }] = &asked(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((from.as_str(), set[0].1.as_str()), ("lora-12", "4.50e-5"));
}

#[test]
fn a_range_test_shows_loss_over_rate_and_gives_its_rate_to_the_train_form() {
    let mut app = app((80, 24));
    let mut run = sample::run("lr-range-1", RunKind::LrRange, RunState::Done);
    run.created_ms += 1_000_000;
    run.settings = vec![("rank".into(), "8".into()), ("tuning.lr_range.lr_max".into(), "1".into())];
    run.metrics = [("suggested_learning_rate".to_owned(), 3.2e-4)].into();
    push(&mut app, Push::RunChanged { run });
    let events: Vec<Event> = (1..=100)
        .map(|step| {
            let Event { body, .. } = sample::step(step, step, 100);
            let EventBody::Step {
                total,
                epoch,
                grad_norm,
                tokens,
                trained_tokens,
                padding,
                ms,
                wait_ms,
                rows,
                losses,
                ..
            } = body
            else {
                unreachable!()
            };
            let lr = 1e-6 * 1e6_f64.powf((step - 1) as f64 / 99.0);
            let x = lr.log10();
            let loss = 2.5 - 1.8 / (1.0 + (-(x + 3.5) * 3.0).exp()) + (x + 1.5).max(0.0);
            let body = EventBody::Step {
                step,
                total,
                epoch,
                loss,
                lr,
                grad_norm,
                tokens,
                trained_tokens,
                padding,
                ms,
                wait_ms,
                rows,
                losses,
            };
            Event { seq: step, t_ms: NOW_MS, body }
        })
        .collect();
    play(&mut app, "r");
    type_text(&mut app, "lr-range");
    play(&mut app, "enter");
    // What the sample told under this name is not what a range test tells.
    app.series.remove("lr-range-1");
    push(&mut app, Push::Events { run: "lr-range-1".into(), events });
    insta::assert_snapshot!("train_range_80x24", shown(&app));
    press(&mut app, "t");
    assert!(shown(&app).contains("3.2e-4"), "{}", shown(&app));
    let set = match &asked(&press(&mut app, "enter"))[..] {
        [Request::Launch { kind: RunKind::Train, set, from: None, .. }] => set.clone(),
        other => panic!("{other:?}"),
    };
    assert!(set.contains(&("tuning.train.learning_rate".into(), "3.2e-4".into())), "{set:?}");
    assert!(set.iter().all(|(key, _)| !key.contains("lr_range")), "{set:?}");
    play(&mut app, "4 L");
    assert!(shown(&app).contains("learning-rate range test"), "{}", shown(&app));
}

#[test]
fn a_branch_says_where_it_comes_from() {
    let mut app = app((120, 40));
    let mut run = sample::run("lora-12", RunKind::Train, RunState::Running);
    run.from = Some(Origin { run: "lora-11".into(), step: 40 });
    push(&mut app, Push::RunChanged { run });
    assert!(shown(&app).contains("branch of lora-11@40"), "{}", shown(&app));
}
