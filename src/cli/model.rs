//! `tunebench model info|verify|pull`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::generate::{threads, usage};
use super::output::{Exit, Output};
use crate::model::config::RopeScaling;
use crate::model::hub::{HubError, Progress, Pull};
use crate::model::info::{ModelInfo, Shape};
use crate::model::verify::{TOLERANCE, verify};
use crate::model::{Decoder, Lora, files};
use crate::ops::Par;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What a model is, and the memory that training a LoRA adapter on it would take
    Info {
        /// A Hugging Face folder: config.json, tokenizer.json, *.safetensors
        dir: PathBuf,
        #[arg(long, default_value_t = 16)]
        rank: usize,
        /// Rows of a micro-batch
        #[arg(long, default_value_t = 8)]
        batch: usize,
        /// Tokens of a row
        #[arg(long, default_value_t = 512)]
        length: usize,
        /// Threads (default: all)
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Compare logits with a reference made elsewhere
    Verify {
        /// A Hugging Face folder: config.json, tokenizer.json, *.safetensors
        dir: PathBuf,
        /// A LoRA adapter in PEFT's format
        #[arg(long, value_name = "DIR")]
        adapter: Option<PathBuf>,
        /// Safetensors with input_ids and logits, and attention_mask where rows are padded
        #[arg(long, value_name = "FILE")]
        reference: PathBuf,
        /// Largest difference that passes (in proportion for logits above 10)
        #[arg(long, default_value_t = TOLERANCE)]
        tolerance: f64,
    },
    /// Download a model from the Hugging Face hub; goes on where an earlier download was cut off
    Pull {
        /// ORGANIZATION/NAME
        repo: String,
        /// Branch, tag or commit
        #[arg(long, default_value = "main")]
        revision: String,
        /// Folder to download into (default: models/NAME)
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
}

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    match args.what {
        What::Info { dir, rank, batch, length, threads: n } => {
            let shape = Shape { rank, batch, length, threads: n.unwrap_or_else(threads) };
            if [shape.rank, shape.batch, shape.length, shape.threads]
                .iter()
                .any(|n| !(1..=1 << 24).contains(n))
            {
                return Err(Exit::usage(
                    "rank, batch, length and threads are whole numbers from 1 to 16777216",
                ));
            }
            files::folder(&dir).map_err(usage)?;
            let info = ModelInfo::load(&dir, &shape).map_err(usage)?;
            let mut memory = serde_json::to_value(info.memory).unwrap_or_default();
            memory["total"] = info.memory.total().into();
            let value = json!({
                "arch": info.config.arch.name(),
                "parameters": info.parameters,
                "dtype": info.dtype,
                "bytes_on_disk": info.bytes,
                "layers": info.config.layers,
                "hidden": info.config.hidden,
                "heads": info.config.heads,
                "kv_heads": info.config.kv_heads,
                "head_dim": info.config.head_dim,
                "ffn": info.config.ffn,
                "vocab": info.config.vocab,
                "context": info.config.max_positions,
                "adapter_parameters": info.adapter_parameters,
                "memory": memory,
            });
            out.result(&value, || describe(&info, &shape));
            Ok(ExitCode::SUCCESS)
        }
        What::Verify { dir, adapter, reference, tolerance } => {
            files::folder(&dir).map_err(usage)?;
            let decoder = Decoder::load(&dir).map_err(usage)?;
            let adapter = adapter.map(|a| Lora::load_peft(&a, &decoder)).transpose().map_err(usage)?;
            let par = Par::threads(threads());
            let verdict = verify(&decoder, adapter.as_ref(), &reference, tolerance, par).map_err(usage)?;
            out.result(&verdict, || {
                format!(
                    "{}: {} tokens in {} rows; largest difference {:.2e} (passes up to {:.2e}), mean {:.2e}, same likeliest token {:.2}%",
                    if verdict.pass { "pass" } else { "FAIL" },
                    verdict.tokens,
                    verdict.rows,
                    verdict.max_abs_diff,
                    verdict.tolerance,
                    verdict.mean_abs_diff,
                    verdict.argmax_agreement * 100.0,
                )
            });
            Ok(if verdict.pass { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        What::Pull { repo, revision, to } => pull(&repo, &revision, to, out),
    }
}

fn describe(info: &ModelInfo, shape: &Shape) -> String {
    let c = &info.config;
    let mib = |bytes: u64| format!("{:>10.1} MiB", bytes as f64 / f64::from(1 << 20));
    let mut notes = Vec::new();
    if c.tied_embeddings {
        notes.push("tied embeddings".to_owned());
    }
    if let Some(window) = c.sliding_window {
        notes.push(format!("sliding window {window}"));
    }
    match c.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => notes.push(format!("linear RoPE scaling {factor}")),
        RopeScaling::Llama3 { factor, .. } => notes.push(format!("Llama 3 RoPE scaling {factor}")),
    }
    let m = &info.memory;
    format!(
        "{} · {} parameters · {} on disk as {}\n\
         {} layers, hidden {}, {} heads ({} for keys) of {}, ffn {}, vocabulary {}, context {}{}\n\n\
         memory to train LoRA rank {} on all linear layers ({} parameters), {} rows x {} tokens, {} threads, f32:\n  \
         weights     {}\n  adapters    {}\n  gradients   {}\n  optimizer   {}\n  activations {}\n  logits      {}\n  overhead    {}\n  total       {}",
        c.arch.name(),
        count(info.parameters),
        mib(info.bytes).trim_start(),
        info.dtype,
        c.layers,
        c.hidden,
        c.heads,
        c.kv_heads,
        c.head_dim,
        c.ffn,
        c.vocab,
        c.max_positions,
        notes.iter().map(|n| format!(", {n}")).collect::<String>(),
        shape.rank,
        count(info.adapter_parameters),
        shape.batch,
        shape.length,
        shape.threads,
        mib(m.weights),
        mib(m.adapters),
        mib(m.gradients),
        mib(m.optimizer),
        mib(m.activations),
        mib(m.logits),
        mib(m.overhead),
        mib(m.total()),
    )
}

/// 596,049,920 as `596.0M`.
fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1}k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{:.2}B", n as f64 / 1e9),
    }
}

