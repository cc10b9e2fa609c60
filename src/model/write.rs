//! Writing a model's files: each appears whole or not at all (temporary file, sync, rename).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::ModelError;

/// Writes `file` by `fill` into a temporary file beside it, syncs and renames.
pub fn whole(
    file: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), ModelError> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let temporary = file.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let result = (|| {
        let mut out = BufWriter::new(File::create(&temporary)?);
        fill(&mut out)?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        std::fs::rename(&temporary, file)?;
        // The rename itself is only lasting when the folder is synced.
        let dir =
            file.parent().filter(|p| !p.as_os_str().is_empty()).map_or(PathBuf::from("."), Path::to_path_buf);
        File::open(dir)?.sync_all()
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result.map_err(|e| ModelError::io(file, e))
}

/// Pretty JSON with a newline at its end.
pub fn json(file: &Path, value: &Value) -> Result<(), ModelError> {
    whole(file, |out| writeln!(out, "{value:#}"))
}

/// A safetensors file of f32 tensors (name, shape, values), with free text in its header.
pub fn safetensors(
    file: &Path,
    tensors: &[(&str, &[usize], &[f32])],
    metadata: &[(&str, &str)],
) -> Result<(), ModelError> {
    let mut header = Map::new();
    let metadata: BTreeMap<&str, &str> = metadata.iter().copied().collect();
    header.insert("__metadata__".into(), json!(metadata));
    let mut offset = 0;
    for (name, shape, values) in tensors {
        let end = offset + 4 * values.len();
        header.insert((*name).into(), json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    // The data begin at a multiple of eight bytes, as the format asks of writers.
    header.push_str(&" ".repeat((8 - header.len() % 8) % 8));
    whole(file, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for (_, _, values) in tensors {
            for value in *values {
                out.write_all(&value.to_le_bytes())?;
            }
        }
        Ok(())
    })
}
