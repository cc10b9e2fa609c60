//! `tunebench bench compare`: two candidates on many stored outcomes, from the files to the verdict.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::domain::metric::Metric;
use crate::domain::outcome::{Outcome, StageOutcome};
use crate::domain::rng::SplitMix64;
use crate::domain::row::Part;
use crate::machine;
use crate::score::bootstrap;
use crate::score::compare::{About, Columned, compare_columns};
use crate::score::rows::value;
use crate::store::lines;
use crate::worker::folder::RunFolder;

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Outcomes of each candidate
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: usize,
    /// Rounds of the bootstraps that are timed by themselves; a comparison takes 10,000
    #[arg(long, default_value_t = bootstrap::ROUNDS)]
    pub rounds: usize,
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Keep the outcomes here (a/outcomes.jsonl, b/outcomes.jsonl), for a peer to read
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// A bootstrap by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Bootstrap {
    pub seconds: f64,
    pub ci95: [f64; 2],
    pub p_value: f64,
}

/// A comparison: rows paired, flips, strata, test and interval.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Of both files, what the comparison takes of them.
    pub read_s: f64,
    /// Without reading.
    pub seconds: f64,
    pub total_s: f64,
    pub test: String,
    pub delta: f64,
    pub ci95: [f64; 2],
    pub p_value: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub rows: usize,
    pub rounds: usize,
    pub threads: usize,
    /// Of both files.
    pub bytes: u64,
    /// By `accuracy`: right or wrong, exact McNemar, no bootstrap.
    pub accuracy: Compared,
    /// By `json_fields`, which has another value on every row: paired bootstrap.
    pub json_fields: Compared,
    /// The bootstraps alone: of differences that are right or wrong, and of those with a value each.
    pub bootstrap_right_wrong: Bootstrap,
    pub bootstrap_graded: Bootstrap,
    /// Of the comparisons, reading included.
    pub peak_mib: f64,
}

/// Seconds that a piece of work takes, and what comes of it.
fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let done = work();
    (start.elapsed().as_secs_f64(), done)
}

pub fn run(settings: &Settings) -> anyhow::Result<Report> {
    ensure!(
        settings.rows > 1 && settings.rounds > 0,
        "--rows of at least 2 and --rounds of at least 1 are expected"
    );
    let pool = rayon::ThreadPoolBuilder::new().num_threads(settings.threads.max(1)).build()?;
    let temporary = settings.keep.is_none();
    let dir = settings.keep.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("tunebench-bench-compare-{}", std::process::id()))
    });
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let result = pool.install(|| measure(settings, &dir));
    if temporary {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    result
}

fn measure(settings: &Settings, dir: &Path) -> anyhow::Result<Report> {
    let folders = ["a", "b"].map(|side| RunFolder::new(dir.join(side)));
    let mut bytes = 0;
    for (folder, right) in folders.iter().zip([0.70, 0.71]) {
        bytes += generate(folder, settings.rows, right)?;
    }
    let (accuracy, json_fields) = (Metric::comparable("accuracy")?, Metric::comparable("json_fields")?);
    let input = |_: &str| String::new();
    let part = (0..10).map(|i| (format!("stratum {i}"), settings.rows / 10)).collect();
    let about = About { input: &input, group: None, part: &part, seed: 7, whole: true };
    let by = |metric: &Metric| -> anyhow::Result<Compared> {
        let [a, b] = folders.each_ref().map(|folder| File::open(folder.outcomes()));
        let (a, b) = (a?, b?);
        let whole = |file: &File, at| serde_json::from_slice(&lines::line_at(file, at).ok()?).ok();
        let (in_a, in_b) = (|at| whole(&a, at), |at| whole(&b, at));
        let (read_s, both) = timed(|| folders.each_ref().map(|folder| folder.read_columns(metric)));
        let [a, b] = both;
        let (a, b) = (a?, b?);
        let sides = (
            Columned { name: "a", columns: &a, outcome: &in_a },
            Columned { name: "b", columns: &b, outcome: &in_b },
        );
        let (seconds, c) = timed(|| compare_columns(sides.0, sides.1, metric, &about));
        let (test, delta, ci95, p_value) = (c.test, c.delta, c.ci95, c.p_value);
        Ok(Compared { read_s, seconds, total_s: read_s + seconds, test, delta, ci95, p_value })
    };
    let (by_accuracy, by_fields) = (by(&accuracy)?, by(&json_fields)?);
    let peak_mib = machine::peak_resident().map_or(0.0, |b| b as f64 / f64::from(1 << 20));
    let [a, b] = folders.each_ref().map(RunFolder::read_outcomes);
    let (a, b) = (a?, b?);
    let differences = |metric: &Metric| -> Vec<f64> {
        a.iter().zip(&b).filter_map(|(a, b)| Some(value(metric, b)? - value(metric, a)?)).collect()
    };
    let alone = |metric: &Metric| {
        let values = differences(metric);
        let (seconds, boot) = timed(|| bootstrap::mean(&values, settings.rounds, 7));
        Bootstrap { seconds, ci95: boot.ci95, p_value: boot.p_value }
    };
    Ok(Report {
        rows: settings.rows,
        rounds: settings.rounds,
        threads: settings.threads,
        bytes,
        bootstrap_right_wrong: alone(&accuracy),
        bootstrap_graded: alone(&json_fields),
        accuracy: by_accuracy,
        json_fields: by_fields,
        peak_mib,
    })
}

