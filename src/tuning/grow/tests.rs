//! The whole run over scripted models: what is good is kept, everything else falls where it must; stopped, taken up again, out of budget.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::backend::{Ask, BackendError};
use crate::domain::candidate::{Candidate, ModelSource, OutputKind};
use crate::domain::report::Control;
use crate::domain::report::notes::{After, Notes};
use crate::pipeline::tests as scripted;

const TEXTS: [&str; 8] = [
    "the card that i lost in town has not been blocked",
    "somebody at the shop swallowed my card yesterday",
    "my card got stuck in the machine by the station",
    "please block the card, i left it on the train",
    "where can i get another card after the old one broke",
    "the card does not work at any till today",
    "who found my card in the park on sunday",
    "i dropped the card in the lake while swimming",
];
const EVAL: &str = "a thief took my card and my phone in rome";

fn rows() -> Vec<RunRow> {
    (0..8)
        .map(|i| {
            let mut row = scripted::row(&format!("r{i}"), TEXTS[i]);
            row.fields.insert("message".into(), TEXTS[i].into());
            row.fields.insert("team".into(), "cards".into());
            row.gold = Some("cards".into());
            row.part = Some(Part::Train);
            row.stratum = Some("cards".into());
            row
        })
        .collect()
}

fn candidate() -> Candidate {
    scripted::candidate(vec![scripted::stage(
        "route",
        "Which team?\n\n{{ input }}",
        OutputKind::Label,
        &["cards", "none"],
    )])
}

fn maker(endpoint: bool) -> ModelRef {
    let mut model = scripted::stage("maker", "", OutputKind::Text, &[]).model;
    (model.name, model.hash) = ("maker".into(), "m".into());
    if endpoint {
        model.source = ModelSource::Endpoint {
            endpoint: "http://127.0.0.1:1/v1".into(),
            model: "m".into(),
            api_key_env: None,
        };
    }
    model.usd_per_million_output = Some(1e6);
    model
}

