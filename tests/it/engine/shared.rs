//! Several runs over one base: in one worker, and each as if it were alone.

use std::collections::BTreeMap;

use tunebench::domain::event::EventBody;

use super::bench::{Bench, until};

/// Bits of loss, learning rate and gradient norm by step, of the last time that each was taken; and the dev losses.
fn curve(bench: &Bench, run: &str) -> BTreeMap<(u64, bool), [u64; 3]> {
    let event = |body| match body {
        EventBody::Step { step, loss, lr, grad_norm, .. } => {
            Some(((step, false), [loss, lr, grad_norm].map(f64::to_bits)))
        }
        EventBody::Eval { step, loss: Some(loss), .. } => Some(((step, true), [loss.to_bits(), 0, 0])),
        _ => None,
    };
    bench.events(run).into_iter().filter_map(|e| event(e.body)).collect()
}

fn adapter(bench: &Bench, run: &str) -> Vec<u8> {
    let path = bench.state().join("runs").join(run).join("artifacts/adapter/adapter_model.safetensors");
    std::fs::read(path).unwrap()
}

/// Launch a sweep and leave it to itself; its runs.
fn sweep(bench: &Bench, args: &[&str]) -> Vec<String> {
    let mut all = vec!["run", "train", "--detach", "--set", "epochs=100000"];
    all.extend(args);
    let swept = bench.json(&all);
    let runs = swept["runs"].as_array().unwrap_or_else(|| panic!("no sweep was launched: {swept}"));
    runs.iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect()
}

/// The worker that has all of the runs.
fn shared_worker(bench: &Bench, runs: &[&str]) -> i32 {
    until("one worker to have all runs", || {
        let workers: Option<Vec<i32>> = runs.iter().map(|run| bench.worker(run)).collect();
        let workers = workers?;
        workers.iter().all(|w| *w == workers[0]).then_some(workers[0])
    })
}

#[test]
fn runs_of_a_sweep_share_a_worker_and_each_is_bit_for_bit_what_it_is_alone() {
    let bench = Bench::new();
    let rates = "learning_rate=1e-3,1e-2";
    let runs = sweep(
        &bench,
        &["--set", "max_steps=150", "--set", "eval_every=50", "--sweep", "rank=2,3", "--sweep", rates],
    );
    assert_eq!(runs.len(), 4);
    shared_worker(&bench, &runs.iter().map(String::as_str).collect::<Vec<_>>());
    for run in &runs {
        let record = bench.wait_state(run, "done");
        assert_eq!(record["group"]["name"], "sweep-1", "{record}");
        assert!(record["metrics"]["accuracy"].is_number(), "{record}");
    }
    // With others in its process, what it took of memory says nothing about the next run.
    assert!(bench.record(&runs[3])["metrics"]["peak_mib"].is_null());
    for (run, set) in runs.iter().zip([(2, "1e-3"), (2, "1e-2"), (3, "1e-3"), (3, "1e-2")]) {
        let (rank, rate) = (format!("rank={}", set.0), format!("learning_rate={}", set.1));
        let settings = ["max_steps=150", "eval_every=50", "epochs=100000", &rank, &rate];
        let alone = bench.launch("train", &settings);
        bench.wait_state(&alone, "done");
        assert_eq!(curve(&bench, run), curve(&bench, &alone), "{run}: {set:?}");
        assert_eq!(adapter(&bench, run), adapter(&bench, &alone), "{run}: {set:?}");
    }
}

#[test]
fn runs_leave_and_join_a_shared_worker_and_a_killed_one_interrupts_all_of_them() {
    let bench = Bench::new();
    let alone = bench.train(300);
    bench.wait_state(&alone, "done");
    let runs = sweep(&bench, &["--set", "max_steps=1000000", "--sweep", "rank=2,3,4"]);
    let [a, b, c] = &runs[..] else { panic!("{runs:?}") };
    let worker = shared_worker(&bench, &[a, b, c]);
    bench.wait_steps(c, 5);
    // The first, for which the process was started, leaves; the others go on in it.
    assert!(bench.run(&["runs", "stop", a]).status.success());
    bench.wait_state(a, "stopped");
    let at = bench.steps(b);
    bench.wait_steps(b, at + 5);
    assert!(bench.run(&["runs", "pause", b]).status.success());
    bench.wait_state(b, "paused");
    let at = bench.steps(c);
    bench.wait_steps(c, at + 5);
    // Another joins in mid-way, and the stopped one comes back.
    let joined = bench.train(300);
    assert!(bench.run(&["runs", "resume", a]).status.success());
    assert_eq!(shared_worker(&bench, &[a, b, c, &joined]), worker);
    assert!(bench.run(&["runs", "resume", b]).status.success());
    bench.wait_steps(&joined, 12);
    bench.kill_worker(&joined);
    for run in [a, b, c, &joined] {
        let record = bench.wait_state(run, "interrupted");
        assert!(record["message"].as_str().unwrap_or_default().contains("signal 9"), "{record}");
    }
    for run in [&joined, c] {
        assert!(bench.run(&["runs", "resume", run]).status.success());
    }
    assert_ne!(shared_worker(&bench, &[&joined, c]), worker);
    assert!(bench.run(&["runs", "cancel", c]).status.success());
    bench.wait_state(c, "cancelled");
    bench.wait_state(&joined, "done");
    assert_eq!(curve(&bench, &joined), curve(&bench, &alone));
    assert_eq!(adapter(&bench, &joined), adapter(&bench, &alone));
}

