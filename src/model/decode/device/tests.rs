//! Answers of a GPU, on the emulator: its kernels, products and order of work under the engine that the CPU has too.
//!
//! Activations are in bf16 there, so logits differ from the CPU's by some tenths of a percent. The models here are sure of what
//! they say: their leads are larger than that, which [`sure`] looks after.

use std::ops::ControlFlow;
use std::sync::Arc;

use half::bf16;

use super::super::engine::{Engine, Event, Settings};
use super::super::forks::Scoring;
use super::super::sequence::{Lane, Request, Work};
use super::super::speculation::{Draft, Lookup, Speculation};
use super::*;
use crate::domain::candidate::{Constraint, Decoding};
use crate::domain::settings::{Init, Method, Targets, TrainSettings};
use crate::model::config::Arch;
use crate::model::constraint::Grammars;
use crate::model::oracle::small;
use crate::model::sampling::Chooser;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer::tests::fixture;
use crate::ops::Par;
use crate::ops::cuda::{Emulator, Launcher};

/// A small model that the kernels take (heads of a multiple of 8), of numbers that bf16 has.
fn model(arch: Arch) -> Decoder {
    let mut config = small(arch, 2).config;
    config.head_dim = if arch == Arch::Qwen3 { 16 } else { 8 };
    config.max_positions = 400;
    let mut decoder = Decoder::random(config, 3).unwrap();
    for x in decoder.values_mut() {
        *x = bf16::from_f32(if *x == 1.0 { 1.0 } else { 8.0 * *x }).to_f32();
    }
    decoder
}

fn adapters(decoder: &Decoder) -> Vec<Arc<Lora>> {
    [(Method::Lora, Init::Default), (Method::Dora, Init::Default), (Method::Lora, Init::Pissa)]
        .into_iter()
        .enumerate()
        .map(|(i, (method, init))| {
            let targets = if i == 2 {
                Targets::Many(vec!["q_proj".into(), "down_proj".into()])
            } else {
                Targets::One("all-linear".into())
            };
            let settings =
                TrainSettings { rank: 2 + i, alpha: 4.0, method, init, targets, ..TrainSettings::default() };
            let mut lora = Lora::from_settings(decoder, &settings, Par::SERIAL).unwrap();
            for (i, value) in lora.values_mut().iter_mut().enumerate() {
                *value += 0.3 * ((i * 7 % 11) as f32 / 11.0 - 0.5);
                *value = bf16::from_f32(*value).to_f32();
            }
            lora.refresh(decoder, Par::SERIAL);
            Arc::new(lora)
        })
        .collect()
}

fn on(launcher: Arc<dyn Launcher>) -> Settings {
    Settings { gpu: Some(OnGpu::new(launcher)), ..Settings::default() }
}

fn plain(max_tokens: usize) -> Decoding {
    Decoding { max_tokens, ..Decoding::default() }
}

fn ask(lane: Lane, prompt: &[u32], decoding: &Decoding) -> Request {
    Request::generate(lane, prompt.to_vec(), decoding, &[]).unwrap()
}

fn run(engine: &mut Engine<'_>, requests: Vec<Request>) -> Vec<Vec<u32>> {
    let made = engine.run(requests, &mut |_, _| ControlFlow::Continue(()));
    made.into_iter().map(|made| made.unwrap().tokens).collect()
}

/// Prompts that begin alike, within blocks and over them, and others.
fn prompts() -> Vec<Vec<u32>> {
    let text = |n: u32, by: u32| (0..n).map(|i| (i * by + i / 7) % 53).collect::<Vec<u32>>();
    vec![
        text(75, 17),
        [text(70, 17), vec![1, 2, 3]].concat(),
        [text(40, 17), text(9, 5)].concat(),
        text(1, 3),
        text(75, 17),
        text(33, 11),
    ]
}

/// How far the likeliest token leads after each of an answer's texts: the least lead, by the spread of the logits.
fn lead(decoder: &Decoder, adapter: Option<&Lora>, prompt: &[u32], answer: &[u32]) -> f32 {
    let text = [prompt, answer].concat();
    let logits = decoder.logits_all(&text, adapter, Par::SERIAL).unwrap();
    let leads = logits.chunks(decoder.config.vocab).skip(prompt.len() - 1).take(answer.len()).map(|row| {
        let mut row = row.to_vec();
        row.sort_by(|a, b| b.total_cmp(a));
        (row[0] - row[1]) / (row[0] - row[row.len() - 1])
    });
    leads.fold(f32::INFINITY, f32::min)
}

