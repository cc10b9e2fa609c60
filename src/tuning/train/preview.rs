//! What a training run would see, before it starts: a row as tokens, lengths, micro-batches, and what is left out.

use super::examples::{self, Built};
use super::order::Order;
use super::subject::Subject;
use crate::domain::candidate::Candidate;
use crate::domain::preview::{Dropped, LengthBin, Packing, Preview, RenderedRow};
use crate::domain::row::RunRow;
use crate::domain::settings::TrainSettings;
use crate::model::ModelConfig;
use crate::model::tokenizer::Tokenizer;
use crate::model::trainable::Sequence;

/// Bins of lengths.
const BINS: usize = 12;
/// Ids that are told of what is left out.
const IDS: usize = 5;

/// `rows` of the train part (of `total`), and one that is shown as tokens.
///
/// # Errors
/// A stage that cannot be trained, a model or a template that cannot be read.
pub fn preview(
    candidate: &Candidate,
    settings: &TrainSettings,
    now_ms: u64,
    (rows, total): (&[RunRow], usize),
    shown: Option<&RunRow>,
) -> anyhow::Result<Preview> {
    let subject = Subject::of(candidate, now_ms, settings)?;
    let config = ModelConfig::load(&subject.base)?;
    let max_length = settings.max_length.min(config.max_positions);
    let built = examples::build(rows, &subject, max_length, settings.turns);
    let shown =
        shown.or_else(|| rows.iter().find(|row| built.examples.first().is_some_and(|e| e.row == row.id)));
    let rendered = shown.map(|row| rendered(row, &subject, max_length, settings));
    let mut lengths: Vec<usize> = built.examples.iter().map(|e| e.sequence.tokens.len()).collect();
    let packing = packing(&lengths, settings);
    lengths.sort_unstable();
    let at = |share: usize| lengths.get(lengths.len().saturating_sub(1) * share / 100).copied().unwrap_or(0);
    Ok(Preview {
        stage: subject.stage.name.clone(),
        max_length,
        rows: total,
        looked_at: rows.len(),
        rendered,
        lengths: bins(&lengths),
        shortest: at(0),
        median: at(50),
        longest: at(100),
        tokens: lengths.iter().sum(),
        trained: built.examples.iter().map(|e| e.sequence.targets()).sum(),
        dropped: dropped(&built, max_length),
        packing,
    })
}

fn rendered(row: &RunRow, subject: &Subject<'_>, max_length: usize, settings: &TrainSettings) -> RenderedRow {
    let one = examples::build([row], subject, usize::MAX, settings.turns);
    let why = dropped(&one, max_length).into_iter().next().map(|dropped| dropped.why);
    let Some(example) = one.examples.first() else {
        return RenderedRow { id: row.id.clone(), dropped: why, ..RenderedRow::default() };
    };
    let Sequence { tokens, .. } = &example.sequence;
    let too_long =
        (tokens.len() > max_length).then(|| format!("longer than max_length = {max_length} tokens"));
    RenderedRow {
        id: row.id.clone(),
        pieces: pieces(&subject.language.tokenizer, &example.sequence),
        tokens: tokens.len(),
        trained: example.sequence.targets(),
        not_learned: None,
        dropped: why.or(too_long),
    }
}

/// Tokens of one kind that follow each other are read together, as text; those that decode to nothing by their names.
fn pieces(tokenizer: &Tokenizer, sequence: &Sequence) -> Vec<(String, bool)> {
    let mut pieces: Vec<(String, bool)> = Vec::new();
    let mut start = 0;
    let special = |token: &u32| tokenizer.decode(&[*token]).map_or(true, |text| text.is_empty());
    let kind = |i: usize| Some((*sequence.trained.get(i)?, sequence.tokens.get(i).is_some_and(special)));
    for i in 1..=sequence.tokens.len() {
        if kind(i) == kind(start) && kind(i).is_some() {
            continue;
        }
        let tokens = sequence.tokens.get(start..i).unwrap_or_default();
        let trained = sequence.trained.get(start) == Some(&true);
        let text = match kind(start) {
            Some((_, true)) => {
                tokens.iter().map(|t| tokenizer.token(*t).unwrap_or_else(|| format!("<{t}>"))).collect()
            }
            _ => tokenizer.decode(tokens).unwrap_or_default(),
        };
        match pieces.last_mut() {
            Some((before, kind)) if *kind == trained => before.push_str(&text),
            _ => pieces.push((text, trained)),
        }
        start = i;
    }
    pieces
}

