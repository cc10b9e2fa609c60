//! Reading a model's answer as what the stage promised: a label, JSON, or text.

use serde_json::Value;

use super::tool;
use crate::domain::candidate::{OutputKind, StageCandidate};

/// An answer after reading. What cannot be read keeps its raw text and is a format error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub text: String,
    pub ok: bool,
}

/// Read `raw` as what `stage` promises; with why it could not be read, where more than its kind is to be said.
pub fn read_stage(raw: &str, stage: &StageCandidate) -> (Reading, Option<String>) {
    if stage.output != OutputKind::Tool || stage.tools.is_empty() {
        let read = read(raw, stage.output, &stage.labels);
        let problem = (!read.ok).then(|| match stage.output {
            OutputKind::Label => "the first line is none of the labels".to_owned(),
            OutputKind::Json => "the answer is no JSON".to_owned(),
            OutputKind::Tool => "the answer is no JSON object or list".to_owned(),
            OutputKind::Text => "the answer cannot be read".to_owned(),
        });
        return (read, problem);
    }
    match tool::read_call(raw, &stage.tools) {
        Ok(call) => (Reading { text: call.to_string(), ok: true }, None),
        Err(why) => (Reading { text: raw.trim().to_owned(), ok: false }, Some(why)),
    }
}

/// Read `raw` as `kind`. For [`OutputKind::Label`] with no `labels`, any first line will do.
pub fn read(raw: &str, kind: OutputKind, labels: &[String]) -> Reading {
    let raw = raw.trim();
    let read = match kind {
        OutputKind::Text => Some(raw.to_owned()),
        OutputKind::Label => match_label(raw, labels),
        OutputKind::Json => json_text(raw).map(|(text, _)| text.to_owned()),
        OutputKind::Tool => json_text(raw)
            .filter(|(_, value)| value.is_object() || value.is_array())
            .map(|(text, _)| text.to_owned()),
    };
    match read {
        Some(text) => Reading { text, ok: true },
        None => Reading { text: raw.to_owned(), ok: false },
    }
}

/// The label that the first line names: exactly, else ignoring case, else ignoring surrounding punctuation as well.
/// Where two labels fit equally loosely, none is taken.
fn match_label(raw: &str, labels: &[String]) -> Option<String> {
    let line = raw.lines().map(str::trim).find(|line| !line.is_empty())?;
    if labels.is_empty() {
        return Some(line.to_owned());
    }
    if let Some(label) = labels.iter().find(|label| label.trim() == line) {
        return Some(label.clone());
    }
    [fold as fn(&str) -> String, bare].into_iter().find_map(|key| {
        let wanted = key(line);
        let mut fitting = labels.iter().filter(|label| key(label) == wanted);
        let first = fitting.next()?;
        fitting.next().is_none().then(|| first.clone())
    })
}

fn fold(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Without case and surrounding punctuation; what is punctuation only stays as it is.
fn bare(text: &str) -> String {
    let stripped = text.trim_matches(|c: char| !c.is_alphanumeric());
    fold(if stripped.is_empty() { text } else { stripped })
}

/// The JSON of an answer: the whole of it, else the first fenced block, else nothing.
pub fn parse_json(raw: &str) -> Option<Value> {
    json_text(raw.trim()).map(|(_, value)| value)
}

fn json_text(raw: &str) -> Option<(&str, Value)> {
    let parse = |text| serde_json::from_str::<Value>(text).ok().map(|value| (text, value));
    parse(raw).or_else(|| parse(fenced(raw)?))
}

/// The inside of the first Markdown code fence; an unclosed fence runs to the end.
fn fenced(raw: &str) -> Option<&str> {
    let (_, after) = raw.split_once("```")?;
    let (info, body) = after.split_once('\n').unwrap_or(("", after));
    // ```{"a": 1}``` on one line has no info string.
    let body = if info.trim_start().starts_with(['{', '[']) { after } else { body };
    Some(body.split("```").next().unwrap_or(body).trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    #[test]
    fn a_label_is_found_without_regard_to_case_and_punctuation() {
        let set = labels(&["billing", "Tech Support"]);
        for raw in ["billing", " Billing.\nbecause", "**BILLING**", "\n\"billing\""] {
            assert_eq!(
                read(raw, OutputKind::Label, &set),
                Reading { text: "billing".into(), ok: true },
                "{raw:?}"
            );
        }
        assert_eq!(read("tech support!", OutputKind::Label, &set).text, "Tech Support");
        for raw in ["", "billing or tech support", "refund", "..."] {
            assert!(!read(raw, OutputKind::Label, &set).ok, "{raw:?}");
        }
    }

    #[test]
    fn labels_told_apart_by_punctuation_or_case_only_stay_apart() {
        let set = labels(&["c", "c++", "Go", "go"]);
        assert_eq!(read("c++", OutputKind::Label, &set).text, "c++");
        assert_eq!(read("C", OutputKind::Label, &set).text, "c");
        assert_eq!(read("go", OutputKind::Label, &set).text, "go");
        assert!(!read("GO", OutputKind::Label, &set).ok, "two labels fit");
        assert_eq!(read("+", OutputKind::Label, &labels(&["+", "-"])).text, "+");
    }

    #[test]
    fn json_is_read_with_and_without_a_fence() {
        for raw in
            ["{\"a\": 1}", "Sure:\n```json\n{\"a\": 1}\n```\nDone.", "```{\"a\": 1}```", "```\n{\"a\": 1}"]
        {
            let got = read(raw, OutputKind::Json, &[]);
            assert_eq!((got.text.as_str(), got.ok), ("{\"a\": 1}", true), "{raw:?}");
        }
        assert!(!read("{\"a\": ", OutputKind::Json, &[]).ok);
        assert!(read("3", OutputKind::Json, &[]).ok);
        assert!(!read("3", OutputKind::Tool, &[]).ok, "a tool call is an object or a list of them");
    }

    proptest! {
        #[test]
        fn whatever_a_model_says_is_read_without_panic_and_idempotently(raw in ".{0,60}", kind in 0..4usize) {
            let kind = [OutputKind::Label, OutputKind::Json, OutputKind::Text, OutputKind::Tool][kind];
            let set = labels(&["billing", "tech"]);
            let once = read(&raw, kind, &set);
            let twice = read(&once.text, kind, &set);
            prop_assert_eq!(&twice, &once);
        }
    }
}
