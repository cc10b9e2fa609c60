//! The loop as a whole, over scripted models.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use super::examiner::Examiner;
use super::*;
use crate::backend::{Access, Answer, Ask, Backend, BackendError, Listener};
use crate::domain::candidate::{Limits, ModelSource, OutputKind, StageCandidate};
use crate::domain::prompt::{Fate, PromptHistory, PromptNews, Spend};
use crate::domain::report::notes::{After, Notes};
use crate::domain::report::{Control, RunInputs};
use crate::domain::run::{Job, RUN_FORMAT, RunSpec};
use crate::domain::settings::Budget;
use crate::domain::settings::CacheSettings;
use crate::domain::steer::{Change, told};
use crate::pipeline::tests as scripted;

/// A number in 0..1 that a text decides.
fn chance(text: &str) -> f64 {
    let hash = blake3::hash(text.as_bytes());
    f64::from(u32::from_le_bytes(*hash.as_bytes().first_chunk().unwrap())) / f64::from(u32::MAX)
}

/// Versions that are right with the same chance, 60% of it shared between them.
struct Equal(u64);

/// Versions of the very same end result; the first stage is right where its prompt says so.
struct Behind;

/// An examiner that costs nothing, has no critic, and hears of nothing.
macro_rules! quiet_examiner {
    ($of:ty, $examine:expr) => {
        impl Examiner for $of {
            fn examine(&mut self, key: &str, texts: &Texts, rows: &[usize]) -> Result<Vec<Mark>, Halt> {
                Ok(rows.iter().map(|&row| $examine(self, key, texts, row)).collect())
            }
            fn ask_critic(&mut self, prompts: Vec<String>) -> Result<Vec<Option<String>>, Halt> {
                Ok(vec![None; prompts.len()])
            }
            fn has_critic(&self) -> bool {
                false
            }
            fn spend(&self) -> Spend {
                Spend::default()
            }
            fn tell(&mut self, _: PromptNews) -> Result<(), Halt> {
                Ok(())
            }
            fn say(&mut self, _: EventBody) -> Result<(), Halt> {
                Ok(())
            }
            fn keep(&mut self, _: &PromptHistory) -> Result<(), Halt> {
                Ok(())
            }
        }
    };
}

quiet_examiner!(Equal, |own: &Self, key: &str, _: &Texts, row: usize| {
    let seed = own.0;
    let key = if chance(&format!("{seed} {key} {row}?")) < 0.6 { "" } else { key };
    let right = chance(&format!("{seed} {key} {row}")) < 0.7;
    Mark { score: f64::from(u8::from(right)), ..Mark::default() }
});

quiet_examiner!(Behind, |_: &Self, _: &str, texts: &Texts, row: usize| {
    let own = f64::from(u8::from(texts["s"].contains("topic")));
    let metrics = vec![("s.accuracy".into(), own), ("s.format_error_rate".into(), 1.0 - own)];
    Mark { score: f64::from(u8::from(row.is_multiple_of(2))), metrics, ..Mark::default() }
});

fn row(i: usize, part: Part, input: &str, gold: &str) -> RunRow {
    RunRow {
        part: Some(part),
        gold: Some(gold.into()),
        stratum: Some(gold.into()),
        ..scripted::row(&format!("r{i}"), input)
    }
}

#[test]
fn of_equal_versions_the_reported_gains_interval_covers_zero() {
    let rows: Vec<RunRow> = (0..300)
        .map(|i| {
            row(i, if i < 240 { Part::Dev } else { Part::Train }, &format!("text {i}"), ["a", "b"][i % 2])
        })
        .collect();
    let candidate = scripted::candidate(vec![scripted::stage(
        "s",
        "Sort this text.\n\n{{ input }}",
        OutputKind::Label,
        &["a", "b"],
    )]);
    const RUNS: u64 = 300;
    let (mut covered, mut selected_above, mut moved) = (0, 0, 0);
    for seed in 0..RUNS {
        let settings = PromptSettings {
            fan_out: 8,
            epochs: 2,
            survivors: 3,
            rows: 30,
            seed,
            ..PromptSettings::default()
        };
        let plan = Plan::new(&rows, &settings, 1).unwrap();
        let mut climb = Climb::new(&settings, &candidate, &rows, "accuracy", plan);
        climb.run(&mut Equal(seed)).unwrap();
        climb.conclude(&mut Equal(seed)).unwrap();
        let gain = climb.reported().unwrap();
        covered += u64::from(gain.n == 0 || (gain.ci95[0] <= 0.0 && gain.ci95[1] >= 0.0));
        selected_above += u64::from(gain.n > 0 && gain.selected.mean > 0.7);
        moved += u64::from(gain.n > 0);
    }
    assert!(covered * 100 >= RUNS * 95, "{covered} of {RUNS}");
    // The test can fail: races do choose, and what they chose looks good on their rows.
    assert!(moved * 10 > RUNS * 6 && selected_above * 10 > moved * 7, "{moved} {selected_above}");
}

