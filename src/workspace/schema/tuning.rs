//! `[tuning.*]`: what the rungs above the evaluation are to do.

use std::collections::BTreeMap;

use super::{MANY, known_model};
use crate::domain::example::{Form, Order, Ranking};
use crate::domain::grow::{GrowSettings, Method};
use crate::domain::sample::TrainRows;
use crate::domain::settings::{
    BUILTIN, DeviceChoice, RangeSettings, Recompute, Schedule, Targets, TrainSettings, TrainedTurns,
};
use crate::domain::steer::{RATE_MAX, WEIGHT_MAX};
use crate::domain::trajectory::Match;
use crate::workspace::config::*;
use crate::workspace::method;
use crate::workspace::reader::{Fields, clip, clip_long};

fn known_stage(fields: &Fields<'_>, key: &str, name: &str, stages: &[Stage]) {
    if stages.iter().any(|s| s.name == name) {
        return;
    }
    let names: Vec<&str> = stages.iter().map(|s| s.name.as_str()).collect();
    fields.fault(key, &format!("no stage is called `{}`; stages: {}", clip(name), names.join(", ")));
}

pub(super) fn read_prompt_tuning(
    mut fields: Fields<'_>,
    models: &BTreeMap<String, ModelEntry>,
    stages: &[Stage],
) -> PromptSettings {
    let default = PromptSettings::default();
    let critic = fields.string("critic");
    if let Some(critic) = &critic {
        known_model(&fields, "critic", critic, models);
    }
    let tuned = fields.strings("stages").unwrap_or_default();
    for name in &tuned {
        known_stage(&fields, "stages", name, stages);
    }
    let budget = read_budget(fields.table_or_empty("budget"));
    let tuning = PromptSettings {
        fan_out: fields.count("fan_out", 1..=4096).unwrap_or(default.fan_out),
        epochs: fields.count("epochs", 1..=10_000).unwrap_or(default.epochs),
        survivors: fields.count("survivors", 1..=4096).unwrap_or(default.survivors),
        rows: fields.count("rows", 1..=MANY).unwrap_or(default.rows),
        critic,
        stages: tuned,
        few_shot: fields.count("few_shot", 0..=100).unwrap_or(default.few_shot),
        pins: fields.strings("pins").unwrap_or_default(),
        max_chars: fields.count("max_chars", 1..=1_000_000).unwrap_or(default.max_chars),
        max_usd_per_1k: fields.number("max_usd_per_1k", "above 0", |usd| usd > 0.0),
        budget,
        seed: fields.whole("seed", 0..=MANY).unwrap_or(default.seed),
        task: fields.choice("task", &PromptTask::ALL).unwrap_or(default.task),
    };
    if tuning.survivors > tuning.fan_out {
        fields.fault(
            "survivors",
            &format!("{} cannot survive of a fan_out of {}", tuning.survivors, tuning.fan_out),
        );
    }
    fields.finish();
    tuning
}

fn read_budget(mut limits: Fields<'_>) -> Budget {
    let budget = Budget {
        calls: limits.whole("calls", 1..=MANY),
        tokens: limits.whole("tokens", 1..=MANY),
        usd: limits.amount("usd"),
        seconds: limits.whole("seconds", 1..=MANY),
    };
    limits.finish();
    budget
}

pub(super) fn read_trajectory_tuning(
    mut fields: Fields<'_>,
    models: &BTreeMap<String, ModelEntry>,
    stages: &[Stage],
) -> TrajectorySettings {
    let default = TrajectorySettings::default();
    let embedder = fields.string("embedder").unwrap_or(default.embedder);
    if embedder != BUILTIN {
        known_model(&fields, "embedder", &embedder, models);
    }
    let tuned = fields.strings("stages").unwrap_or_default();
    for name in &tuned {
        known_stage(&fields, "stages", name, stages);
    }
    let share = |s: f64| (0.0..=1.0).contains(&s);
    let mut number = |key: &'static str, default: f32| {
        fields.number(key, "from 0 to 1", share).map_or(default, |n| n as f32)
    };
    let (threshold, diversity, lift_weight) = (
        number("threshold", default.threshold),
        number("diversity", default.diversity),
        number("lift_weight", default.lift_weight),
    );
    let budget = read_budget(fields.table_or_empty("budget"));
    let tuning = TrajectorySettings {
        stages: tuned,
        strata: fields.strings("strata").unwrap_or_default(),
        shots: fields.count("shots", 1..=1000).unwrap_or(default.shots),
        rows: fields.count("rows", 1..=MANY).unwrap_or(default.rows),
        embedder,
        // Frozen at launch.
        model: None,
        ranking: fields.choice("ranking", &Ranking::ALL).unwrap_or(default.ranking),
        threshold,
        diversity,
        lift_weight,
        max_tokens: fields.count("max_tokens", 0..=1 << 24).unwrap_or(default.max_tokens),
        order: fields
            .choice("order", &[("last", Order::Last), ("first", Order::First)])
            .unwrap_or(default.order),
        form: fields.choice("form", &Form::ALL),
        matches: fields.choice("match", &Match::ALL).unwrap_or(default.matches),
        match_at: fields.number("match_at", "from 0 to 1", share).unwrap_or(default.match_at),
        tolerance: fields.number("tolerance", "from 0 to 1", share).unwrap_or(default.tolerance),
        dev_rows: fields.count("dev_rows", 1..=MANY).unwrap_or(default.dev_rows),
        budget,
        // Frozen at launch.
        judge: None,
    };
    fields.finish();
    tuning
}

