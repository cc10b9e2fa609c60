//! The keys of `[tuning.train]` that say by which method is trained.

use std::collections::BTreeMap;

use super::reader::Fields;
use crate::domain::settings::{Init, Method, TrainSettings};

/// What [`TrainSettings`] has of the method.
pub(super) struct MethodKeys {
    pub method: Method,
    pub init: Init,
    pub dropout: f32,
    pub loraplus_lr_ratio: f64,
    pub rank_pattern: BTreeMap<String, usize>,
    pub alpha_pattern: BTreeMap<String, f32>,
}

pub(super) fn read(fields: &mut Fields<'_>) -> MethodKeys {
    let default = TrainSettings::default();
    let method = fields.choice("method", &Method::ALL).unwrap_or_default();
    let init = fields.choice("init", &[("default", Init::Default), ("pissa", Init::Pissa)]);
    let init = init.unwrap_or_default();
    let dropout = fields.number("dropout", "a share from 0 to below 1", |d| (0.0..1.0).contains(&d));
    let ratio = fields.number("loraplus_lr_ratio", "above 0 and at most 1000", |r| r > 0.0 && r <= 1e3);
    let rank = |r: f64| (1.0..=65_536.0).contains(&r) && r.fract() == 0.0;
    let ranks = fields.numbers("rank_pattern", "a whole number from 1 to 65536", rank);
    let alphas = fields.numbers("alpha_pattern", "above 0", |a| a > 0.0);

    if !method.trains_adapter() {
        for key in ["init", "dropout", "loraplus_lr_ratio", "rank_pattern", "alpha_pattern"] {
            if fields.has(key) {
                fields.fault(key, "is of adapters; method = \"full\" trains the weights themselves");
            }
        }
    } else if init == Init::Pissa && (method.is_decomposed() || method.is_quantized()) {
        fields.fault(
            "init",
            "`pissa` splits the base's own weights: it goes with method = \"lora\" or \"rslora\"",
        );
    }
    MethodKeys {
        method,
        init,
        dropout: dropout.map_or(default.dropout, |d| d as f32),
        loraplus_lr_ratio: ratio.unwrap_or(default.loraplus_lr_ratio),
        rank_pattern: ranks.into_iter().map(|(name, r)| (name, r as usize)).collect(),
        alpha_pattern: alphas.into_iter().map(|(name, a)| (name, a as f32)).collect(),
    }
}
