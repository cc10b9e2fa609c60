//! Texts embedded by a model: strata, and the metric `intent`.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::engine::bench::{Bench, until};
use crate::server::{Reply, Server};

/// The workspace of the other tests with an encoder beside its model, and what is set for it.
fn bench(data: &str, eval: &str) -> Bench {
    let bench = Bench::new();
    let path = bench.root.join("workspace.toml");
    let encoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/encoders/bert");
    let text = fs::read_to_string(&path).unwrap();
    let text = text
        .replace("dimensions = [", &format!("{data}\ndimensions = ["))
        .replace(
            "[models.base]",
            &format!("[models.mini]\npath = \"{}\"\n\n[models.base]", encoder.display()),
        )
        .replace("metrics = [\"accuracy\"", &format!("{eval}\nmetrics = [\"intent\", \"accuracy\""));
    fs::write(&path, text).unwrap();
    bench
}

#[test]
fn an_encoder_embeds_rows_once_and_answers_are_held_against_golds_by_it() {
    let bench = bench("embedder = \"mini\"", "intent = { embedder = \"mini\" }");
    assert_eq!(bench.json(&["check"])["problems"], serde_json::json!([]));
    let built = bench.json(&["strata", "build", "--k", "2"]);
    let rows: u64 = built["strata"].as_array().unwrap().iter().map(|s| s["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, 60, "{built}");
    let kept = || {
        let folders = fs::read_dir(bench.state().join("vectors")).unwrap();
        let files: Vec<_> = folders.map(|dir| dir.unwrap().path().join("vectors.f16")).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        fs::metadata(&files[0]).unwrap().len()
    };
    let record = 2 * 32;
    assert_eq!(kept(), 60 * record);
    // Nothing is embedded twice; answers and golds are kept beside the rows.
    bench.json(&["strata", "build", "--k", "3"]);
    assert_eq!(kept(), 60 * record);
    let result = bench.json(&["run", "eval"]);
    let intent = result["metrics"]["intent"].as_f64().unwrap_or_else(|| panic!("{result}"));
    assert!((0.0..=1.0).contains(&intent) && kept() > 60 * record, "{result}");
}

#[test]
fn a_model_that_is_no_encoder_embeds_nothing_and_the_launch_says_so() {
    let bench = bench("embedder = \"base\"", "");
    let refused = bench.run(&["strata", "build"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("the model `base` is no encoder"), "{said}");
}

/// Texts that the server was asked to embed, request by request.
fn embedded(server: &Server) -> Vec<Vec<String>> {
    let texts = |body: &serde_json::Value| -> Vec<String> {
        body["input"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
    };
    server.asked().iter().map(|asked| texts(&asked.body)).collect()
}

#[test]
fn a_build_that_was_killed_embeds_only_what_is_missing_and_so_does_one_after_a_change() {
    let rows = 2_000;
    let server = Server::start_until(25, Reply::Embed);
    let bench = Bench::new();
    let path = bench.root.join("workspace.toml");
    let text = fs::read_to_string(&path).unwrap();
    let model = format!(
        "[models.mini]\nendpoint = \"{}\"\nmodel = \"e\"\nmax_in_flight = 1\n\n[models.base]",
        server.endpoint()
    );
    let text = text
        .replace("dimensions = [", "embedder = \"mini\"\ndimensions = [")
        .replace("[models.base]", &model);
    fs::write(&path, text).unwrap();
    let data = |from: usize| -> String {
        (from..from + rows)
            .map(|i| format!("{{\"id\": \"r{i}\", \"text\": \"case number {i}\", \"team\": \"a\", \"channel\": \"chat\"}}\n"))
            .collect()
    };
    fs::write(bench.root.join("data/rows.jsonl"), data(0)).unwrap();
    let run = bench.launch("strata", &["k=4"]);
    // The request after the last that is answered.
    until("the endpoint to be asked", || (server.asked().len() > 25).then_some(()));
    bench.kill_worker(&run);
    server.go_on();
    let before = embedded(&server);
    let first: HashSet<String> = before.iter().take(25).flatten().cloned().collect();
    assert!(first.len() > 500 && first.len() < rows, "{}", first.len());

    let built = bench.json(&["strata", "build", "--k", "4"]);
    assert_eq!(
        built["strata"].as_array().unwrap().iter().map(|s| s["rows"].as_u64().unwrap()).sum::<u64>(),
        rows as u64
    );
    let all = embedded(&server);
    let second: Vec<String> = all[before.len()..].iter().flatten().cloned().collect();
    let again = second.iter().filter(|text| first.contains(*text)).count();
    // The last batch may have been under way.
    assert!(again <= 256 && second.len() <= rows - first.len() + 256, "{again} again of {}", second.len());
    // Every row was embedded, and some of the first run's were not embedded again.
    assert_eq!(first.iter().chain(&second).collect::<HashSet<_>>().len(), rows);

    // Half of the rows are other ones: only those are embedded.
    fs::write(bench.root.join("data/rows.jsonl"), data(rows / 2)).unwrap();
    bench.json(&["strata", "build", "--k", "4"]);
    let third: Vec<String> = embedded(&server)[all.len()..].iter().flatten().cloned().collect();
    assert_eq!(third.len(), rows / 2);
    assert!(third.iter().all(|text| !first.contains(text) && !second.contains(text)));
}
