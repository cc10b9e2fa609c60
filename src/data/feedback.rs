//! Rows made of what was typed in the playground. Input and gold stand in fields of their own, whatever `[data]` says, and again in the
//! fields that `[data]` names, so that prompts which use those render.

use serde_json::{Map, Value};

use crate::workspace::config::DataConfig;

const INPUT: &str = "input";
const GOLD: &str = "gold";

/// The id of the row with this input: the same wherever and whenever it is typed.
pub fn row_id(input: &str) -> String {
    format!("feedback-{}", &blake3::hash(input.as_bytes()).to_hex().as_str()[..12])
}

/// The fields of the row with this input.
pub fn fields(data: &DataConfig, input: &str, gold: Option<&str>) -> Map<String, Value> {
    let mut fields = Map::new();
    if let Some(field) = data.input.as_deref().and_then(lone_field) {
        fields.insert(field.to_owned(), input.into());
    }
    if let (Some(field), Some(gold)) = (&data.gold, gold) {
        fields.insert(field.clone(), gold.into());
    }
    fields.insert(INPUT.to_owned(), input.into());
    if let Some(gold) = gold {
        fields.insert(GOLD.to_owned(), gold.into());
    }
    fields.insert("id".to_owned(), row_id(input).into());
    fields.insert("source".to_owned(), "feedback".into());
    fields
}

/// Input and gold of such a row.
pub(super) fn resolve(fields: &Map<String, Value>) -> (String, Option<String>) {
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    (text(INPUT).unwrap_or_default(), text(GOLD))
}

/// The field of a template that is nothing but one field: `{{ message }}`, `{{ row['my text'] }}`.
fn lone_field(template: &str) -> Option<&str> {
    let inner = template.trim().strip_prefix("{{")?.strip_suffix("}}")?.trim();
    let quoted = inner.strip_prefix("row[").and_then(|rest| rest.strip_suffix(']')).and_then(|name| {
        let name = name.trim();
        let quote = name.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        name.strip_prefix(quote)?.strip_suffix(quote).filter(|name| !name.contains(['\'', '"', '\\']))
    });
    let plain = || {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        (!inner.is_empty() && inner.chars().all(word)).then_some(inner)
    };
    quoted.or_else(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_of_one_field_names_it_and_others_name_none() {
        for (template, field) in [
            ("{{ message }}", Some("message")),
            ("{{message}}\n", Some("message")),
            ("{{ row['my text'] }}", Some("my text")),
            ("{{ a }} {{ b }}", None),
            ("{{ a|upper }}", None),
            ("{{ a.b }}", None),
            ("{{ row['a'] ~ row['b'] }}", None),
            ("{{ }}", None),
            ("text", None),
        ] {
            assert_eq!(lone_field(template), field, "{template}");
        }
    }
}
