use candle_core::DType;

use super::super::batch::Wants;
use super::super::pages::Table;
use super::*;
use crate::domain::settings::{Init, Method, Targets, TrainSettings};
use crate::model::config::Arch;
use crate::model::oracle::{Oracle, small};
use crate::model::tokenizer::tests::{MODELS, fixture};
use crate::model::weights::Weights;

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i * 17 % 53).collect()
}

fn adapter(decoder: &Decoder) -> Lora {
    let mut lora = Lora::init(decoder, 2, 4.0, &Targets::One("all-linear".into()), 5).unwrap();
    for (i, value) in lora.values_mut().iter_mut().enumerate() {
        *value += 0.1 * ((i * 7 % 11) as f32 / 11.0 - 0.5);
    }
    lora
}

fn assert_close(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len());
    let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-4, "{what}: off by {off}");
}

/// Feeds the tokens of one sequence to its table; the logits after the last.
fn feed(
    decoder: &Decoder,
    (pages, host): (&mut Pages, &mut Host),
    table: &mut Table,
    adapter: Option<&Lora>,
    tokens: &[u32],
    par: Par,
) -> Vec<f32> {
    pages.grow(table, table.len() + tokens.len()).unwrap();
    let start = table.len();
    let (parents, wants, choice) = (None, Wants::Last, None);
    let feed = Feed { table, start, adapter, lane: 0, tokens, parents, wants, choice };
    let outcome = decoder.pass(pages, &[feed], host, par);
    pages.extend(table, tokens);
    outcome.logits(0).next().unwrap().to_vec()
}

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let decoder = Decoder::load(&fixture(name)).unwrap();
        let file = Weights::open_file(&fixture(name).join("reference.safetensors")).unwrap();
        let (shape, ids) = file.read_ints("input_ids").unwrap();
        let (_, mask) = file.read_ints("attention_mask").unwrap();
        let (rows, length, vocab) = (shape[0], shape[1], decoder.config.vocab);
        let logits = file.read_vec("logits", &[rows, length, vocab]).unwrap();
        let mut worst = 0_f32;
        for row in 0..rows {
            // Left-padded in the reference; each row is computed here by itself.
            let at = |i: &usize| mask[row * length + i] == 1;
            let kept: Vec<usize> = (0..length).filter(at).collect();
            let tokens: Vec<u32> = kept.iter().map(|i| ids[row * length + i] as u32).collect();
            let ours = decoder.logits_all(&tokens, None, Par::SERIAL).unwrap();
            for (i, ours) in kept.iter().zip(ours.chunks_exact(vocab)) {
                let theirs = &logits[(row * length + i) * vocab..][..vocab];
                worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
            }
        }
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

#[test]
fn logits_agree_with_the_oracle_however_the_tokens_come() {
    for arch in Arch::ALL {
        let decoder = small(arch, 2);
        let lora = adapter(&decoder);
        for adapter in [None, Some(&lora)] {
            let tokens = tokens(90);
            let oracle = Oracle::new(&decoder, adapter).unwrap();
            let wanted = oracle.logits(&tokens).unwrap().to_dtype(DType::F32).unwrap();
            let wanted: Vec<f32> = wanted.flatten_all().unwrap().to_vec1().unwrap();
            for par in [Par::SERIAL, Par::threads(3)] {
                assert_close(&decoder.logits_all(&tokens, adapter, par).unwrap(), &wanted, "at once");
                let (mut pages, mut host) = (Pages::new(8, 1000), Host::default());
                let mut table = pages.open(0, &tokens);
                let (mut at, vocab) = (0, decoder.config.vocab);
                for n in [1, 1, 70, 3, 1, 14] {
                    let new = &tokens[at..at + n];
                    let logits = feed(&decoder, (&mut pages, &mut host), &mut table, adapter, new, par);
                    at += n;
                    let wanted = &wanted[(at - 1) * vocab..at * vocab];
                    assert_close(&logits, wanted, &format!("{arch:?} up to {at}"));
                }
                // The same beginning, another end; then the same end again, over shared blocks.
                let mut other = pages.open(0, &[&tokens[..43], &[1, 2, 3]].concat());
                assert_eq!(other.len(), 43);
                feed(&decoder, (&mut pages, &mut host), &mut other, adapter, &[1, 2, 3], par);
                let mut again = pages.open(0, &tokens);
                assert_eq!(again.len(), 89);
                let logits = feed(&decoder, (&mut pages, &mut host), &mut again, adapter, &tokens[89..], par);
                assert_close(&logits, &wanted[89 * vocab..], "over shared blocks");
            }
        }
    }
}

#[test]
fn a_merged_adapter_gives_the_same_logits() {
    for arch in Arch::ALL {
        let decoder = small(arch, 2);
        let lora = adapter(&decoder);
        let merged = lora.merge(&decoder).unwrap();
        let tokens = tokens(20);
        let wanted = decoder.logits_all(&tokens, Some(&lora), Par::SERIAL).unwrap();
        assert_close(&merged.logits_all(&tokens, None, Par::SERIAL).unwrap(), &wanted, "merged");
    }
}

/// An adapter of each kind, with numbers of its own in `A`, `B` and the magnitudes.
fn kinds(decoder: &Decoder) -> Vec<Lora> {
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
                *value += 0.2 * ((i * 7 % 11) as f32 / 11.0 - 0.5);
            }
            lora.refresh(decoder, Par::SERIAL);
            lora
        })
        .collect()
}

