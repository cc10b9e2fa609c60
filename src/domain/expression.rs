//! Expressions that people write into `workspace.toml` (minijinja): compiled once, evaluated with a step limit.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::LazyLock;

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

/// Longest expression, in bytes: what is compiled and dropped level by level must not fill the stack.
const LONGEST: usize = 4096;

/// Steps that an expression may take on a row.
const FUEL: u64 = 50_000;

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env
});

/// A compiled expression.
pub struct Expression {
    text: String,
    compiled: minijinja::Expression<'static, 'static>,
    names: BTreeSet<String>,
}

impl Expression {
    /// Err: what is wrong with it.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("the expression is longer than {LONGEST} bytes"));
        }
        let compiled = ENVIRONMENT
            .compile_expression_owned(text.to_owned())
            .map_err(|e| format!("is not an expression: {}", plain(&e)))?;
        let global = |name: &String| ENVIRONMENT.globals().any(|(global, _)| global == name);
        let names = compiled.undeclared_variables(false).into_iter().filter(|name| !global(name)).collect();
        Ok(Self { text: text.to_owned(), compiled, names })
    }

    /// What it must find in scope.
    pub const fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Its value as a number: true is 1, false 0, none no value. Err: why it has none.
    pub fn number(&self, scope: &Value) -> Result<Option<f64>, String> {
        let value = self.compiled.eval(scope).map_err(|error| match error.kind() {
            ErrorKind::UndefinedError => self.missing(scope).unwrap_or_else(|| plain(&error)),
            // An operator says itself that it was given nothing.
            _ if error.detail().is_some_and(|detail| detail.contains("undefined")) => {
                self.missing(scope).unwrap_or_else(|| plain(&error))
            }
            ErrorKind::OutOfFuel => format!("takes more than {FUEL} steps"),
            _ => plain(&error),
        })?;
        match value.kind() {
            ValueKind::None => Ok(None),
            ValueKind::Bool => Ok(Some(f64::from(u8::from(value.is_true())))),
            ValueKind::Number => match f64::try_from(value) {
                Ok(number) if number.is_finite() => Ok(Some(number)),
                _ => Err("is no finite number".into()),
            },
            ValueKind::Undefined => Err(self.missing(scope).unwrap_or_else(|| "is not in scope".into())),
            other => Err(format!("is a {other}; a number, true or false is expected")),
        }
    }

    fn missing(&self, scope: &Value) -> Option<String> {
        missing(self.compiled.undeclared_variables(true), scope)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

/// An error's own words, without the place that we name ourselves.
pub fn plain(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Which of `names` (`a` or `a.b.c`) the scope lacks, and what it has that is nearest.
pub fn missing(names: HashSet<String>, scope: &Value) -> Option<String> {
    let mut absent: Vec<String> = names.into_iter().filter(|name| is_missing(name, scope)).collect();
    absent.sort();
    let first = absent.first()?;
    // What has no such name: the scope, or as much of the path as is there.
    let mut holder = scope.clone();
    let mut known = String::new();
    let mut wanted = first.as_str();
    while let Some((part, rest)) = wanted.split_once('.') {
        match holder.get_attr(part) {
            Ok(inner) if inner.kind() == ValueKind::Map => {
                holder = inner;
                known = format!("{known}{part}.");
                wanted = rest;
            }
            _ => break,
        }
    }
    let names: Vec<String> =
        holder.try_iter().ok()?.filter_map(|key| key.as_str().map(str::to_owned)).collect();
    let near = names
        .iter()
        .map(|name| (strsim::jaro_winkler(name, wanted), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("; did you mean `{known}{name}`?"))
        .unwrap_or_else(|| format!("; in scope are: {}", names.join(", ")));
    let absent = absent.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Some(format!("{absent} is not in scope on this row{near}"))
}

fn is_missing(path: &str, scope: &Value) -> bool {
    let mut value = scope.clone();
    for part in path.split('.') {
        match value.get_attr(part) {
            Ok(inner) if !inner.is_undefined() => value = inner,
            _ => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn number(text: &str) -> Result<Option<f64>, String> {
        let scope = context! {
            output => "so it is", correct => true, tokens_out => 12, gold => (),
            fields => context! { channel => "mail", age => 3 },
        };
        Expression::compile(text).unwrap().number(&scope)
    }

    #[test]
    fn booleans_are_one_and_zero_and_none_is_no_value() {
        for (text, want) in [
            ("correct and tokens_out < 40", Some(1.0)),
            ("correct and tokens_out < 4", Some(0.0)),
            ("tokens_out / 24", Some(0.5)),
            ("output | length", Some(8.0)),
            ("fields.channel == 'mail'", Some(1.0)),
            ("1 if output.startswith('so') else 0", Some(1.0)),
            ("gold", None),
            ("gold and output in gold", None),
        ] {
            assert_eq!(number(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_says_why() {
        for (text, want) in [
            ("output", "is a string; a number"),
            ("tokens_out / 0", "is no finite number"),
            (
                "fields.chanel == 'mail'",
                "`fields.chanel` is not in scope on this row; did you mean `fields.channel`?",
            ),
            ("fields.chanel", "`fields.chanel` is not in scope"),
            ("fields.chanel + 1", "`fields.chanel` is not in scope"),
            ("outputs", "did you mean `output`?"),
            ("output + 1", "invalid operation"),
            ("gold | length", "invalid operation"),
        ] {
            let said = number(text).unwrap_err();
            assert!(said.contains(want), "{text}: {said}");
        }
        assert!(Expression::compile("correct and").unwrap_err().starts_with("is not an expression"));
        assert!(Expression::compile(&"(".repeat(4000)).is_err());
    }

    #[test]
    fn an_expression_cannot_run_for_ever_or_fill_the_memory() {
        for text in ["('x' * 1000000000) | length", "range(10000000) | list | length"] {
            let said = number(text).unwrap_err();
            assert!(said.contains("too"), "{text}: {said}");
        }
        // As much as can be asked for comes to an end.
        for part in ["1+", "not ", "-", "(", "[", "1 if 1 else ", "a.b", "x|length|"] {
            let text = format!("{}1", part.repeat(LONGEST / part.len() - 1));
            let _ = Expression::compile(&text).map(|e| e.number(&context! {}));
        }
        let longest = format!("{} | length", "(range(99999) | map('string') | join) ~ ".repeat(20) + "''");
        let _ = number(&longest);
    }
}
