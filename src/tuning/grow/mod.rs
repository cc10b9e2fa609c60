//! Growing the data (`run grow`): new rows that a model makes of train rows, each checked before it may be taken in.
//!
//! ```text
//! slots (ask) -> maker -> is it a text (text) -> duplicates, leaks (guard) -> the pipeline answers it: gold? -> restated: the same meaning?
//!                desk: models, log, budget
//! ```
//! In rounds: what a round verified stands in `artifacts/` before the next one begins, so that a run that is stopped keeps it. The loop is a
//! function of its inputs, its seed and the answers in its log: a run that is taken up again makes the same rows of the same answers.

mod ask;
mod desk;
mod guard;
#[cfg(test)]
mod tests;
mod text;

use std::fs;

use anyhow::{Context as _, bail};

use crate::backend::{self, Access, Meter};
use crate::data::{Guess, Resolver, canonical};
use crate::domain::candidate::{Decoding, ModelRef, StageCandidate};
use crate::domain::event::EventBody;
use crate::domain::grow::{
    Check, GROWN, GrowSettings, Grown, KEPT, Method, Other, Provenance, RowForm, SYNTHETIC, Tally, UNMADE,
};
use crate::domain::outcome::Outcome;
use crate::domain::report::{Control, Reporter, RunInputs};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunResult;
use crate::domain::settings::EvalSettings;
use crate::domain::steer::Change;
use crate::domain::words::{brief, counted};
use crate::embed::{Source, Step};
use crate::retrieve;
use crate::score::scorer::Scorer;
use crate::store::lines::{self, Appender};
use crate::tuning::judge;
use crate::tuning::prompt::log::Log;
use ask::Slot;
pub use ask::of_kind;
use desk::{Desk, Halt, Open, Question};
use guard::Guard;

/// Texts of a round, at least and at most.
const ROUND: (usize, usize) = (8, 64);
/// Longest restatement, in tokens, and characters of an answer that is told.
const RESTATED: usize = 256;
const TOLD: usize = 80;

/// What the run is frozen with beside its settings.
#[derive(Clone, Copy, Debug)]
pub struct Growing<'a> {
    pub settings: &'a GrowSettings,
    pub form: &'a RowForm,
    pub maker: &'a ModelRef,
    /// So many rows, the first ones, are grown from.
    pub from: usize,
}

/// Grow rows, check them, and keep what holds.
pub fn run(
    growing: &Growing<'_>,
    eval: &EvalSettings,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    let access = Access { meter: Meter::default(), ..Access::of(inputs) };
    let mut open = |model: &ModelRef, stage: Option<&StageCandidate>| {
        backend::open(model, stage.and_then(|stage| stage.adapter.as_ref()), &access)
    };
    grow(growing, eval, inputs, &access, &mut open, reporter)
}

