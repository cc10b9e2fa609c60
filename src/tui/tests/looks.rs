//! Snapshots of every screen with the sample workspace.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Style};

use super::{drawn, play, press, shown, text_of, type_text};
use crate::tui::app::{App, Message};
use crate::tui::sample::{self, NOW_MS};
use crate::tui::signs::Signs;
use crate::tui::theme::Role;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 60)];

/// Keys that lead to each screen with something on it.
const SCREENS: [(&str, &str); 5] = [
    ("strata", "1 down"),
    ("train", "4"),
    ("board", "5 down down down enter"),
    ("play", "1 down enter a"),
    ("runs", "7"),
];

fn at(size: (u16, u16), theme: &str, keys: &str) -> App {
    let mut app = sample::app(size, theme, Signs::unicode());
    play(&mut app, keys);
    app
}

/// One letter per cell: which style it has; the styles below.
fn styles_of(buf: &Buffer) -> String {
    let mut styles: Vec<Style> = Vec::new();
    let mut out = String::new();
    for y in 0..buf.area.height {
        for x in 0..buf.area.width {
            let style = buf[(x, y)].style();
            let at = styles.iter().position(|s| *s == style).unwrap_or_else(|| {
                styles.push(style);
                styles.len() - 1
            });
            out.push(if at == 0 { ' ' } else { char::from(b'a' + (at as u8 - 1) % 26) });
        }
        out.push('\n');
    }
    for (i, style) in styles.iter().enumerate() {
        let letter = if i == 0 { ' ' } else { char::from(b'a' + (i as u8 - 1) % 26) };
        out.push_str(&format!("{letter} fg {:?} bg {:?} {:?}\n", style.fg, style.bg, style.add_modifier));
    }
    out
}

#[test]
fn every_screen_at_every_size() {
    for (name, keys) in SCREENS {
        for size in SIZES {
            let app = at(size, "dark", keys);
            insta::assert_snapshot!(format!("{name}_{}x{}", size.0, size.1), shown(&app));
        }
    }
}

#[test]
fn every_screen_in_dark_and_mono() {
    for (name, keys) in SCREENS {
        for theme in ["dark", "mono"] {
            let app = at((80, 24), theme, keys);
            insta::assert_snapshot!(format!("{name}_styles_{theme}"), styles_of(&drawn(&app)));
        }
        let (dark, mono) = (at((80, 24), "dark", keys), at((80, 24), "mono", keys));
        assert_eq!(shown(&dark), shown(&mono), "{name}: colour carries no meaning of its own");
    }
}

#[test]
fn a_theme_with_a_background_fills_every_cell_with_it() {
    for keys in ["1 down", "1 z", "1 !", "1 ?", "1 h", "4", "5", "7"] {
        let buf = drawn(&at((120, 40), "high-contrast", keys));
        let bare = buf.content.iter().filter(|cell| cell.bg == Color::Reset).count();
        assert_eq!(bare, 0, "{keys}");
    }
}

#[test]
fn titles_of_other_panes_can_be_told_from_their_borders() {
    for theme in ["dark", "light"] {
        let app = at((120, 40), theme, "1 down");
        let border = app.look.theme.style(Role::Border).fg;
        let buf = drawn(&app);
        let lines: Vec<String> = text_of(&buf).lines().map(str::to_owned).collect();
        let y = lines.iter().position(|line| line.starts_with("┌ map ")).expect("there is a map");
        assert_ne!(buf[(2, y as u16)].style().fg, border, "{theme}");
    }
}

/// Screens 2 and 3, where they are drawn from a run's own sample.
fn tuned(size: (u16, u16), theme: &str, keys: &str) -> App {
    use crate::domain::run::RunState;
    // The list is there when the run has ended, its progress before that.
    let state = if keys == "3 w w w" { RunState::Running } else { RunState::Done };
    use crate::domain::api::{FromEngine, Push};
    use crate::tui::sample::{prompts, trajectories};
    let mut app = sample::app(size, theme, Signs::unicode());
    for run in [prompts::run(), trajectories::run(state)] {
        let push = Push::RunChanged { run };
        let effects = app.update(Message::Engine(FromEngine::Push { push }), NOW_MS);
        sample::settle(&mut app, effects);
    }
    play(&mut app, keys);
    app
}

