//! Files of general-ability sets: small ones, read whole. A row that cannot be used is an error with its line: a set means all of its rows.

use std::collections::HashSet;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::Path;

use super::format::{self, Format};
use super::guess::Guess;
use super::resolve::Resolver;
use super::scan::scan;
use super::{DataError, canonical, import, parse};
use crate::domain::row::{Quarantined, RunRow};
use crate::domain::words::counted;

/// Bytes of a set's file, and its rows.
const FILE_MAX: u64 = 64 << 20;
const ROWS_MAX: usize = 20_000;
/// Bad rows that are told.
const TOLD: usize = 20;

/// The rows of a set's files, in order. The error lists what is wrong, line by line.
pub fn read(
    files: &[(String, std::path::PathBuf)],
    input: Option<&str>,
    gold: Option<&str>,
) -> Result<Vec<RunRow>, Vec<Quarantined>> {
    let whole = |message: String| vec![Quarantined { file: String::new(), line: 0, reason: message }];
    let resolver = Resolver::new(input, gold, &Guess::default()).map_err(whole)?;
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    let mut ids = HashSet::new();
    for (shown, path) in files {
        if let Err(error) = read_file(shown, path, &resolver, &mut ids, &mut rows, &mut wrong) {
            wrong.push(Quarantined { file: shown.clone(), line: 0, reason: error.to_string() });
        }
    }
    if rows.is_empty() && wrong.is_empty() {
        return Err(whole("the set has no rows".into()));
    }
    if wrong.is_empty() { Ok(rows) } else { Err(wrong) }
}

/// A bad row in words.
pub fn told(set: &str, wrong: &Quarantined) -> String {
    match (wrong.file.is_empty(), wrong.line) {
        (true, _) => format!("set `{set}`: {}", wrong.reason),
        (false, 0) => format!("set `{set}`: {}", wrong.reason),
        (false, line) => format!("{}:{line}: set `{set}`: {}", wrong.file, wrong.reason),
    }
}

fn read_file(
    shown: &str,
    path: &Path,
    resolver: &Resolver,
    ids: &mut HashSet<String>,
    rows: &mut Vec<RunRow>,
    wrong: &mut Vec<Quarantined>,
) -> Result<(), DataError> {
    let size = fs::metadata(path).map_err(DataError::io("cannot read", path))?.len();
    if size > FILE_MAX {
        return Err(DataError::input(
            shown,
            "is over 64 MiB; a set is a sample of what is not to be forgotten",
        ));
    }
    let layout = format::detect(path, shown)?;
    if layout.format == Format::Parquet {
        return Err(DataError::input(shown, "is parquet; a set is read from jsonl, json, csv or tsv"));
    }
    let mut file = File::open(path).map_err(DataError::io("cannot read", path))?;
    scan(&mut file, &layout, path, &mut |batch| {
        for span in batch.rows.iter() {
            let bytes = batch.bytes.get(span.start..span.end).unwrap_or_default();
            let row = match &span.fault {
                Some(fault) => Err(fault.clone()),
                None => {
                    parse::fields(&layout, bytes).and_then(|fields| row(fields, shown, span.line, resolver))
                }
            };
            let row = row.and_then(|row| {
                if rows.len() >= ROWS_MAX {
                    return Err(format!(
                        "is the row number {}; a set has at most that many less one",
                        ROWS_MAX + 1
                    ));
                }
                if ids.insert(row.id.clone()) {
                    Ok(row)
                } else {
                    Err(format!("a second row with the id `{}`", parse::clean(&row.id)))
                }
            });
            match row {
                Ok(row) => rows.push(row),
                Err(reason) => {
                    wrong.push(Quarantined { file: shown.to_owned(), line: span.line, reason });
                    if wrong.len() >= TOLD {
                        wrong.push(Quarantined {
                            file: shown.to_owned(),
                            line: span.line,
                            reason: format!("{} so far; the rest was not read", counted(TOLD, "bad row")),
                        });
                        return ControlFlow::Break(());
                    }
                }
            }
        }
        ControlFlow::Continue(())
    })
}

fn row(
    fields: serde_json::Map<String, serde_json::Value>,
    shown: &str,
    line: u64,
    resolver: &Resolver,
) -> Result<RunRow, String> {
    let (input, gold) = resolver.resolve(&fields)?;
    if input.trim().is_empty() {
        return Err("its input is empty".into());
    }
    let gold = gold
        .filter(|gold| !gold.trim().is_empty())
        .ok_or("it has no gold answer; name its field with gold")?;
    let id = fields.get("id").and_then(import::own_id);
    Ok(RunRow {
        id: id.unwrap_or_else(|| format!("{shown}:{line}")),
        hash: super::dataset::hex(&canonical::hash(&fields)),
        part: None,
        stratum: None,
        turns: resolver.turns(&fields),
        fields,
        input,
        gold: Some(gold),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, gold: Option<&str>) -> Result<Vec<RunRow>, Vec<Quarantined>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.jsonl");
        fs::write(&path, text).unwrap();
        read(&[("g.jsonl".into(), path)], Some("{{ q }}"), gold)
    }

    #[test]
    fn rows_have_input_gold_and_an_id_that_stays() {
        let rows =
            of("{\"q\": \"1 + 1\", \"a\": \"2\"}\n\n{\"id\": \"x\", \"q\": \"2\", \"a\": 3}\n", Some("a"))
                .unwrap();
        let told: Vec<_> =
            rows.iter().map(|r| (r.id.as_str(), r.input.as_str(), r.gold.as_deref())).collect();
        assert_eq!(told, [("g.jsonl:1", "1 + 1", Some("2")), ("x", "2", Some("3"))]);
        assert_eq!((rows[0].part, rows[0].hash.len()), (None, 32));
    }

    #[test]
    fn every_bad_row_is_told_with_its_line() {
        let text = "{\"q\": \"1\", \"a\": \"2\"}\nnonsense\n{\"q\": \"1\"}\n{\"q\": \" \", \"a\": \"1\"}\n{\"id\": 7, \"q\": \"1\", \"a\": \"1\"}\n{\"id\": \"7\", \"q\": \"1\", \"a\": \"1\"}\n";
        let wrong = of(text, Some("a")).unwrap_err();
        let told: Vec<(u64, &str)> = wrong.iter().map(|w| (w.line, w.reason.as_str())).collect();
        let expected = [
            (2, "not valid JSON"),
            (3, "no gold answer"),
            (4, "input is empty"),
            (6, "a second row with the id `7`"),
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for ((line, reason), (at, says)) in told.into_iter().zip(expected) {
            assert!(line == at && reason.contains(says), "{line}: {reason}");
        }
        assert!(of("", None).unwrap_err()[0].reason.contains("no rows"));
        let many = of(&"x\n".repeat(100), None).unwrap_err();
        assert!(many.len() == TOLD + 1 && many[TOLD].reason.contains("the rest was not read"));
    }
}
