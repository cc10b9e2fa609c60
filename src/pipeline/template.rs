//! Prompt templates (minijinja): the row's fields, `input`, earlier stages' outputs and `examples` are in scope.
//!
//! Templates are somebody's file: they run with a step limit, their output is bounded, and what is not in scope is an error that says so.

use std::collections::BTreeMap;
use std::io;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::json;
use thiserror::Error;

use super::output::parse_json;
use super::tool;
use crate::domain::candidate::{ModelSource, OutputKind, StageCandidate};
use crate::domain::expression::{missing, plain};
use crate::domain::row::{RunRow, Turn};
use crate::domain::tool::{Tool, answered};
use crate::retrieve::Hit;

/// Steps a template may take; a page of prose with a loop over a hundred examples takes a few thousand.
const FUEL: u64 = 1_000_000;

/// Longest prompt, in bytes. No model reads that much.
const LONGEST: usize = 8 << 20;

/// A template that does not parse, or does not fit a row.
#[derive(Debug, Error)]
pub enum TemplateError {
    #[error("{prompt}, line {line}: {what}")]
    Prompt { prompt: String, line: usize, what: String },
    #[error("stage `{stage}`, `when`: {what}")]
    When { stage: String, what: String },
}

/// What is in scope on a row. Where names clash: stages' outputs before `examples` before `input` before the row's fields; `row` holds all
/// fields and `stages` all outputs, whatever they are called.
#[derive(Clone, Debug)]
pub struct Scope {
    row: Value,
    input: Value,
    outputs: BTreeMap<String, Value>,
    turns: Vec<Turn>,
    examples: Value,
}

impl Scope {
    pub fn new(row: &RunRow) -> Self {
        Self {
            row: Value::from_serialize(&row.fields),
            input: Value::from(row.input.clone()),
            outputs: BTreeMap::new(),
            turns: row.turns.clone(),
            examples: Value::from(Vec::<Value>::new()),
        }
    }

    /// What is in scope as `examples` from now on: each with `input`, `output` (its value, where the stage answers in JSON), `answer` (as
    /// text), and `stages`, the outputs of the stages before.
    pub fn show(&mut self, stage: &StageCandidate, hits: &[Hit]) {
        let shown = hits.iter().map(|hit| {
            let example = &hit.example;
            minijinja::context! {
                input => example.input,
                output => value_of(stage, &example.answer),
                answer => example.answer,
                stages => Value::from_serialize(&example.outputs),
            }
        });
        self.examples = shown.collect();
    }

    /// The same scope with another text as the input.
    fn with_input(&self, input: String) -> Self {
        Self { input: Value::from(input), ..self.clone() }
    }

    /// What the row's input is the text of, where it is a conversation.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// A stage's answer: its text; where that is JSON, its value; where it is a call of a recorded tool, an object of `name`, `arguments`
    /// and `result` (`name` and `result` are none where it is no valid call).
    pub fn add(&mut self, stage: &StageCandidate, output: &str) {
        self.outputs.insert(stage.name.clone(), value_of(stage, output));
    }

    /// A stage that did not run is `none`, so that a later one can ask for it.
    pub fn skip(&mut self, stage: &str) {
        self.outputs.insert(stage.to_owned(), Value::from(()));
    }

    fn context(&self) -> Value {
        let mut names: BTreeMap<String, Value> = BTreeMap::new();
        if let Ok(keys) = self.row.try_iter() {
            for key in keys {
                if let (Some(name), Ok(value)) = (key.as_str(), self.row.get_item(&key)) {
                    names.insert(name.to_owned(), value);
                }
            }
        }
        names.entry("row".into()).or_insert_with(|| self.row.clone());
        names.entry("stages".into()).or_insert_with(|| Value::from_serialize(&self.outputs));
        names.insert("input".into(), self.input.clone());
        names.insert("examples".into(), self.examples.clone());
        names.extend(self.outputs.iter().map(|(name, value)| (name.clone(), value.clone())));
        names.into_iter().collect()
    }
}

/// A stage's answer as templates see it.
fn value_of(stage: &StageCandidate, output: &str) -> Value {
    let json = match stage.output {
        OutputKind::Json | OutputKind::Tool => parse_json(output),
        OutputKind::Label | OutputKind::Text => None,
    };
    let json = if stage.output == OutputKind::Tool && !stage.tools.is_empty() {
        let nothing = || json!({ "name": null, "arguments": {}, "result": null });
        Some(json.and_then(|call| answered(&stage.tools, &call)).unwrap_or_else(nothing))
    } else {
        json
    };
    json.map_or_else(|| Value::from(output), |json| Value::from_serialize(&json))
}

/// A stage's compiled prompt and condition.
#[derive(Debug)]
pub struct Prompt {
    env: Environment<'static>,
    /// As shown in errors.
    name: String,
    stage: String,
    when: Option<String>,
    /// In scope as `tools`: names, descriptions and parameters.
    tools: Vec<Tool>,
    /// The tools go beside the prompt.
    native: bool,
    /// What tells of the tools in front of the prompt.
    before: String,
}

