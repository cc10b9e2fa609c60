//! Texts embedded by a model: strata, and the metric `intent`.

use std::fs;
use std::path::Path;

use crate::engine::bench::Bench;

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
