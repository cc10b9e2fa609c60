//! Hostile data, order, threads, and what people leave out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::api::{Request, Response, RowPage};
use crate::engine::{freeze, requests};
use crate::worker::folder::RunFolder;

struct Desk {
    engine: Arc<Engine>,
    dir: tempfile::TempDir,
}

impl Desk {
    /// Rows with `message` and `team`.
    fn new(rows: &[Value]) -> Self {
        let dir = crate::workspace::tests::sample();
        put(dir.path(), rows);
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join(".tunebench")).unwrap();
        let engine = Engine::open(&root, "unused".into()).unwrap();
        Self { engine, dir }
    }

    fn ask(&self, request: Request) -> Response {
        requests::answer(&self.engine, &Arc::default(), request)
    }

    fn problems(&self, kind: Option<ProblemKind>, filter: &str) -> Problems {
        let query = RowQuery { text: filter.into(), count: 100, ..RowQuery::default() };
        match self.ask(Request::Problems { kind, query }) {
            Response::Problems { problems } => problems,
            other => panic!("{other:?}"),
        }
    }

    fn of(&self, kind: ProblemKind) -> Vec<(String, String)> {
        self.problems(Some(kind), "").found.into_iter().map(|row| (row.id, row.reason)).collect()
    }

    fn ids(&self, filter: &str) -> Vec<String> {
        let query = RowQuery { text: filter.into(), count: 100, ..RowQuery::default() };
        let Response::Rows { page: RowPage { rows, .. } } = self.ask(Request::Rows { query }) else {
            panic!()
        };
        rows.into_iter().map(|row| row.id).collect()
    }

    /// Kinds by row.
    fn all(&self) -> BTreeMap<String, BTreeSet<ProblemKind>> {
        let mut all: BTreeMap<String, BTreeSet<ProblemKind>> = BTreeMap::new();
        for kind in ProblemKind::ALL {
            for (id, _) in self.of(kind) {
                all.entry(id).or_default().insert(kind);
            }
        }
        all
    }
}

fn put(root: &Path, rows: &[Value]) {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(root.join("data/tickets.jsonl"), lines).unwrap();
}

fn row(id: &str, message: &str, team: &str) -> Value {
    json!({ "id": id, "message": message, "team": team })
}

const LONG: &str = "My transfer to Poland has been pending for three days now, what is happening with it?";

/// Each kind of damage once, beside rows without any.
fn damaged() -> Vec<Value> {
    vec![
        row("same-1", "where is my card", "cards"),
        row("same-2", "where  is my card\n", "cards"),
        row("other-gold", "where is my card", "fraud"),
        row("near-1", LONG, "transfers"),
        row("near-2", &LONG.replace("happening with", "happening to"), "transfers"),
        row("empty", " \u{200b}\n", "cards"),
        json!({ "id": "no-gold", "message": "I lost my passport abroad" }),
        json!({ "id": "no-field", "team": "cards" }),
        row("control", "ring the bell \u{7} please", "cards"),
        row("garbled", "the cafÃ© charged twice", "refunds"),
        row("broken", "no idea wh\u{fffd}t happened", "refunds"),
        row("mixed", "log in at p\u{430}ypal", "fraud"),
        row("bom", "\u{feff}when do you open", "hours"),
        row("nul", "a\u{0}b is strange", "hours"),
        row("mail", "reach me at ann@example.com", "refunds"),
        row("iban", "pay to DE89 3704 0044 0532 0130 00", "transfers"),
        row("card", "I paid with 4111 1111 1111 1111", "refunds"),
        row("fine", "an ordinary question about opening hours", "hours"),
    ]
}

