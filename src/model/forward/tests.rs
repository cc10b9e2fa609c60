use candle_core::DType;

use super::*;
use crate::domain::settings::Targets;
use crate::model::config::Arch;
use crate::model::oracle::{Oracle, small};

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

#[test]
fn logits_agree_with_the_oracle_however_the_tokens_come() {
    for arch in Arch::ALL {
        let decoder = small(arch, 2);
        let lora = adapter(&decoder);
        for adapter in [None, Some(&lora)] {
            let tokens = tokens(90);
            let oracle = Oracle::new(&decoder, adapter).unwrap();
            let wanted: Vec<f32> = oracle
                .logits(&tokens)
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            for par in [Par::SERIAL, Par::threads(3)] {
                assert_close(&decoder.logits_all(&tokens, adapter, par).unwrap(), &wanted, "at once");
                let mut cache = KvCache::new(&decoder, 90);
                let (mut at, vocab) = (0, decoder.config.vocab);
                for n in [1, 1, 70, 3, 1, 14] {
                    let logits = decoder.forward(&tokens[at..at + n], &mut cache, adapter, par).unwrap();
                    at += n;
                    assert_close(
                        &logits,
                        &wanted[(at - 1) * vocab..at * vocab],
                        &format!("{arch:?} up to {at}"),
                    );
                }
                assert_eq!(cache.len(), 90);
                // The same beginning, another end, the same end again.
                cache.truncate(40);
                decoder.forward(&[1, 2, 3], &mut cache, adapter, par).unwrap();
                cache.truncate(40);
                let logits = decoder.forward(&tokens[40..], &mut cache, adapter, par).unwrap();
                assert_close(&logits, &wanted[89 * vocab..], "after truncate");
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

#[test]
fn a_batch_of_sequences_gives_what_each_gives_alone() {
    let decoder = small(Arch::Mistral, 2);
    let mut texts: Vec<Vec<u32>> = [5, 1, 60, 17].map(tokens).to_vec();
    let mut caches: Vec<KvCache> = texts.iter().map(|_| KvCache::new(&decoder, 80)).collect();
    let mut new = texts.clone();
    for more in [1, 9, 0] {
        let mut feeds: Vec<Feed<'_>> =
            new.iter().zip(&mut caches).map(|(tokens, cache)| Feed { tokens, cache }).collect();
        let logits = decoder.forward_batch(&mut feeds, None, Par::SERIAL).unwrap();
        for (text, logits) in texts.iter().zip(&logits) {
            let mut cache = KvCache::new(&decoder, 80);
            assert_close(
                logits,
                &decoder.forward(text, &mut cache, None, Par::SERIAL).unwrap(),
                "in a batch",
            );
        }
        for (text, new) in texts.iter_mut().zip(&mut new) {
            *new = tokens(more);
            text.extend_from_slice(new);
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
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    let decoder = small(Arch::Llama, 1);
    let mut cache = KvCache::new(&decoder, 10);
    decoder.forward(&tokens(8), &mut cache, None, Par::SERIAL).unwrap();
    let mut fails = |tokens: &[u32], word: &str| {
        let error = decoder.forward(tokens, &mut cache, None, Par::SERIAL).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(cache.len(), 8);
    };
    fails(&[1, 2, 3], "cache of 10 positions");
    fails(&[], "empty");
    fails(&[53], "vocabulary of 53");
    decoder.forward(&[1, 2], &mut cache, None, Par::SERIAL).unwrap();

    let mut large = KvCache::new(&decoder, 1000);
    let error = decoder.forward(&tokens(97), &mut large, None, Par::SERIAL).unwrap_err().to_string();
    assert!(error.contains("96 positions"), "{error}");

    let other = small(Arch::Qwen3, 2);
    assert!(
        other.forward(&[1], &mut cache, None, Par::SERIAL).unwrap_err().to_string().contains("another model")
    );
    let lora = adapter(&other);
    assert!(
        decoder
            .forward(&[1], &mut large, Some(&lora), Par::SERIAL)
            .unwrap_err()
            .to_string()
            .contains("another model")
    );
}
