//! What no proposal may do: lose a variable, read the gold, drop a pin, grow too long; and rows that were copied into a prompt.

use std::collections::HashSet;

use minijinja::Environment;

use super::Texts;
use crate::domain::candidate::StageCandidate;
use crate::domain::row::RunRow;
use crate::embed::words;
use crate::pipeline::template::{Prompt, Scope};

/// Words of the n-grams by which a copied row is found.
const GRAM: usize = 6;
/// A row is copied when so large a share of its n-grams stands in a prompt.
const COPIED: f64 = 0.5;
/// Shorter rows are no evidence: their words stand in many texts.
const LEAST_WORDS: usize = 4;
/// Rows that a template is tried on.
const TRIED: usize = 3;

/// Pinned words stand in the text, whatever its white space and case.
pub fn holds_pin(text: &str, pins: &[String]) -> bool {
    let text = plain(text);
    pins.iter().any(|pin| text.contains(&plain(pin)))
}

fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Names that a template takes from outside; none where it does not parse.
pub fn variables(template: &str) -> Option<HashSet<String>> {
    let env = Environment::new();
    Some(env.template_from_str(template).ok()?.undeclared_variables(true))
}

/// What a stage's proposals are held against.
pub struct Guard<'a> {
    /// With the prompt that the run started from.
    stage: &'a StageCandidate,
    variables: HashSet<String>,
    /// Those that stand in it.
    pins: Vec<String>,
    max_chars: usize,
    tried: Vec<Scope>,
    inputs: Vec<String>,
}

impl<'a> Guard<'a> {
    /// `earlier`: the stages before, which have answered with their gold.
    pub fn new(
        stage: &'a StageCandidate,
        earlier: &[StageCandidate],
        pins: &[String],
        max_chars: usize,
        rows: &[&RunRow],
    ) -> Self {
        let mut guard = Self {
            stage,
            variables: variables(&stage.prompt).unwrap_or_default(),
            pins: pins
                .iter()
                .filter(|pin| holds_pin(&stage.prompt, std::slice::from_ref(pin)))
                .cloned()
                .collect(),
            // What the run starts from is always allowed.
            max_chars: max_chars.max(stage.prompt.chars().count()),
            tried: Vec::new(),
            inputs: Vec::new(),
        };
        let start = Prompt::new(stage).ok();
        for row in rows.iter().take(40) {
            let mut scope = Scope::new(row);
            for before in earlier {
                match before.own_gold(&row.fields) {
                    Some(gold) => scope.add(before, &gold),
                    None => scope.skip(&before.name),
                }
            }
            let renders = start.as_ref().and_then(|start| start.render_in(&scope).ok());
            if renders.is_some_and(|text| text.contains(row.input.trim())) && guard.tried.len() < TRIED {
                guard.tried.push(scope);
                guard.inputs.push(row.input.trim().to_owned());
            }
        }
        guard
    }

    /// Why the text may not be the stage's prompt.
    pub fn refuses(&self, text: &str) -> Option<String> {
        if text.trim().is_empty() {
            return Some("it is empty".into());
        }
        let length = text.chars().count();
        if length > self.max_chars {
            return Some(format!("it has {length} characters, {} are allowed", self.max_chars));
        }
        let Some(names) = variables(text) else { return Some("it is no valid template".into()) };
        if let Some(lost) = self.variables.difference(&names).min() {
            return Some(format!("it has lost the variable `{lost}`"));
        }
        // A row's fields are in scope, and with them its gold.
        if let Some(new) = names.difference(&self.variables).min() {
            return Some(format!("it takes `{new}`, which the start does not"));
        }
        if let Some(pin) = self.pins.iter().find(|pin| !holds_pin(text, std::slice::from_ref(pin))) {
            return Some(format!("it has lost the pinned words `{pin}`"));
        }
        let stage = StageCandidate { prompt: text.to_owned(), ..self.stage.clone() };
        let prompt = match Prompt::new(&stage) {
            Ok(prompt) => prompt,
            Err(error) => return Some(error.to_string()),
        };
        for (scope, input) in self.tried.iter().zip(&self.inputs) {
            match prompt.render_in(scope) {
                Err(error) => return Some(error.to_string()),
                Ok(text) if !text.contains(input) => {
                    return Some("it does not show the row's input any more".into());
                }
                Ok(_) => {}
            }
        }
        None
    }