fn grow(
    growing: &Growing<'_>,
    eval: &EvalSettings,
    inputs: &RunInputs,
    access: &Access,
    open: Open<'_>,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    let settings = growing.settings;
    let candidate =
        inputs.spec.candidate.as_ref().context("spec.json names no candidate that checks the new rows")?;
    let path = inputs.dir.join("inputs").join(Other::FILE);
    let (others, bad) = lines::read_all_long::<Other>(&path)?;
    if bad > 0 {
        bail!("{} has {} that cannot be read", path.display(), counted(bad, "line"));
    }
    let slots = ask::slots(settings, growing.form, &inputs.rows, growing.from);
    if slots.is_empty() {
        bail!("there is no row to grow from");
    }
    let golds: Vec<String> = inputs.rows.iter().filter_map(|row| row.gold.clone()).collect();
    let scorer = Scorer::new(eval, &candidate.stages, golds.iter().map(String::as_str))?;
    let scorer = scorer.with_embedder(eval, access).map_err(anyhow::Error::msg)?;
    reporter.event(EventBody::Progress {
        phase: "reading the rows".into(),
        done: 0,
        total: slots.len() as u64,
        eta_ms: None,
    })?;
    let source: Source = match &settings.embedder {
        Some(model) => Source::open(model, access).map_err(anyhow::Error::msg)?,
        None => retrieve::fit(others.iter().map(|other| other.input.as_str())).into(),
    };
    let mut trouble = None;
    let mut each = |step: Step, total: usize| match embedding(reporter, step, total) {
        Ok(goes_on) => goes_on,
        Err(error) => {
            trouble = Some(error);
            false
        }
    };
    let guard = Guard::new(others, growing.form.likeness, source, settings.leak, &mut each);
    let guard = guard.map_err(anyhow::Error::msg)?;
    if let Some(error) = trouble {
        return Err(error.into());
    }
    // Nothing was asked yet.
    let Some(guard) = guard else { return Ok(RunResult { stopped: true, ..RunResult::default() }) };
    let mut said = vec![guard.told()];
    let mut warned = None;
    if settings.meaning > 0.0 {
        match guard.strangers(&inputs.rows).map_err(anyhow::Error::msg)? {
            Some(below) if below >= settings.meaning => warned = Some(far_apart(&guard, below, settings.meaning)),
            Some(below) => said.push(format!(
                "by `{}` 95% of pairs of rows with other golds have a cosine below {below:.2}; meaning asks for {}",
                guard.by(),
                settings.meaning
            )),
            None => {}
        }
    }
    let mut grower = Grower {
        growing,
        run: &inputs.spec.id,
        rows: &inputs.rows,
        guard,
        resolver: Resolver::new(
            growing.form.input.as_deref(),
            growing.form.gold.as_deref(),
            &Guess::default(),
        )
        .map_err(anyhow::Error::msg)?,
        counts: Tally::default(),
        slots,
    };
    let log = Log::open(&inputs.dir)?;
    let restates = settings.meaning > 0.0;
    let mut desk =
        Desk::new(candidate, &scorer, growing.maker, restates, settings.budget, log, open, access, reporter)?;
    if eval.primary_metric()?.is_judged() {
        let metric = eval.primary_metric()?;
        let named = |judge: &&crate::domain::judge::Judge| {
            metric.argument.as_ref().is_none_or(|name| *name == judge.name)
        };
        let judge = eval.judges.iter().find(named).context("the judge of eval.primary is not frozen")?;
        desk.judged_by(judge, judge::Asker::open(judge, access))?;
    }
    if let Some(message) = warned {
        desk.reporter.event(EventBody::Warning { message })?;
    }
    for message in desk.told().into_iter().chain(said) {
        desk.reporter.event(EventBody::Log { message })?;
    }
    let message = format!(
        "{} by {} of {}, checked by the candidate `{}`",
        settings.method,
        growing.maker.name,
        counted(growing.from, "row"),
        candidate.name
    );
    desk.reporter.event(EventBody::Log { message })?;
    let mut files = Files::open(inputs)?;
    // What an earlier life was asked for holds from the beginning.
    let steered = desk.changes()?;
    if !steered.is_empty() {
        let words: Vec<String> = steered.iter().map(ToString::to_string).collect();
        desk.reporter.event(EventBody::Log { message: format!("as steered: {}", words.join(", ")) })?;
    }
    for change in steered {
        grower.take(&mut desk, &change);
    }
    let ended = grower.grow(&mut desk, &mut files);
    let stopped = match ended {
        Ok(()) => false,
        Err(Halt::Cancelled) => return Ok(RunResult { stopped: true, ..RunResult::default() }),
        Err(Halt::Failed(error)) => return Err(error),
        Err(Halt::Stopped) => {
            desk.reporter.event(EventBody::Log { message: "stopped; what was verified is kept".into() })?;
            true
        }
        Err(Halt::Budget(which)) => {
            let message = format!(
                "the budget's `{which}` is spent; what was verified is kept, and with more of it (`runs steer`) the run can be resumed"
            );
            desk.reporter.event(EventBody::Warning { message })?;
            false
        }
    };
    let counts = &grower.counts;
    if counts.kept == 0 && counts.made > 0 {
        let most = counts.fell.iter().max_by_key(|(_, n)| **n);
        let most =
            most.map_or_else(String::new, |(check, n)| format!(", {n} at `{check}`: {}", check.words()));
        let message = format!("none of {} is kept{most}", counted(counts.made, "text"));
        desk.reporter.event(EventBody::Warning { message })?;
    }
    Ok(RunResult { metrics: grower.figures(&desk), stopped, ..RunResult::default() })
}

/// Tells how far the vectors are; false where somebody wants no more of it.
fn embedding(reporter: &mut dyn Reporter, step: Step, total: usize) -> std::io::Result<bool> {
    let Step::Done(done) = step else { return Ok(reporter.peek_control() == Control::Continue) };
    reporter.event(EventBody::Progress {
        phase: "embedding the rows".into(),
        done: done as u64,
        total: total as u64,
        eta_ms: None,
    })?;
    Ok(!matches!(reporter.poll_control()?, Control::Cancel | Control::Stop))
}

