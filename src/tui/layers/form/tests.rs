use super::*;
use crate::domain::prompt::PromptSettings;
use crate::domain::settings::{Budget, shown};
use crate::domain::settings::{Targets, TrainSettings};
use crate::domain::trajectory::TrajectorySettings;

fn typed(form: &mut Form, at: usize, text: &str) {
    form.fields[at].input = TextInput::new(text);
}

#[test]
fn only_what_was_filled_in_is_sent() {
    let mut form = Form::train(&[]);
    assert_eq!(form.submit(), Some(vec![]));
    typed(&mut form, 0, "8");
    typed(&mut form, 5, "q_proj, v_proj");
    let sent = form.submit().unwrap();
    assert_eq!(sent[0], ("tuning.train.rank".to_owned(), "8".to_owned()));
    assert_eq!(sent[1], ("tuning.train.targets".to_owned(), "[\"q_proj\", \"v_proj\"]".to_owned()));
}

#[test]
fn a_wrong_value_is_refused_where_it_stands() {
    for (at, text, why) in [
        (0, "0", "a whole number"),
        (0, "1.5", "a whole number"),
        (1, "-1", "above 0"),
        (2, "inf", "between 0 and 1"),
        (2, "2", "between 0 and 1"),
        (3, "nan", "above 0"),
        (0, "4,0", "a whole number"),
        (0, "4,,8", "a value is missing"),
    ] {
        let mut form = Form::train(&[]);
        typed(&mut form, at, text);
        assert_eq!(form.submit(), None);
        assert_eq!(form.focus, at);
        assert!(form.error.as_ref().is_some_and(|(i, e)| *i == at && e.contains(why)), "{:?}", form.error);
    }
    assert_eq!(Form::outcomes().submit(), None);
}

#[test]
fn empty_fields_show_what_they_take_from_the_workspace() {
    let mut form = Form::train(&[]);
    let many = Targets::Many(vec!["q_proj".into(), "v_proj".into()]);
    let settings = TrainSettings { rank: 4, targets: many, ..TrainSettings::default() };
    form.stands(&shown("tuning.train", &settings));
    let stands: Vec<&str> = form.fields.iter().map(|f| f.stands.as_str()).collect();
    assert_eq!(stands, ["4", "32", "0.0002", "4", "8", "q_proj,v_proj", "bare"]);
    assert_eq!(form.submit(), Some(vec![]), "they are shown, not sent");
    let mut form = Form::prompt(&[], Vec::new(), Vec::new());
    let budget = Budget { calls: Some(900), ..Budget::default() };
    form.stands(&shown("tuning.prompt", &PromptSettings { fan_out: 9, budget, ..<_>::default() }));
    let stands = |form: &Form, key: &str| form.fields.iter().find(|f| f.key == key).unwrap().stands.clone();
    assert_eq!(stands(&form, "tuning.prompt.fan_out"), "9");
    assert_eq!(stands(&form, "tuning.prompt.budget.calls"), "900");
    assert_eq!(stands(&form, "tuning.prompt.budget.usd"), "");
    let mut form = Form::trajectory(Vec::new());
    form.stands(&shown("tuning.trajectory", &TrajectorySettings { shots: 7, ..<_>::default() }));
    assert_eq!(stands(&form, "tuning.trajectory.shots"), "7");
    assert_eq!(stands(&form, "tuning.trajectory.ranking"), "fused");
}

#[test]
fn a_new_run_starts_from_the_settings_of_the_last() {
    let form = Form::train(&[("rank".into(), "4".into()), ("tuning.train.epochs".into(), "2".into())]);
    assert_eq!((form.fields[0].input.text(), form.fields[3].input.text()), ("4", "2"));
}

#[test]
fn left_and_right_walk_through_choices_but_not_over_typed_text() {
    let mut form = Form::eval(vec!["base".into(), "lora-1".into()]);
    let right = Key::plain(Code::Right);
    for want in ["base", "lora-1", "", "base"] {
        form.key(right);
        assert_eq!(form.fields[0].input.text(), want);
    }
    form.key(Key::char('x'));
    form.key(right);
    assert_eq!(form.fields[0].input.text(), "basex");
}
