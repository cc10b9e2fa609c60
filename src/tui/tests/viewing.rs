//! Frequency tables, saved views, rows written into files.

use super::{play, press, shown, type_text};
use crate::domain::api::{Decision, FILE_THERE, Failure, FromEngine, Request, Response, RowQuery, ToEngine};
use crate::domain::views::SavedView;
use crate::tui::app::{App, Effect, Message};
use crate::tui::layers::Layer;
use crate::tui::sample::{self, NOW_MS};
use crate::tui::screens::strata::Pane;
use crate::tui::signs::Signs;

fn app(size: (u16, u16)) -> App {
    sample::app(size, "dark", Signs::unicode())
}

fn asked(effects: &[Effect]) -> Vec<(u64, Request)> {
    let ask = |e: &Effect| match e {
        Effect::Send(ToEngine::Ask { tag, request }) => Some((*tag, request.clone())),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

fn answer(app: &mut App, tag: u64, response: Response) -> Vec<Effect> {
    app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS)
}

/// Types a line and accepts it, while the sample engine answers.
fn enter(app: &mut App, text: &str) {
    type_text(app, text);
    play(app, "enter");
}

#[test]
fn rows_are_counted_by_crossed_keys_and_narrowed_to_a_line() {
    for size in [(80, 24), (200, 60)] {
        let mut app = app(size);
        play(&mut app, "1 F");
        enter(&mut app, "stratum x turns");
        insta::assert_snapshot!(format!("counts_{}x{}", size.0, size.1), shown(&app));
    }
    let mut app = app((80, 24));
    play(&mut app, "1 F");
    enter(&mut app, "stratum x turns");
    play(&mut app, "down enter");
    assert!(app.layers.is_empty());
    assert_eq!(
        (app.strata.pane, app.strata.query.text.as_str()),
        (Pane::Rows, "stratum=\"top-up failed\" turns=2")
    );
    // The keys are there again, and a further line narrows further.
    play(&mut app, "F enter down down down down down enter");
    assert_eq!(app.strata.query.text, "stratum=\"top-up failed\" turns=2 -stratum:* -turns:*");
}

#[test]
fn a_table_is_ordered_by_any_column() {
    let mut app = app((120, 40));
    play(&mut app, "1 F");
    enter(&mut app, "turns");
    let first = |app: &App| {
        let text = shown(app);
        text.lines()
            .find(|l| l.contains('›') && l.contains('%'))
            .map(|l| l.replace(['│', '›', '█', '░'], ""))
            .unwrap()
    };
    assert!(first(&app).contains("900"), "the most common first");
    play(&mut app, "O");
    assert!(first(&app).contains(" 22 "), "the rarest first: {}", first(&app));
    play(&mut app, "o o");
    assert!(first(&app).contains("900"), "{}", first(&app));
    play(&mut app, "o o o");
    assert!(first(&app).contains("900"), "behind the last column is the engine's order: {}", first(&app));
}

#[test]
fn counting_says_what_is_wrong() {
    let mut app = app((80, 24));
    press(&mut app, "1 F");
    type_text(&mut app, "tuns");
    let effects = press(&mut app, "enter");
    let (tag, request) = asked(&effects).pop().unwrap();
    assert!(matches!(&request, Request::Count { by, .. } if *by == ["tuns"]), "{request:?}");
    let error = Failure::new(2, "no row has `tuns`, the nearest is `turns`");
    answer(&mut app, tag, Response::Error { error });
    assert!(shown(&app).contains("the nearest is `turns`"));
}

#[test]
fn views_are_saved_opened_and_deleted() {
    let mut app = app((80, 24));
    app.strata.search("base:wrong".into());
    press(&mut app, "1 v");
    let views = sample::respond(&Request::Views);
    let tag = *app.pending.iter().find(|(_, p)| p.purpose == crate::tui::app::Purpose::Views).unwrap().0;
    answer(&mut app, tag, views);
    insta::assert_snapshot!("views_80x24", shown(&app));
    type_text(&mut app, "save what");
    press(&mut app, "enter");
    type_text(&mut app, " hard ones ");
    let effects = press(&mut app, "enter");
    let decided = |effects: &[Effect]| {
        asked(effects).into_iter().find_map(|(_, r)| match r {
            Request::Decide { decision } => Some(decision),
            _ => None,
        })
    };
    let query = RowQuery { text: "base:wrong".into(), ..RowQuery::default() };
    let view = SavedView { query, scope: "all rows".into() };
    let want = Decision::View { name: "hard ones".into(), view: Some(Box::new(view)) };
    assert_eq!(decided(&effects), Some(want));

    let mut app = self::app((80, 24));
    play(&mut app, "1 v enter");
    assert_eq!(app.strata.query.text, "base:wrong best:right");
    assert_eq!((app.strata.query.sort.as_str(), app.strata.pane), ("length", Pane::Rows));
    play(&mut app, "v");
    type_text(&mut app, "delete");
    let effects = press(&mut app, "enter");
    assert_eq!(decided(&effects), Some(Decision::View { name: "what lora mends".into(), view: None }));
}

#[test]
fn an_export_asks_before_it_writes_over_a_file_and_tells_how_far_it_is() {
    let mut app = app((80, 24));
    play(&mut app, "1 w ctrl-u");
    type_text(&mut app, "wrong.csv");
    let effects = press(&mut app, "enter");
    let (tag, request) = asked(&effects).pop().unwrap();
    let Request::ExportRows { file, force: false, query } = request else { panic!("{request:?}") };
    assert_eq!(file, "/home/ada/support-router/wrong.csv");
    assert_eq!(query, RowQuery::default());

    let effects = app.update(Message::Tick, NOW_MS + 2000);
    let (progress, request) = asked(&effects).pop().unwrap();
    assert_eq!(request, Request::ExportProgress { file: file.clone() });
    answer(&mut app, progress, Response::Progress { done: 849, total: 3396 });
    app.update(Message::Tick, NOW_MS + 3000);
    assert!(shown(&app).contains("write /home/ada/support-router/wrong.csv: 25%"), "{}", shown(&app));

    let error = Failure::new(2, format!("{file} {FILE_THERE}; choose another name"));
    answer(&mut app, tag, Response::Error { error });
    assert!(matches!(app.layers.last(), Some(Layer::Confirm { .. })));
    let effects = press(&mut app, "y");
    let again =
        asked(&effects).into_iter().find(|(_, r)| matches!(r, Request::ExportRows { force: true, .. }));
    assert!(again.is_some(), "{effects:?}");
}

#[test]
fn several_rows_are_marked_at_once_and_are_one_decision() {
    let mut app = app((80, 24));
    play(&mut app, "1 enter down space space down space");
    assert_eq!(app.strata.picked.iter().map(String::as_str).collect::<Vec<_>>(), ["00001", "00002", "00004"]);
    insta::assert_snapshot!("picked_80x24", shown(&app));
    let decided = |app: &mut App, keys: &str| {
        let effects = press(app, keys);
        asked(&effects).into_iter().find_map(|(_, r)| match r {
            Request::Decide { decision } => Some(decision),
            _ => None,
        })
    };
    let mark = |row: &str, mark: &str, on| Decision::Mark { row: row.into(), mark: mark.into(), on };
    let all = |m: &str| Decision::Together {
        decisions: ["00001", "00002", "00004"].map(|row| mark(row, m, true)).to_vec(),
    };
    assert_eq!(decided(&mut app, "m"), Some(all("star")));
    press(&mut app, "M");
    type_text(&mut app, "hard");
    assert_eq!(decided(&mut app, "enter"), Some(all("hard")));
    press(&mut app, "g");
    type_text(&mut app, "refund");
    let Some(Decision::Together { decisions }) = decided(&mut app, "enter") else { panic!("one by one") };
    assert!(decisions.iter().all(|d| matches!(d, Decision::Gold { gold: Some(g), .. } if g == "refund")));
    // Letting go of all leaves the row under the pointer.
    press(&mut app, "esc");
    let current = app.strata.window.current().unwrap().id.clone();
    assert!(matches!(decided(&mut app, "m"), Some(Decision::Mark { row, .. }) if row == current));
}