#[test]
fn of_one_end_result_the_version_whose_own_stage_is_better_survives() {
    let rows: Vec<RunRow> =
        (0..300).map(|i| row(i, Part::Dev, &format!("text {i}"), LABELS[i % 3])).collect();
    let (settings, candidate) = (quick(), topic_stage());
    let plan = Plan::new(&rows, &settings, 1).unwrap();
    let mut climb = Climb::new(&settings, &candidate, &rows, "accuracy", plan);
    climb.run(&mut Behind).unwrap();
    climb.conclude(&mut Behind).unwrap();
    let survived = climb.survivors.iter().map(|node| &climb.nodes[*node].texts["s"]);
    assert!(survived.clone().all(|text| text.contains("topic")), "{:?}", survived.collect::<Vec<_>>());
    // It is no gain: the start stays the answer.
    assert_eq!(climb.reported().unwrap().delta, 0.0);
}

/// Dies after some calls, as a killed worker does; counts what it is asked.
struct Mortal {
    script: Rc<dyn Fn(&Ask) -> Result<String, BackendError>>,
    lives: Rc<Cell<usize>>,
    asked: Rc<RefCell<Vec<String>>>,
}

impl Backend for Mortal {
    fn stream(&mut self, asks: &[Ask], _: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        asks.iter()
            .map(|ask| {
                assert!(self.lives.get() > 0, "killed");
                self.lives.set(self.lives.get() - 1);
                self.asked.borrow_mut().push(format!("{} {}", ask.sample, ask.text()));
                let text = (self.script)(ask)?;
                Ok(Answer { text, tokens_in: 10, tokens_out: 2, ms: 5.0, ..Answer::default() })
            })
            .collect()
    }
}

struct World {
    dir: tempfile::TempDir,
    settings: PromptSettings,
    candidate: Candidate,
    rows: Vec<RunRow>,
    critic: Option<ModelRef>,
    judging: Option<Judging>,
    eval: EvalSettings,
    asked: Rc<RefCell<Vec<String>>>,
    notes: Notes,
}

impl World {
    fn new(candidate: Candidate, rows: Vec<RunRow>, settings: PromptSettings) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            settings,
            candidate,
            rows,
            critic: None,
            judging: None,
            eval: EvalSettings { metrics: vec!["accuracy".into()], ..EvalSettings::default() },
            asked: Rc::default(),
            notes: Notes::default(),
        }
    }

    fn with_critic(mut self) -> Self {
        let model = ModelRef {
            name: "critic".into(),
            source: ModelSource::Local { path: "/critic".into() },
            hash: "critic".into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        };
        self.critic = Some(model);
        self
    }

    /// One life of a worker with so many calls; none where it died.
    fn live(
        &mut self,
        lives: usize,
        model: impl Fn(&Ask) -> Result<String, BackendError> + 'static,
        critic: impl Fn(&Ask) -> Result<String, BackendError> + 'static,
    ) -> Option<Tuned> {
        let spec = RunSpec {
            format: RUN_FORMAT,
            id: "prompt-1".into(),
            workspace: "w".into(),
            created_ms: 0,
            seed: 7,
            threads: 1,
            job: Job::Prompt {
                prompt: self.settings.clone(),
                eval: self.eval.clone(),
                critic: None,
                judge: None,
            },
            candidate: Some(self.candidate.clone()),
            settings: Vec::new(),
            past: None,
            from: None,
            cache: CacheSettings::default(),
            rows: Vec::new(),
            sets: Vec::new(),
        };
        let told = self.notes.events.iter().filter(|e| matches!(e, EventBody::Prompt(_))).cloned().collect();
        let inputs = RunInputs {
            dir: self.dir.path().to_owned(),
            spec,
            rows: self.rows.clone(),
            resume_from: None,
            sets: Vec::new(),
            outcomes: Vec::new(),
            keys: Default::default(),
            cache: None,
            history: told,
        };
        let (model, critic): (Rc<dyn Fn(&Ask) -> _>, Rc<dyn Fn(&Ask) -> _>) =
            (Rc::new(model), Rc::new(critic));
        let lives = Rc::new(Cell::new(lives));
        let asked = self.asked.clone();
        let open = Box::new(move |of: &ModelRef, _: Option<&StageCandidate>| {
            let script = if of.name == "critic" { critic.clone() } else { model.clone() };
            let backend: Box<dyn Backend> =
                Box::new(Mortal { script, lives: lives.clone(), asked: asked.clone() });
            Ok(backend)
        });
        let (settings, eval, critic) = (self.settings.clone(), self.eval.clone(), self.critic.clone());
        let candidate = self.candidate.clone();
        let notes = &mut self.notes;
        let work = std::panic::AssertUnwindSafe(|| {
            let judging = self.judging.as_ref();
            tune(
                &settings,
                &eval,
                critic.as_ref(),
                &candidate,
                &inputs,
                judging,
                open,
                &Access::threads(1),
                notes,
            )
            .unwrap()
            .unwrap()
        });
        std::panic::catch_unwind(work).ok()
    }

    fn history(&self) -> PromptHistory {
        serde_json::from_slice(&std::fs::read(self.dir.path().join(HISTORY)).unwrap()).unwrap()
    }
}