#[test]
fn every_kind_of_damage_is_found_and_nothing_else() {
    use ProblemKind as K;
    let desk = Desk::new(&damaged());
    let all = desk.all();
    let kinds = |id: &str| all.get(id).cloned().unwrap_or_default();
    for (id, want) in [
        ("same-1", vec![K::ConflictingGold, K::ExactDuplicate]),
        ("same-2", vec![K::ConflictingGold, K::ExactDuplicate]),
        ("other-gold", vec![K::ConflictingGold]),
        ("near-1", vec![K::NearDuplicate]),
        ("near-2", vec![K::NearDuplicate]),
        ("empty", vec![K::EmptyInput, K::OddCharacters]),
        ("no-gold", vec![K::EmptyGold]),
        ("no-field", vec![K::EmptyInput, K::Template]),
        ("control", vec![K::OddCharacters]),
        ("garbled", vec![K::OddCharacters]),
        ("broken", vec![K::OddCharacters]),
        ("mixed", vec![K::OddCharacters]),
        ("bom", vec![K::OddCharacters]),
        ("nul", vec![K::OddCharacters]),
        ("mail", vec![K::Pii]),
        ("iban", vec![K::Pii]),
        ("card", vec![K::Pii]),
        ("fine", vec![]),
    ] {
        assert_eq!(kinds(id), want.into_iter().collect(), "{id}");
    }
    let shown = desk.problems(None, "");
    assert_eq!((shown.rows, shown.excluded, shown.count(K::OddCharacters)), (18, 0, 7));
    assert!(shown.notes[0].contains("5-grams") && shown.notes[0].contains("0.8"), "{:?}", shown.notes);
    let reason = |kind, id: &str| desk.of(kind).into_iter().find(|(of, _)| of == id).unwrap().1;
    assert_eq!(reason(K::OddCharacters, "nul"), "control character U+0000 at character 2 of the input");
    assert_eq!(reason(K::Pii, "mail"), "e-mail address at character 13 of the input");
    assert_eq!(reason(K::ConflictingGold, "other-gold"), "has `fraud`, same-1 has `cards`");
    assert_eq!(reason(K::NearDuplicate, "near-1"), "first of 2 alike");
    assert_eq!(reason(K::NearDuplicate, "near-2"), "0.86 like near-1");
    assert!(reason(K::Template, "no-field").contains("`message`"));
    let near = desk.problems(Some(K::NearDuplicate), "").found;
    assert_eq!((near[1].group.as_deref(), near[1].like.as_deref()), (Some("near-1"), Some(LONG)));
    assert_eq!((near[0].like_gold.as_deref(), near[1].like_gold.as_deref()), (None, near[0].gold.as_deref()));
    assert!(near[0].gold.is_some());
    // The filter language knows them, everywhere.
    assert_eq!(desk.ids("problem:near-duplicate"), ["near-1", "near-2"]);
    assert_eq!(desk.ids("problem:pii -mail -iban"), ["card"]);
    assert_eq!(desk.problems(None, "problem:pii").rows, 3);
}

#[test]
fn what_is_found_is_kept_for_this_state_of_the_data_and_no_other() {
    let desk = Desk::new(&damaged());
    let first = desk.all();
    let columns = desk.dir.path().join(".tunebench/index/columns");
    let kept =
        |dir: &Path| -> BTreeSet<_> { fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect() };
    let files = kept(&columns);
    let Desk { engine, dir } = desk;
    drop(engine);
    let engine = Engine::open(&dir.path().canonicalize().unwrap(), "unused".into()).unwrap();
    let desk = Desk { engine, dir };
    assert_eq!(desk.all(), first);
    assert_eq!(kept(&columns), files, "read, not found again");
    // A damaged file is made again.
    for file in &files {
        fs::write(columns.join(file), "nonsense").unwrap();
    }
    let Desk { engine, dir } = desk;
    drop(engine);
    let engine = Engine::open(&dir.path().canonicalize().unwrap(), "unused".into()).unwrap();
    let desk = Desk { engine, dir };
    assert_eq!(desk.all(), first);
    put(desk.dir.path(), &damaged()[..4]);
    assert_eq!(desk.all().len(), 3);
}

