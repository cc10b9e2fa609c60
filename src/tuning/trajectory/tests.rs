//! The whole run over a scripted backend: what is planted is found, what harms is seen, what is killed goes on, eval rows stay out.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::*;
use crate::backend::{Access, Ask, BackendError, Prompt as Asked};
use crate::domain::candidate::OutputKind;
use crate::domain::event::EventBody;
use crate::domain::report::Control;
use crate::domain::report::notes::{After, Notes};
use crate::domain::settings::Budget;
use crate::domain::steer::Limit;
use crate::pipeline::tests as scripted;

/// Kinds of message and the team of each; the model knows none of the teams.
const KINDS: [(&str, &str); 3] =
    [("card lost in town", "cards"), ("refund for shoes", "payments"), ("app crashes at login", "mobile")];

/// Three kinds of rows over train, dev and eval; a kind is told by its words.
fn rows(n: usize) -> Vec<RunRow> {
    (0..n)
        .map(|i| {
            let (text, team) = KINDS[i % 3];
            let mut row = scripted::row(&format!("r{i:03}"), &format!("{text} number{i}"));
            row.gold = Some(team.to_owned());
            row.part = Some([Part::Train, Part::Train, Part::Dev, Part::Eval][i / 3 % 4]);
            row.stratum = Some(KINDS[i % 3].1.to_owned());
            row
        })
        .collect()
}

/// Repeats the answer of the last example that shares the first word of the question; else it says the first label.
fn copies(ask: &Ask) -> Result<String, BackendError> {
    let text = ask.text();
    let question = text.rsplit("Input: ").next().unwrap_or_default();
    let word = question.split_whitespace().next().unwrap_or_default();
    let mut answer = "none";
    for example in text.split("Input: ").skip(1).filter(|part| part.contains("Answer: ")) {
        if example.starts_with(word)
            && let Some(said) = example.split("Answer: ").nth(1)
        {
            answer = said.trim();
        }
    }
    Ok(answer.to_owned())
}

fn candidate() -> Candidate {
    let labels = ["cards", "mobile", "none", "payments"];
    scripted::candidate(vec![scripted::stage(
        "route",
        "Which team?\n\n{{ input }}",
        OutputKind::Label,
        &labels,
    )])
}

fn inputs(dir: &Path, rows: Vec<RunRow>) -> RunInputs {
    let spec = serde_json::json!({
        "format": 1, "id": "trajectory-1", "workspace": "w", "created_ms": 0, "seed": 1, "threads": 1,
        "job": { "job": "trajectory", "trajectory": {}, "eval": {} },
        "candidate": candidate(), "settings": [], "rows": [],
    });
    RunInputs {
        dir: dir.to_owned(),
        spec: serde_json::from_value(spec).unwrap(),
        rows,
        resume_from: None,
        sets: Vec::new(),
        outcomes: Vec::new(),
        keys: Default::default(),
        cache: None,
        history: Vec::new(),
    }
}

/// Everything but the eval part; also how many questions the model was asked.
fn tuned(
    dir: &Path,
    rows: Vec<RunRow>,
    settings: &TrajectorySettings,
    notes: &mut Notes,
    script: impl Fn(&Ask) -> Result<String, BackendError> + Clone + 'static,
) -> (Tuned, usize, Vec<Ask>) {
    let candidate = candidate();
    let (pipeline, asked) = scripted::scripted(&candidate, script);
    let asked: Rc<RefCell<Vec<Vec<Ask>>>> = asked;
    let inputs = inputs(dir, rows);
    let mut asker = Asker::new(
        pipeline,
        &candidate,
        settings,
        &EvalSettings::default(),
        &inputs.rows,
        dir,
        &Access::threads(1),
        notes,
    )
    .unwrap();
    let tuned = tune(&mut asker, &candidate, settings, &inputs, &Access::threads(1)).unwrap();
    let all: Vec<Ask> = asked.borrow().iter().flatten().cloned().collect();
    (tuned, all.len(), all)
}

fn settings() -> TrajectorySettings {
    TrajectorySettings { shots: 4, form: Some(Form::Text), ..TrajectorySettings::default() }
}

