//! From the tree of `workspace.toml` to [`Config`]: every key, its type, its range, its default.

mod eval;
mod judges;
mod tuning;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::config::*;
use super::reader::{Fields, Sink, clip, clip_long};
use super::tree::{Place, Table, Value};
use crate::domain::address::Address;
use crate::domain::candidate::OutputKind;
use crate::domain::metric::{Known, Metric};
use crate::domain::sets::{SetPrompt, SetSettings};
use crate::domain::settings::{CacheSettings, Likeness, StrataSettings};
use crate::domain::words::nearest;
use eval::{Named, read_eval, read_goal, read_metrics};
use judges::read_judges;
use tuning::{read_grow, read_lr_range, read_prompt_tuning, read_train, read_trajectory_tuning};

const MANY: u64 = i64::MAX as u64;

/// Reads everything; what is wrong goes to `sink`, and the value returned is only of use when nothing is.
pub(super) fn read(tree: &Table, folder: &str, sink: &Sink) -> Config {
    let mut file = Fields::new(sink, "", Place::Line(1), tree);

    let mut head = file.table_or_empty("workspace");
    let name = head.string("name").unwrap_or_else(|| folder.to_owned());
    let task = head.choice("task", &Task::ALL.map(|t| (t.name(), t)));
    head.finish();

    let models: BTreeMap<String, ModelEntry> =
        file.named_tables("models").into_iter().map(|(name, fields)| (name, read_model(fields))).collect();
    let stages = read_stages(&mut file, &models);
    let mut judges = read_judges(&mut file, &models);
    let own = read_metrics(&mut file, &stages);
    // Which judge `judge` means stands in another table.
    let eval_judge = tree_string(tree, "eval", "judge");
    let named = Named {
        stages: &stages,
        judges: &judges,
        default: eval_judge.as_deref(),
        known: Known { own: &own, ..Known::default() },
    };
    let goals: Vec<Goal> =
        file.table_list("goal").into_iter().filter_map(|goal| read_goal(goal, &named)).collect();
    let task = task.unwrap_or_else(|| match stages.last().map_or(OutputKind::Text, |s| s.output) {
        OutputKind::Label => Task::Classification,
        OutputKind::Json => Task::Extraction,
        OutputKind::Text => Task::Generation,
        OutputKind::Tool => Task::Agent,
    });
    let data = read_data(&mut file, &models);
    let sets = read_sets(&mut file, &stages);
    let (mut eval, judge) = read_eval(file.table_or_empty("eval"), task, &models, &named, &sets);
    // What a goal is about is scored on each row, shown or not.
    eval.beside =
        goals.iter().map(|goal| goal.metric.clone()).filter(|m| !eval.metrics.contains(m)).collect();
    if let Some(name) = judge.as_ref().filter(|name| judges.iter().all(|j| j.name != **name)) {
        // A model's name: it judges by the built-in rubric.
        judges.push(JudgeEntry::plain(name, name));
    }
    let strata = read_strata(file.table_or_empty("strata"), &data);
    let mut tables = file.table_or_empty("tuning");
    let tuning = Tuning {
        prompt: read_prompt_tuning(tables.table_or_empty("prompt"), &models, &stages),
        trajectory: read_trajectory_tuning(tables.table_or_empty("trajectory"), &models, &stages),
        train: read_train(tables.table_or_empty("train"), &stages),
        lr_range: read_lr_range(tables.table_or_empty("lr_range")),
        grow: read_grow(tables.table_or_empty("grow"), &models),
    };
    tables.finish();
    let cache = read_cache(file.table_or_empty("cache"));
    file.finish();
    Config { name, task, goals, data, models, stages, eval, sets, judges, judge, strata, tuning, cache }
}

/// A string of a table, whatever else stands there.
fn tree_string(tree: &Table, table: &str, key: &str) -> Option<String> {
    let Some(Value::Table(table)) = tree.get(table).map(|node| &node.value) else { return None };
    match table.get(key).map(|node| &node.value) {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    }
}

