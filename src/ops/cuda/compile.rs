#![allow(unsafe_code)]
//! The kernels of `kernels/`, compiled by nvrtc and kept on disk.
//!
//! An entry's name is the hash of all that decides its content: source, headers, architecture, options, nvrtc's version. An entry
//! starts with the hash of its bytes; one that does not agree (a torn write, a bad disk) is compiled again.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{result, sys};

use super::error::CudaError;
use super::kernels::HEADERS;
use crate::store::files;

const OPTIONS: [&str; 1] = ["--std=c++17"];

/// Compiles one kernel file. `arch` is a real architecture (`sm_90`: a cubin) or a virtual one (`compute_80`: PTX).
/// Call only where [`super::libraries`] found nvrtc.
///
/// # Errors
/// nvrtc's log, with file and line.
pub fn compile(file: &str, source: &str, arch: &str) -> Result<Vec<u8>, CudaError> {
    let failed = |log: String| CudaError::Compile { file: file.into(), arch: arch.into(), log };
    let text = |s: &str| CString::new(s).map_err(|_| failed("holds a zero byte".into()));
    let (source, name) = (text(source)?, text(file)?);
    let headers = HEADERS.iter().map(|(_, h)| text(h)).collect::<Result<Vec<_>, _>>()?;
    let names = HEADERS.iter().map(|(n, _)| text(n)).collect::<Result<Vec<_>, _>>()?;
    let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
    let (headers, names) = (pointers(&headers), pointers(&names));
    let mut program = std::ptr::null_mut();
    // SAFETY: all strings end with zero and live until the call returns; nvrtc copies them.
    let made = unsafe {
        sys::nvrtcCreateProgram(
            &raw mut program,
            source.as_ptr(),
            name.as_ptr(),
            HEADERS.len() as i32,
            headers.as_ptr(),
            names.as_ptr(),
        )
    };
    made.result().map_err(|e| failed(format!("nvrtcCreateProgram: {e}")))?;
    let mut options: Vec<String> = OPTIONS.iter().map(|o| (*o).to_owned()).collect();
    options.push(format!("--gpu-architecture={arch}"));
    // SAFETY: the program was made above and is destroyed once, below.
    let image = unsafe { result::compile_program(program, &options) }.map_err(|e| {
        // SAFETY: as above.
        let log = unsafe { result::get_program_log(program) }.unwrap_or_default();
        let log: Vec<u8> = log.into_iter().map(|c| c as u8).take_while(|c| *c != 0).collect();
        failed(if log.is_empty() { e.to_string() } else { String::from_utf8_lossy(&log).into_owned() })
    });
    let image = image.and_then(|()| {
        if arch.starts_with("sm_") { cubin(program) } else { ptx(program) }
            .map_err(|e| failed(format!("nvrtc gives no result: {e}")))
    });
    // SAFETY: as above.
    let _ = unsafe { result::destroy_program(program) };
    image
}

fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: a compiled program; the buffer has the size that nvrtc asks for.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut image = vec![0_u8; size];
        sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()?;
        Ok(image)
    }
}

/// With its closing zero, as the driver wants it.
fn ptx(program: sys::nvrtcProgram) -> Result<Vec<u8>, result::NvrtcError> {
    // SAFETY: a compiled program.
    Ok(unsafe { result::get_ptx(program) }?.into_iter().map(|c| c as u8).collect())
}

/// nvrtc's version as (major, minor); zeros where it does not say.
fn version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two ints.
    let _ = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    (major, minor)
}

/// Compiled kernels on disk.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The user's: `$XDG_CACHE_HOME/tunebench/kernels`, or under `~/.cache`; none without a home.
    pub fn of_user() -> Option<Self> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
        Some(Self::at(base.join("tunebench").join("kernels")))
    }

    /// A kernel file's image: from the disk if it is there and whole, else compiled and kept. A cache that cannot be written
    /// costs time only.
    pub fn image(&self, file: &str, source: &str, arch: &str) -> Result<Vec<u8>, CudaError> {
        let (major, minor) = version();
        let key = key(file, source, arch, &format!("{major}.{minor}"));
        self.get_or_make(&key, || compile(file, source, arch))
    }

    fn get_or_make(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<Vec<u8>, CudaError>,
    ) -> Result<Vec<u8>, CudaError> {
        let path = self.dir.join(key);
        if let Some(image) = read(&path) {
            return Ok(image);
        }
        let image = make()?;
        let mut entry = blake3::hash(&image).as_bytes().to_vec();
        entry.extend_from_slice(&image);
        // What goes wrong here goes wrong again next time, and only then does the compilation, too.
        let _ = std::fs::create_dir_all(&self.dir).and_then(|()| files::write_atomic(&path, &entry));
        Ok(image)
    }
}