/// The template's name in its environment; not a file name, which could switch escaping on.
pub(super) const TEMPLATE: &str = "prompt";

/// `Input: ...`, `Answer: ...` of each example, then the row's own `Input: ...`, `Answer:`.
pub fn examples_before(scope: &Scope, hits: &[Hit]) -> String {
    let mut block = String::new();
    for hit in hits {
        block += &format!("Input: {}\nAnswer: {}\n\n", hit.example.input, hit.example.answer);
    }
    block += &format!("Input: {}\nAnswer:", scope.input);
    block
}

impl Prompt {
    /// Compile; fails on a slip in the template or in `when`.
    pub fn new(stage: &StageCandidate) -> Result<Self, TemplateError> {
        let mut prompt = Self {
            env: environment(),
            name: if stage.prompt_name.is_empty() {
                format!("prompt of stage `{}`", stage.name)
            } else {
                stage.prompt_name.clone()
            },
            stage: stage.name.clone(),
            when: stage.when.clone(),
            tools: stage.tools.clone(),
            native: false,
            before: String::new(),
        };
        if let Err(error) = prompt.env.add_template_owned(TEMPLATE, stage.prompt.clone()) {
            return Err(prompt.describe(&error, None));
        }
        if !stage.tools.is_empty() {
            let template = prompt.env.get_template(TEMPLATE);
            let laid_out = template.is_ok_and(|t| t.undeclared_variables(false).contains("tools"));
            let endpoint = matches!(stage.model.source, ModelSource::Endpoint { .. });
            // An endpoint that is not given tools cannot call them, whatever the prompt says.
            prompt.native = endpoint || (!laid_out && tool::is_native(stage));
            if !prompt.native && !laid_out {
                prompt.before = tool::description(&stage.tools);
            }
        }
        if let Some(when) = &prompt.when {
            prompt
                .env
                .compile_expression(when)
                .map_err(|error| TemplateError::When { stage: stage.name.clone(), what: plain(&error) })?;
        }
        Ok(prompt)
    }

    /// The prompt of a row, before any stage has run.
    pub fn render(&self, row: &RunRow) -> Result<String, TemplateError> {
        self.render_in(&Scope::new(row))
    }

    /// The template says itself how examples stand in it.
    pub fn lays_out_examples(&self) -> bool {
        self.names("examples")
    }

    /// The template has a place for `input`, where examples can stand before it.
    pub fn has_input(&self) -> bool {
        self.names("input")
    }

    fn names(&self, variable: &str) -> bool {
        self.env.get_template(TEMPLATE).is_ok_and(|t| t.undeclared_variables(false).contains(variable))
    }

    /// The prompt of a row with examples before its input, in the input's place; what stands before that place in the template comes
    /// first, and is the same for every row.
    pub fn render_with_examples(&self, scope: &Scope, hits: &[Hit]) -> Result<String, TemplateError> {
        self.render_in(&scope.with_input(examples_before(scope, hits)))
    }

    /// The tools go beside the prompt.
    pub fn is_native(&self) -> bool {
        self.native
    }

    /// The tools that go beside the prompt, each as OpenAI's `tools` has it.
    pub fn native_tools(&self) -> Vec<serde_json::Value> {
        if self.native { self.tools.iter().map(Tool::function).collect() } else { Vec::new() }
    }

    /// The prompt of a row with earlier stages' outputs.
    pub fn render_in(&self, scope: &Scope) -> Result<String, TemplateError> {
        let context = self.context(scope);
        let mut out = Bounded(self.before.clone().into_bytes());
        let rendered = self
            .env
            .get_template(TEMPLATE)
            .and_then(|t| t.render_captured_to(context.clone(), &mut out).map(|_| ()));
        match rendered {
            Ok(()) => Ok(String::from_utf8_lossy(&out.0).into_owned()),
            Err(error) => Err(self.describe(&error, Some(&context))),
        }
    }

    /// The stage's `when` holds on the row (always, where it has none).
    pub fn holds(&self, scope: &Scope) -> Result<bool, TemplateError> {
        let Some(when) = &self.when else { return Ok(true) };
        let context = scope.context();
        let expression = self
            .env
            .compile_expression(when)
            .map_err(|error| TemplateError::When { stage: self.stage.clone(), what: plain(&error) })?;
        let value = expression.eval(context.clone()).map_err(|error| {
            let names = expression.undeclared_variables(true);
            let what = if error.kind() == ErrorKind::UndefinedError {
                missing(names, &context).unwrap_or_else(|| plain(&error))
            } else {
                plain(&error)
            };
            TemplateError::When { stage: self.stage.clone(), what: format!("`{when}`: {what}") }
        })?;
        if value.is_undefined() {
            let what = missing(expression.undeclared_variables(true), &context).unwrap_or_default();
            return Err(TemplateError::When { stage: self.stage.clone(), what: format!("`{when}`: {what}") });
        }
        Ok(value.is_true())
    }