#[test]
fn an_engine_that_comes_back_follows_all_runs_of_a_worker() {
    let bench = Bench::new();
    let runs = sweep(&bench, &["--set", "max_steps=1000000", "--sweep", "seed=1,2"]);
    let [a, b] = &runs[..] else { panic!("{runs:?}") };
    let worker = shared_worker(&bench, &[a, b]);
    bench.kill_engine();
    assert!(bench.run(&["runs", "stop", a]).status.success());
    bench.wait_state(a, "stopped");
    assert!(bench.run(&["runs", "resume", a]).status.success());
    assert_eq!(shared_worker(&bench, &[a, b]), worker);
    bench.kill_worker(b);
    for run in [a, b] {
        bench.wait_state(run, "interrupted");
    }
}

#[test]
fn a_run_that_trains_every_weight_waits_for_a_worker_of_its_own() {
    let bench = Bench::new();
    let first = bench.train(1_000_000);
    bench.wait_steps(&first, 2);
    let full = bench.launch("train", &["method=full", "max_steps=3", "learning_rate=1e-4"]);
    let behind = bench.train(3);
    let record = until("the run to say that it waits", || {
        let record = bench.record(&full);
        record["message"].as_str().is_some_and(|m| m.contains("waits for the CPU")).then_some(record)
    });
    assert_eq!(record["state"], "queued");
    assert_eq!(bench.run_state(&behind), "queued", "nobody overtakes it");
    assert!(bench.run(&["runs", "stop", &first]).status.success());
    bench.wait_state(&full, "done");
    bench.wait_state(&behind, "done");
}

#[test]
fn a_hopeless_run_of_a_sweep_is_stopped_and_kept_and_says_why() {
    let bench = Bench::new();
    let set = ["--set", "max_steps=1000000", "--set", "eval_every=10", "--set", "fixed_rows=0"];
    let sweep_args = ["--sweep", "learning_rate=1e-2,5e-3,1e-9", "--drop-hopeless"];
    let runs = sweep(&bench, &[&set[..], &sweep_args[..]].concat());
    let record = bench.wait_state(&runs[2], "stopped");
    let said = record["message"].as_str().unwrap_or_default();
    assert!(said.contains("dropped as hopeless") && said.contains("2 other runs"), "{record}");
    assert!(record["metrics"]["accuracy"].is_number() && record["resumable"] == true, "{record}");
    for run in &runs[..2] {
        assert_eq!(bench.run_state(run), "running");
        assert!(bench.run(&["runs", "cancel", run]).status.success());
        bench.wait_state(run, "cancelled");
    }
}

#[test]
fn a_sweep_is_followed_to_its_end_or_refused_as_a_whole() {
    let bench = Bench::new();
    let args = ["run", "train", "--set", "max_steps=4", "--sweep", "rank=2,4"];
    let output = bench.run(&args);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("sweep-1"), "{said}");
    let row = said.lines().find(|line| line.starts_with("train-2")).unwrap_or_default();
    assert!(row.contains("done") && row.split_whitespace().any(|cell| cell == "4"), "{said}");
    for (args, says) in [
        (["run", "train", "--sweep", "rank=2,0"], "rank"),
        (["run", "train", "--sweep", "rank=2,2"], "twice"),
        (["run", "eval", "--sweep", "rank=2,4"], "only training runs"),
        (["run", "train", "--sweep", "rank"], "KEY=VALUE"),
    ] {
        let refused = bench.run(&args);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && said.contains(says), "{args:?}: {said}");
    }
    assert_eq!(bench.json(&["runs"])["runs"].as_array().unwrap().len(), 3, "the two and the strata run");
}
