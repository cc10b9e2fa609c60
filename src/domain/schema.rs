//! JSON Schema, as far as the parameters of tools use it: a schema is checked once, values against it.
//!
//! What is not known here is refused by [`check`], so that nothing is thought to be enforced that is not.

use serde_json::Value;

/// Keywords that say nothing about validity.
const NOTES: [&str; 9] =
    ["title", "description", "default", "examples", "format", "deprecated", "$schema", "$comment", "strict"];

const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

/// What is wrong with a schema: where (a JSON pointer) and why.
pub fn check(schema: &Value) -> Result<(), String> {
    check_at(schema, "")
}

fn check_at(schema: &Value, at: &str) -> Result<(), String> {
    let wrong = |key: &str, want: &str| Err(format!("{at}/{key}: expected {want}"));
    let fields = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(fields) => fields,
        _ => return Err(format!("{}: a schema is an object", if at.is_empty() { "/" } else { at })),
    };
    for (key, value) in fields {
        match key.as_str() {
            "type" => {
                let known = |v: &Value| v.as_str().is_some_and(|t| TYPES.contains(&t));
                if !(known(value)
                    || value.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(known)))
                {
                    return wrong(key, &format!("one of {}, or a list of them", TYPES.join(", ")));
                }
            }
            "properties" => {
                let Some(properties) = value.as_object() else { return wrong(key, "an object of schemas") };
                for (name, inner) in properties {
                    check_at(inner, &format!("{at}/properties/{}", escaped(name)))?;
                }
            }
            "required" => {
                if !value.as_array().is_some_and(|names| names.iter().all(Value::is_string)) {
                    return wrong(key, "a list of names");
                }
            }
            "additionalProperties" | "items" => check_at(value, &format!("{at}/{key}"))?,
            "anyOf" => {
                let Some(choices) = value.as_array().filter(|c| !c.is_empty()) else {
                    return wrong(key, "a list of schemas");
                };
                for (i, inner) in choices.iter().enumerate() {
                    check_at(inner, &format!("{at}/anyOf/{i}"))?;
                }
            }
            "enum" => {
                if value.as_array().is_none_or(Vec::is_empty) {
                    return wrong(key, "a list of values");
                }
            }
            "const" => {}
            "minimum" | "maximum" => {
                if !value.is_number() {
                    return wrong(key, "a number");
                }
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" => {
                if value.as_u64().is_none() {
                    return wrong(key, "a whole number");
                }
            }
            note if NOTES.contains(&note) => {}
            other => {
                return Err(format!(
                    "{at}/{}: this keyword is not enforced here; known are type, properties, required, additionalProperties, items, enum, const, anyOf, minimum, maximum, minLength, maxLength, minItems, maxItems",
                    escaped(other)
                ));
            }
        }
    }
    Ok(())
}

/// The first thing in which `value` is not what a checked `schema` wants: where and why.
pub fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    validate_at(schema, value, "")
}