fn read_model(mut fields: Fields<'_>) -> ModelEntry {
    let path = fields.string("path");
    let endpoint = fields.string("endpoint");
    let model = fields.string("model");
    let api_key_env = fields.string("api_key_env");
    if let Some(name) = &api_key_env
        && !is_variable(name)
    {
        // The value is not repeated: it may be the secret itself.
        fields.fault("api_key_env", "is not a variable's name; write the name of the environment variable that holds the key, never the key");
    }
    if let Some(url) = &endpoint {
        check_endpoint(&fields, url);
    }
    let place = match (path, endpoint) {
        (Some(path), None) => {
            for key in ["model", "api_key_env"] {
                if fields.has(key) {
                    fields.fault(key, "belongs to an endpoint; a model with a path has none");
                }
            }
            ModelPlace::Local { path: PathBuf::from(path) }
        }
        (None, Some(endpoint)) => {
            if fields.has("device") {
                fields.fault("device", "belongs to a model with a path; an endpoint computes where it is");
            }
            if !fields.has("model") {
                fields.missing("model", "say which model the endpoint is to use, model = \"NAME\"");
            }
            ModelPlace::Endpoint { endpoint, model: model.unwrap_or_default(), api_key_env }
        }
        (Some(path), Some(_)) => {
            fields.fault("endpoint", "a model has a path or an endpoint, not both");
            ModelPlace::Local { path: PathBuf::from(path) }
        }
        (None, None) => {
            if !fields.has("path") && !fields.has("endpoint") {
                fields.missing("path", "say path = \"a Hugging Face folder\", or endpoint = \"http://...\"");
            }
            ModelPlace::Local { path: PathBuf::new() }
        }
    };
    let entry = ModelEntry {
        place,
        usd_per_million_input: fields.amount("usd_per_million_input"),
        usd_per_million_output: fields.amount("usd_per_million_output"),
        usd_per_hour: fields.amount("usd_per_hour"),
        max_in_flight: fields.count("max_in_flight", 1..=4096),
        requests_per_minute: fields.count("requests_per_minute", 1..=MANY),
        timeout: fields.count("timeout", 1..=86_400).map(|seconds| seconds as u64),
        mask_pii: fields.flag("mask_pii").unwrap_or(false),
        device: tuning::read_device(&mut fields).unwrap_or_default(),
    };
    fields.finish();
    entry
}

/// POSIX: letters, digits and underscores, no digit first; by convention upper case, which a key never is throughout.
fn is_variable(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_uppercase() || b == b'_');
    first
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn check_endpoint(fields: &Fields<'_>, url: &str) {
    if url.contains("key=") || url.contains("token=") {
        fields.fault("endpoint", "must not carry a secret; use api_key_env = \"NAME\"");
    } else if let Err(why) = Address::parse(url) {
        fields.fault("endpoint", why);
    }
}

