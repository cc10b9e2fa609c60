//! Rows are drawn, reviewed, made.

use super::{play, press, shown};
use crate::domain::api::{FromEngine, Request, Response, ToEngine};
use crate::domain::sample::Mode;
use crate::tui::app::{App, Effect, Message};
use crate::tui::sample::{self, NOW_MS};
use crate::tui::signs::Signs;

fn app() -> App {
    sample::app((80, 24), "dark", Signs::unicode())
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

#[test]
fn a_sample_is_drawn_by_a_form_and_its_rows_are_shown() {
    let mut app = app();
    play(&mut app, "1 s");
    insta::assert_snapshot!("sample_form_80x24", shown(&app));
    // The next way; then how many.
    let said = asked(&press(&mut app, "right down ctrl-u 2 enter"));
    let [(tag, Request::Sample { sample })] = &said[..] else { panic!("{said:?}") };
    assert_eq!((sample.wanted.mode, sample.wanted.n, sample.wanted.seed), (Mode::Proportional, 2, 7));
    assert_eq!((sample.mark.as_ref(), sample.out.as_ref()), (None, None));
    let response = sample::respond(&said[0].1);
    answer(&mut app, *tag, response);
    assert!(shown(&app).contains("a sample (proportional) of 16 rows"), "{}", shown(&app));
    play(&mut app, "s");
    assert!(shown(&app).contains("proportional"), "the form remembers");
}
