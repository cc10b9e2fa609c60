//! Plain records: `id` (or a field of the row), `output`, `correct` or `score`; and where they are known `sample`, `latency_ms`,
//! `tokens_in`, `tokens_out`, `usd`, `error`, and `candidate` where one file tells of several.

use serde_json::{Map, Value};

use super::{Made, Reader, Repeat, amount_of, count_of, number_of, right_of, text_of};

pub(super) struct Plain {
    pub score: Option<String>,
}

impl Reader for Plain {
    fn read(&mut self, line: u64, record: Map<String, Value>) -> Result<Vec<Made>, String> {
        let get = |name: &str| record.get(name);
        let text = |name: &str| get(name).and_then(text_of).filter(|text| !text.is_empty());
        let (output, correct) = (text("output"), right_of("correct", get("correct"))?);
        let score = match &self.score {
            None => get("score").map_or(Ok(None), |value| number_of("score", value))?,
            Some(name) => {
                let value = get(name).ok_or_else(|| format!("has no `{name}`, which --score names"))?;
                number_of(name, value)?
            }
        };
        let error = text("error");
        if get("output").is_none() && correct.is_none() && score.is_none() && error.is_none() {
            return Err("an object with `id`, `output`, and `correct` or `score` is expected".into());
        }
        let sample = count_of("sample", get("sample"))?.unwrap_or(0);
        let sample = u32::try_from(sample).map_err(|_| format!("`sample` is {sample}, which is too much"))?;
        Ok(vec![Made {
            by: text("candidate").unwrap_or_default(),
            id: text("id"),
            repeat: Repeat::Number(sample),
            output: output.unwrap_or_default(),
            correct,
            score,
            latency_ms: amount_of("latency_ms", get("latency_ms"))?,
            tokens_in: count_of("tokens_in", get("tokens_in"))?,
            tokens_out: count_of("tokens_out", get("tokens_out"))?,
            usd: amount_of("usd", get("usd"))?,
            error,
            fields: record,
            ..Made::new(line)
        }])
    }
}