pub(super) fn read_train(mut fields: Fields<'_>, stages: &[Stage]) -> TrainSettings {
    let default = TrainSettings::default();
    let stage = fields.string("stage");
    if let Some(stage) = &stage {
        known_stage(&fields, "stage", stage, stages);
    }
    let objective = fields.choice("objective", &[("sft", "sft")]).map(str::to_owned);
    let method = method::read(&mut fields);
    let targets = fields.strings("targets").map(|mut names| match names.len() {
        1 => Targets::One(names.remove(0)),
        _ => Targets::Many(names),
    });
    if matches!(&targets, Some(Targets::Many(names)) if names.is_empty()) {
        fields.fault("targets", "must name at least one layer, or \"all-linear\"");
    }
    let schedules =
        [("constant", Schedule::Constant), ("linear", Schedule::Linear), ("cosine", Schedule::Cosine)];
    let turns = [("all", TrainedTurns::All), ("last", TrainedTurns::Last)];
    let recompute = [("auto", Recompute::Auto), ("never", Recompute::Never), ("always", Recompute::Always)];
    let share = |s: f64| (0.0..1.0).contains(&s);
    let rows = fields.string("rows");
    if let Some(Err(why)) = rows.as_ref().map(|rows| rows.parse::<TrainRows>()) {
        fields.fault("rows", &clip_long(&why));
    }
    let settings = TrainSettings {
        stage: stage.unwrap_or(default.stage),
        prompt: fields.string("prompt").unwrap_or(default.prompt),
        objective: objective.unwrap_or(default.objective),
        method: method.method,
        rank_pattern: method.rank_pattern,
        alpha_pattern: method.alpha_pattern,
        init: method.init,
        dropout: method.dropout,
        loraplus_lr_ratio: method.loraplus_lr_ratio,
        rank: fields.count("rank", 1..=65_536).unwrap_or(default.rank),
        alpha: fields.number("alpha", "above 0", |a| a > 0.0).map_or(default.alpha, |a| a as f32),
        targets: targets.unwrap_or(default.targets),
        learning_rate: fields
            .number("learning_rate", "above 0 and at most 10", |r| r > 0.0 && r <= 10.0)
            .unwrap_or(default.learning_rate),
        schedule: fields.choice("schedule", &schedules).unwrap_or(default.schedule),
        warmup: fields
            .number("warmup", "a share from 0 to 1", |w| (0.0..=1.0).contains(&w))
            .unwrap_or(default.warmup),
        weight_decay: fields.amount("weight_decay").unwrap_or(default.weight_decay),
        beta1: fields.number("beta1", "from 0 to below 1", share).unwrap_or(default.beta1),
        beta2: fields.number("beta2", "from 0 to below 1", share).unwrap_or(default.beta2),
        epsilon: fields.number("epsilon", "above 0", |e| e > 0.0).unwrap_or(default.epsilon),
        max_grad_norm: fields.amount("max_grad_norm").unwrap_or(default.max_grad_norm),
        epochs: fields
            .number("epochs", "above 0 and at most 100000", |e| e > 0.0 && e <= 1e5)
            .unwrap_or(default.epochs),
        max_steps: fields.whole("max_steps", 1..=MANY).or(default.max_steps),
        batch_size: fields.count("batch_size", 1..=1 << 20).unwrap_or(default.batch_size),
        accumulate: fields.count("accumulate", 1..=1 << 20).unwrap_or(default.accumulate),
        device: read_device(&mut fields).unwrap_or(default.device),
        recompute: fields.choice("recompute", &recompute).unwrap_or_default(),
        turns: fields.choice("turns", &turns).unwrap_or_default(),
        max_length: fields.count("max_length", 2..=1 << 24).unwrap_or(default.max_length),
        eval_every: fields.whole("eval_every", 0..=MANY).unwrap_or(default.eval_every),
        patience: fields.whole("patience", 0..=MANY).unwrap_or(default.patience),
        checkpoint_every: fields.whole("checkpoint_every", 0..=MANY).unwrap_or(default.checkpoint_every),
        keep_checkpoints: fields.count("keep_checkpoints", 1..=10_000).unwrap_or(default.keep_checkpoints),
        fixed_rows: fields.count("fixed_rows", 0..=1000).unwrap_or(default.fixed_rows),
        seed: fields.whole("seed", 0..=MANY).unwrap_or(default.seed),
        rows: rows.filter(|rows| rows != "all").unwrap_or(default.rows),
        weights: fields.numbers("weights", "a weight from 0 to 1000", |w| (0.0..=WEIGHT_MAX).contains(&w)),
        shrink_above: fields.number("shrink_above", "a share from 0 to 1", |s| (0.0..=1.0).contains(&s)),
        shrink_to: fields
            .number("shrink_to", "a weight from 0 to 1000", |w| (0.0..=WEIGHT_MAX).contains(&w))
            .unwrap_or(default.shrink_to),
    };
    fields.finish();
    settings
}

