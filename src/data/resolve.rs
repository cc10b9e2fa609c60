//! A row's input and gold: `[data] input` and `gold`, else what the row's shape offers.

use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value};

use super::guess::Guess;
use super::shape::{Shape, as_text};
use crate::domain::row::Turn;
use crate::workspace::nearest;

/// Steps that a template may take on one row.
const FUEL: u64 = 1_000_000;
const NAME: &str = "[data] input";

/// Renders inputs and finds golds.
#[derive(Debug)]
pub struct Resolver {
    template: Option<Environment<'static>>,
    /// Fields that the template names.
    named: Vec<String>,
    gold: Option<String>,
    /// For records when `workspace.toml` says nothing.
    guessed: Option<Environment<'static>>,
    guessed_gold: Option<String>,
}

impl Resolver {
    /// The error says what is wrong with the template.
    pub fn new(input: Option<&str>, gold: Option<&str>, guess: &Guess) -> Result<Self, String> {
        Ok(Self {
            template: input.map(environment).transpose()?,
            named: input.map(named).unwrap_or_default(),
            gold: gold.map(str::to_owned),
            guessed: guess.input.as_deref().map(environment).transpose()?,
            guessed_gold: guess.gold.clone(),
        })
    }

    /// The input and, where there is one, the gold. The error says what is wrong with the row.
    pub fn resolve(&self, fields: &Map<String, Value>) -> Result<(String, Option<String>), String> {
        let shape = Shape::of(fields);
        let input = match &self.template {
            Some(template) => render(template, fields)?,
            None => match (shape.input(fields), &self.guessed) {
                (Some(input), _) => input,
                (None, Some(template)) => render(template, fields)?,
                (None, None) => super::canonical::to_string(&Value::Object(fields.clone())),
            },
        };
        let gold = match (&self.gold, &self.guessed_gold) {
            (Some(name), _) => field(fields, name).and_then(as_text),
            (None, guessed) => shape
                .gold(fields)
                .or_else(|| guessed.as_deref().and_then(|n| field(fields, n)).and_then(as_text)),
        };
        Ok((input, gold))
    }
}

impl Resolver {
    /// What does not fit, though an input can be made: fields that the template shows and the row has not, roles of a conversation out of
    /// their order. A field that is asked for first (`{% if note %}`), or has a default, may be absent.
    pub fn misfit(&self, fields: &Map<String, Value>) -> Option<String> {
        let Some(template) = &self.template else {
            return Shape::of(fields).misfit(fields, self.gold.is_some());
        };
        let lacks = |name: &&String| fields.get(*name).is_none_or(Value::is_null);
        if !self.named.iter().any(|name| lacks(&name)) {
            return None;
        }
        let mut strict = template.clone();
        strict.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        render(&strict, fields).err()?;
        let absent: Vec<String> = self.named.iter().filter(lacks).map(|name| format!("`{name}`")).collect();
        Some(format!("[data] input shows {}, which the row has not", absent.join(" and ")))
    }

    /// The conversation that the input is the text of, where the row is one.
    pub fn turns(&self, fields: &Map<String, Value>) -> Vec<Turn> {
        if self.template.is_some() { Vec::new() } else { Shape::of(fields).turns(fields) }
    }
}

/// A field by its name, or by a path with dots into nested objects.
pub fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = fields.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    rest.split('.').try_fold(fields.get(first)?, |value, key| value.get(key))
}

/// Fields that a template names and that `known` does not hold, each with the nearest that it does.
pub fn unknown_fields(template: &str, known: &[String]) -> Vec<String> {
    let unknown = named(template).into_iter().filter(|name| !known.contains(name));
    unknown
        .map(|name| match nearest(&name, known.iter().map(String::as_str)) {
            Some(near) => format!("no row has a field `{name}`; did you mean `{near}`?"),
            None => {
                format!("no row has a field `{name}`; fields: {}", known[..known.len().min(20)].join(", "))
            }
        })
        .collect()
}

/// Fields that a template names, sorted.
pub fn fields_of(template: &str) -> Vec<String> {
    named(template)
}

fn named(template: &str) -> Vec<String> {
    let env = Environment::new();
    let Ok(parsed) = env.template_from_str(template) else { return Vec::new() };
    let mut names: Vec<String> =
        parsed.undeclared_variables(false).into_iter().filter(|name| name != "row").collect();
    names.retain(|name| env.globals().all(|(global, _)| global != name));
    names.sort();
    names
}

fn environment(template: &str) -> Result<Environment<'static>, String> {
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.add_template_owned(NAME, template.to_owned()).map_err(|e| format!("not a valid template: {e}"))?;
    Ok(env)
}

