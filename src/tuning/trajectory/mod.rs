//! Trajectory tuning: find worked examples that turn wrong answers to gold, measure what they do, and make a candidate that retrieves
//! them for each row.
//!
//! ```text
//! train part   asked as it is; for each wrong row the smallest set of examples that turns it (find, ddmin) -> the store
//! dev part     curve over the number of examples and the store, lift and harm of each example, ablations (measure) -> what is used
//! eval part    the candidate, scored like any other
//! ```
//! Only train rows become examples. A run that is stopped keeps what it found; one that is resumed asks nothing twice (asking).

mod asking;
mod ddmin;
mod find;
mod measure;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::backend::{Access, Meter};
use crate::domain::candidate::Candidate;
use crate::domain::event::EventBody;
use crate::domain::example::{Example, Form, Found, KeptFile, StageExamples, StoreEmbedder};
use crate::domain::report::{Reporter, RunInputs};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunResult;
use crate::domain::settings::EvalSettings;
use crate::domain::steer::Change;
use crate::domain::trajectory::{Measured, TrajectoryNews, TrajectoryReport, TrajectorySettings};
use crate::domain::words::counted;
use crate::embed::Source;
use crate::pipeline::Pipeline;
use crate::retrieve::{self, EMBEDDER, Index, MODEL, store};
use crate::score::stats::mcnemar_exact;
use crate::store::files;
use crate::tuning::scoring::Scoring;
use crate::tuning::{evaluate, judge};
use asking::{Asker, Ended, Given, Question, Said};
use find::Pool;
use measure::{Dev, Tried, Way};

/// Train rows that tell which form suits the model.
const FORM_ROWS: usize = 48;

/// With a budget: this share of it is for asking train rows and finding, the rest for measuring.
const FINDING: f64 = 0.4;
/// Of the questions that a budget is enough for, those that train rows are asked as it is, and for each form.
const LOOKED: usize = 8;
const FORM_SHARE: usize = 40;
/// Fewer dev rows than this are not worth measuring on.
const LEAST_DEV: usize = 24;

/// Gains on the dev part are believed below this (exact McNemar).
const BELIEVED: f64 = 0.05;

/// The store of a run, relative to its folder.
pub const STORE: &str = "artifacts/store.jsonl";
/// What was found, tried and measured.
pub const REPORT: &str = "artifacts/trajectory.json";

/// Find examples for the run's candidate and score what comes of it on the eval part.
pub fn run(
    settings: &TrajectorySettings,
    eval: &EvalSettings,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    let start =
        inputs.spec.candidate.as_ref().context("spec.json names no candidate to find examples for")?;
    let access = Access::of(inputs);
    let plain = without_examples(start, settings);
    // What is scored on eval stands outside of the budget.
    let metered = Access { meter: Meter::default(), ..access.clone() };
    let mut pipeline = Pipeline::new(&plain, &metered)?;
    // Its own answers are kept in the run's folder; what another run asked is taken from the cache.
    pipeline.set_fresh(false);
    let (outcome, ended) = {
        let mut asker =
            Asker::new(pipeline, &plain, settings, eval, &inputs.rows, &inputs.dir, &metered, reporter)?;
        for body in &inputs.history {
            if let EventBody::Change { change: Change::Budget(limit), .. } = body {
                asker.raised(*limit);
            }
        }
        if let Some(judge) = &settings.judge {
            asker.judged_by(judge, judge::Asker::open(judge, &metered))?;
        }
        let outcome = tune(&mut asker, &plain, settings, inputs, &access)?;
        (outcome, asker.ended)
    };
    if ended == Some(Ended::Cancelled) {
        return Ok(RunResult { stopped: true, ..RunResult::default() });
    }
    let Tuned { report, examples, way, embedder } = outcome;
    files::write_json(&inputs.dir.join(REPORT), &report)?;
    let store = Store::write(&inputs.dir, &examples, &embedder, settings)?;
    let candidate = match way {
        Some(way) => with_store(&plain, &way, &examples, &store, &inputs.spec.id),
        None => start.clone(),
    };
    let eval_rows: Vec<RunRow> =
        inputs.rows.iter().filter(|row| row.part == Some(Part::Eval)).cloned().collect();
    let stopped = ended == Some(Ended::Stopped);
    let mut scoring = Scoring { reporter, stop_is_answered: stopped, outcomes: Vec::new() };
    let mut metrics =
        evaluate::candidate(&candidate, &eval_rows, eval, &inputs.outcomes, &access, &mut scoring)?;
    metrics.extend(figures(&report, &examples));
    Ok(RunResult { metrics, candidate: Some(candidate), stopped, ..RunResult::default() })
}

