use std::fs;
use std::path::PathBuf;

use super::*;
use crate::domain::settings::{Init, Method, Targets, TrainSettings};
use crate::model::config::Arch;
use crate::model::lora::check_targets;
use crate::model::oracle::small;
use crate::ops::Par;

fn fixture(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft_adapter").join(case)
}

fn worst(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn an_adapter_of_peft_gives_the_logits_of_peft() {
    for case in ["all", "patterns", "bf16"] {
        let dir = fixture(case);
        let decoder = Decoder::load(&dir.join("base")).unwrap();
        let lora = Lora::load_peft(&dir.join("adapter"), &decoder).unwrap();
        let reference = Weights::open_file(&dir.join("logits.safetensors")).unwrap();
        let tokens: Vec<u32> =
            reference.read_ints("input_ids").unwrap().1.iter().map(|id| *id as u32).collect();
        let wanted = reference.read_vec("logits", &[tokens.len(), 48]).unwrap();
        let off = worst(&decoder.logits_all(&tokens, Some(&lora), Par::SERIAL).unwrap(), &wanted);
        assert!(off < 1e-4, "{case}: off by {off}");
        let without = worst(&decoder.logits_all(&tokens, None, Par::SERIAL).unwrap(), &wanted);
        assert!(without > 0.1, "{case}: the adapter does nothing");
    }
}

#[test]
fn a_written_adapter_is_read_back_the_same() {
    for arch in Arch::ALL {
        let decoder = small(arch, 3);
        for targets in [
            "all-linear",
            "q_proj",
            "mlp.*",
            "model.layers.*.self_attn.v_proj",
            "layers.1.*",
            "model.layers.2.mlp.down_proj",
        ] {
            let mut lora = Lora::init(&decoder, 3, 2.5, &Targets::One(targets.into()), 4).unwrap();
            for (i, value) in lora.values_mut().iter_mut().enumerate() {
                *value += (i as f32).sin();
            }
            let dir = tempfile::tempdir().unwrap();
            lora.save_peft(dir.path(), Some("base")).unwrap();
            assert_eq!(Lora::load_peft(dir.path(), &decoder).unwrap(), lora, "{targets}");
        }
    }
}

#[test]
fn targets_choose_layers_by_name_end_and_pattern() {
    let decoder = small(Arch::Llama, 2);
    let count = |targets: &[&str]| {
        let targets = Targets::Many(targets.iter().map(|t| (*t).to_owned()).collect());
        Lora::init(&decoder, 2, 4.0, &targets, 1).map(|l| l.modules().len())
    };
    assert_eq!(count(&["all-linear"]).unwrap(), 14);
    assert_eq!(count(&["q_proj", "v_proj"]).unwrap(), 4);
    assert_eq!(count(&["self_attn.q_proj"]).unwrap(), 2);
    assert_eq!(count(&["*_proj"]).unwrap(), 14);
    assert_eq!(count(&["model.layers.0.*"]).unwrap(), 7);
    assert_eq!(count(&["layers.1.mlp.*", "up_proj"]).unwrap(), 4);
    for wrong in ["proj", "q_pro", "lm_head", "model.layers.2.mlp.up_proj", ""] {
        let error = count(&["q_proj", wrong]).unwrap_err().to_string();
        assert!(error.contains(&format!("`{wrong}`")) && error.contains("all-linear"), "{error}");
    }
    assert!(count(&[]).unwrap_err().to_string().contains("no target"));
}

#[test]
fn a_target_that_is_none_is_told_with_the_nearest() {
    let said = |target: &str| check_targets(2, &Targets::One(target.into())).unwrap_err().to_string();
    assert!(said("q_prj").contains("did you mean `q_proj`?"), "{}", said("q_prj"));
    assert!(said("all-liner").contains("did you mean `all-linear`?"));
    assert!(
        said("model.layers.*.self_attn.v_prj").contains("did you mean `model.layers.*.self_attn.v_proj`?")
    );
    assert!(!said("xyzzy").contains("did you mean") && said("xyzzy").contains("down_proj"));
    assert!(said("model.layers.2.mlp.up_proj").contains("names no linear layer"), "there are two layers");
    for good in ["all-linear", "q_proj", "mlp.up_proj", "model.layers.1.mlp.up_proj", "*.self_attn.*"] {
        check_targets(2, &Targets::One(good.into())).unwrap();
    }
    assert!(check_targets(2, &Targets::Many(Vec::new())).unwrap_err().to_string().contains("no target"));
}

#[test]
fn a_fresh_adapter_changes_nothing_and_is_drawn_as_peft_draws_it() {
    let decoder = small(Arch::Qwen3, 2);
    let lora = Lora::init(&decoder, 4, 8.0, &Targets::One("all-linear".into()), 9).unwrap();
    let tokens: Vec<u32> = (0..20).collect();
    assert_eq!(
        decoder.logits_all(&tokens, Some(&lora), Par::SERIAL).unwrap(),
        decoder.logits_all(&tokens, None, Par::SERIAL).unwrap()
    );
    for module in lora.modules() {
        let (a, b) = lora.matrices(module);
        assert!(b.iter().all(|b| *b == 0.0));
        // Uniform in ±1/sqrt(inputs): its variance is a third of the bound's square.
        let bound = 1.0 / (module.inputs as f32).sqrt();
        let variance = a.iter().map(|a| a * a).sum::<f32>() / a.len() as f32;
        assert!(a.iter().all(|a| a.abs() <= bound) && (variance * 3.0 / (bound * bound) - 1.0).abs() < 0.4);
    }
    assert_ne!(lora, Lora::init(&decoder, 4, 8.0, &Targets::One("all-linear".into()), 10).unwrap());
}

/// Copies the fixture's adapter, changes its configuration, and says what loading it says.
fn error_with(change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let from = fixture("all").join("adapter");
    let mut config: Map<String, Value> =
        serde_json::from_str(&fs::read_to_string(from.join(CONFIG)).unwrap()).unwrap();
    change(&mut config);
    fs::write(dir.path().join(CONFIG), Value::Object(config).to_string()).unwrap();
    fs::copy(from.join(TENSORS), dir.path().join(TENSORS)).unwrap();
    let decoder = Decoder::load(&fixture("all").join("base")).unwrap();
    Lora::load_peft(dir.path(), &decoder).unwrap_err().to_string()
}

#[test]
fn adapters_that_are_not_supported_are_refused_by_their_key() {
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("lora_bias", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("layer_replication", json!([[0, 1]])),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("alora_invocation_tokens", json!([1])),
        ("r", json!(0)),
        ("r", json!("8")),
        ("rank_pattern", json!({"q_.*": 2})),
        ("alpha_pattern", json!([1])),
    ] {
        let error = error_with(|c| {
            c.insert(key.into(), value.clone());
        });
        assert!(error.contains(CONFIG) && error.contains(key), "{key}: {error}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let error = error_with(|c| {
        c.insert("r".into(), json!(4));
    });
    assert!(
        error.contains("q_proj.lora_A") && error.contains("[3, 24]") && error.contains("rank 4"),
        "{error}"
    );

    let decoder = small(Arch::Llama, 1);
    let error = Lora::load_peft(&fixture("all").join("adapter"), &decoder).unwrap_err().to_string();
    assert!(error.contains(TENSORS) && error.contains("model.layers.1"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let error = |dir: &Path| Lora::load_peft(dir, &decoder).unwrap_err().to_string();
    assert!(error(dir.path()).contains(CONFIG));
    fs::write(dir.path().join(CONFIG), "{}").unwrap();
    assert!(error(dir.path()).contains(TENSORS));
    for (tensor, word) in [
        ("base_model.model.lm_head.lora_A.weight", "no linear layer lm_head"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "is not a LoRA matrix"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "lora_B"),
    ] {
        write::safetensors(&dir.path().join(TENSORS), &[(tensor, &[8, 24], &[0.0; 192])], &[]).unwrap();
        let error = error(dir.path());
        assert!(error.contains(TENSORS) && error.contains(word), "{error}");
    }
    let whole = fs::read(fixture("all").join("adapter").join(TENSORS)).unwrap();
    fs::write(dir.path().join(TENSORS), &whole[..whole.len() - 10]).unwrap();
    assert!(error(dir.path()).contains(TENSORS));
}

/// Leaves bases, adapters and logits for `tests/reference/peft_adapter.py check DIR`, in the folder of `TUNEBENCH_ADAPTERS_OUT`.
#[test]
#[ignore = "writes files for a check by PEFT"]
fn writes_adapters_for_peft() {
    let Some(out) = std::env::var_os("TUNEBENCH_ADAPTERS_OUT").map(PathBuf::from) else {
        panic!("set TUNEBENCH_ADAPTERS_OUT to a folder");
    };
    let settings = |change: fn(&mut TrainSettings)| {
        let mut settings = TrainSettings { rank: 3, alpha: 2.5, seed: 4, ..TrainSettings::default() };
        change(&mut settings);
        settings
    };
    for (name, arch, settings) in [
        ("all", Arch::Llama, settings(|_| {})),
        ("one", Arch::Mistral, settings(|s| s.targets = Targets::One("q_proj".into()))),
        ("layer", Arch::Qwen2, settings(|s| s.targets = Targets::One("layers.1.*".into()))),
        ("pattern", Arch::Qwen3, settings(|s| s.targets = Targets::One("*_proj".into()))),
        ("rslora", Arch::Qwen3, settings(|s| s.method = Method::Rslora)),
        ("dora", Arch::Qwen2, settings(|s| s.method = Method::Dora)),
        ("pissa", Arch::Llama, settings(|s| s.init = Init::Pissa)),
        (
            "ranks",
            Arch::Mistral,
            settings(|s| {
                s.rank_pattern = [("q_proj".into(), 5), ("layers.1.mlp.*".into(), 1)].into();
                s.alpha_pattern = [("*.0.*".into(), 1.5)].into();
            }),
        ),
    ] {
        let dir = out.join(name);
        let decoder = small(arch, 2);
        let mut lora = Lora::from_settings(&decoder, &settings, Par::SERIAL).unwrap();
        for (i, value) in lora.params.iter_mut().enumerate() {
            *value += 0.2 * (i as f32).sin();
        }
        lora.refresh(&decoder, Par::SERIAL);
        let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 53).collect();
        let logits = decoder.logits_all(&tokens, Some(&lora), Par::SERIAL).unwrap();
        let ids: Vec<f32> = tokens.iter().map(|t| *t as f32).collect();
        decoder.save(&dir.join("base")).unwrap();
        lora.save_peft(&dir.join("adapter"), None).unwrap();
        let tensors: [(&str, &[usize], &[f32]); 2] =
            [("input_ids", &[40], &ids), ("logits", &[40, 53], &logits)];
        write::safetensors(&dir.join("logits.safetensors"), &tensors, &[]).unwrap();
    }
}
