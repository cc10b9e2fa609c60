use super::*;
use crate::tui::sample;

#[test]
fn volumes_are_read_as_people_write_them() {
    for (text, rows) in [
        ("300000", 300_000),
        ("1_000_000", 1_000_000),
        ("1,204", 1204),
        ("2.5M", 2_500_000),
        (" 300k ", 300_000),
    ] {
        assert_eq!(volume_of(text), Some(rows), "{text}");
    }
    for text in [" ", "0", "-5", "many", "1e99", "nan", "k"] {
        assert_eq!(volume_of(text), None, "{text}");
    }
}

#[test]
fn the_selection_stays_on_its_candidate_when_the_board_is_ordered_filtered_or_grows() {
    let mut state = BoardState::default();
    state.fill(sample::board());
    state.selected = 1;
    state.sort = Sort { by: Column::Primary, turned: false };
    state.arrange(state.selected_name());
    assert_eq!((state.selected, state.selected_name().as_deref()), (2, Some("route v7")));
    let mut more = sample::board();
    more.rows.truncate(1);
    (more.rows[0].id, more.rows[0].candidate) = ("new".into(), "lora-13".into());
    more.rows[0].metrics.insert("accuracy".into(), 0.99);
    state.merge(more);
    assert_eq!((state.order.len(), state.selected_name().as_deref()), (5, Some("route v7")));
    state.filter = "rung:lora 1".into();
    state.arrange(state.selected_name());
    assert_eq!(state.order.len(), 2);
    state.filter = "nobody is called so".into();
    state.arrange(state.selected_name());
    assert_eq!((state.order.len(), state.selected, state.selected_name()), (0, 0, None));
}

#[test]
fn two_are_chosen_one_after_the_other_and_taken_back() {
    let mut state = BoardState::default();
    state.pick("base".into());
    state.pick("lora".into());
    assert_eq!((state.a.as_deref(), state.b.as_deref()), (Some("base"), Some("lora")));
    state.pick("other".into());
    assert_eq!(state.b.as_deref(), Some("other"));
    state.pick("base".into());
    assert_eq!((state.a.as_deref(), state.b.as_deref()), (Some("other"), None));
}

#[test]
fn an_answer_that_is_no_longer_wished_for_is_dropped() {
    let mut state = BoardState { a: Some("x".into()), b: Some("y".into()), ..BoardState::default() };
    state.comparison_arrived("x", "old", Comparison::default());
    assert!(state.comparison.is_none());
    state.comparison_arrived("x", "y", Comparison::default());
    assert!(state.comparison.is_some());
}