/// As much of an answer as the CPU is sure of.
fn sure(decoder: &Decoder, adapter: Option<&Lora>, prompt: &[u32], answer: &[u32]) -> usize {
    (0..=answer.len()).rev().find(|n| lead(decoder, adapter, prompt, &answer[..*n]) > 0.01).unwrap_or(0)
}

#[test]
fn greedy_answers_are_the_cpus_on_every_architecture_with_shared_beginnings_and_adapters() {
    let mut compared = 0;
    for arch in Arch::ALL {
        let decoder = model(arch);
        let kinds = adapters(&decoder);
        let Some(launcher) = Emulator::new(0) else { return };
        let mut cpu = Engine::new(&decoder, Settings::default()).unwrap();
        let mut gpu = Engine::new(&decoder, on(launcher)).unwrap();
        let mut lanes = vec![(Lane::BASE, None)];
        for lora in &kinds {
            let lane = cpu.add_lane(lora.clone()).unwrap();
            assert_eq!(gpu.add_lane(lora.clone()).unwrap(), lane);
            lanes.push((lane, Some(&**lora)));
        }
        let each: Vec<(usize, Vec<u32>)> = prompts()
            .into_iter()
            .enumerate()
            .map(|(i, p)| (i % 4, p.clone()))
            .chain(prompts().into_iter().take(3).map(|p| (0, p)))
            .collect();
        let asks = || each.iter().map(|(lane, p)| ask(lanes[*lane].0, p, &plain(12))).collect::<Vec<_>>();
        let (wanted, found) = (run(&mut cpu, asks()), run(&mut gpu, asks()));
        // Once more, over what is in the blocks by now; and each alone.
        assert_eq!(run(&mut gpu, asks()), found, "{arch:?}: again");
        for (ask, found) in asks().into_iter().zip(&found) {
            assert_eq!(run(&mut gpu, vec![ask]), std::slice::from_ref(found), "{arch:?}: alone");
        }
        for (((lane, prompt), wanted), found) in each.iter().zip(&wanted).zip(&found) {
            let sure = sure(&decoder, lanes[*lane].1, prompt, wanted);
            assert_eq!(found[..sure], wanted[..sure], "{arch:?}, lane {lane}, {} tokens", prompt.len());
            compared += sure;
        }
    }
    println!("{compared} tokens compared");
    assert!(compared > 200, "{compared} tokens");
}

/// Answers with the choosers' settings, by tokens chosen on the device; or of the same logits, chosen here.
fn chosen(
    launcher: Arc<dyn Launcher>,
    decoder: &Decoder,
    asks: &[(Vec<u32>, Decoding)],
    here: bool,
) -> Vec<Vec<u32>> {
    let mut engine = Engine::new(decoder, on(launcher)).unwrap();
    let grammars = Grammars::new(&Tokenizer::load(&fixture("mistral")).unwrap()).unwrap();
    let requests = asks.iter().enumerate().map(|(i, (prompt, decoding))| {
        let form =
            Constraint::Regex(if i % 2 == 0 { "[a-f0-9 ]{4,20}" } else { "(yes|no|maybe)( [a-z]+)*" }.into());
        let matcher = (i % 3 != 0).then(|| grammars.matcher(&form).unwrap());
        let chooser = Chooser::new(decoding, prompt, matcher, here.then_some(0)).unwrap();
        let work = Work::Generate { chooser, max_tokens: decoding.max_tokens, eos: vec![2] };
        Request { lane: Lane::BASE, prompt: prompt.clone(), work }
    });
    run(&mut engine, requests.collect())
}