#[test]
fn the_smallest_set_is_the_one_example_of_the_row_s_kind_and_the_candidate_uses_it() {
    let temp = tempfile::tempdir().unwrap();
    let mut notes = Notes::default();
    let (tuned, _, _) = tuned(temp.path(), rows(120), &settings(), &mut notes, copies);
    assert_eq!(tuned.report.wrong, 60, "every train row is wrong as it is");
    assert!(tuned.report.searches.iter().all(|s| s.proposal.as_deref() == Some("neighbours")));
    let all = rows(120);
    let gold = |id: &str| all.iter().find(|r| r.id == id).and_then(|r| r.gold.clone());
    for search in &tuned.report.searches {
        assert_eq!(search.set.len(), 1, "{search:?}");
        let example = tuned.examples.iter().find(|e| e.id == search.set[0]);
        if let Some(example) = example {
            assert_eq!(Some(&example.answer), gold(&search.row).as_ref());
            assert_ne!(example.row.as_deref(), Some(search.row.as_str()), "no row is shown itself");
        }
    }
    let chosen = tuned.report.chosen.as_ref().unwrap();
    assert_eq!((chosen.right, chosen.broken), (chosen.rows, 0));
    assert!(chosen.p_value < 0.05 && tuned.way.is_some());
    let fixed: u32 = tuned.examples.iter().map(|e| e.total().fixed).sum();
    assert!(fixed > 0 && tuned.examples.iter().all(|e| e.total().broken == 0));
}

#[test]
fn rows_that_are_chosen_or_scored_on_never_enter_a_store_or_a_prompt_of_another_row() {
    let temp = tempfile::tempdir().unwrap();
    let all = rows(120);
    let held: BTreeSet<String> =
        all.iter().filter(|r| r.part != Some(Part::Train)).map(|r| r.input.clone()).collect();
    let (tuned, _, asked) = tuned(temp.path(), all, &settings(), &mut Notes::default(), copies);
    assert!(tuned.examples.iter().all(|e| !held.contains(&e.input)));
    for ask in asked {
        let Asked::Turn(text) = &ask.prompt else { panic!("text form") };
        for example in text.split("Input: ").filter_map(|part| part.split_once("\nAnswer: ")) {
            assert!(!held.contains(example.0), "{text}");
        }
        let eval = text.rsplit("Input: ").next().unwrap_or_default();
        let number: usize = eval
            .split("number")
            .nth(1)
            .unwrap()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap();
        assert_ne!(number / 3 % 4, 3, "no eval row is asked while something is chosen");
    }
}

#[test]
fn examples_that_do_not_help_are_not_kept_and_it_is_said() {
    let temp = tempfile::tempdir().unwrap();
    let mut notes = Notes::default();
    let (tuned, _, _) = tuned(temp.path(), rows(120), &settings(), &mut notes, |_| Ok("none".to_owned()));
    assert!(tuned.way.is_none() && tuned.report.chosen.is_none());
    assert!(tuned.report.searches.iter().all(|s| s.proposal.is_none() && s.tried >= 1));
    assert!(
        notes
            .events
            .iter()
            .any(|e| matches!(e, EventBody::Log { message } if message.contains("do not help")))
    );
}

#[test]
fn an_example_that_breaks_rows_is_known_by_its_harm_and_the_store_is_better_without_it() {
    let temp = tempfile::tempdir().unwrap();
    let mut all = rows(120);
    // As it is, rows of the first kind are right; one train row of it has a wrong gold.
    let poison = all.iter().position(|r| r.part == Some(Part::Train) && r.input.starts_with("card")).unwrap();
    all[poison].gold = Some("mobile".into());
    all[poison].input = "card lost in town".into();
    let candidate = candidate();
    let (pipeline, _) = scripted::scripted(&candidate, |ask| {
        let said = copies(ask)?;
        let plain = !ask.text().contains("Answer:");
        Ok(if plain && ask.text().contains("card") { "cards".to_owned() } else { said })
    });
    let settings = TrajectorySettings {
        ranking: crate::domain::example::Ranking::Bm25,
        ..TrajectorySettings::default()
    };
    let mut notes = Notes::default();
    let eval = EvalSettings::default();
    let mut asker = Asker::new(
        pipeline,
        &candidate,
        &settings,
        &eval,
        &all,
        temp.path(),
        &Access::threads(1),
        &mut notes,
    )
    .unwrap();
    let of = |part: Part| all.iter().filter(|r| r.part == Some(part)).collect::<Vec<_>>();
    let embedder = Arc::new(retrieve::fit(all.iter().map(|row| row.input.as_str())).into());
    let pool = Pool::new(&candidate, &settings, &of(Part::Train), &HashMap::new(), "trajectory-1", &embedder)
        .unwrap();
    let rows = of(Part::Dev);
    let without = asker.ask("as it is", &bare(&rows, 1)).unwrap().into_iter().flatten().collect();
    let dev = Dev { rows, without };
    assert_eq!(dev.baseline().right, 10, "the rows of the first kind");
    let how = settings.retrieval(1, Form::Text);
    let way = Way { name: "all".into(), stages: pool.stages.clone(), how };
    let tried = dev.try_way(&mut asker, &way).unwrap().unwrap();
    assert_eq!((tried.measured.fixed, tried.measured.broken), (20, 10));
    let effects = dev.effects(&mut asker, &tried, Form::Text).unwrap();
    let known = measure::with_effects(&way, &dev.gathered(&effects));
    let examples: Vec<&Arc<Example>> = known.stages.iter().flatten().flat_map(Index::examples).collect();
    let harmful: Vec<_> = examples.iter().filter(|e| measure::is_harmful(e)).collect();
    assert_eq!(harmful.len(), 1);
    assert_eq!((harmful[0].input.as_str(), harmful[0].total().broken), ("card lost in town", 10));
    assert!(harmful[0].value(Some("cards")) < -0.5, "{:?}", harmful[0].effect);
    let id = harmful[0].id.clone();
    let less = measure::without(&known, &|e| e.id == id);
    let tried = dev.try_way(&mut asker, &less).unwrap().unwrap();
    assert_eq!((tried.measured.right, tried.measured.broken), (30, 0));
}