const LABELS: [&str; 3] = ["cards", "loans", "app"];

/// Rows that name their label, and a model that answers them when the prompt asks for the topic.
fn topics(dev: usize) -> Vec<RunRow> {
    (0..dev + 60)
        .map(|i| {
            let part = if i < dev {
                Part::Dev
            } else if i < dev + 40 {
                Part::Train
            } else {
                Part::Eval
            };
            row(i, part, &format!("row {i}: my {} thing is not right today", LABELS[i % 3]), LABELS[i % 3])
        })
        .collect()
}

fn knows_topics(ask: &Ask) -> Result<String, BackendError> {
    let text = ask.text();
    let input = text.rsplit("row ").next().unwrap();
    let right = LABELS.into_iter().find(|label| input.contains(label)).unwrap();
    let sure = if text.contains("topic") { 0.95 } else { 0.4 };
    Ok(if chance(text) < sure { right } else { "app" }.to_owned())
}

fn topic_stage() -> Candidate {
    scripted::candidate(vec![scripted::stage(
        "s",
        "Which team should get this message?\n\n{{ input }}",
        OutputKind::Label,
        &LABELS,
    )])
}

fn quick() -> PromptSettings {
    PromptSettings { fan_out: 12, epochs: 3, survivors: 3, rows: 30, ..PromptSettings::default() }
}

fn no_critic(_: &Ask) -> Result<String, BackendError> {
    Err(BackendError("there is none".into()))
}

#[test]
fn a_wording_that_the_model_knows_is_found_without_a_critic() {
    let mut world = World::new(topic_stage(), topics(300), quick());
    let tuned = world.live(usize::MAX, knows_topics, no_critic).unwrap();
    assert_eq!((tuned.candidate.rung.as_str(), tuned.candidate.name.as_str()), ("prompt", "prompt-1"));
    assert!(tuned.candidate.stages[0].prompt.contains("topic"), "{}", tuned.candidate.stages[0].prompt);
    assert!(tuned.metrics["gain_low"] > 0.1, "{:?}", tuned.metrics);
    let history = world.history();
    let gain = history.gain.clone().unwrap();
    assert!(!gain.start_stays && gain.n == 100 && gain.p_value < 0.001, "{gain}");
    let last = history.versions.iter().find(|v| v.fate == Fate::Final).unwrap();
    assert!(last.prompts["s"].contains("topic") && !last.fixed.is_empty() && !last.parents.is_empty());
    // Many are dropped before the end of their race, and those that are had few rows.
    let dropped: Vec<_> = history.versions.iter().filter(|v| v.fate == Fate::Dropped).collect();
    assert!(dropped.iter().any(|v| v.selected.is_some_and(|s| s.n < 25)), "{}", dropped.len());
    // Eval rows are never asked.
    let eval: Vec<String> =
        world.rows.iter().filter(|r| r.part == Some(Part::Eval)).map(|r| r.input.clone()).collect();
    assert!(world.asked.borrow().iter().all(|asked| !eval.iter().any(|row| asked.ends_with(row))));
}

