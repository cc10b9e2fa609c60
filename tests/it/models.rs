//! `generate` and `model`, on the small models made by transformers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn tunebench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tunebench")).args(args).output().unwrap()
}

/// The last line of stdout, and the exit code.
fn json(args: &[&str]) -> (Value, Option<i32>) {
    let out = tunebench(&[args, &["--json"][..]].concat());
    let stdout = String::from_utf8(out.stdout).unwrap();
    let last = stdout.lines().last().unwrap_or_default();
    (serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {stdout}")), out.status.code())
}

#[test]
fn generate_writes_what_transformers_writes() {
    for name in ["llama", "mistral", "qwen2", "qwen3"] {
        let dir = fixture(name);
        let text = std::fs::read_to_string(dir.join("reference.json")).unwrap();
        let reference: Value = serde_json::from_str(&text).unwrap();
        for answer in reference["answers"].as_array().unwrap() {
            let prompt = answer["text"].as_str().unwrap();
            let args = [
                "generate",
                "--model",
                dir.to_str().unwrap(),
                "--prompt",
                prompt,
                "--max-tokens",
                "24",
                "--temperature",
                "0",
            ];
            let (value, code) = json(&args);
            assert_eq!(code, Some(0));
            assert_eq!(value["text"], answer["decoded"], "{name}");
            assert_eq!(
                value["tokens"].as_u64().unwrap() as usize,
                answer["greedy"].as_array().unwrap().len()
            );
            assert!(value["ttft_ms"].as_f64().unwrap() > 0.0 && value["tpot_ms"].as_f64().unwrap() > 0.0);
            let plain = String::from_utf8(tunebench(&args).stdout).unwrap();
            let shown: String = answer["decoded"]
                .as_str()
                .unwrap()
                .chars()
                .filter(|c| !c.is_control() || "\n\t".contains(*c))
                .collect();
            assert_eq!(plain.trim_end_matches('\n'), shown.trim_end_matches('\n'), "{name}");
        }
    }
}

#[test]
fn raw_prompts_and_seeds_make_a_difference() {
    let dir = fixture("qwen2");
    let ask = |more: &[&str]| {
        let base =
            ["generate", "--model", dir.to_str().unwrap(), "--prompt", "My card", "--max-tokens", "12"];
        json(&[&base[..], more].concat()).0["text"].clone()
    };
    assert_ne!(ask(&[]), ask(&["--raw"]));
    let draw = |seed: &str| ask(&["--temperature", "1.5", "--top-p", "0.9", "--top-k", "50", "--seed", seed]);
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn answers_take_the_form_that_the_flags_say() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/demo/model");
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    std::fs::write(&schema, r#"{"type": "object", "properties": {"n": {"type": "integer", "maximum": 99, "minimum": 0}}, "required": ["n"], "additionalProperties": false}"#).unwrap();
    let base = ["generate", "--model", demo.to_str().unwrap(), "--prompt", "My card", "--max-tokens", "40"];
    let ask = |more: &[&str]| {
        let (value, code) = json(&[&base[..], more].concat());
        assert_eq!(code, Some(0), "{more:?}: {value}");
        value
    };
    let labels = ask(&["--labels", "cash,card,card lost"]);
    let all = labels["labels"].as_array().unwrap();
    let sum: f64 = all.iter().map(|l| l["probability"].as_f64().unwrap()).sum();
    assert!(all.len() == 3 && (sum - 1.0).abs() < 1e-9 && labels["text"] == all[0]["label"], "{labels}");
    let value = ask(&["--json-schema", schema.to_str().unwrap()]);
    let made: Value = serde_json::from_str(value["text"].as_str().unwrap()).unwrap();
    assert!(made["n"].as_u64().unwrap() < 100 && value["finish"] == "stop", "{value}");
    let word = ask(&["--regex", "(yes|no)!"])["text"].as_str().unwrap().to_owned();
    assert!(["yes!", "no!"].contains(&word.as_str()), "{word}");
    let told =
        ask(&["--logprobs", "2", "--min-p", "0.1", "--repetition-penalty", "1.2", "--temperature", "0.5"]);
    let tokens = told["logprobs"].as_array().unwrap();
    assert!(!tokens.is_empty() && tokens.iter().all(|t| t["top"].as_array().unwrap().len() == 2), "{told}");
    let whole = ask(&[])["text"].as_str().unwrap().to_owned();
    let stop: String = whole.chars().skip(1).take(2).collect();
    let short = ask(&["--stop", "never", "--stop", &stop]);
    assert_eq!(short["text"].as_str().unwrap(), whole.split(&stop).next().unwrap());
    for (more, says) in [
        (&["--regex", "("][..], "unclosed group"),
        (&["--json-schema", "/no/such.json"], "/no/such.json"),
        (&["--stop", ""], "empty stop"),
        (&["--min-p", "2"], "min_p"),
        (&["--regex", "a", "--labels", "a,b"], ""),
    ] {
        let out = tunebench(&[&base[..], more].concat());
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(2) && said.contains(says), "{more:?}: {said}");
    }
}

#[test]
fn bad_input_ends_with_code_2_and_says_what_is_wrong() {
    let dir = fixture("qwen2");
    let model = dir.to_str().unwrap();
    let long = "card ".repeat(300);
    let reference = fixture("llama").join("reference.safetensors");
    let cases: [(&[&str], &str); 7] = [
        (&["generate", "--model", "/no/such", "--prompt", "x"], "/no/such"),
        (&["generate", "--model", model, "--prompt", &long], "context"),
        (&["generate", "--model", model, "--prompt", "x", "--temperature=-1"], "temperature"),
        (&["generate", "--model", model, "--prompt", "x", "--adapter", "/no/adapter"], "/no/adapter"),
        (&["model", "info", "/no/such"], "/no/such"),
        (&["model", "verify", model, "--reference", reference.to_str().unwrap()], "`logits`"),
        (&["model", "pull", "../x"], "ORGANIZATION/NAME"),
    ];
    for (args, say) in cases {
        let (value, code) = json(args);
        assert_eq!(code, Some(2), "{args:?}");
        assert!(value["error"].as_str().unwrap().contains(say), "{args:?}: {value}");
    }
}

#[test]
fn a_damaged_model_names_file_and_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        for entry in std::fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    };
    copy("mistral");
    let say =
        || json(&["model", "info", dir.path().to_str().unwrap()]).0["error"].as_str().unwrap().to_owned();
    let shard = dir.path().join("model-00002-of-00003.safetensors");
    let whole = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    assert!(say().contains("model-00002-of-00003.safetensors"));
    std::fs::remove_file(&shard).unwrap();
    assert!(say().contains("model-00002-of-00003.safetensors") && say().contains("missing"));
    std::fs::write(&shard, &whole).unwrap();
    let config = dir.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"intermediate_size\": 40", "\"intermediate_size\": 41")).unwrap();
    assert!(say().contains("mlp") && say().contains("[41, 24]"), "{}", say());
}

