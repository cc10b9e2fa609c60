//! Forms: a few settings with what they must be, checked before anything is sent.

mod kinds;

use crate::domain::run::RunKind;
use crate::domain::sweep::values;
use crate::tui::key::{Code, Key};
use crate::tui::widgets::input::TextInput;

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A whole number of at least 1.
    Count,
    /// A number above 0.
    Positive,
    /// A number between 0 and 1, both out.
    Rate,
    /// A number of at least 0.
    AtLeastZero,
    Text,
    /// Empty, or one of the field's choices.
    Choice,
    /// Must not be empty.
    Needed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Path of `workspace.toml`, or a name of the request.
    pub key: &'static str,
    pub label: &'static str,
    /// What is meant, with an example.
    pub hint: &'static str,
    pub want: Want,
    pub input: TextInput,
    /// The value in `workspace.toml`, which an empty input takes; empty where it is not known.
    pub stands: String,
    /// Values to walk through with left and right at the line's ends.
    pub choices: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormPurpose {
    Launch(RunKind),
    /// A training run from a checkpoint; the field `from` says which.
    Branch,
    /// Change this run.
    Steer(String),
    /// Change this prompt run.
    SteerPrompt(String),
    /// Change this run that grows rows.
    SteerGrown(String),
    /// Rows that prompts are tried on.
    Slice,
    ImportOutcomes,
    /// How the playground's answers are drawn.
    Play,
    /// Which answers a person judges.
    Judging,
    /// Which rows are drawn.
    Sample,
    /// Which rows a person reviews.
    Review,
    /// Shares of the train rows that are trained on.
    Scaling,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub title: &'static str,
    pub purpose: FormPurpose,
    pub fields: Vec<Field>,
    pub focus: usize,
    /// The field that cannot be sent as it is, and why.
    pub error: Option<(usize, String)>,
}

pub fn field(key: &'static str, label: &'static str, hint: &'static str, want: Want) -> Field {
    Field { key, label, hint, want, input: TextInput::default(), stands: String::new(), choices: Vec::new() }
}

impl Form {
    pub fn input(&mut self) -> Option<&mut TextInput> {
        self.fields.get_mut(self.focus).map(|f| &mut f.input)
    }

    pub fn step(&mut self, by: isize) {
        let n = self.fields.len() as isize;
        self.focus = (self.focus as isize + by).rem_euclid(n.max(1)) as usize;
    }

    /// Typing; left and right walk through a field's choices where it is empty or holds one of them.
    pub fn key(&mut self, key: Key) -> bool {
        self.error = None;
        let Some(field) = self.fields.get_mut(self.focus) else { return false };
        let by = match key.code {
            Code::Right if !key.ctrl => 1,
            Code::Left if !key.ctrl => -1,
            _ => return field.input.key(key),
        };
        let known = field.choices.iter().position(|c| c == field.input.text());
        if field.choices.is_empty() || (known.is_none() && !field.input.text().is_empty()) {
            return field.input.key(key);
        }
        // The empty value is one of the choices, before the first.
        let n = field.choices.len() as isize + 1;
        let to = (known.map_or(0, |i| i as isize + 1) + by).rem_euclid(n);
        let text =
            (to as usize).checked_sub(1).and_then(|i| field.choices.get(i)).cloned().unwrap_or_default();
        field.input = TextInput::new(text);
        true
    }

    /// The filled-in values, when all are what they must be; else the focus goes to the first that is not.
    pub fn submit(&mut self) -> Option<Vec<(String, String)>> {
        let mut values = Vec::new();
        let lists = self.purpose == FormPurpose::Launch(RunKind::Train);
        for (i, field) in self.fields.iter().enumerate() {
            let text = field.input.text().trim();
            let unknown = field.want == Want::Choice
                && !text.is_empty()
                && !field.choices.iter().any(|choice| choice == text);
            let checked = if unknown {
                Err(format!("`{text}` is none of: {}", field.choices.join(", ")))
            } else {
                check(field.want, text, lists)
            };
            match checked {
                Ok(()) if text.is_empty() => {}
                Ok(()) => values.push((field.key.to_owned(), value(field.key, text))),
                Err(why) => {
                    self.focus = i;
                    self.error = Some((i, why));
                    return None;
                }
            }
        }
        Some(values)
    }
}

/// As `--set` takes it: several targets are a list.
fn value(key: &str, text: &str) -> String {
    if key.ends_with(".pins") && !text.starts_with('[') {
        return format!("[{text:?}]");
    }
    let list = key.ends_with(".targets") && text.contains(',') || key.ends_with(".stages");
    if list && !text.starts_with('[') {
        let names: Vec<String> = text.split(',').map(|t| format!("{:?}", t.trim())).collect();
        return format!("[{}]", names.join(", "));
    }
    text.to_owned()
}

/// Several values of one number: a sweep.
pub fn is_list(key: &str, text: &str) -> bool {
    !["targets", "prompt", "candidate"].contains(&key.rsplit('.').next().unwrap_or_default())
        && values(text).len() > 1
}

/// Where several values may stand, each must be what one must be.
fn check(want: Want, text: &str, lists: bool) -> Result<(), String> {
    if lists && matches!(want, Want::Count | Want::Positive | Want::Rate) && text.contains(',') {
        return values(text).iter().try_for_each(|value| {
            if value.is_empty() {
                Err(format!("`{text}`: a value is missing"))
            } else {
                check_one(want, value)
            }
        });
    }
    check_one(want, text)
}

fn check_one(want: Want, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return if want == Want::Needed { Err("is needed".into()) } else { Ok(()) };
    }
    let number = || text.parse::<f64>().ok().filter(|n| n.is_finite());
    let (fits, expected) = match want {
        Want::Count => (text.parse::<u64>().is_ok_and(|n| n > 0), "a whole number of at least 1"),
        Want::Positive => (number().is_some_and(|n| n > 0.0), "a number above 0"),
        Want::Rate => {
            (number().is_some_and(|n| n > 0.0 && n < 1.0), "a number between 0 and 1, such as 2e-4")
        }
        Want::AtLeastZero => (number().is_some_and(|n| (0.0..=100.0).contains(&n)), "a number from 0 to 100"),
        Want::Text | Want::Choice | Want::Needed => (true, ""),
    };
    if fits { Ok(()) } else { Err(format!("`{text}` is not {expected}")) }
}

#[cfg(test)]
mod tests;