#[test]
fn where_nothing_helps_the_start_is_the_answer() {
    let mut world = World::new(topic_stage(), topics(200), quick());
    let right_for_the_start = |ask: &Ask| {
        let start = ask.text().starts_with("Which team should get this message?\n\nrow");
        if start { knows_topics(ask) } else { Ok("loans".to_owned()) }
    };
    let tuned = world.live(usize::MAX, right_for_the_start, no_critic).unwrap();
    assert_eq!(tuned.candidate, world.candidate);
    let gain = world.history().gain.unwrap();
    assert!(gain.start_stays && gain.to_string().contains("the start is the answer"), "{gain}");
}

#[test]
fn a_killed_run_goes_on_where_it_was_and_asks_nothing_twice() {
    let mut whole = World::new(topic_stage(), topics(300), quick()).with_critic();
    let critic = |ask: &Ask| {
        let words = if chance(ask.text()) < 0.5 { "Name the topic of it." } else { "Say what it is." };
        Ok(format!("Vague.\n<prompt>\n{words} {}\n\n{{{{ input }}}}\n</prompt>", ask.sample))
    };
    let want = whole.live(usize::MAX, knows_topics, critic).unwrap();

    let mut world = World::new(topic_stage(), topics(300), quick()).with_critic();
    let mut lives = 0;
    let got = loop {
        lives += 1;
        assert!(lives < 40);
        if let Some(tuned) = world.live(137, knows_topics, critic) {
            break tuned;
        }
    };
    assert!(lives > 5, "{lives}");
    assert_eq!(got.candidate, want.candidate);
    assert_eq!(got.metrics["calls"], want.metrics["calls"]);
    assert_eq!(got.metrics["calls"] as usize, whole.asked.borrow().len(), "every answer is counted");
    // What was under way when it was killed is asked again; nothing else is.
    let asked = world.asked.borrow();
    let twice = asked.len() - asked.iter().collect::<HashSet<_>>().len();
    let once = whole.asked.borrow();
    let unavoidable = once.len() - once.iter().collect::<HashSet<_>>().len();
    assert!(twice <= unavoidable + lives * 16, "{twice} of {} in {lives} lives", asked.len());
    // The same is told, once.
    let told = |world: &World| -> Vec<String> {
        let line = |e: &EventBody| match e {
            EventBody::Prompt(PromptNews::Version { version }) => Some(version.id.clone()),
            EventBody::Prompt(PromptNews::Epoch { epoch, standings, .. }) => {
                Some(format!("{epoch} {standings:?}"))
            }
            EventBody::Prompt(PromptNews::Race { epoch, round, lanes, .. }) => {
                Some(format!("{epoch} {round} {lanes:?}"))
            }
            EventBody::Prompt(PromptNews::Gain { gain, .. }) => Some(gain.to_string()),
            _ => None,
        };
        world.notes.events.iter().filter_map(line).collect()
    };
    assert_eq!(told(&world), told(&whole));
}

#[test]
fn a_critic_that_answers_garbage_or_nothing_costs_proposals_and_not_the_run() {
    let garbage: [fn(&Ask) -> Result<String, BackendError>; 3] = [
        |_| Ok("\u{1b}[2J<prompt>{{ nothing }}</prompt>{{{%".into()),
        |_| Ok("<prompt>cut off in the mid".into()),
        |_| Err(BackendError("connection refused".into())),
    ];
    for critic in garbage {
        let mut world = World::new(topic_stage(), topics(300), quick()).with_critic();
        let tuned = world.live(usize::MAX, knows_topics, critic).unwrap();
        assert!(tuned.metrics["gain_low"] > 0.1, "{:?}", tuned.metrics);
        let by_critic = ["reflection", "history", "induction"];
        assert!(world.history().versions.iter().all(|v| !by_critic.contains(&v.proposer.as_str())));
    }
}