#[test]
fn tokens_chosen_on_the_device_are_those_that_the_cpu_chooses_from_its_logits() {
    let decoder = Decoder::load(&fixture("mistral")).unwrap();
    let text = |n: u32, by: u32| (0..n).map(|i| 3 + (i * by + i / 7) % 300).collect::<Vec<u32>>();
    let base = Decoding { temperature: 0.9, ..plain(10) };
    let settings = [
        plain(10),
        base.clone(),
        Decoding { top_k: Some(7), ..base.clone() },
        Decoding { top_p: Some(0.8), seed: 5, ..base.clone() },
        Decoding { min_p: Some(0.05), repetition_penalty: Some(1.3), ..base.clone() },
        Decoding { repetition_penalty: Some(1.8), ..plain(10) },
        Decoding { top_k: Some(40), top_p: Some(0.9), min_p: Some(0.02), temperature: 1.4, seed: 9, ..base },
        Decoding { temperature: 1e-39, ..plain(10) },
    ];
    let asks: Vec<(Vec<u32>, Decoding)> =
        (0..24).map(|i: u32| (text(5 + i, 3 + i % 5), settings[i as usize % 8].clone())).collect();
    let Some(launcher) = Emulator::new(1) else { return };
    let found = chosen(launcher.clone(), &decoder, &asks, false);
    assert_eq!(found, chosen(launcher, &decoder, &asks, true));
    assert!(found.iter().filter(|answer| answer.len() == 10).count() >= 8, "{found:?}");
    let other = chosen(Emulator::new(2).unwrap(), &decoder, &asks, false);
    assert_eq!(found, other, "the order of threads changes nothing");
}

#[test]
fn guesses_change_no_answer_on_a_device() {
    let decoder = model(Arch::Qwen2);
    let Some(launcher) = Emulator::new(0) else { return };
    let asks = || prompts().iter().take(3).map(|p| ask(Lane::BASE, p, &plain(20))).collect::<Vec<_>>();
    let mut engine = Engine::new(&decoder, on(launcher.clone())).unwrap();
    let wanted = run(&mut engine, asks());
    let plainly = engine.computed.1;
    let draft = Draft { decoder: Arc::new(decoder.clone()), tokens: 4, kv_bytes: 1 << 20 };
    for speculation in [
        Speculation { lookup: Some(Lookup { ngram: 3, tokens: 6 }), draft: None },
        Speculation { lookup: None, draft: Some(draft) },
    ] {
        let settings = Settings { speculation: speculation.clone(), ..on(launcher.clone()) };
        let mut engine = Engine::new(&decoder, settings).unwrap();
        assert_eq!(run(&mut engine, asks()), wanted, "{speculation:?}");
        assert!(engine.computed.1 < plainly, "guesses save passes");
    }
}

#[test]
fn answers_in_a_cache_that_is_too_small_for_all_are_the_same() {
    let decoder = model(Arch::Llama);
    let Some(launcher) = Emulator::new(0) else { return };
    let asks = || prompts().iter().map(|p| ask(Lane::BASE, p, &plain(12))).collect::<Vec<_>>();
    let wanted = run(&mut Engine::new(&decoder, on(launcher.clone())).unwrap(), asks());
    // Blocks of four tokens, so that some are copied; chunks that end within a prompt.
    let settings = Settings { chunk: 20, ..on(launcher) };
    let mut engine = Engine::new(&decoder, settings).unwrap().with_device_blocks(4, 30);
    assert_eq!(run(&mut engine, asks()), wanted);
    assert_eq!(run(&mut engine, asks()), wanted);
}

/// Keeps the logits after some continuations.
#[derive(Debug)]
struct Probe {
    wants: Vec<Vec<u32>>,
    found: Vec<Vec<f32>>,
}

impl Scoring for Probe {
    fn wants(&mut self) -> Vec<Vec<u32>> {
        std::mem::take(&mut self.wants)
    }

    fn take(&mut self, logits: Vec<Vec<f32>>) -> Result<(), ModelError> {
        self.found = logits;
        Ok(())
    }
}

#[test]
fn continuations_in_a_tree_have_the_cpus_logits_beside_others_who_answer() {
    // Qwen3: norms of heads; Mistral: a window that ends within prompt and path.
    for arch in [Arch::Mistral, Arch::Qwen3] {
        let decoder = model(arch);
        let lora = adapters(&decoder).remove(1);
        let Some(launcher) = Emulator::new(0) else { return };
        let mut engine = Engine::new(&decoder, on(launcher)).unwrap();
        let lane = engine.add_lane(lora.clone()).unwrap();
        let prompt = prompts().remove(2);
        let wants: Vec<Vec<u32>> =
            vec![vec![], vec![1, 2, 3, 4, 5, 6, 7], vec![1, 2, 8], vec![9], vec![1, 2, 3], vec![30, 31]];
        for lane in [Lane::BASE, lane] {
            let work = Work::Score(Box::new(Probe { wants: wants.clone(), found: Vec::new() }));
            engine.submit(Request { lane, prompt: prompt.clone(), work }).unwrap();
            engine.submit(ask(lane, &prompts()[5], &plain(5))).unwrap();
        }
        let mut scored = Vec::new();
        while !engine.is_idle() {
            for event in engine.step() {
                match event {
                    Event::Scored(id, _, probe) => scored.push((id, probe as Box<dyn std::any::Any>)),
                    Event::Failed(_, error) => panic!("{error}"),
                    _ => {}
                }
            }
        }
        scored.sort_by_key(|(id, _)| *id);
        for ((_, probe), adapter) in scored.iter().zip([None, Some(&*lora)]) {
            let probe = probe.downcast_ref::<Probe>().unwrap();
            for (path, found) in wants.iter().zip(&probe.found) {
                let text = [prompt.as_slice(), path].concat();
                let all = decoder.logits_all(&text, adapter, Par::SERIAL).unwrap();
                let wanted = &all[all.len() - decoder.config.vocab..];
                let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
                let off = norm(&mut found.iter().zip(wanted).map(|(f, w)| f - w))
                    / norm(&mut wanted.iter().copied());
                assert!(off < 0.02, "{arch:?} {path:?}: off by {off}");
            }
        }
    }
}