#[test]
fn rows_that_are_left_out_are_in_no_part_and_in_no_run_until_that_is_undone() {
    let desk = Desk::new(&damaged());
    let count = |desk: &Desk| {
        let found = desk.problems(None, "");
        (
            found.rows,
            found.excluded,
            found.count(ProblemKind::ExactDuplicate),
            found.count(ProblemKind::ConflictingGold),
        )
    };
    assert_eq!(count(&desk), (18, 0, 2, 3));
    let mark = |row: &str, on| Decision::Mark { row: row.into(), mark: EXCLUDED.into(), on };
    let Response::Done { message } = desk.ask(Request::Decide { decision: mark("same-2", true) }) else {
        panic!()
    };
    assert_eq!(message, "row same-2 is left out of learning and scoring");
    assert_eq!(count(&desk), (17, 1, 0, 2), "what is left has no copy");
    assert_eq!(desk.ids("mark:excluded"), ["same-2"]);
    let loaded = rows::loaded(&desk.engine).unwrap();
    parts::assign(&desk.engine, &loaded.ws, &loaded.dataset, None).unwrap();
    let loaded = rows::loaded(&desk.engine).unwrap();
    let at = loaded.dataset.find("same-2").unwrap();
    assert!(loaded.parts[at].is_none() && loaded.parts.iter().filter(|p| p.is_none()).count() == 1);
    assert!(matches!(desk.ask(Request::Undo), Response::Done { .. }));
    assert_eq!(count(&desk), (18, 0, 2, 3));
    assert!(rows::loaded(&desk.engine).unwrap().parts[at].is_some(), "it keeps its part");

    // All but the first, and back as one.
    let query = RowQuery { text: "problem:exact-duplicate,near-duplicate".into(), ..RowQuery::default() };
    let leave = |on, keep_first| desk.ask(Request::Exclude { query: query.clone(), keep_first, on });
    assert!(
        matches!(leave(true, true), Response::Done { message } if message.starts_with("2 rows left out"))
    );
    assert_eq!(desk.ids("mark:excluded"), ["same-2", "near-2"]);
    assert!(matches!(leave(true, true), Response::Error { .. }), "nothing is left to leave out");
    assert!(matches!(desk.ask(Request::Undo), Response::Done { message } if message.contains("2 rows")));
    assert!(desk.ids("mark:excluded").is_empty());
}

#[test]
fn a_run_is_frozen_without_the_rows_that_are_left_out() {
    let mut rows: Vec<Value> = (0..60)
        .map(|i| row(&format!("r{i}"), &format!("question number {i} of many"), ["a", "b"][i % 2]))
        .collect();
    rows.push(row("out", "another question", "a"));
    let desk = Desk::new(&rows);
    let loaded = rows::loaded(&desk.engine).unwrap();
    parts::assign(&desk.engine, &loaded.ws, &loaded.dataset, None).unwrap();
    let all = |kind| -> BTreeSet<String> {
        let loaded = rows::loaded(&desk.engine).unwrap();
        let rows = freeze::run_rows(&desk.engine, &loaded.ws, &loaded.dataset, kind).unwrap();
        rows.into_iter().map(|row| row.id).collect()
    };
    use crate::domain::run::RunKind as R;
    let before = [R::Train, R::Eval].map(all);
    let mark = |row: &str| Decision::Mark { row: row.into(), mark: EXCLUDED.into(), on: true };
    let (of_train, of_eval) = (before[0].iter().next().unwrap(), before[1].iter().next().unwrap());
    for row in [of_train, of_eval] {
        assert!(matches!(desk.ask(Request::Decide { decision: mark(row) }), Response::Done { .. }));
    }
    let after = [R::Train, R::Eval].map(all);
    assert!(!after[0].contains(of_train) && !after[0].contains(of_eval) && !after[1].contains(of_eval));
    assert_eq!(after[1].len(), before[1].len() - 1);
    let loaded = rows::loaded(&desk.engine).unwrap();
    let folder = RunFolder::new(desk.dir.path().join("frozen"));
    fs::create_dir(folder.dir()).unwrap();
    freeze::strata_rows(&desk.engine, &loaded.ws, &loaded.dataset, &folder).unwrap();
    let frozen = fs::read_to_string(folder.rows()).unwrap();
    assert_eq!(
        frozen.lines().count(),
        rows.len(),
        "strata are built of all rows: those taken in again have one"
    );
}