/// The threshold of meaning tells nothing apart.
fn far_apart(guard: &Guard, below: f64, meaning: f64) -> String {
    format!(
        "meaning = {meaning} tells little by `{}`: 5% of pairs of rows with other golds have a cosine of {below:.2} or more; ask for more than that",
        guard.by()
    )
}

/// What a run leaves, line by line.
struct Files {
    grown: Appender,
    kept: Appender,
}

impl Files {
    /// From the beginning: an earlier life's lines are written again, of the same answers.
    fn open(inputs: &RunInputs) -> anyhow::Result<Self> {
        let open = |name: &str| -> anyhow::Result<Appender> {
            let path = inputs.dir.join(name);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            if path.exists() {
                fs::remove_file(&path)?;
            }
            Ok(Appender::open(&path)?.0)
        };
        Ok(Self { grown: open(GROWN)?, kept: open(KEPT)? })
    }
}

/// A text with the fields that it was read into.
struct Written {
    row: serde_json::Map<String, serde_json::Value>,
    input: String,
    gold: String,
}

struct Grower<'a> {
    growing: &'a Growing<'a>,
    run: &'a str,
    rows: &'a [RunRow],
    guard: Guard,
    resolver: Resolver,
    counts: Tally,
    /// The questions; those that were asked stand first whatever the target is.
    slots: Vec<Slot>,
}