/// The candidate that is searched for: tuned stages begin without examples.
fn without_examples(start: &Candidate, settings: &TrajectorySettings) -> Candidate {
    let mut plain = start.clone();
    for stage in &mut plain.stages {
        if settings.stages.is_empty() || settings.stages.contains(&stage.name) {
            stage.examples = None;
        }
    }
    plain
}

/// The files of a store.
struct Store {
    examples: KeptFile,
    embedder: StoreEmbedder,
}

impl Store {
    fn write(
        dir: &Path,
        examples: &[Example],
        embedder: &Source,
        settings: &TrajectorySettings,
    ) -> anyhow::Result<Self> {
        let kept = |path: &Path, hash| KeptFile { path: path.display().to_string(), hash };
        let path = dir.join(STORE);
        let examples = kept(&path, store::write(&path, examples)?);
        let writing = |path: &Path| format!("writing {}", path.display());
        let embedder = match (embedder.builtin(), &settings.model) {
            (Some(fitted), _) => {
                let bytes = fitted.to_bytes()?;
                let path = path.with_file_name(EMBEDDER);
                files::write_atomic(&path, &bytes).with_context(|| writing(&path))?;
                StoreEmbedder::Fitted(kept(&path, store::hash(&bytes)))
            }
            (None, Some(model)) => {
                let path = path.with_file_name(MODEL);
                files::write_json(&path, model).with_context(|| writing(&path))?;
                StoreEmbedder::Model(model.clone())
            }
            (None, None) => bail!("the run's settings do not name the model that embeds"),
        };
        Ok(Self { examples, embedder })
    }
}

fn with_store(plain: &Candidate, way: &Way, examples: &[Example], store: &Store, run: &str) -> Candidate {
    let mut candidate = plain.clone();
    run.clone_into(&mut candidate.name);
    candidate.rung = "trajectory".into();
    for (at, stage) in candidate.stages.iter_mut().enumerate() {
        let has = examples.iter().any(|e| e.enabled && e.stage == stage.name);
        if has && way.stages.get(at).is_some_and(Option::is_some) {
            stage.examples = Some(StageExamples {
                path: store.examples.path.clone(),
                hash: store.examples.hash.clone(),
                retrieval: way.how.clone(),
                embedder: Some(store.embedder.clone()),
            });
        }
    }
    candidate
}

fn figures(report: &TrajectoryReport, examples: &[Example]) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::from([
        ("examples".to_owned(), examples.iter().filter(|e| e.enabled).count() as f64),
        ("searched_rows".to_owned(), report.searches.len() as f64),
        ("turned_rows".to_owned(), report.searches.iter().filter(|s| s.proposal.is_some()).count() as f64),
        ("calls".to_owned(), report.calls as f64),
    ]);
    if report.without.rows > 0 {
        figures.insert("dev_without".to_owned(), report.without.accuracy());
    }
    if let Some(chosen) = &report.chosen {
        figures.insert("dev_with".to_owned(), chosen.accuracy());
        figures.insert("shots".to_owned(), chosen.shots as f64);
    }
    figures.extend(report.usd.map(|usd| ("usd".to_owned(), usd)));
    figures
}

struct Tuned {
    report: TrajectoryReport,
    examples: Vec<Example>,
    /// None: examples do not help, or nothing tells whether they do.
    way: Option<Way>,
    /// A model, or fitted on the train rows, once: whatever becomes of the store, a text keeps its vector.
    embedder: Arc<Source>,
}