#[test]
fn a_run_that_was_cut_off_goes_on_without_asking_anything_twice() {
    let whole = tempfile::tempdir().unwrap();
    let (want, paid, _) = tuned(whole.path(), rows(120), &settings(), &mut Notes::default(), copies);
    let temp = tempfile::tempdir().unwrap();
    let mut total = 0;
    // A cancel leaves the folder as a kill does: what was answered is there, nothing else.
    for life in 0..3 {
        let mut notes = Notes::asking(After::Polls(3 + 4 * life), Control::Cancel);
        total += tuned(temp.path(), rows(120), &settings(), &mut notes, copies).1;
    }
    let (got, rest, _) = tuned(temp.path(), rows(120), &settings(), &mut Notes::default(), copies);
    assert_eq!(total + rest, paid);
    assert_eq!(got.report.calls, want.report.calls);
    assert_eq!(
        store::to_bytes(&got.examples).unwrap(),
        store::to_bytes(&want.examples).unwrap(),
        "the same store to the byte"
    );
    // A torn last line is asked anew.
    let log = temp.path().join("artifacts/answers.jsonl");
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 5]).unwrap();
    assert_eq!(tuned(temp.path(), rows(120), &settings(), &mut Notes::default(), copies).1, 1);
}

#[test]
fn a_budget_leaves_enough_for_measuring_and_is_never_overdrawn() {
    for calls in [100, 200, 400] {
        let temp = tempfile::tempdir().unwrap();
        let budget = Budget { calls: Some(calls), ..Budget::default() };
        let settings = TrajectorySettings { budget, form: None, ..settings() };
        let mut notes = Notes::default();
        let (kept, asked, _) = tuned(temp.path(), rows(600), &settings, &mut notes, copies);
        assert!(asked as u64 <= calls && kept.report.calls == asked as u64, "{asked} of {calls}");
        assert!(kept.way.is_some(), "{calls}: the examples help, and what was measured says so");
        // A kill in the middle changes none of it.
        let temp = tempfile::tempdir().unwrap();
        let mut cut = Notes::asking(After::Polls(5), Control::Cancel);
        let before = tuned(temp.path(), rows(600), &settings, &mut cut, copies).1;
        let (again, after, _) = tuned(temp.path(), rows(600), &settings, &mut Notes::default(), copies);
        assert_eq!((before + after, again.report.calls), (asked, kept.report.calls));
        let chosen =
            |t: &Tuned| t.report.chosen.as_ref().map(|c| (c.store.clone(), c.shots, c.rows, c.right));
        assert_eq!(chosen(&again), chosen(&kept));
    }
}