#[test]
fn passes_of_decoding_are_recorded_and_a_device_that_cannot_goes_on_without() {
    let decoder = model(Arch::Llama);
    let lora = adapters(&decoder).remove(0);
    let answers = |launcher: Arc<dyn Launcher>| {
        let mut engine = Engine::new(&decoder, on(launcher)).unwrap();
        let lane = engine.add_lane(lora.clone()).unwrap();
        let mut all = Vec::new();
        // One lane at a time and both together; the numbers of rows change as answers end, a long prompt makes buffers larger.
        for lanes in [[Lane::BASE; 3], [lane; 3], [Lane::BASE, lane, lane]] {
            let asks = prompts().into_iter().zip(lanes).enumerate();
            all.extend(run(
                &mut engine,
                asks.map(|(i, (p, lane))| ask(lane, &p, &plain(8 + 4 * i))).collect(),
            ));
        }
        let long: Vec<u32> = (0..300).map(|i| i * 7 % 53).collect();
        all.extend(run(&mut engine, vec![ask(Lane::BASE, &long, &plain(8))]));
        all.extend(run(&mut engine, vec![ask(Lane::BASE, &prompts()[0], &plain(8))]));
        engine.remove_lane(lane);
        let again = engine.add_lane(lora.clone()).unwrap();
        all.extend(run(&mut engine, vec![ask(again, &prompts()[0], &plain(8))]));
        all
    };
    let (Some(records), Some(cannot)) = (Emulator::watched(false), Emulator::watched(true)) else { return };
    assert_eq!(answers(records.clone()), answers(cannot.clone()));
    let [made, left, replays] = records.recordings();
    assert!(made >= 2 && replays > 40, "{made} recordings, {replays} replays");
    assert_eq!(left, 0, "they go with their engine");
    assert_eq!(cannot.recordings(), [0; 3]);
}

#[test]
fn a_fault_fails_the_requests_of_its_pass_and_no_others() {
    let decoder = model(Arch::Llama);
    let Some(emulator) = Emulator::watched(false) else { return };
    let asks = || prompts().iter().map(|p| ask(Lane::BASE, p, &plain(6))).collect::<Vec<_>>();
    let mut engine = Engine::new(&decoder, on(emulator.clone())).unwrap();
    let wanted = run(&mut engine, asks());
    for kernel in ["paged_attention_bf16_64", "sample", "gather_rows"] {
        emulator.fail_at(Some(kernel));
        let failed = engine.run(asks(), &mut |_, _| ControlFlow::Continue(()));
        for answer in failed {
            let error = answer.unwrap_err().to_string();
            assert!(error.contains(kernel) && error.contains("LAUNCH_FAILED"), "{error}");
        }
        emulator.fail_at(None);
        assert_eq!(run(&mut engine, asks()), wanted, "after a fault in {kernel}");
    }
}

#[test]
fn what_has_no_room_or_no_kernel_says_so() {
    let decoder = model(Arch::Llama);
    let Some(launcher) = Emulator::with_room(0, 20_000) else { return };
    let error = Engine::new(&decoder, on(launcher)).err().unwrap().to_string();
    assert!(error.contains("the model takes") && error.contains("device = \"cpu\""), "{error}");
    let odd = small(Arch::Llama, 1);
    let error = Engine::new(&odd, on(Emulator::new(0).unwrap())).err().unwrap().to_string();
    assert!(error.contains("heads of 6") && error.contains("device = \"cpu\""), "{error}");
}