#[test]
fn golds_that_neighbours_speak_against_are_doubted_until_a_person_vouches_for_them() {
    let about = [
        ("cards", "my card has not arrived yet"),
        ("refunds", "please refund the purchase of shoes"),
        ("app", "the app crashes at the login screen"),
    ];
    // Each a different sentence, so that they are no near duplicates; the teams of a few are exchanged.
    let (before, after) = (
        ["hello there", "good morning", "since monday", "once more", "dear team", "i wrote before"],
        ["today", "and nobody answers", "thank you", "what now", "this is urgent", "please help soon"],
    );
    let wrong = |i: usize| crate::domain::rng::SplitMix64::stream(5, i as u64).below(16) == 0;
    let rows: Vec<Value> = (0..216)
        .map(|i| {
            let text = format!("{} {} {} {i}", before[i / 3 % 6], about[i % 3].1, after[i / 18 % 6]);
            row(&format!("r{i}"), &text, about[(i + usize::from(wrong(i))) % 3].0)
        })
        .collect();
    let desk = Desk::new(&rows);
    let found = desk.problems(Some(ProblemKind::WrongGold), "").found;
    let is_wrong = |row: &RowProblem| row.id[1..].parse().is_ok_and(wrong);
    assert!(found.len() >= 4 && found.iter().all(is_wrong), "{found:?}");
    let first = &found[0];
    assert!(first.reason.contains("% sure: a classifier that has not seen it says `"), "{first:?}");
    let vouch = Decision::Gold { row: first.id.clone(), gold: first.gold.clone() };
    assert!(matches!(desk.ask(Request::Decide { decision: vouch }), Response::Done { .. }));
    let left = desk.problems(Some(ProblemKind::WrongGold), "").found;
    assert!(left.len() == found.len() - 1 && left.iter().all(|row| row.id != first.id), "{left:?}");
}

#[test]
fn golds_that_have_nothing_to_do_with_the_inputs_are_not_doubted() {
    let rows: Vec<Value> = (0..200)
        .map(|i| {
            row(
                &format!("r{i}"),
                &format!("question {} about {}", i * 37 % 101, i * 53 % 97),
                ["a", "b", "c"][i * i % 7 % 3],
            )
        })
        .collect();
    let desk = Desk::new(&rows);
    let problems = desk.problems(Some(ProblemKind::WrongGold), "");
    assert!(problems.found.len() <= 2, "{:?}", problems.found);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn neither_the_order_of_rows_nor_threads_change_what_is_wrong(
        texts in prop::collection::vec("(where is|when comes) my (card|money|new card)( soon| today)?[\u{200b}?!]{0,1}|\\PC{0,12}|a@b\\.com", 1..30),
        golds in prop::collection::vec("[ab]?", 30),
        turn in 0..30usize,
    ) {
        let mut rows: Vec<Value> =
            texts.iter().zip(&golds).enumerate().map(|(i, (text, gold))| row(&i.to_string(), text, gold)).collect();
        let neighbours = |mut all: BTreeMap<String, BTreeSet<ProblemKind>>| {
            // Votes of the few neighbours of a few odd texts hang on ties.
            for kinds in all.values_mut() {
                kinds.remove(&ProblemKind::WrongGold);
            }
            all.retain(|_, kinds| !kinds.is_empty());
            all
        };
        let first = neighbours(Desk::new(&rows).all());
        rows.reverse();
        let turn = turn % rows.len();
        rows.rotate_left(turn);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        prop_assert_eq!(pool.install(|| neighbours(Desk::new(&rows).all())), first);
    }
}
