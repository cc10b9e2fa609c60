//! `tunebench bench NAME`: reproducible measurements.

use std::process::ExitCode;

use super::output::{Exit, Output};
use crate::bench::{
    compare, decode, dedup, frame, import, kmeans, map, retrieve, scroll, strata, train_step,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Two candidates on many stored outcomes: reading them, the comparison, its bootstrap
    Compare(compare::Settings),
    /// Answers of a random model: many rows on one prompt, one row alone, labels
    Decode(decode::Settings),
    /// Near duplicates among many texts
    Dedup(dedup::Settings),
    /// Draw the screens: bytes to the terminal and time, of the first frame and of a tick; from a key to the frame on a large board
    Frame {
        /// Steps of a running curve to draw
        #[arg(long, default_value_t = 200)]
        ticks: u64,
        /// Candidates on the board whose keys are timed
        #[arg(long, default_value_t = 1000)]
        candidates: usize,
        /// Rounds over its keys
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// Index generated rows: time and memory, beside a plain read
    Import(import::Settings),
    /// Clusters of many vectors: full iterations, and as a strata run does it
    Kmeans(kmeans::Settings),
    /// The map of texts: time, and how far neighbours on it are neighbours indeed
    Map(map::Settings),
    /// Exact nearest examples among many vectors
    Retrieve(retrieve::Settings),
    /// Scroll a file of many rows with a real engine: from a key to the painted frame, and memory above an empty workspace
    Scroll(scroll::Settings),
    /// A strata run over generated rows: time of each phase, memory
    Strata(strata::Settings),
    /// One LoRA training step on a random model, beside its matrix products alone
    TrainStep(train_step::Settings),
}

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    match args.what {
        What::Compare(settings) => compare(&settings, out),
        What::Decode(settings) => decode(&settings, out),
        What::Frame { ticks, candidates, rounds } => {
            let found = frame::run(ticks, candidates, rounds)?;
            out.result(&found, || found.text());
            Ok(ExitCode::SUCCESS)
        }
        What::Import(settings) => import(&settings, out),
        What::Dedup(settings) => {
            let found = dedup::run(&settings).map_err(|e| Exit::usage(format!("{e:#}")))?;
            out.result(&found, || {
                format!(
                    "{} texts on {} threads: {} pairs of likeness {} and more, {} copies, in {:.2} s; peak {:.0} MiB",
                    found.texts, found.threads, found.pairs, found.threshold, found.copies, found.seconds, found.peak_mib
                )
            });
            Ok(ExitCode::SUCCESS)
        }
        What::Strata(settings) => {
            let found = strata::run(&settings).map_err(|e| Exit::failed(format!("{e:#}")))?;
            out.result(&found, || {
                let phases: Vec<String> = found.phases.iter().map(|(name, s)| format!("{name} {s:.1}")).collect();
                format!(
                    "{} rows ({} MiB) in {} clusters in {:.1} s ({} s); peak {:.0} MiB, of which {:.0} before; vectors {:.0} MiB",
                    found.rows,
                    found.bytes >> 20,
                    found.clusters,
                    found.seconds,
                    phases.join(", "),
                    found.peak_mib,
                    found.before_mib,
                    found.floor_mib
                )
            });
            Ok(ExitCode::SUCCESS)
        }
        What::Kmeans(settings) => {
            let found = kmeans::run(&settings).map_err(|e| Exit::usage(format!("{e:#}")))?;
            out.result(&found, || {
                format!(
                    "{} x {} in {} clusters on {} threads: {} full rounds {:.2} s ({:.0} GFLOP/s), inertia {:.0}; \
                     as a strata run {:.2} s, inertia {:.0}; peak {:.0} MiB",
                    found.vectors,
                    found.dimensions,
                    found.k,
                    found.threads,
                    found.rounds,
                    found.full_s,
                    found.gflops,
                    found.full_inertia,
                    found.strata_s,
                    found.strata_inertia,
                    found.peak_mib
                )
            });
            Ok(ExitCode::SUCCESS)
        }
        What::Map(settings) => {
            let found = map::run(&settings).map_err(|e| Exit::usage(format!("{e:#}")))?;
            out.result(&found, || found.text());
            Ok(ExitCode::SUCCESS)
        }
        What::Retrieve(settings) => {
            let found = retrieve::run(&settings).map_err(Exit::usage)?;
            out.result(&found, || {
                format!(
                    "{} x {}: {:.2} ms a query (at most {:.2}) on {} threads, {:.1} GB/s; its products alone on one thread {:.2} ms",
                    found.examples,
                    found.dimensions,
                    found.ms,
                    found.ms_max,
                    found.threads,
                    found.gb_per_s,
                    found.floor_one_thread_ms
                )
            });
            Ok(ExitCode::SUCCESS)
        }
        What::Scroll(settings) => {
            if let Some(root) = &settings.within {
                let found = scroll::scroll(root, &settings)?;
                out.result(&found, || format!("{found:?}"));
            } else {
                let found = scroll::run(&settings)?;
                out.result(&found, || found.text());
            }
            Ok(ExitCode::SUCCESS)
        }
        What::TrainStep(settings) => train_step(&settings, out),
    }
}