    /// Words that must stay from now on.
    pub fn pin(&mut self, words: &str) {
        self.pins.push(words.to_owned());
    }

    pub fn pins(&self) -> &[String] {
        &self.pins
    }
}

/// Which rows stand in the prompts, by the overlap of word n-grams (as benchmarks are searched for in training text: Brown et al. 2020,
/// "Language Models are Few-Shot Learners", appendix C, with shorter n-grams, since rows are short).
pub struct Copies {
    grams: HashSet<Vec<String>>,
    text: String,
}

impl Copies {
    pub fn new(texts: &Texts) -> Self {
        let mut grams = HashSet::new();
        let mut text = String::from(" ");
        for prompt in texts.values() {
            let all: Vec<String> = words(prompt).collect();
            grams.extend(all.windows(GRAM).map(<[String]>::to_vec));
            text.push_str(&all.join(" "));
            text.push(' ');
        }
        Self { grams, text }
    }

    pub fn has(&self, input: &str) -> bool {
        let all: Vec<String> = words(input).collect();
        if all.len() < LEAST_WORDS {
            return false;
        }
        if all.len() < 2 * GRAM {
            return self.text.contains(&format!(" {} ", all.join(" ")));
        }
        let (mut found, mut of) = (0usize, 0usize);
        for gram in all.windows(GRAM) {
            of += 1;
            found += usize::from(self.grams.contains(gram));
        }
        found as f64 >= COPIED * of as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::candidate::OutputKind;
    use crate::pipeline::tests::{row, stage};

    fn refused(text: &str) -> Option<String> {
        let start = stage("s", "Sort it. Never promise a refund.\n{{ input }}", OutputKind::Text, &[]);
        let (a, b) = (row("1", "hello there"), row("2", "good bye"));
        Guard::new(&start, &[], &["never promise a refund".into(), "elsewhere".into()], 120, &[&a, &b])
            .refuses(text)
    }

    #[test]
    fn variables_pins_and_length_are_held() {
        assert_eq!(refused("Route it. Never promise a\n refund. {{ input }}"), None);
        let why = |text: &str| refused(text).unwrap();
        assert!(why("Never promise a refund.").contains("lost the variable `input`"));
        assert!(why("Never promise a refund. {{ input }} {{ channel }}").contains("takes `channel`"));
        assert!(why("Promise a refund. {{ input }}").contains("pinned words `never promise a refund`"));
        assert!(why("Never promise a refund. {{ input ").contains("no valid template"));
        assert!(
            why(&format!("Never promise a refund. {{{{ input }}}} {}", "x".repeat(200)))
                .contains("120 are allowed")
        );
        assert!(
            why("Never promise a refund. {% if input == 'x' %}{{ input }}{% endif %}")
                .contains("input any more")
        );
    }

    #[test]
    fn a_copied_row_is_found_whatever_its_case_and_points() {
        let long = "the quick brown fox jumps over the lazy dog and runs far away into the dark wood";
        let texts = Texts::from([(
            "s".to_owned(),
            format!("Examples: {}! -> fox. My card is lost; -> cards", long.to_uppercase()),
        )]);
        let copies = Copies::new(&texts);
        assert!(copies.has(long) && copies.has("my card is lost"));
        assert!(copies.has("so: the quick brown fox jumps over the lazy dog and runs far away"));
        assert!(
            !copies.has("my card")
                && !copies.has("my card is late")
                && !copies.has("a wholly other row that nobody has ever copied into any prompt at all")
        );
    }
}