impl Grower<'_> {
    fn figures(&self, desk: &Desk<'_>) -> std::collections::BTreeMap<String, f64> {
        let spend = desk.spend();
        let mut figures = self.counts.figures();
        figures.extend([
            ("calls".to_owned(), spend.calls as f64),
            ("cached_answers".to_owned(), spend.cached as f64),
            ("tokens".to_owned(), spend.tokens as f64),
            ("usd".to_owned(), spend.usd),
            (UNMADE.to_owned(), self.slots.len().saturating_sub(self.counts.made) as f64),
        ]);
        figures
    }

    /// Another budget, or another number of texts of each row.
    fn take(&mut self, desk: &mut Desk<'_>, change: &Change) {
        match change {
            Change::Budget(limit) => desk.limit(*limit),
            Change::PerRow(per_row) => {
                let Growing { settings, form, from, .. } = *self.growing;
                let settings = GrowSettings { per_row: *per_row, ..settings.clone() };
                self.slots = ask::slots(&settings, form, self.rows, from);
            }
            // Of other runs; the engine refuses them here.
            _ => {}
        }
    }

    fn grow(&mut self, desk: &mut Desk<'_>, files: &mut Files) -> Result<(), Halt> {
        let size = desk.width().clamp(ROUND.0, ROUND.1);
        let mut at = 0;
        loop {
            desk.poll()?;
            for change in desk.changes()? {
                self.take(desk, &change);
                desk.reporter.event(EventBody::Change { step: at as u64, change, refused: None })?;
            }
            if at >= self.slots.len() {
                return Ok(());
            }
            let room = desk.room(size.min(self.slots.len() - at))?;
            let round = self.slots.get(at..at + room).unwrap_or_default().to_vec();
            let grown = self.round(desk, &round)?;
            desk.count(round.len());
            for one in &grown {
                self.counts.add(one.fell);
                files.grown.append(one)?;
                if one.fell.is_none() {
                    files.kept.append(&one.row)?;
                }
            }
            at += round.len();
            let open = self.slots.len().saturating_sub(at);
            let left = desk.spend().seconds * 1e3 / at as f64 * open as f64;
            desk.reporter.event(EventBody::Figures { metrics: self.figures(desk) })?;
            desk.reporter.event(EventBody::Progress {
                phase: "grow".into(),
                done: at as u64,
                total: self.slots.len().max(at) as u64,
                eta_ms: Some(left as u64),
            })?;
        }
    }

    fn decoding(&self) -> Decoding {
        let settings = self.growing.settings;
        Decoding {
            max_tokens: settings.max_tokens,
            temperature: settings.temperature,
            seed: settings.seed,
            ..Decoding::default()
        }
    }

    /// Some texts from the question to the last check.
    fn round(&mut self, desk: &mut Desk<'_>, slots: &[Slot]) -> Result<Vec<Grown>, Halt> {
        let questions: Vec<Question> = slots
            .iter()
            .map(|slot| Question {
                text: slot.text.clone(),
                sample: slot.sample,
                decoding: Decoding {
                    seed: self.growing.settings.seed + u64::from(slot.sample),
                    ..self.decoding()
                },
            })
            .collect();
        let said = desk.ask(&questions)?;
        let mut grown: Vec<Grown> = Vec::with_capacity(slots.len());
        let mut written: Vec<(usize, Written)> = Vec::new();
        for (slot, said) in slots.iter().zip(said) {
            let mut one = self.begin(slot);
            match said.text {
                None => one.falls(Check::Silent, said.error.unwrap_or_default()),
                Some(text) => {
                    let new = self.written(slot, &text, said.cut, &mut one);
                    written.extend(new.map(|new| (grown.len(), new)));
                }
            }
            grown.push(one);
        }
        let inputs: Vec<&str> = written.iter().map(|(_, new)| new.input.as_str()).collect();
        self.guard.prepare(&inputs).map_err(anyhow::Error::msg)?;
        let mut rows: Vec<(usize, RunRow)> = Vec::new();
        for (at, new) in written {
            let Some(one) = grown.get_mut(at) else { continue };
            if let Some(row) = self.made(new, one)? {
                one.id.clone_from(&row.id);
                rows.push((at, row));
            }
        }
        let asked: Vec<RunRow> = rows.iter().map(|(_, row)| row.clone()).collect();
        let outcomes = desk.answer(&asked)?;
        let mut right: Vec<(usize, RunRow)> = Vec::new();
        for ((at, row), outcome) in rows.into_iter().zip(outcomes) {
            if let Some(one) = grown.get_mut(at)
                && labelled(one, &outcome)
            {
                right.push((at, row));
            }
        }
        if self.growing.settings.meaning > 0.0 && !right.is_empty() {
            self.meaning(desk, &mut grown, &right)?;
        }
        Ok(grown)
    }

    fn parents<'r>(&'r self, slot: &'r Slot) -> impl Iterator<Item = &'r RunRow> {
        slot.parents.iter().filter_map(|at| self.rows.get(*at))
    }

    fn begin(&self, slot: &Slot) -> Grown {
        let first = self.parents(slot).next();
        Grown {
            parents: self.parents(slot).map(|row| row.id.clone()).collect(),
            stratum: first.and_then(|row| row.stratum.clone()),
            gold: first.and_then(|row| row.gold.clone()),
            ..Grown::default()
        }
    }

    /// What a text says, unless it is no text.
    fn written(&self, slot: &Slot, text: &str, cut: bool, one: &mut Grown) -> Option<Written> {
        text.trim().clone_into(&mut one.text);
        let parent = self.parents(slot).next()?.clone();
        let fields = match ask::read(self.growing.form, text) {
            Ok(fields) => fields,
            Err(why) if text.trim().is_empty() || cut => {
                let inputs: Vec<&str> = self.parents(slot).map(|row| row.input.as_str()).collect();
                let why = text::wrong(text, &inputs, None, cut).unwrap_or(why);
                one.falls(Check::Text, why);
                return None;
            }
            Err(why) => {
                one.falls(Check::Text, why);
                return None;
            }
        };
        let mut row = parent.fields.clone();
        for (name, value) in &fields {
            put(&mut row, name, value);
        }
        let gold = parent.gold.clone().unwrap_or_default();
        let reads = |row: &serde_json::Map<String, serde_json::Value>| self.resolver.resolve(row);
        // A gold that somebody gave by hand stands in no field of its row.
        if let (Ok((_, in_fields)), Some(field)) = (reads(&row), &self.growing.form.gold)
            && in_fields.as_deref() != Some(gold.as_str())
        {
            put(&mut row, field, &gold);
        }
        let (input, in_fields) = match reads(&row) {
            Ok(read) => read,
            Err(why) => {
                one.falls(Check::Text, format!("its fields make no input: {why}"));
                return None;
            }
        };
        let inputs: Vec<&str> = self.parents(slot).map(|row| row.input.as_str()).collect();
        // The written fields one by one: one of several may be empty where the input is not.
        let empty = fields.iter().find(|(name, value)| value.trim().is_empty() && has_text(&parent, name));
        let wrong = text::wrong(&input, &inputs, Some(&gold), cut)
            .or_else(|| empty.map(|(name, _)| format!("the field `{name}` is empty")));
        one.text.clone_from(&input);
        if let Some(why) = wrong {
            one.falls(Check::Text, why);
            return None;
        }
        if in_fields.as_deref() != Some(gold.as_str()) {
            one.falls(Check::Text, "its gold stands in no field that could be written".into());
            return None;
        }
        Some(Written { row, input, gold })
    }

    /// The row that it makes, unless others say the same.
    fn made(&mut self, new: Written, one: &mut Grown) -> Result<Option<RunRow>, Halt> {
        let Written { mut row, input, gold } = new;
        let held = self.guard.hold(&input).map_err(anyhow::Error::msg)?;
        one.nearest = held.nearest;
        if let Some((check, why)) = held.refused {
            one.falls(check, why);
            return Ok(None);
        }
        let id = self.id(&one.parents, &input);
        self.guard.add(&id, &input);
        let provenance = Provenance {
            parents: one.parents.clone(),
            maker: self.growing.maker.name.clone(),
            method: self.growing.settings.method,
            run: self.run.to_owned(),
        };
        row.insert("id".into(), id.clone().into());
        row.insert(SYNTHETIC.into(), serde_json::to_value(&provenance).unwrap_or_default());
        one.row.clone_from(&row);
        let hash = canonical::hash(&row);
        Ok(Some(RunRow {
            id,
            hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            part: Some(Part::Train),
            stratum: one.stratum.clone(),
            turns: Vec::new(),
            fields: row,
            input,
            gold: Some(gold),
        }))
    }

    /// The same for the same text of the same rows in the same run.
    fn id(&self, parents: &[String], input: &str) -> String {
        let told = serde_json::json!([self.run, parents, input]).to_string();
        format!("grown-{}", &blake3::hash(told.as_bytes()).to_hex().as_str()[..16])
    }

    /// What a restatement says must be near what the parents say.
    fn meaning(
        &self,
        desk: &mut Desk<'_>,
        grown: &mut [Grown],
        right: &[(usize, RunRow)],
    ) -> Result<(), Halt> {
        let decoding =
            Decoding { max_tokens: RESTATED, seed: self.growing.settings.seed, ..Decoding::default() };
        let questions: Vec<Question> = right
            .iter()
            .map(|(_, row)| Question {
                text: ask::restate(&row.input),
                sample: 0,
                decoding: decoding.clone(),
            })
            .collect();
        let said = desk.ask(&questions)?;
        let restated: Vec<&str> = said.iter().filter_map(|said| said.text.as_deref()).collect();
        self.guard.prepare(&restated).map_err(anyhow::Error::msg)?;
        for ((at, _), said) in right.iter().zip(said) {
            let Some(one) = grown.get_mut(*at) else { continue };
            let Some(restated) = said.text.filter(|text| !text.trim().is_empty()) else {
                one.falls(Check::Meaning, said.error.unwrap_or_else(|| "the maker restated nothing".into()));
                continue;
            };
            let parents = self.rows.iter().filter(|row| one.parents.contains(&row.id));
            let inputs: Vec<&str> = parents.map(|row| row.input.as_str()).collect();
            let nearest = self.guard.likeness(&restated, &inputs).map_err(anyhow::Error::msg)?;
            one.likeness = Some(nearest);
            let least = self.growing.settings.meaning;
            if nearest < least {
                let told = brief(restated.trim(), TOLD);
                one.falls(
                    Check::Meaning,
                    format!("cosine {nearest:.2} of \"{told}\" with its parents, below {least}"),
                );
            }
        }
        Ok(())
    }
}

