//! A store's file: one example a line, by id. The same examples are the same bytes, and so the same hash.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use crate::domain::example::{EXAMPLE_FORMAT, Example};
use crate::store::files;

/// The examples as lines.
pub fn to_bytes(examples: &[Example]) -> anyhow::Result<Vec<u8>> {
    let mut sorted: Vec<&Example> = examples.iter().collect();
    sorted.sort_by(|a, b| a.id.cmp(&b.id));
    let mut bytes = Vec::new();
    for example in sorted {
        serde_json::to_writer(&mut bytes, example)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Write a store; it appears whole or not at all. Returns its hash.
pub fn write(path: &Path, examples: &[Example]) -> anyhow::Result<String> {
    let bytes = to_bytes(examples)?;
    files::write_atomic(path, &bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(hash(&bytes))
}

/// Read a store. `name` is what errors call it.
pub fn parse(name: &str, bytes: &[u8]) -> anyhow::Result<Vec<Example>> {
    let mut examples = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let mut example: Example = serde_json::from_slice(line)
            .with_context(|| format!("{name}, line {}: expected an example as JSON", i + 1))?;
        ensure!(
            example.format <= EXAMPLE_FORMAT,
            "{name}, line {}: format {}, this version reads {EXAMPLE_FORMAT}",
            i + 1,
            example.format
        );
        for (field, text) in
            [("stage", &example.stage), ("input", &example.input), ("answer", &example.answer)]
        {
            ensure!(!text.is_empty(), "{name}, line {}: an example needs `{field}`", i + 1);
        }
        if example.id.is_empty() {
            example.id = Example::id_of(&example.stage, &example.input, &example.answer);
        }
        if !seen.insert(example.id.clone()) {
            bail!("{name}, line {}: a second example `{}`", i + 1, example.id);
        }
        examples.push(example);
    }
    Ok(examples)
}

/// Read a store from its file. With `expected`, its hash must be that.
pub fn read(path: &Path, expected: Option<&str>) -> anyhow::Result<Vec<Example>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("the examples at {} cannot be read", path.display()))?;
    if let Some(expected) = expected {
        ensure!(
            hash(&bytes) == expected,
            "{} was changed: its hash is not the one that the candidate names",
            path.display()
        );
    }
    parse(&path.display().to_string(), &bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn a_store_reads_back_and_its_order_does_not_count() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("store.jsonl");
        let (a, b) = (example("1", "x", "y"), example("2", "z", "w"));
        let hash = write(&path, &[a.clone(), b.clone()]).unwrap();
        assert_eq!(write(&path, &[b.clone(), a.clone()]).unwrap(), hash);
        let mut got = read(&path, Some(&hash)).unwrap();
        got.sort_by(|x, y| x.row.cmp(&y.row));
        assert_eq!(got, [a, b]);
        assert!(read(&path, Some("other")).unwrap_err().to_string().contains("was changed"));
    }

    #[test]
    fn a_slip_in_a_store_is_told_with_its_line() {
        let said = |text: &str| format!("{:#}", parse("s.jsonl", text.as_bytes()).unwrap_err());
        assert!(said("\n{\"format\": 1").contains("s.jsonl, line 2"));
        let no_answer = r#"{"format":1,"id":"","stage":"s","input":"x","answer":""}"#;
        assert!(said(no_answer).contains("needs `answer`"));
        let line = r#"{"format":1,"id":"a","stage":"s","input":"x","answer":"y"}"#;
        assert!(said(&format!("{line}\n{line}")).contains("line 2: a second example `a`"));
        assert!(said(&line.replace(":1", ":9")).contains("format 9"));
        // By hand: no id, no format but the number.
        let made = parse("s", br#"{"format":1,"id":"","stage":"s","input":"x","answer":"y"}"#).unwrap();
        assert_eq!(made[0].id, Example::id_of("s", "x", "y"));
    }
}