fn compare(settings: &compare::Settings, out: &Output) -> super::CommandResult {
    let report = compare::run(settings).map_err(|e| Exit::usage(format!("{e:#}")))?;
    out.result(&report, || {
        format!(
            "{} rows on both sides, {:.0} MB: by accuracy {:.2} s to read and {:.2} s to compare, by json_fields {:.2} s and {:.2} s; \
             {} rounds alone: {:.3} s right or wrong, {:.2} s a value each; peak {:.0} MiB",
            report.rows,
            report.bytes as f64 / 1e6,
            report.accuracy.read_s,
            report.accuracy.seconds,
            report.json_fields.read_s,
            report.json_fields.seconds,
            report.rounds,
            report.bootstrap_right_wrong.seconds,
            report.bootstrap_graded.seconds,
            report.peak_mib
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn decode(settings: &decode::Settings, out: &Output) -> super::CommandResult {
    let report = decode::run(settings).map_err(|e| Exit::usage(format!("{e:#}")))?;
    out.result(&report, || {
        let batch = report.batch.map(|b| {
            format!(
                "batch: {:.2} rows/s, {:.0} tokens/s, {:.0} ms, first token after {:.0} ms",
                b.rows_per_s, b.tokens_per_s, b.ms, b.ttft_ms
            )
        });
        let single = report.single.map(|s| {
            format!(
                "single: {:.1} tokens/s, {:.2} ms each after the first, {:.2} of the {:.1} GB/s that memory gives",
                s.tokens_per_s, s.tpot_ms, s.mbu, s.bandwidth_gb_s
            )
        });
        let labels = report.labels.map(|l| {
            format!(
                "77 labels: {:.1} rows/s scored, {:.1} generated; row after row {:.1} and {:.1}",
                l.scored_rows_per_s, l.generated_rows_per_s, l.scored_alone_per_s, l.generated_alone_per_s
            )
        });
        let device = (report.device != "cpu").then(|| format!("on {} in bf16", report.device));
        [device, batch, single, labels].into_iter().flatten().collect::<Vec<_>>().join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

fn import(settings: &import::Settings, out: &Output) -> super::CommandResult {
    let found = import::run(settings).map_err(|e| Exit::usage(format!("{e:#}")))?;
    out.result(&found, || {
        format!(
            "{} rows, {:.0} MB in {:.2} s: {:.0} MB/s (a plain read: {:.0} MB/s), peak {:.0} MiB; open {:.0} ms, {:.0} us a row",
            found.rows,
            found.bytes as f64 / 1e6,
            found.seconds,
            found.bytes_per_s / 1e6,
            found.floor.bytes_per_s / 1e6,
            found.peak_mib,
            found.open_ms,
            found.row_us
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn train_step(settings: &train_step::Settings, out: &Output) -> super::CommandResult {
    let report = train_step::run(settings).map_err(|e| Exit::usage(format!("{e:#}")))?;
    out.result(&report, || {
        let rate = match (report.matmul_tflops, report.mfu) {
            (Some(rate), Some(mfu)) => {
                format!("; {}: a large bf16 product runs at {rate:.1} TFLOP/s, MFU {mfu:.3}", report.device)
            }
            _ => String::new(),
        };
        format!(
            "{:.1} ms/step ({:.2} of the {:.1} ms of its matrix products), {:.0} tokens/s, peak {} MiB, {} trained, loss {:.4}{rate}",
            report.ms_per_step,
            report.ms_per_step / report.floor_ms,
            report.floor_ms,
            report.tokens_per_s,
            report.peak_mib.map_or("?".to_owned(), |m| m.to_string()),
            report.trainable,
            report.loss
        )
    });
    Ok(ExitCode::SUCCESS)
}
