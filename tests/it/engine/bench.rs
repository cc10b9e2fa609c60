//! A workspace of its own for each test, with everything that its processes need; nothing outlives it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tunebench::domain::event::{Event, EventBody};
use tunebench::store::lines;

/// Long enough for a busy machine; tests that pass never wait for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Wait until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub struct Bench {
    temp: tempfile::TempDir,
    pub root: PathBuf,
}

impl Bench {
    pub fn new() -> Self {
        Self::at("w")
    }

    /// The workspace at a path of one's own under a temporary folder.
    pub fn at(name: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(root.join("data")).unwrap();
        fs::create_dir_all(temp.path().join("tmp")).unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
        let toml = format!(
            r#"
[workspace]
name = "tickets"
task = "classification"

[data]
source = ["data/rows.jsonl"]
input = "{{{{ text }}}}"
gold = "team"
dimensions = ["channel"]

[data.split]
eval = 0.3
dev = 0.2
reserve = 0.1

[models.base]
path = "{}"

[[stage]]
name = "route"
model = "base"
output = "label"
max_tokens = 2

[eval]
primary = "accuracy"
metrics = ["accuracy", "format_error_rate"]
latency_rows = 2

[tuning.train]
rank = 2
alpha = 4
batch_size = 2
learning_rate = 1e-3
eval_every = 50
checkpoint_every = 10
fixed_rows = 1
"#,
            model.display()
        );
        fs::write(root.join("workspace.toml"), toml).unwrap();
        let mut rows = String::new();
        for i in 0..60 {
            let (channel, team) = (["chat", "mail"][i % 2], ["cards", "loans"][i / 2 % 2]);
            rows.push_str(&format!(
                "{{\"id\": \"r{i:03}\", \"text\": \"the {team} case {i}\", \"team\": \"{team}\", \"channel\": \"{channel}\"}}\n"
            ));
        }
        fs::write(root.join("data/rows.jsonl"), rows).unwrap();
        Self { temp, root }
    }

    pub fn state(&self) -> PathBuf {
        self.root.join(".tunebench")
    }

    /// The binary, with locks and sockets apart from everybody else's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunebench"));
        command
            .args(["-C", &self.root.display().to_string()])
            .args(args)
            .env("TMPDIR", self.temp.path().join("tmp"))
            .env("TUNEBENCH_IDLE_SECS", "2")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Run with `--json`; the object in the last line of stdout.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let output = self.run(&all);
        let stdout = String::from_utf8(output.stdout).unwrap();
        let last = stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| {
            panic!("{args:?} printed no JSON ({e}): {stdout:?} {}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Start a run and leave it to itself; its id.
    pub fn launch(&self, kind: &str, set: &[&str]) -> String {
        let mut args = vec!["run", kind, "--detach"];
        for pair in set {
            args.extend(["--set", pair]);
        }
        let value = self.json(&args);
        value["run"].as_str().unwrap_or_else(|| panic!("no run was launched: {value}")).to_owned()
    }

    /// A training run with this many steps.
    pub fn train(&self, steps: u32) -> String {
        self.launch("train", &[&format!("max_steps={steps}"), "epochs=100000"])
    }

    pub fn record(&self, run: &str) -> Value {
        self.json(&["runs", "show", run])
    }

    pub fn run_state(&self, run: &str) -> String {
        self.record(run)["state"].as_str().unwrap_or_default().to_owned()
    }

    pub fn wait_state(&self, run: &str, state: &str) -> Value {
        until(&format!("{run} to be {state}"), || {
            let record = self.record(run);
            let now = record["state"].as_str().unwrap_or_default();
            assert!(now != "failed" || state == "failed", "{run} failed: {record}");
            (now == state).then_some(record)
        })
    }

    pub fn events(&self, run: &str) -> Vec<Event> {
        let path = self.state().join("runs").join(run).join("events.jsonl");
        lines::read_all(&path).unwrap().0
    }

    /// Steps done so far.
    pub fn steps(&self, run: &str) -> u64 {
        let step = |e: &Event| if let EventBody::Step { step, .. } = e.body { Some(step) } else { None };
        self.events(run).iter().filter_map(step).max().unwrap_or(0)
    }

    pub fn wait_steps(&self, run: &str, steps: u64) {
        until(&format!("{run} to come to step {steps}"), || (self.steps(run) >= steps).then_some(()));
    }

    /// The process in a lock file, if it lives.
    fn holder(path: &Path) -> Option<i32> {
        if !tunebench::store::files::Lock::is_held(path) {
            return None;
        }
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    pub fn engine(&self) -> Option<i32> {
        Self::holder(&self.state().join("engine.lock"))
    }

    pub fn worker(&self, run: &str) -> Option<i32> {
        Self::holder(&self.state().join("runs").join(run).join("lock"))
    }

    /// `kill -9`, and wait until the lock is free.
    pub fn kill_engine(&self) {
        let pid = self.engine().expect("an engine lives");
        kill(pid);
        until("the engine to be dead", || self.engine().is_none().then_some(()));
    }

    pub fn kill_worker(&self, run: &str) {
        let pid = until("a worker", || self.worker(run));
        kill(pid);
        until("the worker to be dead", || self.worker(run).is_none().then_some(()));
    }
}

pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The engine first, so that it starts nothing new.
        if let Some(pid) = self.engine() {
            kill(pid);
        }
        let Ok(runs) = fs::read_dir(self.state().join("runs")) else { return };
        for run in runs.flatten() {
            if let Some(pid) = Self::holder(&run.path().join("lock")) {
                kill(pid);
            }
        }
    }
}
