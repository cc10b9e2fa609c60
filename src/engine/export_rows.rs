//! Rows of a query into a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::filter::Finder;
use super::state::{Engine, bad_input, failed};
use super::{parts, rows};
use crate::data::{RowWriter, Written};
use crate::domain::api::{FILE_THERE, Failure, RowQuery};
use crate::domain::words::counted;

/// What stands beside a row's own fields. A field of the data with such a name is called `field.NAME`.
const OWN: [&str; 7] = ["id", "input", "gold", "part", "stratum", "marks", "note"];
/// Rows that are read before they are written.
const CHUNK: usize = 4096;

/// How far the files under way are: rows written, of so many.
pub type Exports = BTreeMap<String, (usize, usize)>;

fn exports(engine: &Engine) -> MutexGuard<'_, Exports> {
    engine.exports.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows written, and how many there are; of a file that nobody writes, none of none.
pub fn progress(engine: &Engine, file: &str) -> (usize, usize) {
    exports(engine).get(file).copied().unwrap_or_default()
}

/// Tells how far a file is, until it is dropped.
struct Told<'a> {
    engine: &'a Engine,
    file: &'a str,
}

impl Told<'_> {
    fn tell(&self, done: usize, total: usize) {
        exports(self.engine).insert(self.file.to_owned(), (done, total));
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        exports(self.engine).remove(self.file);
    }
}

/// Writes the rows of a query, in its order, with people's golds in place of the file's. Returns what was done, in words.
///
/// # Errors
/// The file is there already, its name ends in no known way, or it cannot be written.
pub fn write(engine: &Engine, query: &RowQuery, file: &str, force: bool) -> Result<String, Failure> {
    let path = Path::new(file);
    let Some(written) = Written::of(path) else {
        return Err(bad_input(format!(
            "{file}: a name that ends in .jsonl, .csv or .parquet says how to write rows"
        )));
    };
    if !path.is_absolute() {
        return Err(bad_input(format!("{file} is no absolute path")));
    }
    if path.exists() && !force {
        return Err(bad_input(format!("{file} {FILE_THERE}; choose another name, or --force to replace it")));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
        return Err(bad_input(format!("{file}: there is no folder {}; make it first", folder.display())));
    }
    let (loaded, places) = rows::places(engine, query)?;
    let finder = Finder::new(engine, &loaded);
    let keys = ["gold", "part", "stratum", "mark", "note"].map(|key| finder.key(key));
    let [gold, part, stratum, mark, note] = keys;
    let keys = [("gold", gold?), ("part", part?), ("stratum", stratum?), ("marks", mark?), ("note", note?)];
    let fields = loaded.dataset.fields();
    let called = |field: &str| {
        if OWN.contains(&field) && field != "id" { format!("field.{field}") } else { field.to_owned() }
    };
    let mut names: Vec<String> = OWN.iter().map(|n| (*n).to_owned()).collect();
    names.extend(fields.iter().filter(|f| *f != "id").map(|f| called(f)));
    let known: BTreeSet<&String> = names.iter().collect();
    let object = |&at: &u32| -> Result<Map<String, Value>, Failure> {
        let at = at as usize;
        let row = loaded.dataset.row(at).map_err(|e| parts::data_error(&e))?;
        let mut object = Map::from_iter([
            ("id".to_owned(), Value::from(row.id.clone())),
            ("input".to_owned(), Value::from(loaded.text(at).0)),
        ]);
        for (name, key) in &keys {
            let mut values: Vec<String> = Vec::new();
            key.each(&loaded, at, &mut |value| values.push(value.to_owned()));
            let value = match *name {
                "marks" => Value::from(values),
                "part" if values == ["none"] => Value::Null,
                _ => values.pop().map_or(Value::Null, Value::from),
            };
            object.insert((*name).to_owned(), value);
        }
        let more = row.fields.into_iter().filter(|(field, _)| field != "id");
        object.extend(
            more.map(|(field, value)| (called(&field), value)).filter(|(name, _)| known.contains(name)),
        );
        Ok(object)
    };
    let cannot = |e: anyhow::Error| failed(format!("cannot write {file}: {e:#}"));
    let mut out = RowWriter::new(path, written, names.clone()).map_err(cannot)?;
    let temporary = out.temporary().to_owned();
    let told = Told { engine, file };
    let done = (|| {
        for (i, some) in places.chunks(CHUNK).enumerate() {
            told.tell(i * CHUNK, places.len());
            let objects: Vec<_> = some.par_iter().map(object).collect::<Result<_, _>>()?;
            objects.iter().try_for_each(|object| out.put(object)).map_err(cannot)?;
        }
        out.finish().map_err(cannot)
    })();
    if done.is_err() {
        let _ = std::fs::remove_file(temporary);
    }
    done.map(|()| format!("{} in {file}", counted(places.len(), "row")))
}
