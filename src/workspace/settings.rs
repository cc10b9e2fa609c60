//! `--set key=value`: one value of `workspace.toml` replaced for one run.

use std::collections::BTreeMap;

use super::problem::{Problem, Problems};
use super::reader::clip;
use super::tree::{Node, Place, Table, Value, parse_setting};
use crate::domain::run::RunKind;
use crate::domain::words::nearest;

/// Valid keys by the path of their table.
pub(super) type Keys = BTreeMap<String, Vec<&'static str>>;

/// Puts every setting into the tree; the schema judges the values afterwards.
pub(super) fn apply(
    tree: &mut Table,
    keys: &Keys,
    kind: Option<RunKind>,
    set: &[(String, String)],
) -> Result<(), Problems> {
    let mut problems = Vec::new();
    for (key, value) in set {
        let result = full_path(key, keys, kind).and_then(|path| {
            let segments: Vec<&str> = path.split('.').collect();
            insert(tree, &segments, parse_setting(value))
        });
        if let Err(message) = result {
            let message = format!("`{}`: {message}", clip(key));
            problems.push(Problem { file: "--set".into(), line: 0, message });
        }
    }
    Problems(problems).into_result()
}

/// The tables that a run's settings stand in, its own one first.
const fn own_tables(kind: RunKind) -> &'static [&'static str] {
    match kind {
        RunKind::Strata => &["strata"],
        RunKind::Eval => &["eval"],
        RunKind::Prompt => &["tuning.prompt"],
        RunKind::Trajectory => &["tuning.trajectory"],
        RunKind::Train => &["tuning.train"],
        RunKind::Grow => &["tuning.grow"],
        // What is tested is a training.
        RunKind::LrRange => &["tuning.lr_range", "tuning.train"],
        // Theirs do not stand in the file.
        RunKind::Judge | RunKind::Serve | RunKind::Playground => &[],
    }
}

/// `rank` -> `tuning.train.rank`.
fn full_path(key: &str, keys: &Keys, kind: Option<RunKind>) -> Result<String, String> {
    if key.is_empty() || key.split('.').any(|s| s.trim().is_empty()) || key.len() > 200 {
        return Err("is no path of workspace.toml; write it as in tuning.train.rank=8".into());
    }
    let top = keys.get("").map_or(&[][..], Vec::as_slice);
    let first = key.split('.').next().unwrap_or_default();
    if key.contains('.') && top.contains(&first) {
        return Ok(key.to_owned());
    }
    let all = || {
        keys.iter()
            .filter(|(table, _)| !table.is_empty())
            .flat_map(|(table, names)| names.iter().map(move |name| format!("{table}.{name}")))
    };
    for own in kind.map_or(&[][..], own_tables) {
        let path = format!("{own}.{key}");
        if all().any(|p| p == path) {
            return Ok(path);
        }
    }
    let ending = format!(".{key}");
    let mut found: Vec<String> = all().filter(|path| path.ends_with(&ending)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let own: Vec<&str> = kind
                .map_or(&[][..], own_tables)
                .iter()
                .filter_map(|table| keys.get(*table))
                .flatten()
                .copied()
                .collect();
            let paths: Vec<String> = all().collect();
            let near = nearest(key, own.iter().copied().chain(paths.iter().map(String::as_str)));
            Err(match near {
                Some(near) => format!("is no setting; did you mean `{near}`?"),
                None => "is no setting; write a path of workspace.toml, as in tuning.train.rank=8".into(),
            })
        }
        _ => Err(format!("stands in several tables; write one of: {}", found.join(", "))),
    }
}

/// Position of a list's item, by number or by its `name`.
fn item(items: &[Node], segment: &str) -> Option<usize> {
    let named = |node: &Node| match &node.value {
        Value::Table(table) => {
            matches!(table.get("name").map(|n| &n.value), Some(Value::String(s)) if s == segment)
        }
        _ => false,
    };
    items.iter().position(named).or_else(|| segment.parse().ok().filter(|i| *i < items.len()))
}

fn insert(table: &mut Table, segments: &[&str], node: Node) -> Result<(), String> {
    let Some((first, rest)) = segments.split_first() else { return Ok(()) };
    if rest.is_empty() {
        table.insert((*first).to_owned(), node);
        return Ok(());
    }
    let child = table
        .entry((*first).to_owned())
        .or_insert_with(|| Node { place: Place::Setting, value: Value::Table(Table::new()) });
    match &mut child.value {
        Value::Table(inner) => insert(inner, rest, node),
        Value::Array(items) => {
            let names: Vec<String> = items.iter().enumerate().map(|(i, n)| label(i, n)).collect();
            let Some(position) = item(items, rest[0]) else {
                return Err(format!(
                    "no `{first}` is called `{}`; there are: {}",
                    clip(rest[0]),
                    names.join(", ")
                ));
            };
            match (&mut items[position].value, &rest[1..]) {
                (Value::Table(inner), rest) if !rest.is_empty() => insert(inner, rest, node),
                (_, []) => Err("names a whole table; name a key in it".into()),
                _ => Err(format!("`{first}` is no table")),
            }
        }
        _ => Err(format!("`{first}` is no table")),
    }
}

fn label(i: usize, node: &Node) -> String {
    if let Value::Table(table) = &node.value
        && let Some(Value::String(name)) = table.get("name").map(|n| &n.value)
    {
        return name.clone();
    }
    i.to_string()
}

/// Line of a key; 0 where it does not stand in the file.
pub(super) fn place_of(tree: &Table, path: &str) -> u64 {
    let mut segments = path.split('.');
    let Some(mut node) = segments.next().and_then(|s| tree.get(s)) else { return 0 };
    for segment in segments {
        let next = match &node.value {
            Value::Table(table) => table.get(segment),
            Value::Array(items) => item(items, segment).and_then(|i| items.get(i)),
            _ => None,
        };
        match next {
            Some(next) => node = next,
            None => return 0,
        }
    }
    match node.place {
        Place::Line(line) => line,
        Place::Setting => 0,
    }
}