/// Rows spread over the strata: in turn one of each, in an order by a hash of the id.
fn spread<'r>(rows: &[&'r RunRow], most: usize) -> Vec<&'r RunRow> {
    let mut order: Vec<&RunRow> = rows.to_vec();
    order.sort_by_cached_key(|row| *blake3::hash(row.id.as_bytes()).as_bytes());
    let mut turn: HashMap<Option<&str>, usize> = HashMap::new();
    let mut keyed: Vec<(usize, usize, &RunRow)> = order
        .into_iter()
        .enumerate()
        .map(|(i, row)| {
            let n = turn.entry(row.stratum.as_deref()).or_default();
            *n += 1;
            (*n, i, row)
        })
        .collect();
    keyed.sort_by_key(|(n, i, _)| (*n, *i));
    keyed.into_iter().map(|(_, _, row)| row).take(most).collect()
}

fn bare<'r>(rows: &[&'r RunRow], stages: usize) -> Vec<Question<'r>> {
    let given: Given = vec![Vec::new(); stages];
    rows.iter().map(|row| Question { row, given: given.clone(), form: Form::Text }).collect()
}

fn tune(
    asker: &mut Asker<'_>,
    plain: &Candidate,
    settings: &TrajectorySettings,
    inputs: &RunInputs,
    access: &Access,
) -> anyhow::Result<Tuned> {
    let of = |part: Part| -> Vec<&RunRow> {
        inputs.rows.iter().filter(|row| row.part == Some(part) && row.gold.is_some()).collect()
    };
    let (train, dev) = (of(Part::Train), of(Part::Dev));
    if train.is_empty() {
        bail!("no row of the train part has a gold answer, so there is nothing to make examples of");
    }
    let stages = plain.stages.len();
    let of_strata = |row: &&RunRow| {
        let wanted = |stratum: &str| settings.strata.iter().any(|s| s == stratum);
        settings.strata.is_empty() || row.stratum.as_deref().is_some_and(wanted)
    };
    let wanted: Vec<&RunRow> = train.iter().copied().filter(of_strata).collect();
    if wanted.is_empty() {
        bail!(
            "tuning.trajectory.strata: no row of the train part with a gold is of {}; `tunebench strata build` names the strata",
            settings.strata.join(" or ")
        );
    }
    // A model that cannot embed says so before anything is asked.
    let texts = || train.iter().map(|row| row.input.as_str());
    let embedder: Arc<Source> = Arc::new(match &settings.model {
        Some(model) => Source::open(model, access).map_err(anyhow::Error::msg)?,
        None => retrieve::fit(texts()).into(),
    });
    if embedder.builtin().is_none() {
        let mut texts: Vec<&str> = texts().collect();
        texts.extend(dev.iter().map(|row| row.input.as_str()));
        if !asker.embed(&embedder, &texts)? {
            let report = TrajectoryReport::default();
            return Ok(Tuned { report, examples: Vec::new(), way: None, embedder });
        }
    }
    // What a question costs in tokens, money and time is learned from a few.
    asker.ask("as it is", &bare(&spread(&wanted, 8), stages))?;
    let affords = asker.affords().map_or(usize::MAX, |(n, _)| n);
    let looked: Vec<&RunRow> = spread(&wanted, settings.rows.min((affords / LOOKED).max(LEAST_DEV)));
    if looked.len() < settings.rows.min(wanted.len()) {
        asker.log(format!(
            "the budget is enough for about {}: {} are looked at",
            counted(affords, "question"),
            counted(looked.len(), "train row")
        ))?;
    }
    let said = asker.ask("as it is", &bare(&looked, stages))?;
    let known: HashMap<&str, Said> =
        looked.iter().zip(said).filter_map(|(row, said)| Some((row.id.as_str(), said?))).collect();
    let wrong: Vec<(&RunRow, Said)> = looked
        .iter()
        .filter_map(|row| Some((*row, known.get(row.id.as_str()).filter(|said| !said.right)?.clone())))
        .collect();
    let mut report =
        TrajectoryReport { looked_at: known.len(), wrong: wrong.len(), ..TrajectoryReport::default() };
    let pool = Pool::new(plain, settings, &train, &known, &inputs.spec.id, &embedder)?;
    if pool.is_empty() {
        bail!("no stage that is tuned has a gold or a right answer to make examples of");
    }
    asker.log(format!(
        "{} of {} are wrong without examples",
        wrong.len(),
        counted(known.len(), "train row")
    ))?;

    let form =
        choose_form(asker, &pool, settings, &looked[..looked.len().min((affords / FORM_SHARE).max(8))])?;
    form.name().clone_into(&mut report.form);
    asker.spend_at_most(FINDING);
    let finds = find::find(asker, &pool, plain, settings, form, known.len(), &wrong)?;
    asker.spend_at_most(1.0);
    let turned = finds.searches.iter().filter(|s| s.proposal.is_some()).count();
    report.searches = finds.searches;
    let found = of_finds(&pool, &finds.found);
    asker.log(format!(
        "{} of {} can be turned to gold; the smallest sets are made of {}",
        turned,
        counted(wrong.len(), "wrong row"),
        counted(found.iter().flatten().count(), "example")
    ))?;

    let way = if asker.ended.is_some() {
        None
    } else {
        // Once as it is, each number of examples from both stores, and about twice more for lift and harm.
        let each = 3 + 2 * ladder(settings.shots).len();
        let most = asker
            .affords()
            .map_or(settings.dev_rows, |(n, _)| (n / each).min(settings.dev_rows).max(LEAST_DEV));
        on_dev(asker, settings, &mut report, &pool, &found, form, &spread(&dev, most))?
    };
    say_end(asker)?;
    report.calls = asker.calls;
    report.usd = asker.usd;
    let examples = match &way {
        Some(way) => {
            way.stages.iter().flatten().flat_map(Index::examples).map(|e| Example::clone(e)).collect()
        }
        None => found.iter().flatten().map(|e| Example::clone(e)).collect(),
    };
    Ok(Tuned { report, examples, way, embedder })
}

