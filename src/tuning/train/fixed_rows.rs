//! A few dev rows that are answered at every evaluation, so that people see what the loss means.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::fit::{Example, Sample};
use super::subject::Subject;
use crate::domain::candidate::Decoding;
use crate::domain::row::RunRow;
use crate::domain::settings::EvalSettings;
use crate::model::decode::{Engine, Lane, Request, Settings};
use crate::model::trainable::Trainable;
use crate::pipeline::output;
use crate::score::metric::Metric;
use crate::score::rows::{Answer, score};

/// Of keys and values on a GPU, at most.
const KV_BYTES: usize = 256 << 20;

struct FixedRow {
    id: String,
    prompt: Vec<u32>,
    /// Tokens of the golden answer, without the one that ends it.
    answer: usize,
    gold: Option<String>,
}

/// The rows, and how their answers are read and scored.
pub struct FixedRows<'a> {
    rows: Vec<FixedRow>,
    subject: &'a Subject<'a>,
    primary: Option<Metric>,
    threads: usize,
}

impl<'a> FixedRows<'a> {
    /// `count` of the dev rows, spread evenly over their strata and otherwise over the file.
    pub fn choose(
        dev: &[Example],
        rows: &[RunRow],
        count: usize,
        subject: &'a Subject<'a>,
        eval: &EvalSettings,
        threads: usize,
    ) -> Self {
        let by_id: HashMap<&str, &RunRow> = rows.iter().map(|r| (r.id.as_str(), r)).collect();
        let mut known: Vec<(&Example, &RunRow)> =
            dev.iter().filter_map(|e| Some((e, *by_id.get(e.row.as_str())?))).collect();
        known.sort_by_key(|(_, row)| row.stratum.as_deref().unwrap_or_default());
        let count = count.min(known.len());
        let rows = (0..count)
            .filter_map(|i| known.get(i * known.len() / count))
            .map(|(example, row)| FixedRow {
                id: row.id.clone(),
                prompt: example.sequence.prompt().to_vec(),
                answer: example.sequence.answer().len().saturating_sub(1),
                gold: subject.gold(row),
            })
            .collect();
        Self { rows, subject, primary: eval.primary_metric().ok(), threads }
    }

    /// The greedy answers of the model as it is now.
    pub fn answer(&self, model: &Trainable) -> anyhow::Result<Vec<Sample>> {
        let decoding = Decoding { temperature: 0.0, ..self.subject.stage.decoding.clone() };
        let tokenizer = &self.subject.language.tokenizer;
        // Few rows and short answers: the training keeps the rest of the GPU.
        let gpu_kv_bytes = Some(KV_BYTES);
        let settings = Settings { gpu: model.gpu(), gpu_kv_bytes, ..Settings::threads(self.threads) };
        let mut engine = Engine::new(model.decoder(), settings)?;
        let lane = model.adapter().map_or(Ok(Lane::BASE), |adapter| engine.add_lane(adapter))?;
        let request =
            |row: &FixedRow| Request::generate(lane, row.prompt.clone(), &decoding, tokenizer.eos());
        let requests = self.rows.iter().map(request).collect::<Result<_, _>>()?;
        let generations = engine.run(requests, &mut |_, _| ControlFlow::Continue(()));
        self.rows
            .iter()
            .zip(generations)
            .map(|(row, generation)| {
                let generation = generation?;
                let text = tokenizer.decode(&generation.tokens)?;
                let reading = output::read_stage(&text, self.subject.stage).0;
                let correct = self.primary.as_ref().zip(row.gold.as_deref()).and_then(|(metric, gold)| {
                    let answer = Answer {
                        output: &reading.text,
                        gold: Some(gold),
                        kind: Some(self.subject.stage.output),
                        readable: reading.ok,
                        tools: &self.subject.stage.tools,
                        ..Answer::default()
                    };
                    metric.right(score(metric, &answer)?)
                });
                let fits = row.answer < decoding.max_tokens;
                Ok(Sample {
                    row: row.id.clone(),
                    output: reading.text,
                    gold: row.gold.clone(),
                    correct,
                    ended: (generation.done.ended || fits).then_some(generation.done.ended),
                })
            })
            .collect()
    }
}
