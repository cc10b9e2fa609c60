//! What must hold for every method of training an adapter.

use proptest::prelude::*;

use super::tests::{assert_gradients_agree, batch};
use super::*;
use crate::domain::settings::{Init, Method, Targets, TrainSettings};
use crate::model::config::Arch;
use crate::model::oracle::small;

/// Settings by the name of what they try.
pub(super) fn methods() -> Vec<(&'static str, TrainSettings)> {
    let base = TrainSettings { rank: 3, alpha: 6.0, seed: 5, ..TrainSettings::default() };
    let with = |change: fn(&mut TrainSettings)| {
        let mut settings = base.clone();
        change(&mut settings);
        settings
    };
    vec![
        ("rslora", with(|s| s.method = Method::Rslora)),
        ("dora", with(|s| s.method = Method::Dora)),
        ("pissa", with(|s| s.init = Init::Pissa)),
        (
            "patterns",
            with(|s| {
                s.rank_pattern = [("q_proj".into(), 5), ("model.layers.1.*".into(), 1)].into();
                s.alpha_pattern = [("down_proj".into(), 1.5)].into();
            }),
        ),
        ("loraplus", with(|s| s.loraplus_lr_ratio = 4.0)),
        ("dropout", with(|s| s.dropout = 0.3)),
        (
            "dora with dropout on some layers",
            with(|s| {
                (s.method, s.dropout) = (Method::Dora, 0.5);
                s.targets = Targets::Many(vec!["v_proj".into(), "up_proj".into(), "o_proj".into()]);
            }),
        ),
        ("qlora", with(|s| s.method = Method::Qlora)),
        ("qdora with dropout", with(|s| (s.method, s.dropout) = (Method::Qdora, 0.1))),
        ("pissa with dropout", with(|s| (s.init, s.dropout) = (Init::Pissa, 0.2))),
    ]
}

/// The base as the method has it.
fn base(arch: Arch, layers: usize, settings: &TrainSettings) -> Arc<Decoder> {
    let decoder = small(arch, layers);
    Arc::new(if settings.method.is_quantized() { decoder.quantized().unwrap() } else { decoder })
}

pub(super) fn start(decoder: &Arc<Decoder>, settings: &TrainSettings, threads: usize) -> Trainable {
    let lora = Lora::from_settings(decoder, settings, Par::threads(threads)).unwrap();
    let training = AdapterTraining {
        dropout: settings.dropout,
        seed: settings.seed,
        loraplus_lr_ratio: settings.loraplus_lr_ratio as f32,
    };
    Trainable::lora(Arc::clone(decoder), lora, threads).unwrap().with_adapter_training(training)
}

/// Away from the start, where `B = 0` hides gradients.
pub(super) fn away(decoder: &Arc<Decoder>, settings: &TrainSettings, threads: usize) -> Trainable {
    let mut trainable = start(decoder, settings, threads);
    let mut state = 3_u32;
    for value in trainable.model.params() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *value += 0.2 * ((state >> 8) as f32 / (1 << 24) as f32 - 0.5);
    }
    let Model::Lora { decoder, lora } = &mut trainable.model else { unreachable!() };
    lora.refresh(decoder, Par::SERIAL);
    trainable
}

#[test]
fn gradients_agree_with_autograd_for_every_method_and_architecture() {
    for (name, settings) in methods() {
        for arch in Arch::ALL {
            for threads in [1, 2] {
                println!("{name}, {arch:?}, {threads} threads");
                let decoder = base(arch, 2, &settings);
                let mut trainable = away(&decoder, &settings, threads);
                assert_gradients_agree(&mut trainable, &batch(53, &[9, 7, 12, 90, 3]));
            }
        }
    }
}

#[test]
fn every_method_starts_as_the_base_model() {
    for (name, settings) in methods() {
        let decoder = base(Arch::Qwen2, 2, &settings);
        let tokens: Vec<u32> = (0..30).map(|i| i * 7 % 53).collect();
        let trainable = start(&decoder, &settings, 1);
        let base = decoder.logits_all(&tokens, None, Par::SERIAL).unwrap();
        let adapted = decoder.logits_all(&tokens, trainable.adapter(), Par::SERIAL).unwrap();
        let worst = base.iter().zip(&adapted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "{name}: {worst}");
    }
}

