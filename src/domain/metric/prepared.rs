//! What some metrics are worked out with, read once from their names: patterns, tolerances, schemas.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::own::Own;
use super::{Base, Metric};

/// Bytes that a compiled regular expression may take.
const PATTERN_BYTES: usize = 1 << 20;

/// What a metric needs beside an answer and its gold.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Prepared {
    #[default]
    Nothing,
    Pattern(Pattern),
    Tolerance(Tolerance),
    /// K of `pass_at:K`.
    Tries(u32),
    Schema(Arc<Schema>),
    /// What tells answers to a row apart: the primary metric.
    Vote(Box<Metric>),
    Own(Arc<Own>),
}

impl Prepared {
    /// From what follows the colon; `schema` is what stands in the file it names. Err: what is wrong with it.
    pub(super) fn new(
        base: Base,
        argument: Option<&str>,
        schema: Option<&Arc<Value>>,
    ) -> Result<Self, String> {
        let Some(argument) = argument else { return Ok(Self::Nothing) };
        if argument.is_empty() {
            return Err("what follows the colon is empty".into());
        }
        match base {
            Base::Regex => Pattern::new(argument).map(Self::Pattern),
            Base::Numeric => Tolerance::parse(argument).map(Self::Tolerance),
            Base::PassAt => match argument.parse() {
                Ok(k @ 1..=100_000) => Ok(Self::Tries(k)),
                _ => Err(format!("K is a whole number from 1 to 100000, not `{}`", shown(argument))),
            },
            Base::JsonSchema => match schema {
                Some(schema) => {
                    let schema = Schema::new(schema).map_err(|e| format!("{}: {e}", shown(argument)))?;
                    Ok(Self::Schema(Arc::new(schema)))
                }
                None => Ok(Self::Nothing),
            },
            _ => Ok(Self::Nothing),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A regular expression that takes time linear in the text, and bounded memory.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<regex::Regex>);

impl Pattern {
    fn new(pattern: &str) -> Result<Self, String> {
        let built =
            regex::RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build();
        match built {
            Ok(regex) => Ok(Self(Arc::new(regex))),
            Err(regex::Error::CompiledTooBig(_)) => {
                Err(format!("the pattern is too large (over {PATTERN_BYTES} bytes compiled)"))
            }
            Err(e) => {
                // The crate draws the place over several lines; the last says what is wrong.
                let text = e.to_string();
                let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                Err(format!("`{}` is no regular expression: {why}", shown(pattern)))
            }
        }
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// How far a number may be from the golden one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    Absolute(f64),
    /// As a share of the gold.
    Relative(f64),
}

impl Tolerance {
    /// The same number, but for the rounding of doubles.
    pub const SAME: Self = Self::Relative(1e-9);

    fn parse(text: &str) -> Result<Self, String> {
        let (number, relative) = match text.strip_suffix('%') {
            Some(number) => (number.trim_end(), true),
            None => (text, false),
        };
        match number.parse::<f64>() {
            Ok(n) if n.is_finite() && n >= 0.0 => {
                Ok(if relative { Self::Relative(n / 100.0) } else { Self::Absolute(n) })
            }
            _ => Err(format!(
                "a tolerance is a number as in numeric:0.01, or a share of the gold as in numeric:1%, not `{}`",
                shown(text)
            )),
        }
    }

    pub fn holds(self, got: f64, want: f64) -> bool {
        let room = match self {
            Self::Absolute(room) => room,
            Self::Relative(share) => share * want.abs(),
        };
        // Doubles that are to be so far apart may be a rounding further.
        (got - want).abs() <= room + 1e-12 * want.abs()
    }
}

/// A JSON Schema, compiled. References lead nowhere outside it, and its patterns take linear time.
pub struct Schema {
    validator: jsonschema::Validator,
    hash: String,
}

impl Schema {
    pub fn new(schema: &Value) -> Result<Self, String> {
        let validator = jsonschema::options()
            .with_pattern_options(
                jsonschema::PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES),
            )
            .build(schema)
            .map_err(|e| {
                let place = e.instance_path().to_string();
                format!("{}: {}", if place.is_empty() { "/" } else { &place }, shown(&e.to_string()))
            })?;
        let hash = blake3::hash(schema.to_string().as_bytes()).to_hex()[..8].to_owned();
        Ok(Self { validator, hash })
    }

    pub fn is_valid(&self, value: &Value) -> bool {
        self.validator.is_valid(value)
    }

    /// Tells schemas apart.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tolerance_is_absolute_or_a_share_of_the_gold() {
        let at = |text: &str| Tolerance::parse(text).unwrap();
        assert!(at("0.1").holds(1.1, 1.0) && !at("0.1").holds(1.11, 1.0));
        assert!(at("10%").holds(-110.0, -100.0) && !at("10 %").holds(112.0, 100.0));
        assert!(Tolerance::SAME.holds(0.1 + 0.2, 0.3) && !Tolerance::SAME.holds(0.0, 1e-300));
        assert!(!at("5").holds(f64::NAN, 1.0));
    }

    #[test]
    fn schemas_hold_values_and_lead_nowhere() {
        let schema = Schema::new(&json!({
            "$defs": { "id": { "type": "string", "pattern": "^[a-z]+$" } },
            "type": "object", "properties": { "id": { "$ref": "#/$defs/id" } }, "required": ["id"],
        }))
        .unwrap();
        assert!(schema.is_valid(&json!({ "id": "abc" })));
        assert!(!schema.is_valid(&json!({ "id": "A1" })) && !schema.is_valid(&json!({})));
        for bad in [
            json!({ "type": "text" }),
            json!({ "$ref": "http://127.0.0.1:1/schema.json" }),
            json!({ "$ref": "file:///etc/hostname" }),
            json!({ "pattern": "(" }),
            json!({ "pattern": "a{5000}{5000}" }),
            json!(3),
        ] {
            assert!(Schema::new(&bad).is_err(), "{bad}");
        }
    }
}
