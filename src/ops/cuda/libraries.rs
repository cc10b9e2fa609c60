#![allow(unsafe_code)]
//! Which CUDA libraries are on this machine, where, and how to get those that are missing.
//!
//! Looked for in this order: the folders that `TUNEBENCH_CUDA_LIBS` names, where the system's loader looks, the Python wheels that
//! PyTorch brings (`site-packages/nvidia/*/lib`), found by the places where Python keeps them, without running it.
//! cudarc opens libraries by their usual names and panics where that fails, so every library is probed here first; one that
//! lies elsewhere is opened by its path beforehand, and the loader then finds it by its name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Names folders with `libnvrtc.so*` and `libcublasLt.so*`, separated like `PATH`.
pub const LIBS_VARIABLE: &str = "TUNEBENCH_CUDA_LIBS";

/// Where a library was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// By the system's loader.
    System,
    File(PathBuf),
    Missing,
}

impl Found {
    pub fn is_there(&self) -> bool {
        *self != Self::Missing
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Missing => f.write_str("not found"),
        }
    }
}

/// Which of the three libraries that a GPU needs can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libraries {
    pub driver: Found,
    pub nvrtc: Found,
    pub cublas_lt: Found,
    /// The newest CUDA that the driver supports, 13000 for 13.0.
    pub driver_cuda: Option<i32>,
}

impl Libraries {
    /// Names with places, as doctor lists them.
    pub fn all(&self) -> [(&'static str, &Found); 3] {
        [("driver", &self.driver), ("nvrtc", &self.nvrtc), ("cuBLASLt", &self.cublas_lt)]
    }

    /// Names of the missing ones.
    pub fn missing(&self) -> Vec<&'static str> {
        self.all().into_iter().filter(|(_, found)| !found.is_there()).map(|(name, _)| name).collect()
    }

    /// How to get what is missing; none when all are there.
    pub fn remedy(&self) -> Option<String> {
        if !self.driver.is_there() {
            return Some(
                "where this machine has an NVIDIA GPU, install its driver (nvidia-smi must work)".into(),
            );
        }
        // Wheels carry CUDA's major version; a driver runs its own and older ones.
        let suffix = if self.driver_cuda.is_none_or(|v| v >= 13000) { "" } else { "-cu12" };
        let mut wheels = Vec::new();
        if !self.nvrtc.is_there() {
            wheels.push(format!("nvidia-cuda-nvrtc{suffix}"));
        }
        if !self.cublas_lt.is_there() {
            wheels.push(format!("nvidia-cublas{suffix}"));
        }
        if wheels.is_empty() {
            return None;
        }
        Some(format!(
            "`pip install {}` into the active Python environment, or name the folders that hold them in {LIBS_VARIABLE}",
            wheels.join(" ")
        ))
    }
}

/// Looks for the libraries, once in a process.
pub fn libraries() -> &'static Libraries {
    static FOUND: OnceLock<Libraries> = OnceLock::new();
    FOUND.get_or_init(look)
}

fn look() -> Libraries {
    let named: Vec<PathBuf> =
        std::env::var_os(LIBS_VARIABLE).map(|v| std::env::split_paths(&v).collect()).unwrap_or_default();
    // SAFETY: this and the probes below only try to load the library by its usual names.
    let driver =
        if unsafe { cudarc::driver::sys::is_culib_present() } { Found::System } else { Found::Missing };
    let driver_cuda = if driver.is_there() { driver_version() } else { None };
    let wheels = || wheel_folders(&Places::of_this_process());
    let find = |stem: &str, probe: &dyn Fn() -> bool| -> Found {
        if let Some(file) = open_first(&named, stem, driver_cuda)
            && probe()
        {
            return Found::File(file);
        }
        if probe() {
            return Found::System;
        }
        match open_first(&wheels(), stem, driver_cuda) {
            Some(file) if probe() => Found::File(file),
            _ => Found::Missing,
        }
    };
    // SAFETY: as above.
    let nvrtc = find("libnvrtc", &|| unsafe { cudarc::nvrtc::sys::is_culib_present() });
    // SAFETY: as above.
    let cublas_lt = find("libcublasLt", &|| unsafe { cudarc::cublaslt::sys::is_culib_present() });
    Libraries { driver, nvrtc, cublas_lt, driver_cuda }
}

/// What `cuDriverGetVersion` says; it needs no device.
fn driver_version() -> Option<i32> {
    let mut version = 0;
    // SAFETY: the library is there (asked by the caller), and the call writes one int.
    let status = unsafe { cudarc::driver::sys::cuDriverGetVersion(&raw mut version) };
    status.result().ok().map(|()| version)
}

/// Opens the best file of a library in these folders for good.
fn open_first(folders: &[PathBuf], stem: &str, driver_cuda: Option<i32>) -> Option<PathBuf> {
    for file in candidates(folders, stem, driver_cuda) {
        // nvrtc opens its builtins by name when it compiles; they lie beside it.
        if stem == "libnvrtc"
            && let Some(folder) = file.parent()
        {
            for builtins in candidates(&[folder.to_owned()], "libnvrtc-builtins", None) {
                open(&builtins);
            }
        }
        if open(&file) {
            return Some(file);
        }
    }
    None
}

fn open(file: &Path) -> bool {
    // SAFETY: NVIDIA's libraries from where the user, or Python's package manager, put them; their initializers touch nothing
    // of ours.
    let opened = unsafe { libloading::Library::new(file) };
    // Never closed: the loader finds it by name from now on.
    opened.map(std::mem::forget).is_ok()
}