pub(super) fn read_grow(mut fields: Fields<'_>, models: &BTreeMap<String, ModelEntry>) -> GrowSettings {
    let default = GrowSettings::default();
    let maker = fields.string("maker");
    if let Some(maker) = &maker {
        known_model(&fields, "maker", maker, models);
    }
    let rows = fields.string("rows");
    if let Some(Err(why)) = rows.as_ref().map(|rows| rows.parse::<TrainRows>()) {
        fields.fault("rows", &clip_long(&why));
    }
    let budget = read_budget(fields.table_or_empty("budget"));
    let settings = GrowSettings {
        method: fields.choice("method", &Method::ALL).unwrap_or(default.method),
        maker,
        rows: rows.unwrap_or(default.rows),
        per_row: fields.count("per_row", 1..=1000).unwrap_or(default.per_row),
        shown: fields.count("shown", 2..=20).unwrap_or(default.shown),
        fields: fields.strings("fields").unwrap_or_default(),
        meanings: fields.texts_by_name("meanings"),
        temperature: fields
            .number("temperature", "from 0 to 2", |t| (0.0..=2.0).contains(&t))
            .map_or(default.temperature, |t| t as f32),
        max_tokens: fields.count("max_tokens", 1..=1 << 20).unwrap_or(default.max_tokens),
        meaning: fields
            .number("meaning", "from 0 to 1", |m| (0.0..=1.0).contains(&m))
            .unwrap_or(default.meaning),
        leak: fields.number("leak", "above 0 and at most 1", |c| c > 0.0 && c <= 1.0),
        embedder: None,
        budget,
        seed: fields.whole("seed", 0..=MANY).unwrap_or(default.seed),
    };
    fields.finish();
    settings
}

pub(super) fn read_lr_range(mut fields: Fields<'_>) -> RangeSettings {
    let default = RangeSettings::default();
    let expected = "above 0 and at most 10";
    let valid = |rate: f64| rate > 0.0 && rate <= RATE_MAX;
    let range = RangeSettings {
        lr_min: fields.number("lr_min", expected, valid).unwrap_or(default.lr_min),
        lr_max: fields.number("lr_max", expected, valid).unwrap_or(default.lr_max),
        steps: fields.whole("steps", 10..=1_000_000).unwrap_or(default.steps),
    };
    if range.lr_min >= range.lr_max {
        let key = if fields.has("lr_min") { "lr_min" } else { "lr_max" };
        fields.fault(key, &format!("lr_min = {} must be below lr_max = {}", range.lr_min, range.lr_max));
    }
    fields.finish();
    range
}

pub(super) fn read_device(fields: &mut Fields<'_>) -> Option<DeviceChoice> {
    let text = fields.string("device")?;
    match text.parse() {
        Ok(device) => Some(device),
        Err(_) => {
            fields.fault("device", &format!("`{}` is no device: write auto, cpu or cuda:0", clip(&text)));
            None
        }
    }
}
