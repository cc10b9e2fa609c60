//! CUDA at run time: what is on this machine, and the kernels of `kernels/` compiled by nvrtc.
//!
//! The build links no CUDA library. Driver, nvrtc and cuBLAS are looked for when asked: first in the folder that
//! `TUNEBENCH_CUDA_LIBS` names, then where the system looks. A library that is missing is an answer, never a panic.

#![allow(unsafe_code)]

use std::path::Path;

use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};

/// The kernels by file name: compiled one file at a time.
pub const KERNELS: [(&str, &str); 3] = [
    ("rms_norm.cu", include_str!("../../kernels/rms_norm.cu")),
    ("swiglu.cu", include_str!("../../kernels/swiglu.cu")),
    ("adamw.cu", include_str!("../../kernels/adamw.cu")),
];

/// Names a folder with `libnvrtc.so*` and the like (those of the Python wheels, say).
pub const LIBS_VARIABLE: &str = "TUNEBENCH_CUDA_LIBS";

/// Which CUDA libraries can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Libraries {
    pub driver: bool,
    pub nvrtc: bool,
    pub cublas: bool,
}

/// Looks for the libraries.
pub fn libraries() -> Libraries {
    if let Some(dir) = std::env::var_os(LIBS_VARIABLE) {
        preload(Path::new(&dir));
    }
    // SAFETY: these only try to load the library by its usual names.
    unsafe {
        Libraries {
            driver: cudarc::driver::sys::is_culib_present(),
            nvrtc: cudarc::nvrtc::sys::is_culib_present(),
            cublas: cudarc::cublas::sys::is_culib_present(),
        }
    }
}

/// Loads what the folder holds for good, so that later look-ups by name find it there.
/// nvrtc needs its builtins under their own name, hence they come first.
fn preload(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_by_key(|path| !path.to_string_lossy().contains("builtins"));
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if ["libnvrtc", "libcublas"].iter().any(|stem| name.starts_with(stem)) && name.contains(".so") {
            // SAFETY: NVIDIA's libraries, from the folder that the user named; their initializers touch nothing of ours.
            if let Ok(library) = unsafe { libloading::Library::new(&path) } {
                std::mem::forget(library);
            }
        }
    }
}

/// Compiles one kernel file to PTX for an architecture such as `compute_80`. Call only where [`libraries`] found nvrtc.
///
/// # Errors
/// nvrtc's log, with file and line.
pub fn compile(name: &str, source: &str, arch: &str) -> Result<String, String> {
    let options = CompileOptions {
        name: Some(name.to_owned()),
        options: vec![format!("--gpu-architecture={arch}"), "--std=c++17".to_owned()],
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(source, options).map(|ptx| ptx.to_src()).map_err(|error| match error {
        CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
        other => format!("{name}: {other:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_file_is_listed() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".cu"))
            .collect();
        files.sort();
        let mut listed = KERNELS.map(|(name, _)| name.to_owned());
        listed.sort();
        assert_eq!(files, listed);
    }

    #[test]
    fn every_kernel_compiles_for_ampere_and_hopper() {
        if !libraries().nvrtc {
            assert!(
                std::env::var_os("TUNEBENCH_REQUIRE_NVRTC").is_none(),
                "nvrtc is required and was not found"
            );
            println!("skipped: no nvrtc here; {LIBS_VARIABLE} can name its folder");
            return;
        }
        for (name, source) in KERNELS {
            for arch in ["compute_80", "compute_90"] {
                let ptx = compile(name, source, arch).unwrap();
                assert!(ptx.contains(".entry"), "{name} for {arch} has no kernel");
            }
        }
        let log = compile("broken.cu", "extern \"C\" __global__ void f() {\n  nonsense;\n}", "compute_80")
            .unwrap_err();
        assert!(log.contains("broken.cu(2)"), "{log}");
    }
}