#[test]
fn screens_2_and_3_in_light_and_without_colour() {
    for (name, keys) in [
        ("prompts", "2 down"),
        ("prompts_race", "2 w w w"),
        ("prompts_form", "2 t"),
        ("trajectories", "3 down"),
        ("trajectories_run", "3 w w w"),
    ] {
        for theme in ["light", "mono"] {
            insta::assert_snapshot!(
                format!("{name}_styles_{theme}"),
                styles_of(&drawn(&tuned((80, 24), theme, keys)))
            );
        }
        let (light, mono) = (tuned((80, 24), "light", keys), tuned((80, 24), "mono", keys));
        assert_eq!(shown(&light), shown(&mono), "{name}: colour carries no meaning of its own");
    }
    for name in ["2 down", "3 down"] {
        let (light, mono) = (tuned((200, 60), "light", name), tuned((200, 60), "mono", name));
        assert_eq!(shown(&light), shown(&mono), "{name}");
    }
}

#[test]
fn narrow_panes_share_one_place() {
    for (name, keys) in [
        ("rows", "1 down enter down"),
        ("row", "1 down enter down enter"),
        ("map", "1 down right right right"),
    ] {
        insta::assert_snapshot!(format!("strata_{name}_80x24"), shown(&at((80, 24), "dark", keys)));
    }
    insta::assert_snapshot!("board_alone_80x24", shown(&at((80, 24), "dark", "5")));
    let mut app = at((80, 24), "dark", "5 down down down v");
    type_text(&mut app, "2.5M");
    play(&mut app, "enter");
    insta::assert_snapshot!("board_volume_80x24", shown(&app));
    let mut app = at((200, 60), "light", "5 o");
    type_text(&mut app, "p50");
    play(&mut app, "enter v");
    type_text(&mut app, "2.5M");
    play(&mut app, "enter down down");
    insta::assert_snapshot!("board_volume_200x60", shown(&app));
    insta::assert_snapshot!("board_by_stratum_80x24", shown(&at((80, 24), "dark", "5 down enter s")));
    insta::assert_snapshot!("train_figures_80x24", shown(&at((80, 24), "dark", "4 w e left left")));
    insta::assert_snapshot!("train_log_80x24", shown(&at((80, 24), "dark", "4 w w l z")));
    insta::assert_snapshot!("runs_detail_80x24", shown(&at((80, 24), "dark", "7 down down right")));
}

#[test]
fn sets_beside_the_task_stand_on_the_board_and_what_was_forgotten_is_marked() {
    use crate::domain::sets::{AgainstBase, Kept, SetScore};
    for size in [(80, 24), (200, 60)] {
        let mut app = at(size, "dark", "5");
        let mut board = sample::board();
        for (i, row) in board.rows.iter_mut().enumerate() {
            let base = AgainstBase {
                n: 40,
                right: 31 - 7 * i,
                base_right: 31,
                p_value: 0.5 / (1.0 + 20.0 * i as f64),
            };
            let right = 31 - 7 * i;
            let score = SetScore { metric: "exact".into(), right, n: 40, base: (i > 0).then_some(base) };
            row.sets.insert("general".into(), score);
            row.regression = (i > 0).then(|| Kept { kept: 12 - i, of: 12, lost: vec!["00017".into(); i] });
        }
        app.board.fill(board);
        insta::assert_snapshot!(format!("board_sets_{}x{}", size.0, size.1), shown(&app));
    }
}