fn inputs(dir: &Path, rows: Vec<RunRow>) -> RunInputs {
    fs::create_dir_all(dir.join("inputs")).unwrap();
    let mut others = String::new();
    let scored = [("e1", Part::Eval, EVAL), ("d1", Part::Dev, "an app that crashes at login")];
    let all = rows.iter().map(|row| (row.id.as_str(), Part::Train, row.input.as_str())).chain(scored);
    for (id, part, input) in all {
        let other = Other { id: id.into(), part: Some(part), input: input.into() };
        others.push_str(&format!("{}\n", serde_json::to_string(&other).unwrap()));
    }
    fs::write(dir.join("inputs").join(Other::FILE), others).unwrap();
    let spec = serde_json::json!({
        "format": 1, "id": "grow-1", "workspace": "w", "created_ms": 0, "seed": 1, "threads": 1,
        "job": { "job": "strata" }, "candidate": candidate(), "settings": [], "rows": [],
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

/// What a maker says: by the place of the parent that the question shows, and the number of its drawing.
type Script = fn(usize, u32) -> Result<String, BackendError>;

fn settings() -> GrowSettings {
    GrowSettings { per_row: 1, ..GrowSettings::default() }
}

/// What was made, how often the maker and the checker were asked, and what the run says of itself.
fn grown(
    dir: &Path,
    settings: &GrowSettings,
    maker: &ModelRef,
    script: Script,
    notes: &mut Notes,
) -> anyhow::Result<(Vec<Grown>, (usize, usize), RunResult)> {
    let form = RowForm {
        fields: vec!["message".into()],
        input: Some("{{ message }}".into()),
        gold: Some("team".into()),
        ..RowForm::default()
    };
    let (made, checked) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
    let (of_maker, of_checker) = (made.clone(), checked.clone());
    let mut open = move |model: &ModelRef, _: Option<&StageCandidate>| {
        let said = move |ask: &Ask| {
            let text = ask.text();
            if let Some((_, of)) = text.split_once("Say in one or two plain sentences") {
                // Every restatement but that of the sixth is what was said.
                let told = of.rsplit("Message:\n").next().unwrap_or_default();
                return Ok(if told.contains("lake") { "qwzx vbnk".into() } else { told.into() });
            }
            let at = TEXTS.iter().position(|known| text.contains(known)).unwrap_or(0);
            script(at, ask.sample)
        };
        let right = |ask: &Ask| Ok(if ask.text().contains("weather") { "none" } else { "cards" }.to_owned());
        let backend: Box<dyn backend::Backend> = if model.hash == "m" {
            Box::new(scripted::Scripted { script: Box::new(said), asked: of_maker.clone() })
        } else {
            Box::new(scripted::Scripted { script: Box::new(right), asked: of_checker.clone() })
        };
        Ok(backend)
    };
    let growing = Growing { settings, form: &form, maker, from: 8 };
    let inputs = inputs(dir, rows());
    let eval = EvalSettings { primary: "accuracy".into(), ..EvalSettings::default() };
    let result = grow(&growing, &eval, &inputs, &Access::threads(1), &mut open, notes)?;
    let count = |of: &RefCell<Vec<Vec<Ask>>>| of.borrow().iter().map(Vec::len).sum::<usize>();
    let asked = (count(&made), count(&checked));
    let (all, bad) = lines::read_all::<Grown>(&dir.join(GROWN))?;
    assert_eq!(bad, 0);
    Ok((all, asked, result))
}

/// Good for half of the rows.
fn mixed(at: usize, _: u32) -> Result<String, BackendError> {
    let said = [
        "I cannot find the card any more, can you stop it?",
        "",
        TEXTS[2],
        EVAL,
        "{{ message }}",
        "The weather is nice today.",
        "failure",
        "It went under, my card, when I was on the boat",
    ];
    if at == 6 { Err(BackendError("refused".into())) } else { Ok(said[at].to_owned()) }
}

#[test]
fn what_is_good_is_kept_and_everything_else_falls_where_it_must() {
    let dir = tempfile::tempdir().unwrap();
    let (all, asked, result) =
        grown(dir.path(), &settings(), &maker(false), mixed, &mut Notes::default()).unwrap();
    let fell: Vec<Option<Check>> = all.iter().map(|one| one.fell).collect();
    let want = [
        None,
        Some(Check::Text),
        Some(Check::Duplicate),
        Some(Check::Leak),
        Some(Check::Text),
        Some(Check::Disputed),
        Some(Check::Silent),
        None,
    ];
    assert_eq!(fell, want, "{all:#?}");
    assert!(all.iter().all(|one| one.fell.is_none() == one.why.is_empty()), "each with its reason");
    assert_eq!(all[3].why, "the same text as row e1 of the eval part");
    assert_eq!(all[5].why, "answered `none`, gold is `cards`");
    assert_eq!(asked, (8, 3), "who fell before is not asked about");
    assert_eq!((result.metrics["made"], result.metrics["kept"]), (8.0, 2.0));
    assert_eq!((result.metrics["fell_text"], result.metrics["fell_leak"]), (2.0, 1.0));
    assert!(result.candidate.is_none(), "it makes no candidate");

    let (rows, _) =
        lines::read_all::<serde_json::Map<String, serde_json::Value>>(&dir.path().join(KEPT)).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["message"], "I cannot find the card any more, can you stop it?");
    assert_eq!(
        (&rows[0]["team"], &rows[0]["channel"]),
        (&"cards".into(), &"mail".into()),
        "as its parent has them"
    );
    assert_eq!(
        rows[0][SYNTHETIC],
        serde_json::json!({ "parents": ["r0"], "maker": "maker", "method": "paraphrase", "run": "grow-1" })
    );
    assert_eq!(rows[0]["id"], all[0].id.as_str());
}

fn numbered(at: usize, sample: u32) -> Result<String, BackendError> {
    const NOUNS: [&str; 8] =
        ["violin", "harbour", "ticket", "ladder", "pepper", "granite", "orchard", "tunnel"];
    const ENDS: [&str; 3] =
        ["quickly, says the neighbour", "or so it seemed to us both", "before breakfast on Tuesday"];
    Ok(format!("my card vanished near the {} {}", NOUNS[at], ENDS[sample as usize % 3]))
}

#[test]
fn a_run_that_is_stopped_keeps_what_it_verified_and_goes_on_without_asking_twice() {
    let whole = tempfile::tempdir().unwrap();
    let settings = GrowSettings { per_row: 3, ..GrowSettings::default() };
    let (want, asked, _) =
        grown(whole.path(), &settings, &maker(false), numbered, &mut Notes::default()).unwrap();
    assert_eq!((want.len(), asked), (24, (24, 24)), "{want:#?}");

    let dir = tempfile::tempdir().unwrap();
    let mut notes = Notes::asking(After::Polls(2), Control::Stop);
    let (first, before, result) = grown(dir.path(), &settings, &maker(false), numbered, &mut notes).unwrap();
    assert_eq!((first.len(), result.stopped, before), (16, true, (16, 16)));
    assert_eq!(first, want[..16], "verified");
    // Killed in the middle of a line, and with artifacts of an older life.
    let log = dir.path().join(crate::tuning::prompt::LOG);
    let mut bytes = fs::read(&log).unwrap();
    bytes.extend_from_slice(b"{\"log\":\"critic\",\"ke");
    fs::write(&log, bytes).unwrap();
    fs::write(dir.path().join(GROWN), "torn").unwrap();
    let (all, after, result) =
        grown(dir.path(), &settings, &maker(false), numbered, &mut Notes::default()).unwrap();
    assert_eq!((all, after, result.stopped), (want, (8, 8), false));
    assert_eq!(result.metrics["calls"], 48.0, "paid once");
}

#[test]
fn a_budget_ends_the_run_with_what_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let budget = crate::domain::settings::Budget { calls: Some(21), ..Default::default() };
    let settings = GrowSettings { per_row: 3, budget, ..GrowSettings::default() };
    let mut notes = Notes::default();
    let (all, asked, result) = grown(dir.path(), &settings, &maker(false), numbered, &mut notes).unwrap();
    assert_eq!((all.len(), asked, result.stopped), (10, (10, 10), false));
    let told = |body: &EventBody| matches!(body, EventBody::Warning { message } if message.contains("budget's `calls`"));
    assert!(notes.events.iter().any(told), "{:?}", notes.events);

    let dir = tempfile::tempdir().unwrap();
    let budget = crate::domain::settings::Budget { usd: Some(17.0), ..Default::default() };
    let settings = GrowSettings { per_row: 3, budget, ..GrowSettings::default() };
    let (all, ..) = grown(dir.path(), &settings, &maker(true), numbered, &mut Notes::default()).unwrap();
    assert!((4..24).contains(&all.len()), "{}", all.len());
}

#[test]
fn what_means_something_else_when_it_is_restated_falls() {
    let dir = tempfile::tempdir().unwrap();
    let settings = GrowSettings { per_row: 1, meaning: 0.05, ..GrowSettings::default() };
    fn said(at: usize, _: u32) -> Result<String, BackendError> {
        let others = numbered(at, 0)?;
        Ok(if at == 5 { "my card does not work under the lake".to_owned() } else { others })
    }
    let (all, asked, _) = grown(dir.path(), &settings, &maker(false), said, &mut Notes::default()).unwrap();
    assert_eq!(all[5].fell, Some(Check::Meaning), "{:#?}", all[5]);
    assert!(all[5].likeness.is_some_and(|cosine| cosine < 0.05) && all[5].why.contains("qwzx vbnk"));
    assert_eq!(asked, (16, 8), "each that holds is restated once");
    assert!(all.iter().filter(|one| one.fell.is_none()).all(|one| one.likeness.is_some()));
}

#[test]
fn a_maker_that_only_fails_ends_the_run_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let settings = GrowSettings { per_row: 3, ..GrowSettings::default() };
    let failed = grown(
        dir.path(),
        &settings,
        &maker(false),
        |_, _| Err(BackendError("no such key".into())),
        &mut Notes::default(),
    );
    let why = format!("{:#}", failed.err().unwrap());
    assert!(why.contains("the maker `maker`") && why.contains("no such key"), "{why}");
}
