//! What a training run would see of the rows, before it starts.

use serde::{Deserialize, Serialize};

use super::words::counted;

/// One row as it would be trained on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RenderedRow {
    pub id: String,
    /// Tokens as text, neighbours of one kind together; whether they are trained.
    pub pieces: Vec<(String, bool)>,
    pub tokens: usize,
    pub trained: usize,
    /// Why no run learns from it: `a row of the eval part`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_learned: Option<String>,
    /// Why it would be left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
}

/// Rows whose tokens are `from` to `to`, both counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthBin {
    pub from: usize,
    pub to: usize,
    pub rows: usize,
}

/// Rows that would be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub why: String,
    pub rows: usize,
    /// Some of them.
    pub ids: Vec<String>,
}

/// What is made of the rows of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Packing {
    pub batch_size: usize,
    pub accumulate: usize,
    pub steps: u64,
    /// Sequences of a micro-batch, on average.
    pub sequences: f64,
    /// Tokens of a micro-batch, on average.
    pub tokens: f64,
    /// Share of padding if each sequence were filled up to the longest of its micro-batch.
    pub padding_before: f64,
    /// As it is: sequences lie one after another, and none is filled up.
    pub padding_after: f64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preview {
    pub stage: String,
    pub max_length: usize,
    /// Rows of the train part, and how many were looked at, spread evenly.
    pub rows: usize,
    pub looked_at: usize,
    pub rendered: Option<RenderedRow>,
    pub lengths: Vec<LengthBin>,
    pub shortest: usize,
    pub median: usize,
    pub longest: usize,
    /// Of the rows that were looked at.
    pub tokens: usize,
    pub trained: usize,
    pub dropped: Vec<Dropped>,
    pub packing: Packing,
}

impl Preview {
    /// For people, `width` characters wide: lengths, batches, what is left out.
    pub fn lines(&self, width: usize) -> Vec<String> {
        let some = if self.looked_at < self.rows {
            format!(", {} of them looked at", self.looked_at)
        } else {
            String::new()
        };
        let mut lines =
            vec![format!("{} of the train part for stage {}{some}", counted(self.rows, "row"), self.stage)];
        lines.push(format!(
            "tokens a row: {} to {}, half of them up to {}; {} in all, {} trained",
            self.shortest, self.longest, self.median, self.tokens, self.trained
        ));
        let most = self.lengths.iter().map(|bin| bin.rows).max().unwrap_or(0).max(1);
        let room = width.saturating_sub(24).clamp(4, 50);
        for bin in &self.lengths {
            let bar = "#".repeat((bin.rows * room).div_ceil(most));
            lines.push(format!("{:>6} - {:<6} {:>6} {bar}", bin.from, bin.to, bin.rows));
        }
        let p = &self.packing;
        lines.push(format!(
            "batches: {:.1} sequences and {:.0} tokens each, {} a step, {} an epoch",
            p.sequences,
            p.tokens,
            p.accumulate,
            counted(usize::try_from(p.steps).unwrap_or(usize::MAX), "step")
        ));
        lines.push(format!(
            "padding: {:.1}% if sequences were filled up to the longest of their batch, {:.1}% packed, as they are",
            100.0 * p.padding_before,
            100.0 * p.padding_after
        ));
        for dropped in &self.dropped {
            let more = if dropped.rows > dropped.ids.len() { ", ..." } else { "" };
            lines.push(format!(
                "left out: {}, {} ({}{more})",
                counted(dropped.rows, "row"),
                dropped.why,
                dropped.ids.join(", ")
            ));
        }
        lines
    }
}