#[test]
fn a_method_s_adapter_is_merged_saved_and_loaded_without_a_change_of_the_logits() {
    for (name, settings) in methods() {
        let decoder = base(Arch::Qwen2, 2, &settings);
        let tokens: Vec<u32> = (0..30).map(|i| i * 7 % 53).collect();
        let trainable = away(&decoder, &settings, 1);
        let lora = trainable.adapter().unwrap();
        let logits = decoder.logits_all(&tokens, Some(lora), Par::SERIAL).unwrap();
        let merged =
            lora.merge(&decoder.dequantized()).unwrap().logits_all(&tokens, None, Par::SERIAL).unwrap();
        let dir = tempfile::tempdir().unwrap();
        lora.save_peft(dir.path(), None).unwrap();
        let loaded = Lora::load_peft(dir.path(), &decoder).unwrap();
        assert_eq!(loaded.modules().len(), lora.modules().len());
        let loaded = decoder.logits_all(&tokens, Some(&loaded), Par::SERIAL).unwrap();
        for (what, other) in [("merged", merged), ("loaded", loaded)] {
            let worst = logits.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{name}, {what}: {worst}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn no_method_s_gradient_depends_on_split_order_or_threads(
        lengths in prop::collection::vec(2_usize..60, 3..8), threads in 2_usize..5, split in 1_usize..8, rotate in 0_usize..8,
    ) {
        let rows = batch(53, &lengths);
        for (name, settings) in methods() {
            let decoder = base(Arch::Llama, 2, &settings);
            let gradient_within = |rows: &[&Sequence], threads: usize, split: usize, activations: usize| {
                let mut trainable = away(&decoder, &settings, threads);
                trainable.grant_activations(activations);
                for part in rows.chunks(split) {
                    trainable.forward_backward(part, 0.25).unwrap();
                }
                trainable.gradient().to_vec()
            };
            let gradient = |rows: &[&Sequence], threads, split| gradient_within(rows, threads, split, usize::MAX);
            let mut rows: Vec<&Sequence> = rows.iter().collect();
            let whole = gradient(&rows, 1, rows.len());
            let n = rows.len();
            rows.rotate_left(rotate % n);
            let other = gradient(&rows, threads, split);
            let norm: f64 = whole.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let off: f64 = whole.iter().zip(&other).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
            prop_assert!(off <= 1e-5 * norm, "{}: off by {} of {}", name, off, norm);
            prop_assert_eq!(&gradient(&rows, threads, split), &other, "{}: not the same bits the second time", name);
            prop_assert_eq!(gradient_within(&rows, threads, split, 0), other, "{}: activations made again", name);
        }
    }
}

#[test]
fn every_method_goes_on_from_a_saved_state_bit_for_bit() {
    let settings = AdamW { lr: 0.01, weight_decay: 0.1, ..AdamW::default() };
    let rows = batch(53, &[9, 7, 12, 30]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let step = |t: &mut Trainable| {
        t.zero_grad();
        let loss = t.forward_backward(&rows, 0.1).unwrap().loss_sum;
        t.step(&settings, 1.0);
        loss
    };
    for (name, method) in methods() {
        let decoder = base(Arch::Qwen2, 2, &method);
        let mut whole = start(&decoder, &method, 2);
        let losses: Vec<f64> = (0..6).map(|_| step(&mut whole)).collect();
        assert!(losses[5] < losses[0], "{name}: training lowers the loss: {losses:?}");
        let dir = tempfile::tempdir().unwrap();
        let mut first = start(&decoder, &method, 2);
        for _ in 0..3 {
            step(&mut first);
        }
        first.save_state(dir.path()).unwrap();
        let mut second = start(&decoder, &method, 2);
        step(&mut second); // Something to be overwritten.
        second.load_state(dir.path()).unwrap();
        let resumed: Vec<f64> = (0..3).map(|_| step(&mut second)).collect();
        assert_eq!(resumed, losses[3..], "{name}");
        assert_eq!(whole.model.params(), second.model.params(), "{name}");
    }
}

#[test]
fn a_step_drops_other_inputs_than_the_one_before_and_an_evaluation_none() {
    let settings = TrainSettings { dropout: 0.5, rank: 2, ..TrainSettings::default() };
    let rows = batch(53, &[20, 30]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let decoder = Arc::new(small(Arch::Llama, 1));
    let mut t = away(&decoder, &settings, 1);
    let of_step = |t: &mut Trainable| t.forward_backward(&rows, 0.1).unwrap().loss_sum;
    let first = of_step(&mut t);
    assert_eq!(of_step(&mut t), first, "a step's masks stay");
    t.steps += 1;
    assert_ne!(of_step(&mut t), first);
    let evaluated = t.loss(&rows).unwrap();
    t.steps += 1;
    assert_eq!(t.loss(&rows).unwrap(), evaluated);
}

#[test]
fn lora_plus_moves_b_by_its_ratio_and_a_as_before() {
    let rows = batch(53, &[9, 7]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let decoder = Arc::new(small(Arch::Llama, 1));
    // With beta1 = beta2 = 0 and a large epsilon a step is lr * g / epsilon.
    let adamw = AdamW { lr: 1e6, beta1: 0.0, beta2: 0.0, epsilon: 1e6, weight_decay: 0.0 };
    for method in [Method::Lora, Method::Dora] {
        let moved = |ratio: f64| {
            let settings =
                TrainSettings { rank: 2, method, loraplus_lr_ratio: ratio, ..TrainSettings::default() };
            let mut t = away(&decoder, &settings, 1);
            let before = t.model.params().to_vec();
            t.forward_backward(&rows, 1e-3).unwrap();
            t.step(&adamw, 0.0);
            let after = t.model.params().to_vec();
            let modules = t.adapter().unwrap().modules().to_vec();
            (modules, before.iter().zip(after).map(|(b, a)| a - b).collect::<Vec<f32>>())
        };
        let ((modules, plain), (_, faster)) = (moved(1.0), moved(8.0));
        let factor = |range: std::ops::Range<usize>| {
            let norm = |v: &[f32]| v[range.clone()].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            norm(&faster) / norm(&plain)
        };
        for m in modules {
            assert!((factor(m.a..m.a + m.rank * m.inputs) - 1.0).abs() < 1e-3, "{}", m.name);
            assert!((factor(m.b..m.b + m.rank * m.outputs) - 8.0).abs() < 1e-2, "{}", m.name);
            if let Some(at) = m.magnitude {
                assert!((factor(at..at + m.outputs) - 8.0).abs() < 1e-2, "{}", m.name);
            }
        }
    }
}

#[test]
fn patterns_give_ranks_and_alphas_by_the_longest_name() {
    let decoder = small(Arch::Llama, 2);
    let settings = TrainSettings {
        rank: 4,
        rank_pattern: [
            ("*_proj".into(), 2),
            ("q_proj".into(), 3),
            ("model.layers.1.self_attn.q_proj".into(), 6),
        ]
        .into(),
        alpha_pattern: [("layers.0.*".into(), 5.0)].into(),
        alpha: 8.0,
        ..TrainSettings::default()
    };
    let lora = Lora::from_settings(&decoder, &settings, Par::SERIAL).unwrap();
    let of = |name: &str| {
        let module = lora.modules().iter().find(|m| m.name.ends_with(name)).unwrap();
        (module.rank, module.alpha, module.scale)
    };
    assert_eq!(of("0.self_attn.q_proj"), (3, 5.0, 5.0 / 3.0));
    assert_eq!(of("1.self_attn.q_proj"), (6, 8.0, 8.0 / 6.0));
    assert_eq!(of("1.mlp.up_proj"), (2, 8.0, 4.0));
    for (wrong, word) in [("q_prj", "did you mean `q_proj`"), ("layers.7.*", "names no linear layer")] {
        let settings = TrainSettings { rank_pattern: [(wrong.into(), 2)].into(), ..settings.clone() };
        let error = Lora::from_settings(&decoder, &settings, Par::SERIAL).unwrap_err().to_string();
        assert!(error.contains("rank_pattern") && error.contains(wrong) && error.contains(word), "{error}");
    }
}

#[test]
fn pissa_needs_as_many_singular_values_as_its_rank() {
    let settings = TrainSettings { rank: 30, init: Init::Pissa, ..TrainSettings::default() };
    let error = Lora::from_settings(&small(Arch::Llama, 1), &settings, Par::SERIAL).unwrap_err().to_string();
    assert!(error.contains("pissa") && error.contains("lower rank"), "{error}");
}

#[test]
fn a_quantized_base_is_an_eighth_in_its_linear_layers_and_says_what_it_cannot_do() {
    let decoder = small(Arch::Qwen3, 2);
    let quantized = decoder.quantized().unwrap();
    let linear: usize =
        decoder.tensors().iter().filter(|p| p.name.contains("_proj.weight")).map(|p| p.len()).sum();
    let others = decoder.parameters() - linear;
    assert_eq!(quantized.parameters(), decoder.parameters());
    assert_eq!(quantized.values().len(), others, "no weight is kept in f32 as well");
    // 4.127 bits a weight, and a few bytes for the last blocks that are not full.
    let allowed = linear as f64 * 4.127 / 8.0 + 14.0 * 16.0;
    assert!(
        (quantized.bytes() - 4 * others) as f64 <= allowed,
        "{} of {linear}",
        quantized.bytes() - 4 * others
    );

    let dir = tempfile::tempdir().unwrap();
    decoder.save(dir.path()).unwrap();
    let loaded = Decoder::load_quantized(dir.path()).unwrap();
    assert_eq!(loaded.dequantized().values(), quantized.dequantized().values());
    // Near, but not the same.
    let worst = decoder
        .values()
        .iter()
        .zip(loaded.dequantized().values())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    let largest = decoder.values().iter().map(|w| w.abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.2 * largest, "{worst} of {largest}");

    let error = loaded.save(dir.path()).unwrap_err().to_string();
    assert!(error.contains("NF4") && error.contains("f32"), "{error}");
    let lora = Lora::init(&loaded, 2, 4.0, &Targets::default(), 1).unwrap();
    assert!(lora.merge(&loaded).unwrap_err().to_string().contains("NF4"));
}
