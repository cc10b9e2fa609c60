//! What a training run will take, before it takes it.

use serde::{Deserialize, Serialize};

use super::words::{bytes, duration};

/// Bytes by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The base model as it is computed with.
    pub weights: u64,
    pub adapters: u64,
    /// One for each thread that takes rows of its own.
    pub gradients: u64,
    /// AdamW's two moments.
    pub optimizer: u64,
    /// What the backward wants of the forward, and the buffers between operations.
    pub activations: u64,
    /// One chunk of the output layer for each thread.
    pub logits: u64,
    /// The allocator's slack and the matrix products' packed copies: see [`Memory::with_overhead`].
    #[serde(default)]
    pub overhead: u64,
}

impl Memory {
    pub const fn total(&self) -> u64 {
        self.weights
            + self.adapters
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.overhead
    }

    /// With what comes on top of the buffers, as measured over eight shapes from 1 MiB to 650 MiB (`benches/README.md`,
    /// "Reckoned and taken").
    #[must_use]
    pub const fn with_overhead(mut self) -> Self {
        self.overhead = 0;
        self.overhead = (20 << 20) + self.total() / 20;
        self
    }
}

/// What earlier runs on this machine teach about the next one: medians over the workspace's finished training runs
/// on a device of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastRuns {
    /// Number of runs.
    pub runs: u64,
    /// Peak memory over what was reckoned.
    pub memory: f64,
    /// Floating-point operations per second while training, evaluations and checkpoints included.
    pub flops_per_s: f64,
}

/// The names of a run's figures that [`PastRuns`] is made of.
pub mod figures {
    pub const ESTIMATED_MIB: &str = "estimated_mib";
    pub const RECKONED_MIB: &str = "reckoned_mib";
    pub const PEAK_MIB: &str = "peak_mib";
    pub const ESTIMATED_SECONDS: &str = "estimated_seconds";
    pub const TRAIN_SECONDS: &str = "train_seconds";
    pub const FLOPS_PER_S: &str = "flops_per_s";
    /// There where a GPU trained: what it teaches is of GPUs.
    pub const ON_GPU: &str = "on_gpu";
}

/// What was reckoned of a run before its model was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preflight {
    pub memory: Memory,
    /// The whole process at its peak, in bytes, as past runs teach.
    pub peak: u64,
    /// Bytes that were there to be taken.
    pub available: u64,
    /// Layers whose activations are computed again in the backward, of all layers.
    pub recomputed: (u64, u64),
    pub steps: u64,
    /// Tokens through the model, all steps and evaluations together.
    pub tokens: u64,
    /// Of training with its evaluations; none before a run on this machine told its speed.
    pub eta_ms: Option<u64>,
    /// PastRuns runs that the estimates lean on.
    pub past_runs: u64,
    /// The GPU whose memory this is; none: the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl Preflight {
    /// One line for logs.
    pub fn line(&self) -> String {
        let m = &self.memory;
        let parts = [
            ("weights", m.weights),
            ("adapters", m.adapters),
            ("gradients", m.gradients),
            ("optimizer", m.optimizer),
            ("activations", m.activations),
            ("logits", m.logits),
            ("overhead", m.overhead),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|p| p.1 > 0).map(|(name, n)| format!("{name} {}", bytes(*n))).collect();
        let device = self.device.as_ref().map_or_else(String::new, |device| format!(" on {device}"));
        let mut line = format!(
            "preflight: about {} of {} free{device} ({})",
            bytes(self.peak),
            bytes(self.available),
            parts.join(", ")
        );
        if self.recomputed.0 > 0 {
            line += &format!(
                "; activations of {} of {} layers are made again",
                self.recomputed.0, self.recomputed.1
            );
        }
        line += &format!("; {} steps, {} tokens", self.steps, self.tokens);
        match self.eta_ms {
            Some(ms) => line += &format!(", about {} by {} past runs", duration(ms), self.past_runs),
            None => line += ", no past run tells how long",
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_a_person_asks() {
        let memory =
            Memory { weights: 3 << 30, adapters: 20 << 20, activations: 700 << 20, ..Memory::default() };
        let mut preflight = Preflight {
            memory,
            peak: 4 << 30,
            available: 20 << 30,
            recomputed: (3, 28),
            steps: 400,
            tokens: 1_000_000,
            eta_ms: Some(125_000),
            past_runs: 2,
            device: None,
        };
        assert_eq!(
            preflight.line(),
            "preflight: about 4.0 GiB of 20.0 GiB free (weights 3.0 GiB, adapters 20 MiB, activations 700 MiB); \
             activations of 3 of 28 layers are made again; 400 steps, 1000000 tokens, about 2 min 5 s by 2 past runs"
        );
        preflight.eta_ms = None;
        assert!(preflight.line().ends_with("no past run tells how long"));
        assert_eq!(memory.total(), (3 << 30) + (720 << 20));
    }
}
