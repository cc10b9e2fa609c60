//! Results of promptfoo: the items of `results.results` in its JSON (of `results` alone where that is the array), or its JSON lines.
//! Each has `provider`, `vars`, `response` (`output`, `tokenUsage`, `cached`), `success`, `score`, `latencyMs`, `cost`.
//!
//! Every provider is a candidate; further prompts of one provider are candidates of their own. The same test again is the next sample.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Made, Reader, Repeat, amount_of, count_of, number_of, right_of, text_of};

/// `failureReason` of a test that could not be run, beside one whose assertions failed.
const FAILED: u64 = 2;

pub(super) struct Promptfoo {
    score: Option<String>,
    /// Places of each provider's prompts, in the order in which they came.
    prompts: HashMap<String, Vec<u64>>,
}

impl Promptfoo {
    pub fn new(score: Option<String>) -> Self {
        Self { score, prompts: HashMap::new() }
    }

    fn by(&mut self, record: &Map<String, Value>) -> String {
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let provider = match record.get("provider") {
            Some(Value::Object(provider)) => {
                let label = text(provider.get("label"));
                if label.is_empty() { text(provider.get("id")) } else { label }
            }
            other => text(other),
        };
        let Some(prompt) = record.get("promptIdx").and_then(Value::as_u64) else { return provider };
        let prompts = self.prompts.entry(provider.clone()).or_default();
        let at = prompts.iter().position(|p| *p == prompt).unwrap_or_else(|| {
            prompts.push(prompt);
            prompts.len() - 1
        });
        if at == 0 { provider } else { format!("{provider} prompt {}", at + 1) }
    }
}

impl Reader for Promptfoo {
    fn read(&mut self, line: u64, mut record: Map<String, Value>) -> Result<Vec<Made>, String> {
        let by = self.by(&record);
        let response = record.get("response").cloned().unwrap_or_default();
        let success = right_of("success", record.get("success"))?;
        if success.is_none() && response.is_null() && !record.contains_key("error") {
            return Err("a result of promptfoo is expected, with `success`, `vars` and `response`".into());
        }
        let score = match &self.score {
            None => None,
            Some(name) => {
                let named = record.get("namedScores").and_then(|scores| scores.get(name));
                let value = named.or_else(|| record.get("score").filter(|_| name == "score"));
                let value = value.ok_or_else(|| format!("has no score `{name}`, which --score names"))?;
                number_of(name, value)?
            }
        };
        // Where an assertion failed, `error` says why; there is an answer all the same.
        let failed = record.get("failureReason").and_then(Value::as_u64) == Some(FAILED);
        let output = response.get("output").and_then(text_of);
        let error = match record.get("error").or_else(|| response.get("error")).and_then(text_of) {
            Some(error) if failed || output.is_none() => Some(error),
            None if failed => Some("failed".to_owned()),
            _ => None,
        };
        let usage =
            response.get("tokenUsage").or_else(|| record.get("tokenUsage")).cloned().unwrap_or_default();
        let cached = response.get("cached").and_then(Value::as_bool).unwrap_or(false);
        let latency_ms =
            amount_of("latencyMs", record.get("latencyMs"))?.filter(|_| !cached && error.is_none());
        let usd = amount_of("cost", record.get("cost").or_else(|| response.get("cost")))?;
        let prompt = record.get("prompt").and_then(|p| text_of(p.get("raw").unwrap_or(p)));
        let metadata = record.get("testCase").and_then(|case| case.get("metadata"));
        let kept = metadata.and_then(|m| m.get("id")).and_then(text_of);
        let fields = match record.remove("vars") {
            Some(Value::Object(vars)) => vars,
            _ => Map::new(),
        };
        // A cached answer's usage is told as `cached` alone: what it took then is not known.
        let tokens = |name: &str| count_of(name, usage.get(name).filter(|_| !cached));
        Ok(vec![Made {
            by,
            id: fields.get("id").and_then(text_of).or(kept),
            prompt,
            repeat: Repeat::Next,
            output: output.unwrap_or_default(),
            correct: success,
            score,
            latency_ms,
            tokens_in: tokens("prompt")?,
            tokens_out: tokens("completion")?,
            usd: usd.filter(|_| !cached),
            error,
            fields,
            ..Made::new(line)
        }])
    }
}
