//! Answers of a GPU, on the emulator: its kernels, products and order of work under the engine that the CPU has too.
//!
//! Activations are in bf16 there, so logits differ from the CPU's by some tenths of a percent. The models here are sure of what
//! they say: their leads are larger than that, which [`sure`] looks after.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use half::bf16;

use super::super::engine::{Engine, Event, Settings};
use super::super::sequence::{Lane, Request, Work};
use super::super::speculation::{Draft, Lookup, Speculation};
use super::*;
use crate::domain::candidate::{Constraint, Decoding};
use crate::domain::settings::{Init, Method, Targets, TrainSettings};
use crate::model::config::Arch;
use crate::model::constraint::Grammars;
use crate::model::labels::{LabelScores, LabelTrie};
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
        let each: Vec<(usize, Vec<u32>)> =
            prompts().into_iter().enumerate().map(|(i, p)| (i % 4, p.clone())).chain(
                prompts().into_iter().take(3).map(|p| (0, p))).collect();
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