/// A model's name as another key gives it.
fn known_model(fields: &Fields<'_>, key: &str, name: &str, models: &BTreeMap<String, ModelEntry>) {
    if models.contains_key(name) {
        return;
    }
    let near = nearest(name, models.keys().map(String::as_str));
    let hint = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None if models.is_empty() => "there are no models; add a table [models.NAME]".to_owned(),
        None => format!("models: {}", models.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    fields.fault(key, &format!("no model is called `{}`; {hint}", clip(name)));
}

fn read_stages(file: &mut Fields<'_>, models: &BTreeMap<String, ModelEntry>) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    let tables = file.table_list("stage");
    let count = tables.len();
    for (i, fields) in tables.into_iter().enumerate() {
        let taken: BTreeSet<String> = stages.iter().map(|s| s.name.clone()).collect();
        stages.push(read_stage(fields, &taken, models, i + 1 == count));
    }
    if stages.is_empty() {
        if file.has("stage") {
            file.fault("stage", "there must be at least one stage");
        } else {
            file.missing("stage", "add a table [[stage]] with name, model, prompt and output");
        }
    }
    stages
}

fn read_stage(
    mut fields: Fields<'_>,
    taken: &BTreeSet<String>,
    models: &BTreeMap<String, ModelEntry>,
    last: bool,
) -> Stage {
    const OUTPUTS: [(&str, OutputKind); 4] = [
        ("label", OutputKind::Label),
        ("json", OutputKind::Json),
        ("text", OutputKind::Text),
        ("tool", OutputKind::Tool),
    ];
    let name = fields.string("name");
    match &name {
        // Its output is a variable in the templates of later stages.
        Some(name) if !is_slug(name) => {
            fields.fault("name", "must be letters, digits, `_` or `-`, at most 64, and start with a letter");
        }
        Some(name) if taken.contains(name) => {
            fields.fault("name", &format!("two stages are called `{name}`"));
        }
        None if !fields.has("name") => fields.missing("name", "give the stage a name, name = \"answer\""),
        _ => {}
    }
    let model = fields.string("model");
    let model = match model {
        Some(model) => {
            known_model(&fields, "model", &model, models);
            model
        }
        None if fields.has("model") => String::new(),
        // With one model there is nothing to choose.
        None => match models.keys().next() {
            Some(only) if models.len() == 1 => only.clone(),
            _ => {
                fields.missing("model", "name one of the models, model = \"NAME\"");
                String::new()
            }
        },
    };
    let prompt = fields.string("prompt").map(PathBuf::from);
    let output = fields.choice("output", &OUTPUTS).unwrap_or_default();
    let when = fields.string("when");
    if let Some(when) = &when
        && let Err(e) = minijinja::Environment::new().compile_expression(when)
    {
        fields.fault("when", &format!("is not an expression: {}", clip(&e.to_string())));
    }
    let metric = fields.string("metric");
    // Of the stage itself: `accuracy` is `route.accuracy`.
    // What follows a colon may hold points of its own.
    let dotted = |metric: &str| metric.split(':').next().is_some_and(|base| base.contains('.'));
    let metric = metric.map(|metric| match (&name, dotted(&metric)) {
        (Some(name), false) => format!("{name}.{metric}"),
        _ => metric,
    });
    if let Some(metric) = &metric {
        match Metric::find(metric) {
            Err(e) => fields.fault("metric", &clip_long(&e.to_string())),
            Ok(found) if found.stage != name => {
                fields.fault("metric", "must be a metric of this stage, as in metric = \"accuracy\"");
            }
            Ok(_) => {}
        }
    }
    let tools = fields.strings("tool").unwrap_or_default();
    if output == OutputKind::Tool && tools.is_empty() && !fields.has("tool") {
        fields.missing("tool", "name what the stage may call, tool = \"tools/NAME.json\" or a list of files");
    }
    if output != OutputKind::Tool && fields.has("tool") {
        fields.fault("tool", "belongs to a stage with output = \"tool\"");
    }
    let gold = fields.string("gold");
    let constrain = read_constrain(&mut fields, output, gold.is_some() || last);
    let stage = Stage {
        name: name.unwrap_or_default(),
        model,
        prompt,
        output,
        max_tokens: fields.count("max_tokens", 1..=1 << 20).unwrap_or(64),
        temperature: fields
            .number("temperature", "from 0 to 10", |t| (0.0..=10.0).contains(&t))
            .unwrap_or(0.0) as f32,
        top_k: fields.count("top_k", 1..=1 << 20),
        top_p: fields.number("top_p", "above 0 and at most 1", |p| p > 0.0 && p <= 1.0).map(|p| p as f32),
        min_p: fields.number("min_p", "from 0 to 1", |p| (0.0..=1.0).contains(&p)).map(|p| p as f32),
        repetition_penalty: fields
            .number("repetition_penalty", "above 0 and at most 10 (1 is no penalty)", |p| {
                p > 0.0 && p <= 10.0
            })
            .map(|p| p as f32),
        stop: fields.texts("stop").unwrap_or_default(),
        seed: fields.whole("seed", 0..=MANY).unwrap_or(0),
        constrain,
        when,
        tools: tools.into_iter().map(PathBuf::from).collect(),
        gold,
        metric,
        retries: fields.whole("retries", 0..=100).unwrap_or(0) as u32,
    };
    fields.finish();
    stage
}

/// `labelled`: it is known which labels there are.
fn read_constrain(fields: &mut Fields<'_>, output: OutputKind, labelled: bool) -> Option<Constrain> {
    const FORMS: &str =
        "write \"labels\", \"json\", \"call\", { regex = \"...\" } or { schema = \"schemas/NAME.json\" }";
    if !fields.has("constrain") {
        return None;
    }
    let constrain = if fields.is_table("constrain") {
        let mut table = fields.table("constrain")?;
        let (regex, schema) = (table.string("regex"), table.string("schema"));
        let one = table.has("regex") != table.has("schema");
        table.finish();
        if !one {
            fields.fault("constrain", &format!("needs one of regex and schema: {FORMS}"));
        }
        regex.map(Constrain::Regex).or(schema.map(|path| Constrain::Schema(path.into())))?
    } else {
        match fields.string("constrain")?.as_str() {
            "labels" => Constrain::Labels,
            "json" => Constrain::Json,
            "call" => Constrain::Call,
            other => {
                fields.fault("constrain", &format!("`{}` is no form of answers; {FORMS}", clip(other)));
                return None;
            }
        }
    };
    match (&constrain, output) {
        (Constrain::Labels, OutputKind::Label) if !labelled => {
            fields.fault(
                "constrain",
                "which labels there are is not known; name their field, gold = \"FIELD\"",
            );
        }
        (Constrain::Labels, OutputKind::Label) | (Constrain::Call, OutputKind::Tool) => {}
        (Constrain::Call, _) => {
            fields.fault("constrain", "\"call\" belongs to a stage with output = \"tool\"");
        }
        (Constrain::Labels, _) => {
            fields.fault("constrain", "\"labels\" belongs to a stage with output = \"label\"");
        }
        (Constrain::Json | Constrain::Schema(_), OutputKind::Label) => {
            fields.fault("constrain", "a stage with output = \"label\" answers no JSON; write \"labels\"");
        }
        _ => {}
    }
    Some(constrain)
}

/// Sets beside the task's rows.
fn read_sets(file: &mut Fields<'_>, stages: &[Stage]) -> Vec<SetConfig> {
    const PROMPTS: [(&str, SetPrompt); 2] = [("bare", SetPrompt::Bare), ("same", SetPrompt::Same)];
    let mut sets: Vec<SetConfig> = Vec::new();
    for mut fields in file.table_list("set") {
        let name = fields.string("name");
        match &name {
            Some(name) if !is_slug(name) => {
                fields.fault(
                    "name",
                    "must be letters, digits, `_` or `-`, at most 64, and start with a letter",
                );
            }
            Some(name) if sets.iter().any(|set| set.settings.name == *name) => {
                fields.fault("name", &format!("two sets are called `{name}`"));
            }
            None if !fields.has("name") => fields.missing("name", "give the set a name, name = \"general\""),
            _ => {}
        }
        let sources = fields.strings("source");
        if !fields.has("source") {
            fields.missing("source", "name its rows, source = [\"data/general.jsonl\"]");
        }
        if sources.as_ref().is_some_and(Vec::is_empty) {
            fields.fault("source", "must name at least one file");
        }
        let input = fields.string("input");
        if let Some(template) = &input
            && let Err(e) = minijinja::Environment::new().template_from_str(template)
        {
            fields.fault("input", &format!("is not a template: {}", clip(&e.to_string())));
        }
        let gold = fields.string("gold");
        let metric = fields.string("metric");
        if let Some(metric) = &metric {
            match Known::default().primary(metric) {
                Ok(Metric { stage: Some(_), .. }) => {
                    fields.fault("metric", "is of one stage; a set has none");
                }
                Ok(found) if found.is_judged() => {
                    fields.fault("metric", "is a judge's; a set is scored by its gold");
                }
                Ok(_) => {}
                Err(e) => fields.fault("metric", &clip_long(&e.to_string())),
            }
        }
        let prompt = fields.choice("prompt", &PROMPTS).unwrap_or_default();
        let stage = fields.string("stage");
        if let Some(stage) = &stage {
            let known: Vec<&str> = stages.iter().map(|s| s.name.as_str()).collect();
            if prompt == SetPrompt::Same {
                fields
                    .fault("stage", "belongs to prompt = \"bare\"; with \"same\" the whole pipeline answers");
            } else if !known.contains(&stage.as_str()) {
                fields.fault(
                    "stage",
                    &format!("no stage is called `{}`; stages: {}", clip(stage), known.join(", ")),
                );
            }
        }
        let max_tokens = fields.count("max_tokens", 1..=1_000_000);
        if max_tokens.is_some() && prompt == SetPrompt::Same {
            fields.fault("max_tokens", "belongs to prompt = \"bare\"; with \"same\" each stage has its own");
        }
        let settings = SetSettings {
            name: name.unwrap_or_default(),
            metric: metric.unwrap_or_else(|| "exact".into()),
            prompt,
            stage,
            max_tokens,
        };
        let every = fields.flag("every").unwrap_or(true);
        fields.finish();
        sets.push(SetConfig { sources: sources.unwrap_or_default(), input, gold, every, settings });
    }
    sets
}

fn is_slug(name: &str) -> bool {
    name.len() <= 64
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn read_data(file: &mut Fields<'_>, models: &BTreeMap<String, ModelEntry>) -> DataConfig {
    if !file.has("data") {
        file.missing("data", "add a table [data] with source = [\"data/rows.jsonl\"]");
    }
    let there = file.has("data");
    let mut fields = file.table_or_empty("data");
    let sources = fields.strings("source");
    if there && !fields.has("source") {
        fields.missing("source", "name the data, source = [\"data/rows.jsonl\"]");
    }
    if sources.as_ref().is_some_and(Vec::is_empty) {
        fields.fault("source", "must name at least one file");
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = sources.iter().flatten().find(|s| !seen.insert(s.as_str())) {
        fields.fault("source", &format!("`{}` is named twice", clip(twice)));
    }
    let input = fields.string("input");
    if let Some(template) = &input
        && let Err(e) = minijinja::Environment::new().template_from_str(template)
    {
        fields.fault("input", &format!("is not a template: {}", clip(&e.to_string())));
    }
    let gold = fields.string("gold");
    let dimensions = fields.strings("dimensions").unwrap_or_default();
    let embedder = fields.string("embedder").unwrap_or_else(|| "builtin".into());
    if embedder != "builtin" {
        known_model(&fields, "embedder", &embedder, models);
    }
    let split = read_split(fields.table_or_empty("split"));
    fields.finish();
    DataConfig { sources: sources.unwrap_or_default(), input, gold, dimensions, embedder, split }
}

fn read_split(mut fields: Fields<'_>) -> Split {
    let default = Split::default();
    let mut share = |key| fields.number(key, "a share from 0 to 1", |s| (0.0..=1.0).contains(&s));
    let split = Split {
        eval: share("eval").unwrap_or(default.eval),
        dev: share("dev").unwrap_or(default.dev),
        reserve: share("reserve").unwrap_or(default.reserve),
        stratified: fields.flag("stratified").unwrap_or(default.stratified),
        group: fields.strings("group").unwrap_or_default(),
        near_duplicates: fields.flag("near_duplicates").unwrap_or(default.near_duplicates),
        seed: fields.whole("seed", 0..=MANY).unwrap_or(default.seed),
    };
    let taken = split.eval + split.dev + split.reserve;
    if taken > 1.0 {
        fields
            .fault("eval", &format!("eval, dev and reserve take {taken:.2} of the rows together; at most 1"));
    }
    fields.finish();
    split
}

fn read_cache(mut fields: Fields<'_>) -> CacheSettings {
    let default = CacheSettings::default();
    let cache = CacheSettings {
        off: fields.flag("off").unwrap_or(default.off),
        limit_mb: fields.whole("limit_mb", 1..=1 << 24).unwrap_or(default.limit_mb),
    };
    fields.finish();
    cache
}

fn read_strata(mut fields: Fields<'_>, data: &DataConfig) -> StrataSettings {
    let mut likeness = fields.table_or_empty("duplicates");
    let default = Likeness::default();
    let duplicates = Likeness {
        threshold: likeness
            .number("threshold", "above 0 and at most 1", |t| t > 0.0 && t <= 1.0)
            .unwrap_or(default.threshold),
        ngram: likeness.count("ngram", 1..=100).unwrap_or(default.ngram),
    };
    likeness.finish();
    let strata = StrataSettings {
        k: fields.count("k", 1..=10_000),
        dimensions: data.dimensions.clone(),
        embedder: None,
        seed: fields.whole("seed", 0..=MANY).unwrap_or(data.split.seed),
        duplicates,
    };
    fields.finish();
    strata
}
