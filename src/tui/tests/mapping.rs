//! The map over the whole screen, histograms, the heat map of strata.

use super::{drawn, play, press, shown, type_text};
use crate::domain::api::{Request, ToEngine};
use crate::domain::map::Layout;
use crate::tui::app::{App, Effect};
use crate::tui::layers::Layer;
use crate::tui::sample;
use crate::tui::screens;
use crate::tui::screens::strata::Pane;
use crate::tui::signs::Signs;
use crate::tui::terminal::{Frames, Surface as _};

fn app(size: (u16, u16), theme: &str) -> App {
    sample::app(size, theme, Signs::unicode())
}

fn asked(effects: &[Effect]) -> Vec<Request> {
    let ask = |e: &Effect| match e {
        Effect::Send(ToEngine::Ask { request, .. }) => Some(request.clone()),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

#[test]
fn the_map_fills_the_screen_at_every_size_and_in_every_theme() {
    for size in [(80, 24), (200, 60)] {
        let mut app = app(size, "dark");
        play(&mut app, "1 z");
        insta::assert_snapshot!(format!("map_{}x{}", size.0, size.1), shown(&app));
    }
    // Without colours the sign of a dot says its group.
    let mut mono = app((80, 24), "mono");
    play(&mut mono, "1 z");
    insta::assert_snapshot!("map_mono_80x24", shown(&mono));
    for theme in ["light", "dark", "mono"] {
        let mut app = app((60, 15), theme);
        play(&mut app, "1 z space down right");
        drawn(&app);
    }
}

#[test]
fn a_box_drawn_with_keys_chooses_rows_that_can_be_marked_together() {
    let mut app = app((120, 40), "dark");
    play(&mut app, "1 z");
    // From the upper left corner to the middle.
    for _ in 0..20 {
        press(&mut app, "home pgup");
    }
    press(&mut app, "space");
    for _ in 0..4 {
        press(&mut app, "end pgdn");
    }
    insta::assert_snapshot!("map_box_120x40", shown(&app));
    play(&mut app, "space");
    assert!(app.layers.is_empty() && app.strata.pane == Pane::Rows);
    let ids = app.strata.query.ids.clone().unwrap();
    assert!(ids.len() > 20 && ids.len() < 500, "{}", ids.len());
    assert!(app.strata.scope.contains("of the map"));
    assert_eq!(app.strata.picked.len(), ids.len());
    let want = sample::strata().map;
    let inside = |id: &String| want[id.parse::<usize>().unwrap()];
    assert!(ids.iter().map(inside).all(|(x, y, _)| x < 0.0 && y < 0.0), "only from the upper left");
    // Escape takes the corner back, then closes.
    play(&mut app, "z space esc");
    assert!(matches!(app.layers.last(), Some(Layer::Map(_))));
    play(&mut app, "esc");
    assert!(app.layers.is_empty());
}

#[test]
fn colours_and_layout_turn_by_keys() {
    let mut app = app((120, 40), "dark");
    press(&mut app, "1");
    let of = |effects: Vec<Effect>| {
        asked(&effects).into_iter().find_map(|r| match r {
            Request::Map { by, layout } => Some((by, layout)),
            _ => None,
        })
    };
    assert_eq!(of(press(&mut app, "z")), Some(("stratum".into(), Layout::Neighbours)));
    assert_eq!(of(press(&mut app, "c")), Some(("base".into(), Layout::Neighbours)));
    assert_eq!(of(press(&mut app, "p")), Some(("base".into(), Layout::Principal)));
    press(&mut app, "C ctrl-u");
    type_text(&mut app, "channel");
    assert_eq!(of(press(&mut app, "enter")), Some(("channel".into(), Layout::Principal)));
}

#[test]
fn a_map_and_its_cursor_keep_within_their_bytes() {
    for (size, first_most, step_most) in [((80, 24), 9_000, 400), ((200, 60), 30_000, 600)] {
        let mut app = app(size, "dark");
        play(&mut app, "1 z");
        let mut frames = Frames::on(std::io::sink(), size.0, size.1);
        frames.draw(&mut |buf| screens::draw(&app, buf)).unwrap();
        let first = frames.written();
        assert!(first < first_most, "{size:?}: a first frame of {first} bytes");
        for key in ["left", "down", "right", "up"] {
            press(&mut app, key);
            let before = frames.written();
            frames.draw(&mut |buf| screens::draw(&app, buf)).unwrap();
            let step = frames.written() - before;
            assert!(step < step_most, "{size:?}: a step of {step} bytes");
        }
    }
}

#[test]
fn a_histogram_is_a_table_in_bins_and_the_heat_map_that_of_the_board() {
    let mut app = app((80, 24), "dark");
    press(&mut app, "1 h");
    let effects = press(&mut app, "enter");
    assert!(
        matches!(&asked(&effects)[..], [Request::Count { by, .. }] if *by == ["len/auto"]),
        "{effects:?}"
    );
    press(&mut app, "esc h ctrl-u");
    type_text(&mut app, "turns/2");
    let effects = press(&mut app, "enter");
    assert!(matches!(&asked(&effects)[..], [Request::Count { by, .. }] if *by == ["turns/2"]), "{effects:?}");
    press(&mut app, "esc");
    play(&mut app, "H");
    assert!(shown(&app).contains("strata over candidates"), "{}", shown(&app));
}