/// The files `STEM.so*` of the folders, in their order; within a folder those first that the driver can run, the newest first.
fn candidates(folders: &[PathBuf], stem: &str, driver_cuda: Option<i32>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let mut here: Vec<(bool, i64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let version = name.strip_prefix(stem)?.strip_prefix(".so")?;
                let major: i64 = version.trim_start_matches('.').split('.').next()?.parse().unwrap_or(0);
                let too_new = driver_cuda.is_some_and(|cuda| major > i64::from(cuda / 1000));
                Some((too_new, -major, entry.path()))
            })
            .collect();
        here.sort();
        files.extend(here.into_iter().map(|(_, _, path)| path));
    }
    files
}

/// Where Python may keep packages.
#[derive(Debug, Default)]
struct Places {
    /// Roots of active environments.
    environments: Vec<PathBuf>,
    home: Option<PathBuf>,
    path: Option<OsString>,
}

impl Places {
    fn of_this_process() -> Self {
        let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        Self {
            environments: ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder).collect(),
            home: folder("HOME"),
            path: std::env::var_os("PATH"),
        }
    }
}

/// `nvidia/*/lib` of every package folder of the active environments and of the usual places of `python3`.
fn wheel_folders(places: &Places) -> Vec<PathBuf> {
    let mut roots = places.environments.clone();
    let on_path = places.path.iter().flat_map(std::env::split_paths).map(|dir| dir.join("python3"));
    if let Some(python) = on_path.filter(|python| python.is_file()).take(1).next() {
        // An environment's `bin/python3` is a link: its packages are beside the link, the system's beside its target.
        roots.extend(python.parent().and_then(Path::parent).map(Path::to_owned));
        if let Ok(real) = python.canonicalize() {
            roots.extend(real.parent().and_then(Path::parent).map(Path::to_owned));
        }
    }
    roots.extend(places.home.as_ref().map(|home| home.join(".local")));
    roots.extend(["/usr/local", "/usr"].map(PathBuf::from));
    let mut folders: Vec<PathBuf> = Vec::new();
    for root in roots {
        for lib in ["lib", "lib64"] {
            for python in children(&root.join(lib), "python3") {
                for packages in ["site-packages", "dist-packages"] {
                    for vendor in children(&python.join(packages).join("nvidia"), "") {
                        let lib = vendor.join("lib");
                        if lib.is_dir() && !folders.contains(&lib) {
                            folders.push(lib);
                        }
                    }
                }
            }
        }
    }
    folders
}

/// Entries of a folder whose names start so, sorted backwards: newer versions first.
fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.reverse();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    #[test]
    fn wheels_are_found_in_active_environments_and_beside_python() {
        let dir = tempfile::tempdir().unwrap();
        let (env, usual) = (dir.path().join("env"), dir.path().join("usual"));
        touch(&env.join("lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13"));
        touch(&env.join("lib/python3.11/site-packages/nvidia/README"));
        touch(&usual.join("bin/python3"));
        touch(&usual.join("lib/python3.9/dist-packages/nvidia/cublas/lib/libcublasLt.so.12"));
        touch(&usual.join("lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
        let places = Places {
            environments: vec![env.clone()],
            home: Some(dir.path().join("nobody")),
            path: Some(std::env::join_paths([dir.path().join("empty"), usual.join("bin")]).unwrap()),
        };
        let folders = wheel_folders(&places);
        let ours: Vec<_> = folders.iter().filter(|f| f.starts_with(dir.path())).cloned().collect();
        assert_eq!(
            ours,
            [
                env.join("lib/python3.11/site-packages/nvidia/cu13/lib"),
                usual.join("lib/python3.9/dist-packages/nvidia/cublas/lib"),
                usual.join("lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib"),
            ]
        );
    }

    #[test]
    fn the_newest_library_that_the_driver_runs_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_owned();
        for name in [
            "libnvrtc.so.11.2",
            "libnvrtc.so.12",
            "libnvrtc.so.13",
            "libnvrtc-builtins.so.13.0",
            "libnvrtc.alt.so.13",
        ] {
            touch(&folder.join(name));
        }
        let names = |driver| -> Vec<String> {
            candidates(std::slice::from_ref(&folder), "libnvrtc", driver)
                .iter()
                .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names(Some(13010)), ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"]);
        assert_eq!(names(Some(12080)), ["libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so.13"]);
    }

    #[test]
    fn what_is_missing_is_named_with_its_wheel() {
        let mut found = Libraries {
            driver: Found::System,
            nvrtc: Found::Missing,
            cublas_lt: Found::File("/x/libcublasLt.so.13".into()),
            driver_cuda: Some(13000),
        };
        assert_eq!(found.missing(), ["nvrtc"]);
        let remedy = found.remedy().unwrap();
        assert!(
            remedy.contains("pip install nvidia-cuda-nvrtc`") && remedy.contains(LIBS_VARIABLE),
            "{remedy}"
        );
        (found.driver_cuda, found.cublas_lt) = (Some(12040), Found::Missing);
        let remedy = found.remedy().unwrap();
        assert!(remedy.contains("nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12"), "{remedy}");
        found.driver = Found::Missing;
        assert!(found.remedy().unwrap().contains("nvidia-smi"));
        found = Libraries {
            driver: Found::System,
            nvrtc: Found::System,
            cublas_lt: Found::System,
            driver_cuda: None,
        };
        assert_eq!((found.missing().len(), found.remedy()), (0, None));
    }

    #[test]
    fn looking_never_panics_and_says_the_same_twice() {
        assert_eq!(libraries(), libraries());
        assert_eq!(libraries().driver_cuda.is_some(), libraries().driver.is_there());
    }
}