fn say_end(asker: &mut Asker<'_>) -> anyhow::Result<()> {
    asker.warn_of_silence()?;
    match asker.ended {
        Some(Ended::Budget(which)) => {
            asker.warn(format!("the budget's `{which}` is spent; what was found so far is kept in {STORE}"))
        }
        Some(Ended::Stopped) => asker.log(format!("stopped; what was found so far is kept in {STORE}")),
        Some(Ended::Cancelled) | None => Ok(()),
    }
}

/// The form that more train rows are right with, where the templates leave it open.
fn choose_form(
    asker: &mut Asker<'_>,
    pool: &Pool,
    settings: &TrajectorySettings,
    looked: &[&RunRow],
) -> anyhow::Result<Form> {
    if let Some(form) = settings.form {
        return Ok(form);
    }
    let tuned = (0..pool.stages.len()).filter(|at| pool.stages[*at].is_some());
    let open = tuned.map(|at| asker.pipeline().shows_examples(at)).any(|(own, place)| !own && place);
    if !open {
        return Ok(Form::Turns);
    }
    let rows = &looked[..looked.len().min(FORM_ROWS)];
    let mut best = (Form::Text, 0);
    // Without its template a later stage would not see what came before it, and no stage its tools.
    let first_alone = pool.stages.iter().skip(1).all(Option::is_none) && asker.pipeline().tools(0) == 0;
    for (_, form) in Form::ALL.into_iter().filter(|(_, form)| *form != Form::Bare || first_alone) {
        let questions: Vec<Question<'_>> = rows
            .iter()
            .map(|row| Ok(Question { row, given: pool.neighbours(row, settings)?, form }))
            .collect::<anyhow::Result<_>>()?;
        let right = asker.ask("form", &questions)?.into_iter().flatten().filter(|said| said.right).count();
        asker.log(format!(
            "examples as {}: {right} of {} right",
            form.words(),
            counted(rows.len(), "train row")
        ))?;
        if right > best.1 {
            best = (form, right);
        }
    }
    Ok(best.0)
}

/// The examples of the smallest sets, by the place of their stage, with how they were found.
fn of_finds(pool: &Pool, found: &BTreeMap<String, Vec<Found>>) -> Vec<Vec<Arc<Example>>> {
    let of_stage = |index: &Option<Index>| {
        let all = index.iter().flat_map(Index::examples);
        all.filter_map(|example| noted(example, found)).collect()
    };
    pool.stages.iter().map(of_stage).collect()
}

