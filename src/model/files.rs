//! Opening the files of a model's folder: nothing outside it is read, whatever names and links in it say.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::ModelError;

/// The largest JSON or template file that is read whole; tokenizers of large vocabularies have some 30 MB.
const MAX_TEXT: u64 = 256 << 20;

/// Refuses a model's folder that is none.
pub fn folder(dir: &Path) -> Result<(), ModelError> {
    const ADVICE: &str = "a Hugging Face folder with config.json, tokenizer.json and *.safetensors is expected; check the path, or download a model with `tunebench model pull ORGANIZATION/NAME`";
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(ModelError::file(dir, format!("is a file; {ADVICE}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(ModelError::file(dir, format!("does not exist; {ADVICE}")))
        }
        Err(e) => Err(ModelError::file(dir, format!("cannot be read: {e}; {ADVICE}"))),
    }
}

/// The path of `name` in the model's folder `dir`, with links followed.
///
/// A name may have folders but not lead upwards, and a link may lead to another place in the folder or, where the folder
/// stands in the Hugging Face cache (`models--NAME/snapshots/REVISION`), to that model's `blobs`.
pub fn locate(dir: &Path, name: &str) -> Result<PathBuf, ModelError> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let path = dir.join(name);
    if name.is_empty() || name.contains('\0') || !plain {
        return Err(ModelError::file(dir, format!("the file name `{name}` leads out of the folder")));
    }
    let root = dir.canonicalize().map_err(|e| ModelError::io(dir, e))?;
    let real = path.canonicalize().map_err(|e| ModelError::io(&path, e))?;
    let in_cache = || {
        let snapshots = root.ancestors().skip(1).find(|a| a.file_name().is_some_and(|n| n == "snapshots"));
        let blobs = snapshots.and_then(Path::parent).map(|model| model.join("blobs"));
        blobs.is_some_and(|blobs| real.parent() == Some(&blobs))
    };
    if !real.starts_with(&root) && !in_cache() {
        return Err(ModelError::file(
            &path,
            format!("is a link to {}, outside the model's folder; copy the file into it", real.display()),
        ));
    }
    Ok(real)
}

/// Opens a regular file of the folder; none when there is no such file.
pub fn open(dir: &Path, name: &str) -> Result<Option<(File, PathBuf)>, ModelError> {
    let shown = dir.join(name);
    let real = match locate(dir, name) {
        Ok(real) => real,
        // A folder that is missing is an error, a file that is missing is not; a dangling link is.
        Err(ModelError::Io { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound && dir.is_dir() && !shown.is_symlink() =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let kind = std::fs::metadata(&real).map_err(|e| ModelError::io(&shown, e))?;
    if !kind.is_file() {
        return Err(ModelError::file(&shown, "is not a regular file"));
    }
    let file = File::open(&real).map_err(|e| ModelError::io(&shown, e))?;
    Ok(Some((file, shown)))
}

/// The text of a file of the folder; none when there is no such file.
pub fn read_text(dir: &Path, name: &str) -> Result<Option<String>, ModelError> {
    let Some((file, path)) = open(dir, name)? else { return Ok(None) };
    let mut text = String::new();
    file.take(MAX_TEXT + 1).read_to_string(&mut text).map_err(|e| ModelError::io(&path, e))?;
    if text.len() as u64 > MAX_TEXT {
        return Err(ModelError::file(&path, format!("is larger than {} MB", MAX_TEXT >> 20)));
    }
    Ok(Some(text))
}

/// A JSON object of the folder; none when there is no such file.
pub fn read_json(dir: &Path, name: &str) -> Result<Option<Value>, ModelError> {
    let Some(text) = read_text(dir, name)? else { return Ok(None) };
    let path = dir.join(name);
    let value: Value = serde_json::from_str(&text)
        .map_err(|e| ModelError::file(&path, format!("is not valid JSON: {e}")))?;
    if !value.is_object() {
        return Err(ModelError::file(&path, "is not a JSON object"));
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_and_links_may_not_lead_out_of_the_folder() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("model");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(top.path().join("secret"), "s").unwrap();
        std::fs::write(dir.join("sub/inside"), "i").unwrap();
        symlink(top.path().join("secret"), dir.join("out")).unwrap();
        symlink("sub/inside", dir.join("in")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        let absolute = top.path().join("secret");
        for name in
            ["../secret", "sub/../../secret", "/etc/hostname", absolute.to_str().unwrap(), "", ".", "out"]
        {
            let error = locate(&dir, name).unwrap_err().to_string();
            assert!(error.contains("folder"), "{name}: {error}");
        }
        assert_eq!(read_text(&dir, "in").unwrap().as_deref(), Some("i"));
        assert_eq!(read_text(&dir, "absent").unwrap(), None);
        assert!(read_text(&dir, "dangling").unwrap_err().to_string().contains("dangling"));
        assert!(read_text(&dir, "sub").unwrap_err().to_string().contains("regular"));
        assert!(read_text(&top.path().join("no-folder"), "x").unwrap_err().to_string().contains("no-folder"));
    }

    #[test]
    fn links_of_the_hugging_face_cache_are_followed_to_its_blobs_only() {
        let top = tempfile::tempdir().unwrap();
        let model = top.path().join("models--org--name");
        let snapshot = model.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(model.join("blobs")).unwrap();
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::write(model.join("blobs/0123"), "{}").unwrap();
        std::fs::write(model.join("refs/main"), "abc").unwrap();
        symlink("../../blobs/0123", snapshot.join("config.json")).unwrap();
        symlink("../../refs/main", snapshot.join("other")).unwrap();
        assert_eq!(read_text(&snapshot, "config.json").unwrap().as_deref(), Some("{}"));
        assert!(read_text(&snapshot, "other").is_err());
    }

    #[test]
    fn deeply_nested_json_is_refused_without_overflow() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "[".repeat(1 << 20)).unwrap();
        let error = read_json(dir.path(), "config.json").unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("JSON"), "{error}");
    }
}
