//! `tunebench bench strata`: a strata run over generated rows, with the time of each phase and the peak of memory.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use crate::domain::event::EventBody;
use crate::domain::keys::Keys;
use crate::domain::report::RunInputs;
use crate::domain::report::listener::Listener;
use crate::domain::rng::SplitMix64;
use crate::domain::row::RunRow;
use crate::domain::run::{Job, RUN_FORMAT, RunSpec};
use crate::domain::settings::StrataSettings;
use crate::machine;
use crate::strata::build;
use crate::worker::folder::RunFolder;

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: usize,
    /// Words of a row; 150 are about 1,000 bytes
    #[arg(long, default_value_t = 150)]
    pub words: usize,
    /// Number of clusters (default: chosen)
    #[arg(long)]
    pub k: Option<usize>,
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub rows: usize,
    /// Of the run's rows.
    pub bytes: u64,
    pub clusters: f64,
    pub seconds: f64,
    /// Seconds of each phase, in their order.
    pub phases: Vec<(String, f64)>,
    /// Highest resident memory of this process; mapped vectors are in it.
    pub peak_mib: f64,
    pub before_mib: f64,
    /// The vectors alone, as f16: rows x dimensions x 2 bytes, mapped.
    pub floor_mib: f64,
}

/// # Errors
/// No room for the rows, or a run that failed.
pub fn run(settings: &Settings) -> anyhow::Result<Measured> {
    let dir = std::env::temp_dir().join(format!("tunebench-bench-strata-{}", std::process::id()));
    std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let result = measure(&dir, settings);
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    result
}

fn measure(dir: &Path, settings: &Settings) -> anyhow::Result<Measured> {
    let folder = RunFolder::new(dir.to_owned());
    let made = Texts::new();
    folder.write_rows(&mut |write| {
        (0..settings.rows).try_for_each(|at| write(&made.row(at, settings.words)))
    })?;
    let bytes = std::fs::metadata(folder.rows())?.len();
    let strata = StrataSettings { k: settings.k, ..StrataSettings::default() };
    let spec = RunSpec {
        format: RUN_FORMAT,
        id: "strata-1".into(),
        workspace: "bench".into(),
        created_ms: 0,
        seed: strata.seed,
        threads: settings.threads,
        job: Job::Strata(strata.clone()),
        candidate: None,
        settings: Vec::new(),
        past: None,
        from: None,
        cache: Default::default(),
        sets: Vec::new(),
        rows: Vec::new(),
    };
    let inputs = RunInputs {
        dir: dir.to_owned(),
        spec,
        rows: Vec::new(),
        resume_from: None,
        outcomes: Vec::new(),
        keys: Keys::default(),
        cache: None,
        sets: Vec::new(),
        history: Vec::new(),
    };
    let peak_mib = || machine::peak_resident().map_or(0.0, |b| b as f64 / f64::from(1 << 20));
    let before_mib = peak_mib();
    let mut clock = Clock { began: Instant::now(), phases: Vec::new() };
    let began = Instant::now();
    let result = build::run(&strata, &inputs, &mut Listener(|body| clock.see(body)))?;
    let seconds = began.elapsed().as_secs_f64();
    clock.close();
    let floor_mib = (settings.rows * crate::embed::DIMENSIONS * 2) as f64 / f64::from(1 << 20);
    let clusters = result.metrics.get("clusters").copied().unwrap_or_default();
    let (rows, phases) = (settings.rows, clock.phases);
    Ok(Measured { rows, bytes, clusters, seconds, phases, peak_mib: peak_mib(), before_mib, floor_mib })
}

/// Texts of many matters: each has words of its own among the common ones.
struct Texts {
    words: Vec<String>,
}

const MATTERS: usize = 40;
const WORDS: usize = 4_000;

impl Texts {
    fn new() -> Self {
        let mut rng = SplitMix64::new(3);
        let syllables = ["ka", "re", "to", "mi", "su", "len", "dor", "pa", "vi", "gan", "shu", "tel"];
        let word = |_| (0..2 + rng.below(3)).map(|_| syllables[rng.below(syllables.len())]).collect();
        Self { words: (0..WORDS).map(word).collect() }
    }

    fn row(&self, at: usize, words: usize) -> RunRow {
        let mut rng = SplitMix64::stream(7, at as u64);
        let matter = rng.below(MATTERS);
        let mut input = String::with_capacity(words * 8);
        for _ in 0..words {
            // A third of the words are the matter's own; common ones follow Zipf's law roughly.
            let word = if rng.below(3) == 0 {
                matter * 50 + rng.below(50)
            } else {
                (rng.unit().powi(3) * WORDS as f64) as usize
            };
            input.push_str(&self.words[word.min(WORDS - 1)]);
            input.push(' ');
        }
        RunRow {
            id: format!("m{at:07}"),
            hash: String::new(),
            part: None,
            stratum: None,
            fields: serde_json::Map::new(),
            input,
            turns: Vec::new(),
            gold: None,
        }
    }
}

/// Times the phases.
struct Clock {
    began: Instant,
    phases: Vec<(String, f64)>,
}

impl Clock {
    fn see(&mut self, body: EventBody) {
        if let EventBody::Progress { phase, .. } = body
            && self.phases.last().is_none_or(|(last, _)| *last != phase)
        {
            self.close();
            self.began = Instant::now();
            self.phases.push((phase, 0.0));
        }
    }

    fn close(&mut self) {
        if let Some((_, seconds)) = self.phases.last_mut() {
            *seconds = self.began.elapsed().as_secs_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_is_measured_phase_by_phase() {
        let found = run(&Settings { rows: 300, words: 12, k: Some(4), threads: 1 }).unwrap();
        assert_eq!((found.rows, found.clusters), (300, 4.0));
        let phases: Vec<&str> = found.phases.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(phases, ["embedding", "clustering", "naming", "duplicates", "map"]);
    }
}