fn noted(example: &Arc<Example>, found: &BTreeMap<String, Vec<Found>>) -> Option<Arc<Example>> {
    let notes = found.get(&example.id)?;
    let mut example = Example::clone(example);
    for note in notes {
        example.note(note.clone());
    }
    Some(Arc::new(example))
}

/// Numbers of examples that are tried: one, half of the shots, the shots, twice as many.
fn ladder(shots: usize) -> Vec<usize> {
    let mut ladder = vec![1, shots.div_ceil(2), shots, 2 * shots];
    ladder.sort_unstable();
    ladder.dedup();
    ladder
}

/// More examples cost more; where they answer worse than fewer did, still more are not asked for.
fn falls(fewer: &[Said], more: &[Said]) -> bool {
    let flips =
        |from: bool| fewer.iter().zip(more).filter(|(a, b)| a.right == from && b.right != from).count();
    let (gained, lost) = (flips(false), flips(true));
    lost > gained && mcnemar_exact(gained, lost) < BELIEVED
}

/// An index over what was found, in the vectors of all.
fn found_index(pool: &Pool, found: &[Arc<Example>]) -> anyhow::Result<Option<Index>> {
    let Some(all) = pool.stages.iter().flatten().next().filter(|_| !found.is_empty()) else {
        return Ok(None);
    };
    let index = Index::new(found.iter().cloned(), all.embedder().clone());
    index.map(Some).map_err(anyhow::Error::msg)
}

/// Choose on the dev part; none where examples do not help.
fn on_dev(
    asker: &mut Asker<'_>,
    settings: &TrajectorySettings,
    report: &mut TrajectoryReport,
    pool: &Pool,
    found: &[Vec<Arc<Example>>],
    form: Form,
    rows: &[&RunRow],
) -> anyhow::Result<Option<Way>> {
    if rows.is_empty() {
        asker
            .warn("no dev row has gold: nothing tells whether examples help, so the candidate keeps none")?;
        return Ok(None);
    }
    let said = asker.ask("dev as it is", &bare(rows, pool.stages.len()))?;
    let Some(without) = said.into_iter().collect::<Option<Vec<Said>>>() else { return Ok(None) };
    let dev = Dev { rows: rows.to_vec(), without };
    report.without = dev.baseline();
    let notes: BTreeMap<&str, &Arc<Example>> = found.iter().flatten().map(|e| (e.id.as_str(), e)).collect();
    let keep = |e: &Arc<Example>| notes.get(e.id.as_str()).map_or_else(|| e.clone(), |n| (*n).clone());
    let all: Vec<Option<Index>> =
        pool.stages.iter().map(|index| Some(index.as_ref()?.with_examples(&keep))).collect();
    let of_found: Vec<Option<Index>> =
        found.iter().map(|e| found_index(pool, e)).collect::<anyhow::Result<_>>()?;
    let mut best: Option<(Way, Tried)> = None;
    'ways: for (name, stages) in [("all", all), ("found", of_found)] {
        if stages.iter().all(Option::is_none) {
            continue;
        }
        let mut before: Option<(Vec<Said>, bool)> = None;
        for shots in ladder(settings.shots) {
            let how = settings.retrieval(shots, form);
            let way = Way { name: name.to_owned(), stages: stages.clone(), how };
            let Some(tried) = dev.try_way(asker, &way)? else {
                // With the budget spent the best so far is taken; a person who stops the run gets what was found, unmeasured.
                if matches!(asker.ended, Some(Ended::Budget(_))) {
                    break 'ways;
                }
                return Ok(None);
            };
            // A single example may do harm that several do not.
            let harms = falls(&dev.without, &tried.said);
            let worse = before
                .replace((tried.said.clone(), harms))
                .is_some_and(|(said, harmed)| (harmed && harms) || falls(&said, &tried.said));
            tell(asker, &tried.measured, &report.without, false)?;
            report.curve.push(tried.measured.clone());
            if best.as_ref().is_none_or(|(_, best)| better(&tried.measured, &best.measured)) {
                best = Some((way, tried));
            }
            if worse {
                asker.log(format!(
                    "worse than fewer, or twice than none (exact McNemar, p < {BELIEVED}): more of {name} are not tried"
                ))?;
                break;
            }
        }
    }
    let Some((way, tried)) = best else { return Ok(None) };
    let (gain, p) = (tried.measured.fixed as i64 - tried.measured.broken as i64, tried.measured.p_value);
    if gain <= 0 || p >= BELIEVED {
        asker.log(format!(
            "examples do not help: at best {} fixed and {} broken of {} (p = {p:.3}); the candidate keeps none",
            tried.measured.fixed,
            tried.measured.broken,
            counted(dev.rows.len(), "dev row")
        ))?;
        return Ok(None);
    }
    let (way, measured) = refine(asker, settings, report, &dev, way, tried)?;
    asker.log(format!("chosen: {}", measure::line(&measured, &report.without)))?;
    report.chosen = Some(measured);
    Ok(Some(way))
}