#[test]
fn other_budgets_hold_too_and_what_costs_nothing_does_not_end_a_run() {
    // A row reads 10 tokens and writes 2 (the scripted backend's figures are fixed).
    let temp = tempfile::tempdir().unwrap();
    let whole = tuned(temp.path(), rows(240), &settings(), &mut Notes::default(), copies).0;
    for budget in
        [Budget { tokens: Some(4_000), ..Budget::default() }, Budget { usd: Some(0.01), ..Budget::default() }]
    {
        let temp = tempfile::tempdir().unwrap();
        let settings = TrajectorySettings { budget, ..settings() };
        let (kept, asked, _) = tuned(temp.path(), rows(240), &settings, &mut Notes::default(), copies);
        assert!(kept.way.is_some());
        if budget.usd.is_some() {
            assert_eq!(kept.report.calls, whole.report.calls, "a model without a price");
        } else {
            assert!(asked < whole.report.calls as usize, "{asked}");
        }
    }
}

#[test]
fn a_stop_keeps_what_was_found() {
    let temp = tempfile::tempdir().unwrap();
    let mut notes = Notes::asking(After::Polls(12), Control::Stop);
    let (kept, _, _) = tuned(temp.path(), rows(120), &self::settings(), &mut notes, copies);
    assert!(!kept.examples.is_empty() && kept.way.is_none());
}

#[test]
fn a_judge_says_what_is_gold_where_the_metric_does_not_and_what_it_takes_is_counted() {
    let temp = tempfile::tempdir().unwrap();
    let all = rows(12);
    let stage = scripted::stage("route", "Which team?\n\n{{ input }}", OutputKind::Text, &[]);
    let candidate = scripted::candidate(vec![stage]);
    let judge = crate::tuning::judge::tests::judge(false);
    let settings = TrajectorySettings { matches: crate::domain::trajectory::Match::Judge, ..settings() };
    let mut notes = Notes::default();
    let (pipeline, _) = scripted::scripted(&candidate, |ask| {
        let sure = ask.text().contains("refund");
        Ok(if sure { "payments" } else { "the mobile people" }.to_owned())
    });
    // It says nothing of cards.
    let (person, asked) = crate::tuning::judge::tests::asker(&judge, |ask| {
        let text = ask.text();
        let verdict = if text.contains("card lost") { "who knows" } else { "good" };
        Ok(verdict.to_owned())
    });
    let eval = EvalSettings::default();
    let mut asker = Asker::new(
        pipeline,
        &candidate,
        &settings,
        &eval,
        &all,
        temp.path(),
        &Access::threads(1),
        &mut notes,
    )
    .unwrap();
    asker.judged_by(&judge, person).unwrap();
    let looked: Vec<&RunRow> = all.iter().collect();
    let said = asker.ask("x", &bare(&looked, 1)).unwrap();
    for (row, said) in looked.iter().zip(said) {
        assert_eq!(said.unwrap().right, row.gold.as_deref() != Some("cards"), "{}", row.input);
    }
    let judged: usize = asked.borrow().iter().map(Vec::len).sum();
    assert_eq!(judged, 8, "those that are right by the metric are not asked about");
    assert_eq!(asker.calls, 12 + 8);
    asker.warn_of_silence().unwrap();
    drop(asker);
    assert!(
        notes.events.iter().any(
            |e| matches!(e, EventBody::Warning { message } if message.contains("no verdict on 4 answers"))
        )
    );
}

#[test]
fn more_examples_are_not_tried_where_they_answer_worse() {
    let temp = tempfile::tempdir().unwrap();
    let mut notes = Notes::default();
    // One example is read, several confuse.
    let (tuned, _, _) = tuned(temp.path(), rows(120), &settings(), &mut notes, |ask| {
        let shown = ask.text().matches("Answer: ").count();
        if shown > 1 { Ok("none".to_owned()) } else { copies(ask) }
    });
    let of_all: Vec<usize> =
        tuned.report.curve.iter().filter(|m| m.store == "all").map(|m| m.shots).collect();
    assert_eq!(of_all, [1, 2], "{:?}", tuned.report.curve);
    assert_eq!(tuned.report.chosen.as_ref().map(|m| m.shots), Some(1));
}

#[test]
fn a_budget_that_is_raised_on_the_way_holds_and_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let budget = Budget { calls: Some(20), ..Budget::default() };
    let settings = TrajectorySettings { budget, ..settings() };
    let raised = Change::Budget(Limit::Calls(100));
    let mut notes = Notes { wishes: vec![(0, raised.clone())], ..Notes::default() };
    let (kept, asked, _) = tuned(temp.path(), rows(120), &settings, &mut notes, copies);
    assert_eq!((asked, kept.report.calls), (100, 100));
    assert!(notes.events.iter().any(|e| matches!(e, EventBody::Change { change, .. } if *change == raised)));
}
