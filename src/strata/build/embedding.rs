//! The rows, each to its vector in a file.

use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::domain::candidate::ModelRef;
use crate::domain::event::EventBody;
use crate::domain::report::{Control, Reporter};
use crate::domain::row::RunRow;
use crate::embed::{Embedder, FIT_TEXTS, Flat, FlatWriter, Source, Step};
use crate::strata::artifact::VECTORS;
use crate::strata::rows::{AT_ONCE, Rows};
use serde_json::Value;

use super::{Build, PHASES, goes_on};

/// The built-in embedder is fitted on so much text at most: the features of a text take some fifty times its size.
const FIT_BYTES: u64 = 6 << 20;

/// What one pass over the rows leaves.
pub(super) struct Embedded {
    pub(super) vectors: Flat,
    /// Of the built-in embedder: the share of what each row says that the corpus can express.
    pub(super) shares: Option<Vec<f32>>,
    pub(super) ids: Vec<String>,
    /// Values of each dimension.
    pub(super) columns: Vec<Vec<Option<Value>>>,
}

/// How far an embedding is.
struct Pace {
    began: Instant,
    /// Rows that are to be embedded: the others are known.
    open: usize,
    total: usize,
}

impl Pace {
    fn told(&self, done: usize, embedded: usize) -> EventBody {
        let spent = self.began.elapsed().as_millis() as u64;
        let left = self.open.saturating_sub(embedded) as u64;
        let eta_ms = (embedded > 0).then(|| spent * left / embedded as u64);
        let phase = PHASES[0].to_owned();
        EventBody::Progress { phase, done: done as u64, total: self.total as u64, eta_ms }
    }
}

impl Build<'_> {
    /// Every row to its vector, in a file. None: stopped.
    pub(super) fn embed(&self, reporter: &mut dyn Reporter) -> anyhow::Result<Option<Embedded>> {
        let path = self.dir.join(VECTORS);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let mut writer = FlatWriter::create(&path).with_context(|| format!("writing {}", path.display()))?;
        let n = self.rows.len();
        let mut ids = Vec::with_capacity(n);
        let mut columns: Vec<Vec<Option<Value>>> =
            vec![Vec::with_capacity(n); self.settings.dimensions.len()];
        let mut take = |rows: Vec<RunRow>| -> Vec<String> {
            let mut texts = Vec::with_capacity(rows.len());
            for mut row in rows {
                for (column, name) in columns.iter_mut().zip(&self.settings.dimensions) {
                    column.push(row.fields.remove(name));
                }
                ids.push(row.id);
                texts.push(row.input);
            }
            texts
        };
        let (dimensions, shares) = match &self.settings.embedder {
            None => {
                let sample = self.rows.inputs(&fitted_on(self.rows))?;
                let embedder = self.pool.install(|| Embedder::fit(&sample, self.settings.seed));
                drop(sample);
                let pace = Pace { began: Instant::now(), open: n, total: n };
                let mut shares = Vec::with_capacity(n);
                let whole = self.rows.each(|from, rows| {
                    let texts = take(rows);
                    let (vectors, some) = self.pool.install(|| embedder.embed_with_fit(&texts));
                    writer.append(&vectors.data)?;
                    shares.extend(some);
                    if n > AT_ONCE {
                        let done = from + texts.len();
                        reporter.event(pace.told(done, done))?;
                    }
                    Ok(goes_on(reporter)?)
                })?;
                if !whole {
                    return Ok(None);
                }
                (embedder.dimensions(), Some(shares))
            }
            Some(model) => match self.by_model(model, &mut take, &mut writer, reporter)? {
                Some(dimensions) => (dimensions, None),
                None => return Ok(None),
            },
        };
        writer.finish().with_context(|| format!("writing {}", path.display()))?;
        let vectors = Flat::open(&path, dimensions).with_context(|| format!("reading {}", path.display()))?;
        Ok(Some(Embedded { vectors, shares, ids, columns }))
    }

    /// By a model, which keeps what it embedded: a run that was killed goes on where it was. Returns the vectors' length; none: stopped.
    fn by_model(
        &self,
        model: &ModelRef,
        take: &mut dyn FnMut(Vec<RunRow>) -> Vec<String>,
        writer: &mut FlatWriter,
        reporter: &mut dyn Reporter,
    ) -> anyhow::Result<Option<usize>> {
        let source = Source::open(model, self.access).map_err(anyhow::Error::msg)?;
        let total = self.rows.len();
        let mut open = 0;
        self.rows.each(|_, rows| {
            open += rows.iter().filter(|row| !source.knows(&row.input)).count();
            Ok(true)
        })?;
        if open < total {
            let message = format!("{} of {total} rows are embedded already", total - open);
            reporter.event(EventBody::Log { message })?;
        }
        let pace = Pace { began: Instant::now(), open, total };
        let (mut embedded, mut dimensions, mut broken) = (0, None, None);
        let whole = self.rows.each(|from, rows| {
            let texts = take(rows);
            let known = texts.iter().filter(|text| source.knows(text)).count();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let found = source.embed(&texts, &mut |step| {
                let Step::Done(done) = step else { return reporter.peek_control() == Control::Continue };
                let told = reporter
                    .event(pace.told(from + done, embedded + done.saturating_sub(known)))
                    .and_then(|()| goes_on(reporter));
                told.unwrap_or_else(|error| {
                    broken = Some(error);
                    false
                })
            });
            if let Some(error) = broken.take() {
                return Err(error.into());
            }
            let Some(vectors) = found.map_err(anyhow::Error::msg)? else { return Ok(false) };
            embedded += texts.len() - known;
            let before = *dimensions.get_or_insert(vectors.dimensions);
            ensure!(
                before == vectors.dimensions,
                "the embedder `{}` gave vectors of {before} and of {} numbers",
                model.name,
                vectors.dimensions
            );
            writer.append(&vectors.data)?;
            Ok(true)
        })?;
        Ok(if whole { dimensions } else { None })
    }
}

/// Rows that the built-in embedder is fitted on, spread evenly.
fn fitted_on(rows: &Rows) -> Vec<usize> {
    let n = rows.len();
    let texts = FIT_BYTES * n as u64 / rows.bytes().max(1);
    let step = n.div_ceil(FIT_TEXTS).max(n.div_ceil(texts.max(1_000) as usize)).max(1);
    (0..n).step_by(step).collect()
}