fn tell(
    asker: &mut Asker<'_>,
    measured: &Measured,
    without: &Measured,
    ablation: bool,
) -> anyhow::Result<()> {
    asker.log(measure::line(measured, without))?;
    asker.news(TrajectoryNews::Measured { measured: measured.clone(), without: without.clone(), ablation })
}

/// More rows right; of equals the shorter prompt.
fn better(a: &Measured, b: &Measured) -> bool {
    a.right > b.right || (a.right == b.right && a.tokens_in < b.tokens_in)
}

/// Lift and harm of each example; ranking by them, and leaving out what harms, where that does no worse on rows that did not measure it.
fn refine(
    asker: &mut Asker<'_>,
    settings: &TrajectorySettings,
    report: &mut TrajectoryReport,
    dev: &Dev<'_>,
    way: Way,
    tried: Tried,
) -> anyhow::Result<(Way, Measured)> {
    if asker.ended.is_some() {
        return Ok((way, tried.measured));
    }
    let effects = dev.effects(asker, &tried, way.how.form)?;
    for (i, row) in dev.rows.iter().enumerate() {
        let entry = report.by_stratum.entry(row.stratum.clone().unwrap_or_default()).or_default();
        entry.0 += 1;
        entry.1 += usize::from(dev.without[i].right);
        entry.2 += usize::from(tried.said[i].right);
    }
    let known = dev.gathered(&effects);
    let mut chosen = measure::with_effects(&way, &known);
    let mut measured = tried.measured.clone();
    if settings.lift_weight > 0.0 && asker.ended.is_none() {
        let mut ranked = way.clone();
        ranked.name = format!("{}, by lift", way.name);
        ranked.how.lift_weight = settings.lift_weight;
        if let Some(tried) = dev.try_crossed(asker, &ranked, &effects)? {
            tell(asker, &tried.measured, &report.without, true)?;
            report.ablation.push(tried.measured.clone());
            if tried.measured.right >= measured.right {
                chosen.how.lift_weight = settings.lift_weight;
                measured = tried.measured;
            }
        }
    }
    let harmful: Vec<String> = chosen
        .stages
        .iter()
        .flatten()
        .flat_map(Index::examples)
        .filter(|e| measure::is_harmful(e))
        .map(|e| e.id.clone())
        .collect();
    if !harmful.is_empty() && asker.ended.is_none() {
        // On the rows that measured the harm: an upper bound, and said so.
        let mut less = measure::without(&chosen, &|e| harmful.contains(&e.id));
        less.name = format!("{} but {} harmful", way.name, harmful.len());
        if let Some(tried) = dev.try_way(asker, &less)? {
            tell(asker, &tried.measured, &report.without, true)?;
            asker.log("  measured on the rows that showed the harm: it chose, and claims nothing")?;
            report.ablation.push(tried.measured.clone());
            if tried.measured.right > measured.right {
                report.harmful = harmful;
                less.name.clone_from(&way.name);
                chosen = less;
            }
        }
    }
    Ok((chosen, measured))
}
