//! Samples of lm-evaluation-harness 0.4 (`--log_samples`): `doc_id`, `doc`, `target`, `arguments`, `resps`, `filtered_resps`, and a key
//! for each metric. There is one record for each document and filter; since 0.4.3 it names its `filter` and its `metrics`.
//!
//! `doc_id` counts the documents of the task and says nothing of the workspace's rows: `--match doc_id` uses it all the same.

use serde_json::{Map, Value};

use super::{Made, Reader, Repeat, number_of, text_of};

/// What tells right from wrong, where the record has several metrics: the first of these.
const PRIMARY: [&str; 9] =
    ["exact_match", "acc", "acc_norm", "em", "pass@1", "pass_at_1", "prompt_level_strict_acc", "f1", "score"];
/// Keys of a record that are no metrics.
const OWN: [&str; 11] = [
    "doc_id",
    "doc",
    "target",
    "arguments",
    "resps",
    "filtered_resps",
    "filter",
    "metrics",
    "doc_hash",
    "prompt_hash",
    "target_hash",
];

pub(super) struct LmEval {
    score: Option<String>,
    /// The first document, and how often it came before: files that name no filters have their documents once for each.
    first: Option<Value>,
    round: u32,
}

impl LmEval {
    pub fn new(score: Option<String>) -> Self {
        Self { score, first: None, round: 0 }
    }

    /// The figure that is the primary metric's.
    fn score(&self, record: &Map<String, Value>) -> Result<Option<f64>, String> {
        let named: Vec<&str> = match record.get("metrics").and_then(Value::as_array) {
            Some(metrics) => metrics.iter().filter_map(Value::as_str).collect(),
            None => record.keys().map(String::as_str).filter(|key| !OWN.contains(key)).collect(),
        };
        let figures = || named.iter().filter(|name| is_figure(record.get(**name)));
        let name = match &self.score {
            Some(name) if record.contains_key(name) => name.as_str(),
            Some(name) => {
                return Err(format!("has no `{name}`, which --score names; metrics: {}", named.join(", ")));
            }
            None => match PRIMARY.iter().find(|name| figures().any(|n| n == *name)) {
                Some(name) => name,
                None => match figures().collect::<Vec<_>>()[..] {
                    [] => return Ok(None),
                    [only] => only,
                    _ => {
                        let names = named.join(", ");
                        return Err(format!("has several metrics ({names}); say which one with --score"));
                    }
                },
            },
        };
        record.get(name).map_or(Ok(None), |value| number_of(name, value))
    }
}

fn is_figure(value: Option<&Value>) -> bool {
    matches!(value, Some(Value::Number(_) | Value::Bool(_)))
}

impl Reader for LmEval {
    fn read(&mut self, line: u64, mut record: Map<String, Value>) -> Result<Vec<Made>, String> {
        let Some(document) = record.get("doc_id").filter(|id| id.is_u64() || id.is_string()).cloned() else {
            return Err("a sample of lm-eval is expected, with `doc_id`, `doc` and `filtered_resps`".into());
        };
        let answers = answers(&record)?;
        let score = self.score(&record)?;
        let filter = record.get("filter").and_then(Value::as_str).map(str::to_owned);
        match &self.first {
            None => (self.first, self.round) = (Some(document.clone()), 1),
            Some(first) if *first == document => self.round += 1,
            Some(_) => {}
        }
        // Without a name the second time round is the second filter.
        let by = match filter {
            Some(filter) if filter != "none" => filter,
            Some(_) => String::new(),
            None if self.round < 2 => String::new(),
            None => format!("filter-{}", self.round),
        };
        let prompt = prompt(record.get("arguments"));
        let mut fields = match record.remove("doc") {
            Some(Value::Object(doc)) => doc,
            Some(Value::String(text)) => Map::from_iter([("doc".to_owned(), Value::String(text))]),
            _ => Map::new(),
        };
        let id = fields.get("id").and_then(text_of);
        fields.entry("doc_id").or_insert(document);
        // One figure for several answers says of none of them whether it is right.
        let score = if answers.len() == 1 { score } else { None };
        let correct = score.filter(|s| *s == 0.0 || *s == 1.0).map(|s| s == 1.0);
        let made = |(sample, output): (usize, String)| Made {
            by: by.clone(),
            id: id.clone(),
            fields: fields.clone(),
            prompt: prompt.clone(),
            repeat: Repeat::Number(sample as u32),
            output,
            correct,
            score,
            ..Made::new(line)
        };
        Ok(answers.into_iter().enumerate().map(made).collect())
    }
}

/// What was answered: the filtered response, each of several repeats, or of choices the likeliest.
fn answers(record: &Map<String, Value>) -> Result<Vec<String>, String> {
    let filtered = record.get("filtered_resps").or_else(|| record.get("resps"));
    let Some(Value::Array(responses)) = filtered else {
        return Err("`filtered_resps` is missing or no array".into());
    };
    // One response for each request; a request for each choice where log-likelihoods were compared.
    let likelihoods: Option<Vec<f64>> = responses.iter().map(likelihood).collect();
    if let Some(likelihoods) = likelihoods.filter(|l| !l.is_empty()) {
        let best = (0..likelihoods.len()).max_by(|a, b| likelihoods[*a].total_cmp(&likelihoods[*b]));
        return Ok(vec![choice(record, best.unwrap_or_default())]);
    }
    let answers: Vec<String> = match &responses[..] {
        [Value::Array(repeats)] => repeats.iter().filter_map(text_of).collect(),
        [one] => text_of(one).into_iter().collect(),
        many => many.iter().map(|one| one.get(0).unwrap_or(one)).filter_map(text_of).collect(),
    };
    Ok(if answers.is_empty() { vec![String::new()] } else { answers })
}

/// `[log-likelihood, is greedy]`, as numbers or (in the files) as texts.
fn likelihood(response: &Value) -> Option<f64> {
    let [first, second] = &response.as_array()?[..] else { return None };
    let greedy = second.is_boolean() || matches!(second.as_str(), Some("True" | "False"));
    let likelihood = match first {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    likelihood.filter(|l: &f64| greedy && !l.is_nan())
}

/// The words of a choice: the document's, else what was asked to be continued with.
fn choice(record: &Map<String, Value>, at: usize) -> String {
    let choices = record.get("doc").and_then(|doc| doc.get("choices"));
    let named = choices.and_then(|c| c.get(at).or_else(|| c.get("text")?.get(at))).and_then(text_of);
    let asked = || {
        let arguments = record.get("arguments")?;
        let request = match arguments {
            Value::Object(all) => all.get(&format!("gen_args_{at}"))?,
            all => all.get(at)?,
        };
        text_of(request.get("arg_1").or_else(|| request.get(1))?)
    };
    named.or_else(asked).map_or_else(|| at.to_string(), |text| text.trim().to_owned())
}

/// What the model was sent: `[[prompt, {...}]]`, or by name since 0.4.3.
fn prompt(arguments: Option<&Value>) -> Option<String> {
    let request = match arguments? {
        Value::Object(all) => all.get("gen_args_0")?,
        all => all.get(0)?,
    };
    request.get("arg_0").or_else(|| request.get(0)).and_then(text_of)
}