#[test]
fn a_good_critic_is_used_and_its_failures_are_those_of_the_parent() {
    let critic = |ask: &Ask| {
        let text = ask.text();
        assert!(text.contains("{{ input }}") && text.contains("<prompt>"));
        if text.contains("<wrong>") {
            assert!(text.contains("right answer: "));
        }
        Ok(format!("<prompt>Look for the word zebra {}. {{{{ input }}}}</prompt>", ask.sample))
    };
    let mut world = World::new(topic_stage(), topics(300), quick()).with_critic();
    let model = |ask: &Ask| {
        let text = ask.text().replace("topic", "subject").replace("zebra", "topic");
        knows_topics(&Ask { prompt: crate::backend::Prompt::Turn(text), ..ask.clone() })
    };
    let tuned = world.live(usize::MAX, model, critic).unwrap();
    assert!(tuned.candidate.stages[0].prompt.contains("zebra"), "{}", tuned.candidate.stages[0].prompt);
}

#[test]
fn the_budget_of_calls_is_kept() {
    for calls in [150, 400, 1_000] {
        let settings =
            PromptSettings { budget: Budget { calls: Some(calls), ..Budget::default() }, ..quick() };
        let mut world = World::new(topic_stage(), topics(300), settings);
        let tuned = world.live(usize::MAX, knows_topics, no_critic).unwrap();
        assert!(tuned.metrics["calls"] <= calls as f64, "{calls}: {:?}", tuned.metrics);
        assert_eq!(world.asked.borrow().len() as f64, tuned.metrics["calls"]);
        assert!(!world.history().versions.is_empty());
    }
}

#[test]
fn whoever_waits_sees_what_is_asked_also_before_the_first_round_and_in_the_last_comparison() {
    let mut world = World::new(topic_stage(), topics(300), quick()).with_critic();
    let critic = |_: &Ask| Ok("<prompt>Name the topic of this.\n\n{{ input }}</prompt>".to_owned());
    world.live(100_000, knows_topics, critic).unwrap();
    let told: Vec<(String, u64, u64)> = world
        .notes
        .events
        .iter()
        .filter_map(|event| match event {
            EventBody::Progress { phase, done, total, .. } => Some((phase.clone(), *done, *total)),
            _ => None,
        })
        .collect();
    let first = format!("epoch 1/{}", quick().epochs);
    for phase in ["the start", ", screening", ", race, round 1", ", fresh rows", "the last comparison"] {
        let phase = if phase.starts_with(',') { format!("{first}{phase}") } else { phase.to_owned() };
        let of: Vec<_> = told.iter().filter(|(known, ..)| *known == phase).collect();
        assert!(!of.is_empty(), "{phase}: {told:?}");
        assert!(of.iter().all(|(_, done, total)| done <= total && *total > 0), "{of:?}");
        assert_eq!(of.last().unwrap().1, of.last().unwrap().2, "{of:?}");
    }
    // The critic is named before it answers.
    assert!(told.iter().any(|(phase, done, _)| phase.contains("critic is asked") && *done == 0), "{told:?}");
}

#[test]
fn a_stopped_run_keeps_its_best_so_far() {
    let mut world = World::new(topic_stage(), topics(300), quick());
    world.notes.asks = Some((After::Epochs(2), Control::Stop));
    let tuned = world.live(usize::MAX, knows_topics, no_critic).unwrap();
    assert!(tuned.stopped && tuned.metrics["gain_rows"] == 100.0, "{:?}", tuned.metrics);
}

#[test]
fn a_stage_is_tuned_for_the_end_result_and_others_stay() {
    // The first stage's answer decides what the last one is asked; only the last one's gold counts.
    let first = scripted::stage("intent", "Which team is it?\n\n{{ input }}", OutputKind::Label, &LABELS);
    let last = scripted::stage("desk", "Desk of {{ intent }}: {{ input }}", OutputKind::Label, &LABELS);
    let model = |ask: &Ask| match ask.text().strip_prefix("Desk of ") {
        Some(rest) => Ok(rest.split(':').next().unwrap().to_owned()),
        None => knows_topics(ask),
    };
    let settings = PromptSettings { stages: vec!["intent".into()], ..quick() };
    let mut world = World::new(scripted::candidate(vec![first, last]), topics(300), settings);
    let tuned = world.live(usize::MAX, model, no_critic).unwrap();
    assert!(tuned.candidate.stages[0].prompt.contains("topic"), "{}", tuned.candidate.stages[0].prompt);
    assert_eq!(tuned.candidate.stages[1], world.candidate.stages[1]);
    assert!(tuned.metrics["gain_low"] > 0.1, "{:?}", tuned.metrics);
}