/// An entry that is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let entry = std::fs::read(path).ok()?;
    let (hash, image) = entry.split_at_checked(blake3::OUT_LEN)?;
    (blake3::hash(image).as_bytes() == hash).then(|| image.to_vec())
}

fn key(file: &str, source: &str, arch: &str, nvrtc: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    let headers = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
    for part in [source, arch, nvrtc].into_iter().chain(headers).chain(OPTIONS) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let stem = file.trim_end_matches(".cu");
    format!("{stem}-{arch}-{}", &hasher.finalize().to_hex()[..32])
}

#[cfg(test)]
mod tests {
    use super::super::kernels::KERNELS;
    use super::super::libraries::{LIBS_VARIABLE, libraries};
    use super::*;

    /// Whether nvrtc is here; CI asks for it by TUNEBENCH_REQUIRE_NVRTC.
    fn nvrtc_or_skip() -> bool {
        if libraries().nvrtc.is_there() {
            return true;
        }
        assert!(std::env::var_os("TUNEBENCH_REQUIRE_NVRTC").is_none(), "nvrtc is required and was not found");
        println!("skipped: no nvrtc here; {LIBS_VARIABLE} can name its folder");
        false
    }

    #[test]
    fn every_kernel_file_is_listed() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let files = |ending: &str| {
            let mut files: Vec<_> = std::fs::read_dir(&dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.ends_with(ending))
                .collect();
            files.sort();
            files
        };
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(files(".cu"), sorted(KERNELS.iter().map(|(name, _)| (*name).to_owned()).collect()));
        assert_eq!(files(".h"), sorted(HEADERS.iter().map(|(name, _)| (*name).to_owned()).collect()));
    }

    #[test]
    fn every_kernel_compiles_for_ampere_and_hopper() {
        if !nvrtc_or_skip() {
            return;
        }
        for (name, source) in KERNELS {
            for arch in ["compute_80", "compute_90"] {
                let ptx = String::from_utf8(compile(name, source, arch).unwrap()).unwrap();
                assert!(ptx.contains(".entry"), "{name} for {arch} has no kernel");
            }
        }
        let broken = compile("broken.cu", "extern \"C\" __global__ void f() {\n  nonsense;\n}", "compute_80");
        let message = broken.unwrap_err().to_string();
        assert!(message.contains("broken.cu(2)") && message.contains("compute_80"), "{message}");
    }

    #[test]
    fn a_real_architecture_gives_a_cubin_which_is_kept() {
        if !nvrtc_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("kernels"));
        let (name, source) = KERNELS[0];
        let image = cache.image(name, source, "sm_90").unwrap();
        assert!(image.starts_with(b"\x7fELF"), "a cubin is an ELF file");
        assert_eq!(std::fs::read_dir(dir.path().join("kernels")).unwrap().count(), 1);
        assert_eq!(cache.image(name, source, "sm_90").unwrap(), image);
    }

    #[test]
    fn an_entry_is_made_once_and_again_when_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let mut made = 0;
        let mut get = || {
            cache
                .get_or_make("k", || {
                    made += 1;
                    Ok(b"image".to_vec())
                })
                .unwrap()
        };
        assert_eq!((get(), get()), (b"image".to_vec(), b"image".to_vec()));
        let path = dir.path().join("k");
        let mut entry = std::fs::read(&path).unwrap();
        *entry.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &entry).unwrap();
        assert_eq!(get(), b"image");
        std::fs::write(&path, b"torn").unwrap();
        assert_eq!(get(), b"image");
        assert_eq!(made, 3);
    }

    #[test]
    fn another_source_architecture_or_compiler_has_another_entry() {
        let base = key("a.cu", "source", "sm_80", "13.0");
        for other in [
            key("a.cu", "source ", "sm_80", "13.0"),
            key("a.cu", "source", "sm_90", "13.0"),
            key("a.cu", "source", "sm_80", "13.1"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_still_gives_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let cache = Cache::at(file.join("below"));
        assert_eq!(cache.get_or_make("k", || Ok(vec![7])).unwrap(), [7]);
    }
}