#[test]
fn layers() {
    for (name, keys) in [
        ("help", "1 ?"),
        ("palette", "4 :"),
        ("train_form", "4 t"),
        ("confirm", "4 k"),
        ("flip", "5 down enter enter"),
        ("difference", "7 space down space d"),
        ("pareto", "5 p"),
        ("pareto_cost", "5 down p right"),
        ("ladder", "5 l"),
        ("board_order", "5 o"),
        ("remedies", "1 right R"),
        ("remedies_second", "1 right R down"),
        ("timeline", "5 h"),
        ("timeline_of_a_run", "5 end h"),
        ("problems", "1 ! down"),
        ("problems_groups", "1 ! down down down enter down"),
        ("problems_doubts", "1 ! down enter"),
        ("preview", "1 right V"),
    ] {
        insta::assert_snapshot!(format!("layer_{name}"), shown(&at((80, 24), "dark", keys)));
    }
    for (name, keys) in [("remedies", "1 right R"), ("timeline", "5 h"), ("timeline_of_a_run", "5 end h")] {
        insta::assert_snapshot!(format!("layer_{name}_200x60"), shown(&at((200, 60), "dark", keys)));
    }
    let mut app = at((80, 24), "dark", "1 enter g");
    type_text(&mut app, " or not");
    insta::assert_snapshot!("layer_gold", shown(&app));
    let mut app = at((80, 24), "dark", "4 t");
    press(&mut app, "ctrl-u");
    type_text(&mut app, "many");
    press(&mut app, "enter");
    insta::assert_snapshot!("layer_train_form_refused", shown(&app));
    let mut app = at((80, 24), "dark", "4 o");
    play(&mut app, "enter");
    insta::assert_snapshot!("train_overlay_80x24", shown(&app));
}

#[test]
fn ascii_terminals_get_ascii_only() {
    for (name, keys) in SCREENS {
        let mut app = sample::app((80, 24), "mono", Signs::ascii());
        play(&mut app, keys);
        let text = shown(&app);
        assert!(text.is_ascii(), "{name}: {:?}", text.chars().find(|c| !c.is_ascii()));
        insta::assert_snapshot!(format!("{name}_ascii"), text);
    }
    let mut app = sample::app((80, 24), "mono", Signs::ascii());
    for keys in [
        "?",
        "esc 5 p",
        "esc l",
        "esc h",
        "esc end h",
        "esc 1 right R down",
        "esc 4 :",
        "esc t",
        "esc k",
        "n 5 down enter enter",
        "esc 7 space down d",
    ] {
        play(&mut app, keys);
        let text = shown(&app);
        assert!(text.is_ascii(), "{keys}: {:?}", text.chars().find(|c| !c.is_ascii()));
    }
}

#[test]
fn the_first_frame_needs_no_engine() {
    let mut app = App::new((80, 24), Signs::unicode(), NOW_MS);
    insta::assert_snapshot!("connecting", shown(&app));
    app.update(Message::Tick, NOW_MS + 2500);
    assert!(shown(&app).contains("connecting ... (2s)"), "{}", shown(&app));
    for screen in ["4", "5", "7"] {
        press(&mut app, screen);
        assert!(shown(&app).contains("connecting"), "{screen}: {}", shown(&app));
    }
}

#[test]
fn a_terminal_that_is_too_small_is_told_so() {
    let app = at((59, 15), "dark", "1");
    assert!(shown(&app).contains("needs 60x15"), "{}", shown(&app));
    let mut app = at((60, 15), "dark", "1");
    for screen in ["1", "4", "5", "6", "7", "?"] {
        play(&mut app, screen);
        assert!(!shown(&app).contains("needs 60x15"));
    }
}

#[test]
fn no_size_and_no_screen_breaks_the_drawing() {
    for width in [1, 2, 3, 10, 30, 59, 60, 61, 80, 99, 100, 101, 133, 250] {
        for height in [1, 2, 3, 8, 14, 15, 16, 24, 25, 61, 100] {
            let mut app = sample::app((width, height), "dark", Signs::unicode());
            for keys in [
                "1",
                "enter",
                "enter",
                "right",
                "4",
                "t",
                "esc",
                "o enter",
                "5 down",
                "p",
                "right",
                "esc",
                "l",
                "esc",
                "h",
                "right down",
                "esc",
                "1 right R",
                "down down",
                "esc",
                "5",
                "o",
                "esc",
                "enter",
                "enter",
                "esc",
                "6",
                "i",
                "x",
                "enter",
                "w",
                "right down",
                "esc",
                "e",
                "esc",
                "s",
                "esc",
                "c",
                "esc",
                "7",
                "?",
                "esc",
                ":",
                "esc",
                "g",
            ] {
                play(&mut app, keys);
                let buf = drawn(&app);
                assert_eq!(text_of(&buf).lines().count(), usize::from(height));
            }
        }
    }
}
