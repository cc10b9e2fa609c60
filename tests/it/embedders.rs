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
fn the_base_model_embeds_by_its_hidden_state_and_what_can_do_neither_is_refused_at_the_launch() {
    let bench = bench("embedder = \"base\"", "");
    let built = bench.json(&["strata", "build", "--k", "2"]);
    let rows: u64 = built["strata"].as_array().unwrap().iter().map(|s| s["rows"].as_u64().unwrap()).sum();
    assert_eq!((rows, kept(&bench, 32)), (60, 60), "{built}");

    let odd = bench.root.join("odd");
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("config.json"), "{\"model_type\": \"t5\"}").unwrap();
    let path = bench.root.join("workspace.toml");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("embedder = \"base\"", "embedder = \"odd\"");
    fs::write(&path, text.replace("[models.base]", "[models.odd]\npath = \"odd\"\n\n[models.base]")).unwrap();
    let refused = bench.run(&["strata", "build"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("the model `odd` cannot embed"), "{said}");
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

/// The numbers of the only embedder's vectors that are kept.
fn kept(bench: &Bench, dimensions: u64) -> u64 {
    let folders: Vec<_> =
        fs::read_dir(bench.state().join("vectors")).unwrap().map(|d| d.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    fs::metadata(folders[0].join("vectors.f16")).unwrap().len() / (2 * dimensions)
}

/// Rows of a run's inputs that are of that part.
fn ids(bench: &Bench, run: &serde_json::Value, part: &str) -> Vec<String> {
    let rows = bench.state().join("runs").join(run["run"].as_str().unwrap()).join("inputs/rows.jsonl");
    let rows = fs::read_to_string(rows).unwrap();
    let rows = rows.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let of_part = rows.filter(|row| row["part"] == part);
    of_part.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// A row's input and gold.
fn text_of(id: &str) -> (String, &'static str) {
    let number: usize = id.trim_start_matches('r').parse().unwrap();
    let team = ["cards", "loans"][number / 2 % 2];
    (format!("the {team} case {number}"), team)
}

/// The store `mine`: these rows with their golds.
fn import(bench: &Bench, rows: &[String]) {
    let line = |id: &String| {
        let (input, answer) = text_of(id);
        serde_json::json!({ "stage": "route", "input": input, "answer": answer }).to_string()
    };
    let file = bench.root.join("mine.jsonl");
    fs::write(&file, rows.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    bench.json(&["examples", "import", file.to_str().unwrap(), "--name", "mine"]);
}

#[test]
fn a_store_by_an_encoder_is_searched_evaluated_and_played_by_it_and_refused_when_it_was_changed() {
    let bench = bench("", "");
    // A folder of its own, to be changed.
    let (path, own) = (bench.root.join("workspace.toml"), bench.root.join("encoder"));
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/encoders/bert");
    fs::create_dir_all(own.join("1_Pooling")).unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "1_Pooling/config.json",
    ] {
        fs::copy(from.join(name), own.join(name)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap().replace(&from.display().to_string(), "encoder");
    fs::write(&path, text).unwrap();
    let wrong = bench.run(&["run", "trajectory", "--set", "embedder=nobody"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.status.code() == Some(2) && said.contains("nobody"), "{said}");

    let run =
        bench.json(&["run", "trajectory", "--set", "shots=1", "--set", "rows=12", "--set", "embedder=mini"]);
    assert_eq!(run["state"], "done", "{run}");
    let artifacts = bench.state().join("runs").join(run["run"].as_str().unwrap()).join("artifacts");
    let model: serde_json::Value =
        serde_json::from_slice(&fs::read(artifacts.join("embedder.json")).unwrap()).unwrap();
    assert_eq!(model["name"], "mini");
    assert!(!artifacts.join("embedder.safetensors").exists());
    let train = ids(&bench, &run, "train");
    import(&bench, &train);
    // The embedder that the settings name, from its first use on.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        format!("{text}\n[tuning.trajectory]\nembedder = \"mini\"\nranking = \"nearest\"\nshots = 1\n"),
    )
    .unwrap();
    let (asked, team) = text_of(&train[3]);
    let found = bench.json(&["examples", "--store", "mine", "search", &asked, "--shots", "3"]);
    let hits = found["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 3, "{found}");
    // The most alike stands last. The small encoder knows few words and no numbers: rows of a team are alike.
    assert_eq!(hits[2][0]["answer"], team, "{found}");
    assert!((hits[2][1]["similarity"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{found}");
    assert!(bench.state().join("imports/examples/mine/embedder.json").is_file());

    let eval = bench.json(&["run", "eval", "--set", "candidate=baseline+mine", "--set", "latency_rows=1"]);
    assert_eq!(eval["state"], "done", "{eval}");
    // Every text once, whoever asked for it.
    let dev = ids(&bench, &run, "dev");
    let all = train.len() + dev.len() + ids(&bench, &eval, "eval").len();
    assert_eq!(kept(&bench, 32), all as u64);
    let spec = bench.state().join("runs").join(eval["run"].as_str().unwrap()).join("spec.json");
    let spec: serde_json::Value = serde_json::from_slice(&fs::read(spec).unwrap()).unwrap();
    assert_eq!(spec["candidate"]["stages"][0]["examples"]["embedder"]["hash"], model["hash"]);
    let row = ids(&bench, &eval, "eval").remove(0);
    let trace = bench.json(&["runs", "trace", eval["run"].as_str().unwrap(), &row]);
    let shown = trace["stages"][0]["examples"].as_array().unwrap();
    assert!(!shown.is_empty() && shown.iter().all(|s| s["similarity"].as_f64().unwrap() > 0.0), "{trace}");
    let played = bench.json(&["play", "baseline+mine", "--input", "where is the loans case"]);
    let answer = &played["answers"][0];
    assert!(answer["output"].is_string() && answer["error"].is_null(), "{played}");

    let config = fs::read_to_string(own.join("config.json")).unwrap();
    fs::write(own.join("config.json"), format!("{config}\n")).unwrap();
    let refused = bench.run(&["examples", "--store", "mine", "search", "x"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(2) && said.contains("`mini`") && said.contains("changed"),
        "{said}"
    );
}

#[test]
fn a_store_by_an_endpoint_is_asked_for_each_text_once_and_an_endpoint_that_refuses_is_named() {
    let with = |server: &Server| {
        let bench = Bench::new();
        let path = bench.root.join("workspace.toml");
        let model =
            format!("[models.far]\nendpoint = \"{}\"\nmodel = \"e\"\n\n[models.base]", server.endpoint());
        let text = fs::read_to_string(&path).unwrap().replace("[models.base]", &model);
        fs::write(&path, format!("{text}\n[tuning.trajectory]\nembedder = \"far\"\nshots = 1\nrows = 12\n"))
            .unwrap();
        bench
    };
    let server = Server::start(vec![Reply::Embed]);
    let far = with(&server);
    let run = far.json(&["run", "trajectory"]);
    assert_eq!(run["state"], "done", "{run}");
    import(&far, &ids(&far, &run, "train"));
    let eval = far.json(&["run", "eval", "--set", "candidate=baseline+mine"]);
    assert_eq!(eval["state"], "done", "{eval}");
    far.json(&["examples", "--store", "mine", "search", "the cards case 2"]);
    assert!(server.asked().iter().all(|asked| asked.path == "/v1/embeddings"));
    let texts: Vec<String> = embedded(&server).concat();
    let mut once = texts.clone();
    once.sort_unstable();
    once.dedup();
    assert!(once.len() > 30 && once.len() == texts.len(), "{} of {}", once.len(), texts.len());

    let refusing = Server::start(vec![Reply::refuse(401, "no such key")]);
    let refused = with(&refusing);
    let run = refused.launch("trajectory", &[]);
    let record = refused.wait_state(&run, "failed");
    let why = record["message"].as_str().unwrap();
    assert!(why.contains("the embedder `far`") && why.contains("401"), "{why}");
}