#[test]
fn pins_and_stages_that_are_not_there_are_refused_with_their_key() {
    let candidate = topic_stage();
    let pinned = PromptSettings { pins: vec!["never promise a refund".into()], ..quick() };
    let (key, why) = check(&pinned, &EvalSettings::default(), &candidate).unwrap_err();
    assert!(key == "tuning.prompt.pins" && why.contains("stands in none"), "{why}");
    let staged = PromptSettings { stages: vec!["rout".into()], ..quick() };
    assert!(check(&staged, &EvalSettings::default(), &candidate).unwrap_err().1.contains("its stages: s"));
    assert!(
        check(
            &PromptSettings { pins: vec!["which  TEAM".into()], ..quick() },
            &EvalSettings::default(),
            &candidate
        )
        .is_ok()
    );
}

fn wishes(texts: &[(usize, &str)]) -> Vec<(usize, Change)> {
    texts.iter().map(|(at, text)| (*at, text.parse().unwrap())).collect()
}

#[test]
fn what_a_person_changes_in_mid_run_is_done_and_done_again_where_it_was_after_a_crash() {
    let settings = PromptSettings { budget: Budget { calls: Some(100_000), ..Budget::default() }, ..quick() };
    let asked = [
        (1, "hint=Think of the topic of it."),
        (14, "kill=v3"),
        (14, "kill=v99"),
        (15, "budget.calls=90000"),
        (30, "lesson:v2=never do that again"),
        (31, "pin=topic"),
    ];
    let mut whole = World::new(topic_stage(), topics(300), settings.clone());
    whole.notes.wishes = wishes(&asked);
    let want = whole.live(usize::MAX, knows_topics, no_critic).unwrap();
    let history = whole.history();
    let of = |id: &str| history.versions.iter().find(|v| v.id == id).unwrap();
    let hinted = history.versions.iter().find(|v| v.proposer == "hint").unwrap();
    assert!(
        hinted.prompts["s"].starts_with("Which team should get this message?\n\nThink of the topic of it."),
        "{hinted:?}"
    );
    assert!(matches!(of("v3").fate, Fate::Dropped | Fate::Beaten), "{:?}", of("v3"));
    assert!(history.lessons.iter().any(|l| l.version == "v2" && l.edit == "never do that again"));
    let last = history.versions.iter().find(|v| v.fate == Fate::Final).unwrap();
    assert!(last.id == "v0" || last.prompts["s"].contains("topic"), "pinned words stay: {last:?}");
    let said = |world: &World| -> Vec<String> {
        let words = |e: &EventBody| match e {
            EventBody::Change { change, refused, .. } => Some(told(0, change, refused.as_deref())),
            _ => None,
        };
        let mut all: Vec<String> = world.notes.events.iter().filter_map(words).collect();
        // The last change may be told again by a later life.
        all.dedup();
        all
    };
    assert!(said(&whole).iter().any(|w| w.contains("there is no version v99")), "{:?}", said(&whole));

    let mut world = World::new(topic_stage(), topics(300), settings);
    world.notes.wishes = wishes(&asked);
    let mut lives = 0;
    let got = loop {
        lives += 1;
        assert!(lives < 60);
        if let Some(tuned) = world.live(97, knows_topics, no_critic) {
            break tuned;
        }
    };
    assert!(lives > 5, "{lives}");
    assert_eq!(got.candidate, want.candidate);
    assert_eq!(got.metrics["calls"], want.metrics["calls"], "nothing is paid for twice");
    let versions = |world: &World| -> Vec<(String, String, Fate)> {
        let all = world.history().versions.into_iter();
        all.map(|v| (v.id, v.hash, v.fate)).collect()
    };
    assert_eq!(versions(&world), versions(&whole));
}

#[test]
fn a_raised_budget_brings_the_epochs_back_that_a_small_one_had_cut() {
    let settings =
        PromptSettings { epochs: 4, budget: Budget { calls: Some(900), ..Budget::default() }, ..quick() };
    let mut small = World::new(topic_stage(), topics(600), settings.clone());
    let epochs = |world: &World| {
        let of = |e: &&EventBody| matches!(e, EventBody::Prompt(PromptNews::Epoch { .. }));
        world.notes.events.iter().filter(of).count()
    };
    small.live(usize::MAX, knows_topics, no_critic).unwrap();
    let mut raised = World::new(topic_stage(), topics(600), settings);
    raised.notes.wishes = wishes(&[(1, "budget.calls=20000")]);
    let tuned = raised.live(usize::MAX, knows_topics, no_critic).unwrap();
    assert!(epochs(&small) < 4 && epochs(&raised) == 4, "{} {}", epochs(&small), epochs(&raised));
    assert!(tuned.metrics["calls"] > 900.0, "{:?}", tuned.metrics);
}