#[test]
fn base_and_adapters_of_every_kind_go_in_one_pass_as_each_alone() {
    let decoder = small(Arch::Mistral, 2);
    let kinds = kinds(&decoder);
    let lanes: Vec<Option<&Lora>> = [None].into_iter().chain(kinds.iter().map(Some)).collect();
    for with in [vec![0, 1, 3], vec![0, 1, 2, 3], vec![2]] {
        let (mut pages, mut host) = (Pages::new(8, 1000), Host::default());
        let texts: Vec<(u32, Vec<u32>)> =
            with.iter().flat_map(|lane| [(*lane, tokens(20)), (*lane, tokens(7))]).rev().collect();
        let tables: Vec<Table> = texts
            .iter()
            .map(|(lane, text)| {
                let mut table = pages.open(*lane, text);
                pages.grow(&mut table, text.len()).unwrap();
                table
            })
            .collect();
        let feeds: Vec<Feed<'_>> = texts
            .iter()
            .zip(&tables)
            .map(|((lane, tokens), table)| {
                let adapter = lanes[*lane as usize];
                let (parents, wants, choice) = (None, Wants::All, None);
                Feed { table, start: 0, adapter, lane: *lane, tokens, parents, wants, choice }
            })
            .collect();
        let logits = decoder.pass(&mut pages, &feeds, &mut host, Par::SERIAL);
        for (i, (lane, text)) in texts.iter().enumerate() {
            let found: Vec<f32> = logits.logits(i).flatten().copied().collect();
            let adapter = lanes[*lane as usize];
            let alone = decoder.logits_all(text, adapter, Par::SERIAL).unwrap();
            assert_close(&found, &alone, "in one pass");
            if let Some(adapter) = adapter {
                let merged = adapter.merge(&decoder).unwrap();
                assert_close(&found, &merged.logits_all(text, None, Par::SERIAL).unwrap(), "merged");
                let base = decoder.logits_all(text, None, Par::SERIAL).unwrap();
                assert!(
                    found.iter().zip(base).any(|(a, b)| (a - b).abs() > 0.01),
                    "the adapter does nothing"
                );
            }
        }
    }
}

#[test]
fn a_tree_of_continuations_gives_what_each_of_them_gives_alone() {
    for arch in [Arch::Mistral, Arch::Qwen3] {
        let decoder = small(arch, 2);
        let prompt = tokens(21);
        let (mut pages, mut host) = (Pages::new(8, 1000), Host::default());
        let mut table = pages.open(0, &prompt);
        feed(&decoder, (&mut pages, &mut host), &mut table, None, &prompt, Par::SERIAL);
        // 1 2 3 4 5 6 7, 1 2 8, 9
        let tree = [1, 2, 3, 8, 9, 4, 5, 6, 7];
        let parents = [None, Some(0), Some(1), Some(1), None, Some(2), Some(5), Some(6), Some(7)];
        let wants = Wants::At(&[8, 3, 4, 0]);
        let feed = Feed {
            table: &table,
            start: prompt.len(),
            adapter: None,
            lane: 0,
            tokens: &tree,
            parents: Some(&parents),
            wants,
            choice: None,
        };
        let logits = decoder.pass(&mut pages, &[feed], &mut host, Par::SERIAL);
        let paths: [&[u32]; 4] = [&[1, 2, 3, 4, 5, 6, 7], &[1, 2, 8], &[9], &[1]];
        for (found, path) in logits.logits(0).zip(paths) {
            let whole = [&prompt, path].concat();
            let wanted = decoder.logits_all(&whole, None, Par::SERIAL).unwrap();
            assert_close(found, &wanted[wanted.len() - decoder.config.vocab..], "a continuation");
        }
    }
}

#[test]
fn a_prompt_longer_than_one_pass_goes_in_several() {
    let mut decoder = small(Arch::Llama, 2);
    decoder.config.max_positions = 2000;
    let tokens = tokens(1100);
    let all = decoder.logits_all(&tokens, None, Par::SERIAL).unwrap();
    let mut trained = vec![false; 1100];
    trained[1099] = true;
    let loss = crate::model::trainable::Trainable::full(decoder.clone(), 1)
        .loss(&[&crate::model::trainable::Sequence { tokens: tokens.clone(), trained }])
        .unwrap();
    let row = &all[1098 * 53..1099 * 53];
    let sum: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
    assert!((sum.ln() - f64::from(row[tokens[1099] as usize]) - loss.loss_sum).abs() < 1e-4);
}

#[test]
fn a_text_that_cannot_be_read_is_an_error() {
    let decoder = small(Arch::Llama, 1);
    let say = |tokens: &[u32]| decoder.logits_all(tokens, None, Par::SERIAL).unwrap_err().to_string();
    assert!(say(&[]).contains("empty"));
    assert!(say(&[53]).contains("vocabulary of 53"));
    assert!(say(&tokens(97)).contains("96 positions"));
    let lora = adapter(&small(Arch::Qwen3, 2));
    let error = decoder.logits_all(&[1], Some(&lora), Par::SERIAL).unwrap_err().to_string();
    assert!(error.contains("another model"), "{error}");
}