#[test]
fn info_reckons_the_memory_by_part() {
    let (value, code) =
        json(&["model", "info", fixture("qwen3").to_str().unwrap(), "--rank", "8", "--threads", "2"]);
    assert_eq!((code, value["arch"].as_str()), (Some(0), Some("qwen3")));
    let memory = value["memory"].as_object().unwrap();
    let total = memory["total"].as_u64().unwrap();
    assert_eq!(
        memory.iter().filter(|(k, _)| *k != "total").map(|(_, v)| v.as_u64().unwrap()).sum::<u64>(),
        total
    );
    assert_eq!(memory["weights"].as_u64().unwrap(), 4 * value["parameters"].as_u64().unwrap());
}

#[test]
fn verify_passes_its_own_reference_and_fails_with_code_1_on_another_models() {
    for name in ["llama", "mistral", "qwen2", "qwen3"] {
        let reference = fixture(name).join("reference.safetensors");
        let args =
            ["model", "verify", fixture(name).to_str().unwrap(), "--reference", reference.to_str().unwrap()]
                .map(String::from);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (value, code) = json(&args);
        assert_eq!((code, &value["pass"]), (Some(0), &Value::Bool(true)), "{name}");
        assert!(value["max_abs_diff"].as_f64().unwrap() < 1e-4, "{name}: {value}");
        assert_eq!(value["argmax_agreement"], 1.0);
    }
    // The same model with another base of its rotary embedding.
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("qwen3")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("config.json"), config.replace("1000000.0", "10000.0")).unwrap();
    let reference = fixture("qwen3").join("reference.safetensors");
    let (value, code) =
        json(&["model", "verify", dir.path().to_str().unwrap(), "--reference", reference.to_str().unwrap()]);
    assert_eq!((code, &value["pass"]), (Some(1), &Value::Bool(false)));
}