/// Needs the clause on topics, is harmed by the one on brevity, and does not care for the third.
fn heeds_clauses(ask: &Ask) -> Result<String, BackendError> {
    let text = ask.text();
    let input = text.rsplit("row ").next().unwrap();
    let right = LABELS.into_iter().find(|label| input.contains(label)).unwrap();
    let sure = match (text.contains("Name the topic."), text.contains("Be brief.")) {
        (true, false) => 1.0,
        (true, true) => 0.8,
        (false, _) => 0.3,
    };
    Ok(if chance(input) < sure { right } else { "none" }.to_owned())
}

fn wordy_stage() -> Candidate {
    scripted::candidate(vec![scripted::stage(
        "s",
        "Name the topic. Be brief. The sky is blue.\n\n{{ input }}\n\n\n\nThank you.",
        OutputKind::Label,
        &LABELS,
    )])
}

#[test]
fn clauses_are_told_apart_by_what_they_fix_and_break() {
    let settings = PromptSettings { task: PromptTask::Clauses, rows: 60, ..quick() };
    let mut world = World::new(wordy_stage(), topics(300), settings);
    let tuned = world.live(usize::MAX, heeds_clauses, no_critic).unwrap();
    let report: crate::domain::prompt::ClauseReport =
        serde_json::from_slice(&std::fs::read(world.dir.path().join(CLAUSES)).unwrap()).unwrap();
    let of = |words: &str| {
        report.clauses.iter().find(|c| c.words == words).unwrap_or_else(|| panic!("{report:?}"))
    };
    let topic = of("Name the topic.");
    assert!(topic.fixed.len() > 20 && topic.broken.is_empty() && topic.delta > 0.3, "{topic:?}");
    let brief = of("Be brief.");
    assert!(brief.fixed.is_empty() && brief.broken.len() > 5 && brief.delta < -0.1, "{brief:?}");
    let sky = of("The sky is blue.");
    assert!(sky.fixed.is_empty() && sky.broken.is_empty() && sky.delta == 0.0, "{sky:?}");
    assert_eq!(tuned.metrics["calls"], 60.0 * 5.0, "the start and four clauses");
    assert_eq!(report.sorted()[0].words, "Name the topic.");
}

#[test]
fn economy_drops_what_fixes_nothing_and_keeps_what_does() {
    let settings = PromptSettings { task: PromptTask::Economy, ..quick() };
    let mut world = World::new(wordy_stage(), topics(300), settings);
    let tuned = world.live(usize::MAX, heeds_clauses, no_critic).unwrap();
    let prompt = &tuned.candidate.stages[0].prompt;
    assert_eq!(prompt.split_whitespace().collect::<Vec<_>>(), ["Name", "the", "topic.", "{{", "input", "}}"]);
    let gain = world.history().gain.unwrap();
    assert!(gain.economy && !gain.start_stays && gain.delta >= 0.0, "{gain}");
    assert!(
        gain.to_string().contains("tokens a row") && gain.to_string().contains("the score holds"),
        "{gain}"
    );
}

/// Answers of a bank's support that people judged: rude ones are bad.
fn judged(n: usize) -> (crate::domain::judge::Judge, Candidate, Judging) {
    use crate::domain::judge::{Judge, JudgedAnswer};
    let mut judge = Judge {
        rubric: "Is the answer good?\n{{ input }}\n{{ output }}\n".into(),
        ..crate::tuning::judge::tests::judge(false)
    };
    // The critic is another model.
    judge.model.name = "judge".into();
    let rude = |i: usize| chance(&format!("rude {i}")) < 0.45;
    let rows: Vec<RunRow> = (0..n)
        .map(|i| row(i, Part::Dev, &format!("question {i}"), if rude(i) { "bad" } else { "good" }))
        .collect();
    let answers = (0..n)
        .map(|i| JudgedAnswer {
            // Two answers to each row.
            row: (i / 2).to_string(),
            row_hash: "h".into(),
            output: format!("{} answer {i}", if rude(i) { "go away" } else { "gladly" }),
            gold: None,
        })
        .collect();
    let mut stage = scripted::stage(&judge.stage(), &judge.rubric, OutputKind::Label, &["bad", "good"]);
    stage.model = judge.model.clone();
    let judging = Judging::new(&judge, &rows, answers);
    (judge, scripted::candidate(vec![stage]), judging)
}