fn validate_at(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let place = if at.is_empty() { "/" } else { at };
    let fail = |why: String| Err(format!("{place}: {why}"));
    let fields = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Object(fields) => fields,
        _ => return fail("nothing is allowed here".into()),
    };
    let count = |key: &str| fields.get(key).and_then(Value::as_u64);
    let bounds = |what: &str, n: usize, least: &str, most: &str| {
        if count(least).is_some_and(|least| (n as u64) < least) {
            return Err(format!("{place}: {n} {what} are too few"));
        }
        if count(most).is_some_and(|most| n as u64 > most) {
            return Err(format!("{place}: {n} {what} are too many"));
        }
        Ok(())
    };
    match fields.get("type") {
        Some(Value::String(want)) if !is_a(value, want) => {
            return fail(format!("expected {want}, found {}", shown(value)));
        }
        Some(Value::Array(all)) if !all.iter().filter_map(Value::as_str).any(|want| is_a(value, want)) => {
            let all: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            return fail(format!("expected {}, found {}", all.join(" or "), shown(value)));
        }
        _ => {}
    }
    if let Some(Value::Array(choices)) = fields.get("enum")
        && !choices.iter().any(|choice| equal(choice, value))
    {
        let choices: Vec<String> = choices.iter().take(20).map(Value::to_string).collect();
        return fail(format!("expected one of {}, found {}", choices.join(", "), shown(value)));
    }
    if let Some(only) = fields.get("const")
        && !equal(only, value)
    {
        return fail(format!("expected {only}, found {}", shown(value)));
    }
    if let Some(Value::Array(choices)) = fields.get("anyOf")
        && !choices.iter().any(|choice| validate_at(choice, value, at).is_ok())
    {
        return fail(format!("{} fits none of the schemas of anyOf", shown(value)));
    }
    match value {
        Value::Number(n) => {
            let n = n.as_f64().unwrap_or(f64::NAN);
            let limit = |key: &str| fields.get(key).and_then(Value::as_f64);
            if limit("minimum").is_some_and(|least| n < least)
                || limit("maximum").is_some_and(|most| n > most)
            {
                return fail(format!("{value} is out of range"));
            }
        }
        Value::String(text) => bounds("characters", text.chars().count(), "minLength", "maxLength")?,
        Value::Array(items) => {
            bounds("items", items.len(), "minItems", "maxItems")?;
            if let Some(inner) = fields.get("items") {
                for (i, item) in items.iter().enumerate() {
                    validate_at(inner, item, &format!("{at}/{i}"))?;
                }
            }
        }
        Value::Object(found) => {
            let known = fields.get("properties").and_then(Value::as_object);
            for name in fields.get("required").and_then(Value::as_array).into_iter().flatten() {
                if let Some(name) = name.as_str().filter(|name| !found.contains_key(*name)) {
                    return fail(format!("`{name}` is missing"));
                }
            }
            for (name, inner) in found {
                let place = format!("{at}/{}", escaped(name));
                match (known.and_then(|k| k.get(name)), fields.get("additionalProperties")) {
                    (Some(schema), _) => validate_at(schema, inner, &place)?,
                    (None, Some(Value::Bool(false))) => return fail(format!("`{name}` is not known")),
                    (None, Some(schema)) => validate_at(schema, inner, &place)?,
                    (None, None) => {}
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    Ok(())
}

fn is_a(value: &Value, want: &str) -> bool {
    match want {
        "string" => value.is_string(),
        "number" => value.is_number(),
        // 2.0 is an integer (JSON Schema 2020-12, 6.1.1).
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        _ => false,
    }
}

/// Numbers by value (1 is 1.0), objects without regard to order.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| equal(v, w)))
        }
        _ => a == b,
    }
}

/// A step of a JSON pointer (RFC 6901).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A value in an error.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_held_against_every_keyword() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": { "type": "string", "minLength": 1, "maxLength": 4 },
                "days": { "type": "integer", "minimum": 1, "maximum": 7 },
                "unit": { "enum": ["c", "f"] },
                "tags": { "type": "array", "items": { "type": ["string", "null"] }, "minItems": 1 },
                "either": { "anyOf": [{ "const": 1 }, { "type": "object", "additionalProperties": { "type": "boolean" } }] },
            },
            "required": ["city"],
            "additionalProperties": false,
        });
        check(&schema).unwrap();
        for good in [
            json!({ "city": "Rome" }),
            json!({ "city": "Bonn", "days": 2.0, "unit": "f", "tags": ["a", null], "either": 1.0 }),
            json!({ "city": "x", "either": { "a": true } }),
        ] {
            validate(&schema, &good).unwrap();
        }
        for (bad, want) in [
            (json!(3), "/: expected object, found 3"),
            (json!({}), "/: `city` is missing"),
            (json!({ "city": 3 }), "/city: expected string, found 3"),
            (json!({ "city": "" }), "/city: 0 characters are too few"),
            (json!({ "city": "Paris" }), "/city: 5 characters are too many"),
            (json!({ "city": "x", "days": 1.5 }), "/days: expected integer, found 1.5"),
            (json!({ "city": "x", "days": 8 }), "/days: 8 is out of range"),
            (json!({ "city": "x", "unit": "k" }), "/unit: expected one of \"c\", \"f\", found \"k\""),
            (json!({ "city": "x", "tags": [1] }), "/tags/0: expected string or null, found 1"),
            (json!({ "city": "x", "tags": [] }), "/tags: 0 items are too few"),
            (json!({ "city": "x", "either": 2 }), "/either: 2 fits none of the schemas of anyOf"),
            (json!({ "city": "x", "a/b": 2 }), "/: `a/b` is not known"),
        ] {
            assert_eq!(validate(&schema, &bad).unwrap_err(), want);
        }
    }

    #[test]
    fn a_schema_that_asks_for_more_than_is_enforced_is_refused_with_its_place() {
        for (schema, want) in [
            (
                json!({ "properties": { "a/b": { "pattern": "x" } } }),
                "/properties/a~1b/pattern: this keyword",
            ),
            (json!({ "type": "text" }), "/type: expected one of string"),
            (json!({ "items": 3 }), "/items: a schema is an object"),
            (json!({ "anyOf": [] }), "/anyOf: expected a list"),
            (json!([]), "/: a schema is an object"),
        ] {
            let said = check(&schema).unwrap_err();
            assert!(said.starts_with(want), "{said}");
        }
    }
}