/// Whether whoever checks gives the gold.
fn labelled(one: &mut Grown, outcome: &Outcome) -> bool {
    one.answer = Some(outcome.output.clone()).filter(|_| outcome.error.is_none());
    if let Some(why) = desk::trouble(outcome) {
        one.falls(Check::Unanswered, why);
        return false;
    }
    if outcome.correct != Some(true) {
        let (said, gold) = (outcome.output.trim(), one.gold.clone().unwrap_or_default());
        one.falls(
            Check::Disputed,
            format!("answered `{}`, gold is `{}`", brief(said, TOLD), brief(&gold, TOLD)),
        );
        return false;
    }
    true
}

fn has_text(row: &RunRow, name: &str) -> bool {
    crate::data::field(&row.fields, name)
        .and_then(serde_json::Value::as_str)
        .is_some_and(|text| !text.trim().is_empty())
}

/// A text into a field, by its name or by a path with dots into objects that are there.
fn put(fields: &mut serde_json::Map<String, serde_json::Value>, name: &str, text: &str) {
    if !fields.contains_key(name)
        && let Some((first, rest)) = name.split_once('.')
        && let Some(serde_json::Value::Object(inner)) = fields.get_mut(first)
    {
        return put(inner, rest, text);
    }
    fields.insert(name.to_owned(), text.into());
}

/// A method that needs more rows than one of a kind.
pub fn shows_others(settings: &GrowSettings) -> usize {
    if settings.method == Method::SelfPlay { settings.shown } else { 1 }
}