    fn context(&self, scope: &Scope) -> Value {
        let context = scope.context();
        if self.tools.is_empty() {
            return context;
        }
        let tools: Vec<serde_json::Value> = self.tools.iter().map(Tool::signature).collect();
        minijinja::context! { tools => Value::from_serialize(&tools), ..context }
    }

    fn describe(&self, error: &minijinja::Error, context: Option<&Value>) -> TemplateError {
        describe(&self.env, &self.name, error, context)
    }
}

/// Where templates run: strict, without escaping, with a step limit.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env
}

/// An error of the template called [`TEMPLATE`], which people know as `name`.
pub(super) fn describe(
    env: &Environment<'_>,
    name: &str,
    error: &minijinja::Error,
    context: Option<&Value>,
) -> TemplateError {
    let what = match error.kind() {
        ErrorKind::UndefinedError => context
            .and_then(|context| {
                let names = env.get_template(TEMPLATE).ok()?.undeclared_variables(true);
                missing(names, context)
            })
            .unwrap_or_else(|| plain(error)),
        ErrorKind::OutOfFuel => format!("the template takes more than {FUEL} steps; is a loop too long?"),
        ErrorKind::WriteFailure => format!("the prompt is longer than {LONGEST} bytes"),
        _ => plain(error),
    };
    TemplateError::Prompt { prompt: name.to_owned(), line: error.line().unwrap_or(1), what }
}

/// A buffer that refuses to grow past [`LONGEST`].
pub(super) struct Bounded(pub Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{row, stage};
    use super::*;

    fn prompt(text: &str) -> Prompt {
        Prompt::new(&stage("route", text, OutputKind::Text, &[])).unwrap()
    }

    #[test]
    fn fields_input_and_outputs_are_in_scope() {
        let mut scope = Scope::new(&row("1", "hello <b>"));
        scope.add(&stage("first-pass", "", OutputKind::Json, &[]), "{\"n\": 3}");
        scope.skip("other");
        let text = "{{ input }}|{{ row.input }}|{{ channel.upper() }}|{{ stages['first-pass'].n + 1 }}|{% if other %}x{% endif %}{% for e in examples %}{{ e }}{% endfor %}";
        assert_eq!(prompt(text).render_in(&scope).unwrap(), "hello <b>|a field of that name|MAIL|4|");
    }

    #[test]
    fn an_unknown_variable_names_the_prompt_the_line_and_the_nearest() {
        let said = prompt("Hello\n{{ chanel }}").render(&row("1", "x")).unwrap_err().to_string();
        assert_eq!(
            said,
            "prompts/route.md, line 2: `chanel` is not in scope on this row; did you mean `channel`?"
        );
        let said = prompt("{{ zzz.deep }}").render(&row("1", "x")).unwrap_err().to_string();
        assert!(
            said.contains("`zzz.deep`") && said.contains("in scope are: channel, examples, input"),
            "{said}"
        );
    }

    #[test]
    fn a_slip_in_a_template_is_told_at_once_with_its_line() {
        let said =
            Prompt::new(&stage("route", "a\nb {{ input", OutputKind::Text, &[])).err().unwrap().to_string();
        assert!(said.starts_with("prompts/route.md, line 2: syntax error"), "{said}");
        let mut bad = stage("route", "x", OutputKind::Text, &[]);
        bad.when = Some("route ==".into());
        let said = Prompt::new(&bad).err().unwrap().to_string();
        assert!(said.contains("stage `route`, `when`"), "{said}");
    }

    #[test]
    fn a_template_cannot_run_for_ever_or_fill_the_memory() {
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        let said = prompt(loops).render(&row("1", "x")).unwrap_err().to_string();
        assert!(said.contains("steps"), "{said}");
        let grows = "{% set s = 'x' * 90000 %}{% for a in range(9999) %}{{ s }}{% endfor %}";
        let said = prompt(grows).render(&row("1", "x")).unwrap_err().to_string();
        assert!(said.contains("longer than"), "{said}");
    }

    #[test]
    fn what_a_row_says_is_never_run() {
        assert_eq!(prompt("{{ input }}").render(&row("1", "{{ 1 + 1 }}")).unwrap(), "{{ 1 + 1 }}");
    }

    #[test]
    fn a_condition_on_what_is_not_there_is_an_error() {
        let mut s = stage("route", "x", OutputKind::Text, &[]);
        s.when = Some("chanel == 'mail'".into());
        let said = Prompt::new(&s).unwrap().holds(&Scope::new(&row("1", "x"))).unwrap_err().to_string();
        assert!(said.contains("`chanel`") && said.contains("did you mean `channel`"), "{said}");
    }
}
