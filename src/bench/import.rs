//! `tunebench bench import`: how fast and in how much memory rows are indexed, beside a plain read of the same file.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use crate::data;
use crate::machine;
use crate::workspace::Workspace;

/// What is indexed.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    #[arg(long, default_value_t = 1_000_000)]
    rows: usize,
    /// Words of each row's message; 14 make rows of about 190 bytes, 160 of a kilobyte
    #[arg(long, default_value_t = 14)]
    words: usize,
    /// Make the workspace here and leave it, for a peer to read the same file
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub rows: usize,
    pub bytes: u64,
    pub seconds: f64,
    pub rows_per_s: f64,
    pub bytes_per_s: f64,
    /// Highest resident memory of this process.
    pub peak_mib: f64,
    /// The same memory before the import began.
    pub before_mib: f64,
    /// Opening the finished index.
    pub open_ms: f64,
    /// Mean over 1,000 rows at random places.
    pub row_us: f64,
    pub floor: Floor,
}

/// A plain read of the same file, from the same cache.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Floor {
    pub seconds: f64,
    pub bytes_per_s: f64,
}

/// Writes rows of support messages into a workspace and imports them.
///
/// # Errors
/// No rows are asked for, or the folder cannot be made: it must not be there yet.
pub fn run(settings: &Settings) -> anyhow::Result<Measured> {
    anyhow::ensure!(settings.rows > 0, "--rows must be at least 1");
    let temporary = std::env::temp_dir().join(format!("tunebench-bench-import-{}", std::process::id()));
    let dir = settings.keep.as_ref().unwrap_or(&temporary);
    std::fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let result = measure(dir, settings.rows, settings.words);
    if settings.keep.is_none() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    result
}

fn measure(dir: &Path, rows: usize, words: usize) -> anyhow::Result<Measured> {
    let file = dir.join("rows.jsonl");
    generate(&file, rows, words)?;
    std::fs::write(dir.join("answer.md"), "{{ input }}\n")?;
    let toml = "[data]\nsource = \"rows.jsonl\"\ninput = \"{{ message }}\"\ngold = \"team\"\n\
                [models.base]\nendpoint = \"http://127.0.0.1:1/v1\"\nmodel = \"none\"\n\
                [[stage]]\nname = \"answer\"\nmodel = \"base\"\nprompt = \"answer.md\"\n";
    std::fs::write(dir.join(crate::workspace::FILE), toml)?;
    let ws = Workspace::load(dir)?;

    let floor = read(&file)?;
    let peak_mib = || machine::peak_resident().map_or(0.0, |b| b as f64 / f64::from(1 << 20));
    let before_mib = peak_mib();
    let report = data::import(&ws, true, &mut |_, _| {})?;
    anyhow::ensure!(report.rows == rows, "{} of {rows} rows were imported", report.rows);
    let start = Instant::now();
    let set = data::Dataset::open(&ws)?;
    let open_ms = start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let reads = rows.min(1000);
    for i in 0..reads {
        // A stride without a common factor visits rows all over the file.
        set.row(i * 7919 % rows)?;
    }
    let row_us = start.elapsed().as_secs_f64() * 1e6 / reads.max(1) as f64;
    Ok(Measured {
        rows,
        bytes: report.bytes,
        seconds: report.seconds,
        rows_per_s: rows as f64 / report.seconds,
        bytes_per_s: report.bytes as f64 / report.seconds,
        peak_mib: peak_mib(),
        before_mib,
        open_ms,
        row_us,
        floor,
    })
}

fn generate(path: &Path, rows: usize, words: usize) -> anyhow::Result<()> {
    const WORDS: [&str; 16] = [
        "card",
        "transfer",
        "still",
        "waiting",
        "refund",
        "please",
        "account",
        "cannot",
        "login",
        "since",
        "yesterday",
        "charged",
        "twice",
        "address",
        "changed",
        "why",
    ];
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = 1u64;
    let mut next = move |n: usize| {
        // Knuth's MMIX generator; its upper bits are good enough for filler.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for i in 0..rows {
        let text: Vec<&str> = (0..words).map(|_| WORDS[next(16)]).collect();
        let (channel, turns) = (["chat", "mail", "phone"][next(3)], next(9) + 1);
        let team = ["cards", "money", "access", "other"][next(4)];
        let row = serde_json::json!({
            "id": format!("m{i:07}"), "message": text.join(" "), "channel": channel, "turns": turns,
            "customer": next(rows), "team": team,
        });
        serde_json::to_writer(&mut out, &row)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Floor> {
    let mut piece = vec![0; 4 << 20];
    let start = Instant::now();
    let mut file = File::open(path)?;
    let mut bytes = 0u64;
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => bytes += n as u64,
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Floor { seconds, bytes_per_s: bytes as f64 / seconds })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_measurement_imports_what_it_wrote() {
        let measured = super::run(&super::Settings { rows: 2000, words: 14, keep: None }).unwrap();
        assert_eq!(measured.rows, 2000);
        assert!(measured.bytes > 100_000 && measured.floor.bytes_per_s > 0.0);
    }
}
