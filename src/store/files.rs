//! Files that appear whole or not at all, and folders that are nobody else's business.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Put `bytes` at `path`: temporary file in the same folder, fsync, rename, fsync of the folder.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, true)
}

fn write(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = parent.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    if durable { sync_dir(parent) } else { Ok(()) }
}

/// [`write_atomic`] of indented JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_atomic(path, &indented(value)?)
}

/// The same for what a log can give again: whole or not at all for whoever reads it, but not yet durable.
pub fn show_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write(path, &indented(value)?, false)
}

/// Make a file durable that [`show_json`] wrote.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn indented(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Make a folder's entries durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Make every file under `dir` durable, folders last.
pub fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}

/// The user this process acts for.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Make (or check) a folder that only this user may enter: mode 0700, ours, no link.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(io::Error::new(e.kind(), format!("cannot make {}: {e}", dir.display()))),
    }
    let meta = fs::symlink_metadata(dir)?;
    if !meta.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a folder; remove it", dir.display()),
        ));
    }
    check_owner(dir, meta.uid(), own_uid())?;
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// What to do about a workspace that cannot be written to.
pub const UNWRITABLE: &str = "runs, index and decisions are kept in it: make the workspace's folder writable (chmod u+w, or mount it read-write), or copy the workspace to a folder of your own";

/// Make (or check) the state folder of a workspace: private, and open for writing.
pub fn state_dir(dir: &Path) -> io::Result<()> {
    private_dir(dir)?;
    use rustix::fs::Access;
    rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
        let e = io::Error::from(e);
        io::Error::new(e.kind(), format!("{} cannot be written to: {e}", dir.display()))
    })
}

/// An error of [`state_dir`] with what to do about it.
pub fn with_remedy(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            io::Error::new(error.kind(), format!("{error}; {UNWRITABLE}"))
        }
        _ => error,
    }
}

/// Refuse what belongs to another user: whoever owns a folder or socket can put anything behind it.
pub fn check_owner(path: &Path, owner: u32, own: u32) -> io::Result<()> {
    if owner == own {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} belongs to user {owner}, not to user {own}: refused", path.display()),
    ))
}

/// The user's private folder under the temporary directory: device locks, and sockets whose own path is too long.
pub fn private_temp() -> io::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("tunebench-{}", own_uid()));
    private_dir(&dir)?;
    Ok(dir)
}

/// Longest path of a unix socket in bytes (`sun_path` holds 108 with its end).
pub const SOCKET_PATH_MAX: usize = 107;

/// Where the socket that belongs at `wanted` really is: there, or in [`private_temp`] under a hash of its path when that is too long.
pub fn socket_path(wanted: &Path) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = wanted.as_os_str().as_bytes();
    if bytes.len() <= SOCKET_PATH_MAX {
        return Ok(wanted.to_owned());
    }
    let hash = blake3::hash(bytes).to_hex();
    let short = private_temp()?.join(format!("{}.sock", &hash.as_str()[..24]));
    if short.as_os_str().as_bytes().len() > SOCKET_PATH_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} is too long for a socket, and so is {}; set TMPDIR to a short path",
                wanted.display(),
                short.display()
            ),
        ));
    }
    Ok(short)
}

/// A file lock of the kernel's, gone when the process is.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// None when another process holds it. `note` is written into the file for people to read.
    pub fn try_take(path: &Path, note: &str) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let lock = Self { file };
        lock.note(note)?;
        Ok(Some(lock))
    }

    /// Write another note.
    pub fn note(&self, note: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        (&self.file).seek(io::SeekFrom::Start(0))?;
        (&self.file).write_all(note.as_bytes())
    }

    /// [`Lock::try_take`], tried again for a while: somebody who only looks ([`Lock::is_held`]) is in the way for a moment.
    pub fn take_within(path: &Path, note: &str, patience: Duration) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(lock) = Self::try_take(path, note)? {
                return Ok(Some(lock));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether some living process holds the lock. A file that is not there is not held.
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = OpenOptions::new().read(true).open(path) else { return false };
        // Shared, so that two who only look do not take each other for the holder.
        matches!(
            rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared),
            Err(rustix::io::Errno::WOULDBLOCK)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_user_is_refused_and_ours_is_not() {
        let own = own_uid();
        assert!(check_owner(Path::new("x"), own, own).is_ok());
        let error = check_owner(Path::new("x"), own + 1, own).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("refused"));
    }

    #[test]
    fn a_private_folder_is_closed_to_others_even_if_it_was_open() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("p");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        private_dir(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_link_in_place_of_a_private_folder_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let link = temp.path().join("l");
        std::os::unix::fs::symlink(temp.path(), &link).unwrap();
        assert!(private_dir(&link).is_err());
    }

    #[test]
    fn a_lock_is_seen_while_held_and_gone_when_dropped() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        assert!(!Lock::is_held(&path));
        let lock = Lock::try_take(&path, "me").unwrap().unwrap();
        assert!(Lock::is_held(&path));
        assert!(Lock::try_take(&path, "you").unwrap().is_none());
        drop(lock);
        assert!(!Lock::is_held(&path));
    }

    #[test]
    fn long_socket_paths_become_short_ones_and_stay_the_same() {
        let long = PathBuf::from(format!("/{}/engine.sock", "x".repeat(200)));
        let short = socket_path(&long).unwrap();
        assert!(short.as_os_str().len() <= SOCKET_PATH_MAX);
        assert_eq!(short, socket_path(&long).unwrap());
        let fits = PathBuf::from("/tmp/w/.tunebench/engine.sock");
        assert_eq!(socket_path(&fits).unwrap(), fits);
    }

    #[test]
    fn a_folder_that_cannot_be_written_comes_with_a_remedy_and_other_errors_do_not() {
        let said = |kind: io::ErrorKind| with_remedy(io::Error::new(kind, "x cannot be made")).to_string();
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
            assert_eq!(said(kind), format!("x cannot be made; {UNWRITABLE}"));
        }
        assert_eq!(said(io::ErrorKind::NotFound), "x cannot be made");
        let dir = tempfile::tempdir().unwrap();
        state_dir(&dir.path().join("state")).unwrap();
        // Nobody, root neither, may make a folder there.
        assert!(state_dir(Path::new("/proc/state")).is_err());
    }
}
