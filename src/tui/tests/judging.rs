//! A person judges answers.

use super::{play, press, shown};
use crate::domain::api::{Failure, FromEngine, Request, Response, ToEngine};
use crate::domain::judge::Agreement;
use crate::tui::app::{App, Effect, Message};
use crate::tui::sample::{self, NOW_MS};
use crate::tui::signs::Signs;

fn judging() -> App {
    let mut app = sample::app((80, 24), "dark", Signs::unicode());
    play(&mut app, "5 j");
    app
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
fn an_answer_is_shown_blind_with_its_verdicts_and_the_gold_on_demand() {
    let mut app = judging();
    insta::assert_snapshot!("judging_80x24", shown(&app));
    assert!(!shown(&app).contains("gold\n"));
    play(&mut app, "g");
    insta::assert_snapshot!("judging_gold_80x24", shown(&app));
    play(&mut app, "3 2 1");
    insta::assert_snapshot!("judging_done_80x24", shown(&app));
    play(&mut app, "esc");
    assert!(app.layers.is_empty());
}

#[test]
fn keys_give_verdicts_skip_and_take_back() {
    let mut app = judging();
    let said = asked(&press(&mut app, "2"));
    let [(tag, Request::JudgeSay { judge, annotator, item, verdict })] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!((judge.as_deref(), annotator.as_deref()), (Some("helpful"), Some("ann")));
    assert_eq!((item.as_str(), verdict.as_str()), ("000000001", "fair"));
    assert!(shown(&app).contains("3 of 5 judged") && shown(&app).contains("two payments"));
    assert!(asked(&press(&mut app, "u")).is_empty(), "not before the engine has written it down");
    answer(&mut app, *tag, Response::Done { message: String::new() });
    assert!(matches!(asked(&press(&mut app, "u"))[..], [(_, Request::Undo)]));
    assert!(shown(&app).contains("2 of 5 judged") && shown(&app).contains("my card has not come"));
    assert!(asked(&press(&mut app, "9 s s")).is_empty(), "there is no ninth verdict");
    assert!(shown(&app).contains("who are you?"));
    // With the last one skipped, nothing is under way: the agreement is asked for.
    let said = asked(&press(&mut app, "s"));
    assert!(matches!(said[..], [(_, Request::JudgeAgreement { .. })]), "{said:?}");
    assert!(shown(&app).contains("3 answers skipped"));
}

#[test]
fn a_verdict_that_was_not_kept_is_asked_for_again() {
    let mut app = judging();
    let said = asked(&press(&mut app, "1"));
    let error = Failure::new(1, "the disk is full");
    answer(&mut app, said[0].0, Response::Error { error });
    let text = shown(&app);
    assert!(text.contains("2 of 5 judged") && text.contains("my card has not come"), "{text}");
    assert!(text.contains("the disk is full"), "{text}");
}

#[test]
fn texts_to_judge_do_not_reach_the_terminal_as_they_are() {
    let mut app = sample::app((80, 24), "dark", Signs::unicode());
    let effects = press(&mut app, "5 j");
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202E}evil\u{8}\nline";
    let mut queue = sample::queue();
    for item in &mut queue.items {
        (item.input, item.output, item.gold) = (evil.into(), evil.into(), Some(evil.into()));
    }
    (queue.judge, queue.annotator, queue.verdicts[0]) = (evil.into(), evil.into(), evil.into());
    let tag = asked(&effects).iter().find(|(_, r)| matches!(r, Request::JudgeQueue { .. })).unwrap().0;
    answer(&mut app, tag, Response::Queue { queue });
    let harmless = |app: &App| {
        let text = shown(app);
        assert!(text.contains("evil"), "{text}");
        let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(bad, None, "{text}");
    };
    harmless(&app);
    press(&mut app, "g");
    harmless(&app);
    let done = asked(&press(&mut app, "s s s"));
    let agreement =
        Agreement { judge: evil.into(), distrust: Some(evil.into()), n: 1, ..Agreement::default() };
    answer(&mut app, done[0].0, Response::Agreement { agreement });
    harmless(&app);
}

#[test]
fn several_judges_are_chosen_among_and_disputed_rows_can_be_asked_for() {
    let mut app = sample::app((80, 24), "dark", Signs::unicode());
    if let crate::tui::app::Link::Up { status } = &mut app.link {
        status.judges = vec!["helpful".into(), "strict".into()];
    }
    play(&mut app, "5");
    assert!(asked(&press(&mut app, "j")).is_empty(), "first one chooses");
    insta::assert_snapshot!("judge_form_80x24", shown(&app));
    // Right: the next judge; then the rows in dispute; then how many.
    let said = asked(&press(&mut app, "right down right down ctrl-u 9 enter"));
    let [(tag, Request::JudgeQueue { judge, per, disagreement, annotator })] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!((judge.as_deref(), *per, *disagreement, annotator), (Some("strict"), 9, true, &None));
    let queue = crate::domain::judge::Queue { judge: "strict".into(), ..Default::default() };
    answer(&mut app, *tag, Response::Queue { queue });
    assert!(shown(&app).contains("no row is disputed"), "{}", shown(&app));
    // The choice stays; J changes it.
    assert!(matches!(&asked(&press(&mut app, "j"))[..], [(_, Request::JudgeQueue { per: 9, .. })]));
    press(&mut app, "J down ctrl-u x enter");
    assert!(shown(&app).contains("`x` is none of: disputed"), "{}", shown(&app));
}