/// It sees what is rude only where its rubric speaks of it.
fn judges_by_the_rubric(ask: &Ask) -> Result<String, BackendError> {
    let text = ask.text();
    let told = text.contains("politely");
    let said = if told && text.contains("go away") { "bad" } else { "good" };
    // Not every time.
    Ok(if told && chance(text) < 0.1 { "bad" } else { said }.to_owned())
}

#[test]
fn a_rubric_is_tuned_until_its_judge_says_what_people_say() {
    let (judge, candidate, judging) = judged(160);
    let rows = judging.rows.clone();
    let settings =
        PromptSettings { fan_out: 6, epochs: 2, survivors: 2, rows: 24, ..PromptSettings::default() };
    let mut world = World::new(candidate, rows, settings).with_critic();
    world.judging = Some(judging);
    let critic = |ask: &Ask| {
        let text = ask.text();
        assert!(text.contains("The answer must be one of: bad, good.") && text.contains("{{ output }}"));
        // What went wrong says what to ask for.
        let words =
            if text.contains("<wrong>") { "Is the question answered politely?" } else { "Is it long?" };
        Ok(format!("<prompt>{words} {}\n{{{{ input }}}}\n{{{{ output }}}}</prompt>", ask.sample))
    };
    let tuned = world.live(usize::MAX, judges_by_the_rubric, critic).unwrap();
    let rubric = &tuned.texts[&judge.stage()];
    assert!(rubric.contains("politely"), "{rubric}");
    let metrics = &tuned.measured.as_ref().unwrap().metrics;
    assert_eq!(metrics["kappa_start"], 0.0, "whoever says good to everything agrees by chance: {metrics:?}");
    assert!(metrics["kappa"] > 0.6 && metrics["kappa_all"] > 0.6, "{metrics:?}");
    assert!(tuned.metrics["gain_low"] > 0.1, "{:?}", tuned.metrics);
    let told = world
        .notes
        .events
        .iter()
        .any(|e| matches!(e, EventBody::Log { message } if message.starts_with("kappa with people on ")));
    assert!(told);
    // Answers to one row either chose or compared.
    let judging = world.judging.as_ref().unwrap();
    let mut plan = Plan::new(&judging.rows, &world.settings, 1).unwrap();
    plan.keep_together(|place| judging.row_of(place));
    let claimed: HashSet<&str> = plan.claim.iter().map(|at| judging.row_of(*at)).collect();
    assert!(plan.select.iter().all(|at| !claimed.contains(judging.row_of(*at))));
}

#[test]
fn on_a_scale_near_misses_count_and_no_verdict_is_wrong() {
    use crate::domain::judge::{Judge, JudgedAnswer, Verdicts};
    let judge = Judge { verdicts: Verdicts::scale(1, 5), ..crate::tuning::judge::tests::judge(false) };
    let golds = ["1", "5", "3", "2"];
    let rows: Vec<RunRow> = (0..4).map(|i| row(i, Part::Dev, "x", golds[i])).collect();
    let answers = (0..4).map(|i| JudgedAnswer {
        row: i.to_string(),
        output: format!("o{i}"),
        ..JudgedAnswer::default()
    });
    let judging = Judging::new(&judge, &rows, answers.collect());
    let script: Rc<dyn Fn(&Ask) -> Result<String, BackendError>> = Rc::new(|ask| {
        let said = ["o0", "o1", "o2", "o3"].iter().position(|o| ask.text().contains(o)).unwrap();
        [
            Ok("1".to_owned()),
            Ok("3".to_owned()),
            Ok("rather good".to_owned()),
            Err(BackendError("cut".into())),
        ][said]
            .clone()
    });
    let backend = Mortal { script, lives: Rc::new(Cell::new(9)), asked: Rc::default() };
    let got = judging.outcomes(&judge.rubric, Box::new(backend), &[0, 1, 2, 3]);
    let scores: Vec<f64> = got.iter().map(|o| o.scores["accuracy"]).collect();
    assert_eq!(scores, [1.0, 0.75, 0.0, 0.0]);
    // Words that are no verdict are the rubric's fault; a broken line is nobody's.
    assert_eq!((got[2].error.as_deref(), got[3].error.as_deref()), (None, Some("cut")));
}