fn pull(repo: &str, revision: &str, to: Option<PathBuf>, out: &Output) -> super::CommandResult {
    let name = repo.rsplit('/').next().unwrap_or(repo);
    let to = to.unwrap_or_else(|| PathBuf::from("models").join(name));
    let hub = |e: HubError| match e {
        HubError::Input(message) => Exit::usage(message),
        HubError::Failed(message) => Exit::failed(message),
    };
    let pull = Pull::from_env(repo, revision, to.clone()).map_err(hub)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut screen = Screen::new(out);
    runtime.block_on(pull.run(&mut |p| screen.show(&p))).map_err(hub)?;
    screen.end();
    // Whole files may still make no model: told now, not at the first run.
    let shape = Shape { rank: 16, batch: 8, length: 512, threads: threads() };
    if let Err(e) = ModelInfo::load(&to, &shape) {
        out.say(&format!("warning: downloaded, but tunebench cannot use it: {e}"));
    }
    let path = to.canonicalize().unwrap_or(to);
    out.result(&json!({ "path": path }), || format!("{}", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Progress on stderr: a bar redrawn in place on a terminal, else a line every tenth and every new file.
struct Screen<'a> {
    out: &'a Output,
    bar: Option<indicatif::ProgressBar>,
    start: Instant,
    /// Bytes that were there at the first call: they say nothing of the speed.
    first: Option<u64>,
    tenth: u64,
}

impl<'a> Screen<'a> {
    fn new(out: &'a Output) -> Self {
        let bar = out.stderr_is_terminal().then(|| {
            let style = indicatif::ProgressStyle::with_template(
                "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
            );
            let bar = indicatif::ProgressBar::new(0);
            bar.set_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()));
            bar
        });
        Self { out, bar, start: Instant::now(), first: None, tenth: 0 }
    }

    fn show(&mut self, p: &Progress<'_>) {
        if let Some(bar) = &self.bar {
            if let Some(trouble) = p.trouble {
                bar.println(format!("{}: {trouble}", p.file));
            }
            bar.set_length(p.total.max(p.done));
            bar.set_message(p.file.to_owned());
            if self.first.is_none() {
                bar.reset_eta();
            }
            self.first.get_or_insert(p.done);
            bar.set_position(p.done);
            return;
        }
        if let Some(trouble) = p.trouble {
            self.out.say(&format!("{}: {trouble}", p.file));
        }
        let first = *self.first.get_or_insert(p.done);
        let tenth = p.done.saturating_mul(10) / p.total.max(1);
        if tenth <= self.tenth {
            return;
        }
        self.tenth = tenth;
        let seconds = self.start.elapsed().as_secs_f64();
        let gained = p.done.saturating_sub(first) as f64;
        let left = if gained > 0.0 { p.total.saturating_sub(p.done) as f64 * seconds / gained } else { 0.0 };
        self.out.say(&format!(
            "{:.1} of {:.1} MB, {:.1} MB/s, {left:.0} s left ({})",
            p.done as f64 / 1e6,
            p.total as f64 / 1e6,
            gained / 1e6 / seconds.max(1e-9),
            p.file
        ));
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short() {
        assert_eq!(
            [0, 999, 1_500, 630_784, 596_049_920, 8_030_261_248].map(count),
            ["0", "999", "1.5k", "630.8k", "596.0M", "8.03B"]
        );
    }
}