fn dropped(built: &Built, max_length: usize) -> Vec<Dropped> {
    let too_long: Vec<String> = built.too_long.iter().map(|(row, _)| row.clone()).collect();
    let untrained: Vec<String> =
        built.examples.iter().filter(|e| e.sequence.targets() == 0).map(|e| e.row.clone()).collect();
    let failed = built.first_failure.clone().unwrap_or_default();
    let all = [
        (&built.without_gold, "no gold".to_owned()),
        (&built.not_asked, "the stage is not asked there (its `when` does not hold)".to_owned()),
        (&too_long, format!("longer than max_length = {max_length} tokens")),
        (&untrained, "no trained token".to_owned()),
        (&built.failed, failed),
    ];
    let some = all.into_iter().filter(|(rows, _)| !rows.is_empty());
    some.map(|(rows, why)| Dropped { why, rows: rows.len(), ids: rows.iter().take(IDS).cloned().collect() })
        .collect()
}

/// Of equal widths from 1 to the longest.
fn bins(sorted: &[usize]) -> Vec<LengthBin> {
    let Some(longest) = sorted.last().copied() else { return Vec::new() };
    let width = longest.div_ceil(BINS).max(1);
    (0..longest.div_ceil(width))
        .map(|i| {
            let (from, to) = (i * width + 1, (i + 1) * width);
            let below = |limit: usize| sorted.partition_point(|n| *n <= limit);
            LengthBin { from, to, rows: below(to) - below(from - 1) }
        })
        .collect()
}

/// The micro-batches of the first epoch.
fn packing(lengths: &[usize], settings: &TrainSettings) -> Packing {
    let mut packing =
        Packing { batch_size: settings.batch_size, accumulate: settings.accumulate, ..Packing::default() };
    if lengths.is_empty() {
        return packing;
    }
    let mut order = Order::new(lengths.len(), settings);
    packing.steps = order.steps_per_epoch();
    let (mut batches, mut filled, mut tokens) = (0usize, 0usize, 0usize);
    for step in 1..=packing.steps {
        for batch in order.step(step, |row| lengths.get(row).copied().unwrap_or(0)) {
            let of = || batch.iter().filter_map(|row| lengths.get(*row));
            batches += 1;
            filled += of().max().copied().unwrap_or(0) * batch.len();
            tokens += of().sum::<usize>();
        }
    }
    packing.sequences = lengths.len() as f64 / batches.max(1) as f64;
    packing.tokens = tokens as f64 / batches.max(1) as f64;
    packing.padding_before = 1.0 - tokens as f64 / filled.max(1) as f64;
    packing
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_bin_and_padding_is_what_filling_up_would_add(mut lengths in prop::collection::vec(1..200usize, 1..60), batch_size in 1..9usize) {
            let settings = TrainSettings { batch_size, ..TrainSettings::default() };
            let packed = packing(&lengths, &settings);
            prop_assert!((0.0..1.0).contains(&packed.padding_before), "{packed:?}");
            prop_assert!(batch_size > 1 || packed.padding_before == 0.0);
            prop_assert_eq!(packed.steps, lengths.len().div_ceil(batch_size) as u64);
            lengths.sort_unstable();
            let all = bins(&lengths);
            prop_assert!(all.len() <= BINS);
            prop_assert_eq!(all.iter().map(|bin| bin.rows).sum::<usize>(), lengths.len());
            prop_assert!(all.windows(2).all(|two| two[0].to + 1 == two[1].from));
        }
    }

    #[test]
    fn rows_of_one_length_need_no_padding() {
        let settings = TrainSettings { batch_size: 4, ..TrainSettings::default() };
        assert_eq!(packing(&[7; 16], &settings).padding_before, 0.0);
        // In one step of two micro-batches, rows of like length share one.
        let settings = TrainSettings { batch_size: 2, accumulate: 2, ..TrainSettings::default() };
        let packed = packing(&[10, 2, 10, 2], &settings);
        assert_eq!((packed.padding_before, packed.sequences, packed.tokens), (0.0, 2.0, 12.0));
        assert_eq!(packing(&[], &settings).steps, 0);
    }
}