/// Outcomes as an evaluation leaves them. Returns their bytes.
fn generate(folder: &RunFolder, rows: usize, right: f64) -> anyhow::Result<u64> {
    const LABELS: [&str; 4] = ["cards", "loans", "fees", "transfers"];
    fs::create_dir_all(folder.dir()).with_context(|| format!("cannot make {}", folder.dir().display()))?;
    let path = folder.outcomes();
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    // The same rows are hard for both.
    let mut hardness = SplitMix64::new(1);
    let mut own = SplitMix64::new(right.to_bits());
    for i in 0..rows {
        let hard = hardness.unit();
        let is_right = 0.7 * hard + 0.3 * own.unit() < right;
        let gold = LABELS[hardness.below(4)];
        let output = if is_right { gold } else { "other" };
        let fields = (0.5 * hard + 0.5 * own.unit() + right - 0.7).clamp(0.0, 1.0);
        let stage = StageOutcome {
            stage: "route".into(),
            output: output.into(),
            tokens_in: 80,
            tokens_out: 3,
            ttft_ms: 11.5,
            ms: 21.25,
            format_ok: true,
            ..StageOutcome::default()
        };
        let outcome = Outcome {
            row: format!("r{i:07}"),
            row_hash: format!("{:032x}", SplitMix64::new(i as u64).next_u64()),
            part: Some(Part::Eval),
            stratum: Some(format!("stratum {}", i % 10)),
            output: output.into(),
            gold: Some(gold.into()),
            correct: Some(is_right),
            scores: BTreeMap::from([
                ("accuracy".to_owned(), f64::from(u8::from(is_right))),
                ("json_fields".to_owned(), fields),
            ]),
            stages: vec![stage],
            ..Outcome::default()
        };
        serde_json::to_writer(&mut out, &outcome)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(fs::metadata(&path)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measurement_compares_what_it_wrote() {
        let temp = tempfile::tempdir().unwrap();
        let settings =
            Settings { rows: 3_000, rounds: 500, threads: 2, keep: Some(temp.path().join("kept")) };
        let report = run(&settings).unwrap();
        assert_eq!(
            (report.accuracy.test.as_str(), report.json_fields.test.as_str()),
            ("mcnemar_exact", "paired_bootstrap")
        );
        assert!(report.json_fields.delta > 0.0 && report.bytes > 600_000, "{report:?}");
        let [low, high] = report.bootstrap_graded.ci95;
        assert!(low < report.json_fields.delta && report.json_fields.delta < high, "{report:?}");
        assert!(settings.keep.unwrap().join("a/outcomes.jsonl").is_file());
    }
}