fn render(env: &Environment<'static>, fields: &Map<String, Value>) -> Result<String, String> {
    let template = env.get_template(NAME).map_err(|e| e.to_string())?;
    // `row` reaches fields whose names are no identifiers. A null shows as nothing, not as `none`.
    let mut context: std::collections::BTreeMap<&str, minijinja::Value> = fields
        .iter()
        .filter(|(_, v)| !v.is_null())
        .map(|(k, v)| (k.as_str(), minijinja::Value::from_serialize(v)))
        .collect();
    context.entry("row").or_insert_with(|| minijinja::Value::from_serialize(fields));
    template.render(context).map_err(|e| match e.kind() {
        minijinja::ErrorKind::OutOfFuel => format!("{NAME} takes over {FUEL} steps on this row"),
        _ => format!("{NAME}: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    fn resolve(
        input: Option<&str>,
        gold: Option<&str>,
        json: &str,
    ) -> Result<(String, Option<String>), String> {
        Resolver::new(input, gold, &Guess::default()).unwrap().resolve(&row(json))
    }

    #[test]
    fn templates_and_gold_fields_go_before_the_shape() {
        let json = r#"{"instruction":"i","output":"o","a":{"b":[1,2]},"my text":"m","n":3}"#;
        assert_eq!(resolve(None, None, json), Ok(("i".into(), Some("o".into()))));
        assert_eq!(
            resolve(Some("<{{ n }}> {{ row['my text'] }}"), Some("n"), json),
            Ok(("<3> m".into(), Some("3".into())))
        );
        assert_eq!(resolve(Some("{{ a.b[1] }}"), Some("a.b"), json), Ok(("2".into(), Some("[1,2]".into()))));
        assert_eq!(resolve(Some("x"), Some("absent"), json), Ok(("x".into(), None)));
        assert_eq!(resolve(Some("x"), Some("e"), r#"{"e":" "}"#), Ok(("x".into(), None)));
    }

    #[test]
    fn an_endless_template_runs_out_of_fuel() {
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(resolve(Some(endless), None, "{}").unwrap_err().contains("steps"));
    }

    #[test]
    fn a_row_without_a_field_that_the_template_shows_does_not_fit() {
        let template = "{{ question }}{% if note %} ({{ note }}){% endif %} {{ tone|default('plain') }}";
        let resolver = Resolver::new(Some(template), None, &Guess::default()).unwrap();
        assert_eq!(resolver.misfit(&row(r#"{"question":"q"}"#)), None);
        let why = resolver.misfit(&row(r#"{"question":null,"note":"n","tone":"t"}"#)).unwrap();
        assert_eq!(why, "[data] input shows `question`, which the row has not");
    }

    #[test]
    fn roles_out_of_their_order_do_not_fit() {
        let resolver = Resolver::new(None, None, &Guess::default()).unwrap();
        let of = |roles: &[&str]| {
            let turns: Vec<String> =
                roles.iter().map(|role| format!(r#"{{"role":"{role}","content":"x"}}"#)).collect();
            resolver.misfit(&row(&format!(r#"{{"messages":[{}]}}"#, turns.join(","))))
        };
        for fine in [
            &["user", "assistant"][..],
            &["system", "user", "assistant", "user", "assistant"],
            &["user", "assistant", "tool", "assistant"],
            &["developer", "user", "assistant"],
        ] {
            assert_eq!(of(fine), None, "{fine:?}");
        }
        for (roles, want) in [
            (&["assistant", "user", "assistant"][..], "turn 1 is the assistant's"),
            (&["user", "system", "assistant"], "turn 2 is a system prompt"),
            (&["user", "user", "assistant"], "turns 1 and 2 are both of the user"),
            (&["user", "assistant", "assistant"], "turns 2 and 3 are both of the assistant"),
            (&["user", "assistant", "user"], "it ends with the user"),
            (&["user", "narrator", "assistant"], "turn 2 is of an unknown role `narrator`"),
            (&["system"], "it ends with the system"),
        ] {
            let got = of(roles);
            assert!(got.as_ref().is_some_and(|why| why.contains(want)), "{roles:?}: {got:?}");
        }
    }

    #[test]
    fn fields_that_no_row_has_are_named_with_the_nearest() {
        let known = ["message".to_owned(), "team".to_owned()];
        assert_eq!(
            unknown_fields("{{ mesage }}", &known),
            ["no row has a field `mesage`; did you mean `message`?"]
        );
        assert!(
            unknown_fields(
                "{{ row['x y'] }}{{ message|upper }}{% for i in range(3) %}{{ i }}{% endfor %}",
                &known
            )
            .is_empty()
        );
    }
}
