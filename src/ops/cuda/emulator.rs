#![allow(unsafe_code)]
//! The seam's implementation for tests: the kernels of `kernels/`, compiled for the host, on host memory.
//!
//! `tests/emulator/emulator.h` says what the emulator catches inside of a kernel. Here: every pointer that a kernel gets lies in
//! a live allocation, memory starts as NaN, and NaN stands around it, so that what is read outside shows and what is written
//! there is found at once.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use half::bf16;

use super::error::CudaError;
use super::kernels::{HEADERS, KERNELS, names};
use super::seam::{Address, Arg, Dtype, Gemm, Graph, Launch, Launcher, Memory, Operand};

const EMULATOR: &str = include_str!("../../../tests/emulator/emulator.h");
/// On either side of an allocation.
const RED_ZONE: usize = 256;
const TOTAL: usize = 8 << 30;

type Entry = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *const u32,
    u32,
    *mut *mut c_void,
    c_int,
    c_int,
) -> *const c_char;

/// A library of the host, built once for its content; or why not.
type Library = OnceLock<Result<libloading::Library, String>>;

/// The kernels.
static LIBRARY: Library = OnceLock::new();
/// Those that are wrong.
static BROKEN: Library = OnceLock::new();

fn build(kernels: &[(&str, &str)]) -> Result<libloading::Library, String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let found = Command::new(&compiler).arg("--version").output();
    let version = match found {
        Ok(output) if output.status.success() => output.stdout,
        _ => return Err(format!("no C++ compiler here ({compiler}; CXX can name one)")),
    };
    // One file, so that all kernels share the emulator's state; a namespace each, as they are compiled apart for the GPU.
    let mut source = String::from("#include \"common.h\"\n");
    let mut table = String::new();
    for (file, text) in kernels {
        let space = file.replace('.', "_");
        source += &format!("namespace {space} {{\n#include \"{file}\"\n}}\n");
        for name in names(text) {
            table += &format!(
                "{{\"{name}\", emulator::Thunk<{space}::{name}>::run, emulator::Thunk<{space}::{name}>::arguments}},\n"
            );
        }
    }
    source += &format!(
        "const EmulatedKernel emulated_kernels[] = {{\n{table}}};\n\
         const int emulated_kernel_count = sizeof emulated_kernels / sizeof emulated_kernels[0];\n"
    );
    let files: Vec<(&str, &str)> = kernels
        .iter()
        .copied()
        .chain(HEADERS.into_iter().filter(|(name, _)| *name != "device.h"))
        .chain([("device.h", EMULATOR), ("all.cpp", source.as_str())])
        .collect();
    let mut options = vec!["-std=c++17", "-O2", "-fPIC", "-shared", "-w", "-fvisibility=hidden"];
    if cfg!(target_arch = "x86_64") {
        options.push("-fcf-protection=none");
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&version);
    for part in files.iter().flat_map(|(name, text)| [*name, *text]).chain(options.iter().copied()) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let folder = folder().join(&hasher.finalize().to_hex()[..16]);
    let path = folder.join("kernels.so");
    if !path.exists() {
        let io = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(&folder).map_err(io)?;
        let build = tempfile::tempdir_in(&folder).map_err(io)?;
        for (name, text) in files {
            std::fs::write(build.path().join(name), text).map_err(io)?;
        }
        let made = build.path().join("kernels.so");
        let output = Command::new(&compiler)
            .args(&options)
            .arg(build.path().join("all.cpp"))
            .arg("-o")
            .arg(&made)
            .output()
            .map_err(io)?;
        // A kernel that does not compile is an error of ours, never a reason to skip.
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(&made, &path).map_err(io)?;
    }
    // SAFETY: the library that was built above; it has no initializers but of thread-local state.
    unsafe { libloading::Library::new(&path) }.map_err(|error| error.to_string())
}

/// Beside the test's own binary, in the target folder.
fn folder() -> PathBuf {
    let binary = std::env::current_exe().unwrap();
    binary.parent().unwrap_or(Path::new(".")).join("kernel-emulator")
}

struct Allocation {
    base: *mut u8,
    layout: Layout,
    bytes: usize,
}

impl Allocation {
    fn red_zones(&self) -> [&[u8]; 2] {
        let tail = self.layout.size() - RED_ZONE - self.bytes;
        // SAFETY: both lie in this live allocation and nothing writes to them now.
        unsafe {
            [
                std::slice::from_raw_parts(self.base, RED_ZONE),
                std::slice::from_raw_parts(self.base.add(RED_ZONE + self.bytes), tail),
            ]
        }
    }
}

#[derive(Default)]
struct Heap {
    live: BTreeMap<Address, Allocation>,
    now: usize,
    peak: usize,
}

// SAFETY: the heap owns what its pointers name.
unsafe impl Send for Heap {}

/// Work that is recorded.
#[derive(Clone)]
enum Work {
    Launch { kernel: String, grid: [u32; 3], block: [u32; 3], shared: u32, args: Vec<Arg> },
    Gemm(Gemm),
    Copy { to: Address, from: Address, bytes: usize },
    Zero { at: Address, bytes: usize },
}

#[derive(Default)]
struct Recordings {
    /// Under way.
    open: Option<Vec<Work>>,
    /// By graph; what was forgotten is none.
    done: Vec<Option<Vec<Work>>>,
    replays: usize,
}

/// Kernels on the host.
pub struct Emulator {
    launch: Entry,
    order: i32,
    total: usize,
    heap: Mutex<Heap>,
    recordings: Mutex<Recordings>,
    /// Launches of these kernels fail.
    faulty: Mutex<Option<String>>,
    /// Nothing can be recorded.
    unrecordable: bool,
}

impl std::fmt::Debug for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Emulator(order {})", self.order)
    }
}

impl Emulator {
    /// None where there is no C++ compiler, which is said; `TUNEBENCH_REQUIRE_EMULATOR` makes that a failure.
    /// `order` is the one in which threads and blocks run: from the first (0), from the last (1), rotated (others).
    #[allow(clippy::new_ret_no_self)] // What tests want is the seam.
    pub fn new(order: i32) -> Option<Arc<dyn Launcher>> {
        Self::with_room(order, TOTAL)
    }

    /// A device of so much memory.
    pub fn with_room(order: i32, total: usize) -> Option<Arc<dyn Launcher>> {
        Self::of(LIBRARY.get_or_init(|| build(&KERNELS)), order, total)
    }

    /// With the kernels of `tests/emulator/broken.cu` instead.
    pub fn broken(order: i32) -> Option<Arc<dyn Launcher>> {
        let kernels = [("broken.cu", include_str!("../../../tests/emulator/broken.cu"))];
        Self::of(BROKEN.get_or_init(|| build(&kernels)), order, TOTAL)
    }

    fn of(
        library: &'static Result<libloading::Library, String>,
        order: i32,
        total: usize,
    ) -> Option<Arc<dyn Launcher>> {
        Self::made(library, order, total).map(|emulator| Arc::new(emulator) as Arc<dyn Launcher>)
    }

    /// One that tells what it did, and may be told to fail.
    pub fn watched(unrecordable: bool) -> Option<Arc<Self>> {
        let made = Self::made(LIBRARY.get_or_init(|| build(&KERNELS)), 0, TOTAL)?;
        Some(Arc::new(Self { unrecordable, ..made }))
    }

    /// Recordings that were ever made, those that are still there, and how often any was done.
    pub fn recordings(&self) -> [usize; 3] {
        let recordings = self.recordings.lock().unwrap();
        [recordings.done.len(), recordings.done.iter().flatten().count(), recordings.replays]
    }

    /// From now on launches of `kernel` fail; none of any.
    pub fn fail_at(&self, kernel: Option<&str>) {
        *self.faulty.lock().unwrap() = kernel.map(Into::into);
    }

    fn made(library: &'static Result<libloading::Library, String>, order: i32, total: usize) -> Option<Self> {
        match library {
            Ok(library) => {
                // SAFETY: the type is that of emulator_launch; the library is never unloaded.
                let launch = unsafe { *library.get::<Entry>(b"emulator_launch\0").unwrap() };
                let (heap, recordings, faulty) = <_>::default();
                Some(Self { launch, order, total, heap, recordings, faulty, unrecordable: false })
            }
            Err(why) => {
                assert!(
                    std::env::var_os("TUNEBENCH_REQUIRE_EMULATOR").is_none(),
                    "the emulator is required: {why}"
                );
                println!("skipped: {why}");
                None
            }
        }
    }

    /// What is wrong with `bytes` from `at`, if they do not lie in one live allocation.
    fn check(&self, what: &str, at: Address, bytes: usize) -> Result<(), CudaError> {
        let heap = self.heap.lock().unwrap();
        let room = heap
            .live
            .range(..=at)
            .next_back()
            .map(|(start, a)| (start + a.bytes as Address).saturating_sub(at));
        match room {
            Some(room) if room >= bytes as Address && (bytes > 0 || room > 0) => Ok(()),
            _ => Err(CudaError::call(
                what,
                format!("{bytes} bytes at {at:#x} are not within a live allocation"),
            )),
        }
    }

    /// Finds writes outside of allocations.
    fn check_red_zones(&self, what: &str) -> Result<(), CudaError> {
        let heap = self.heap.lock().unwrap();
        let hurt =
            heap.live.values().find(|a| a.red_zones().iter().any(|zone| zone.iter().any(|b| *b != 0xff)));
        hurt.map_or(Ok(()), |a| {
            Err(CudaError::call(what, format!("a write outside of an allocation of {} bytes", a.bytes)))
        })
    }

    /// Writes the work down if that is what is asked for now.
    fn noted(&self, work: impl FnOnce() -> Work) -> bool {
        let mut recordings = self.recordings.lock().unwrap();
        let open = recordings.open.as_mut();
        open.map(|open| open.push(work())).is_some()
    }

    /// What a recording cannot hold.
    fn not_recording(&self, what: &str) -> Result<(), CudaError> {
        match self.recordings.lock().unwrap().open {
            Some(_) => Err(CudaError::call(what, "in a recording")),
            None => Ok(()),
        }
    }

    fn matrix(&self, operand: &Operand, rows: usize, cols: usize) -> Result<Vec<f32>, CudaError> {
        let (stored_rows, stored_cols) = if operand.transposed { (cols, rows) } else { (rows, cols) };
        assert!(operand.ld >= stored_cols, "a leading dimension of {} for {stored_cols} columns", operand.ld);
        self.check("gemm", operand.at, ((stored_rows - 1) * operand.ld + stored_cols) * 2)?;
        let at = |i: usize, j: usize| {
            let offset = if operand.transposed { j * operand.ld + i } else { i * operand.ld + j };
            // SAFETY: within the allocation, as checked above.
            unsafe { (operand.at as *const bf16).add(offset).read_unaligned() }.to_f32()
        };
        Ok((0..rows * cols).map(|i| at(i / cols, i % cols)).collect())
    }
}

impl Launcher for Emulator {
    fn alloc(&self, bytes: usize) -> Result<Address, CudaError> {
        assert!(bytes > 0);
        self.not_recording("alloc")?;
        let layout = Layout::from_size_align(RED_ZONE + bytes.next_multiple_of(256) + RED_ZONE, 256).unwrap();
        let mut heap = self.heap.lock().unwrap();
        if heap.now + bytes > self.total {
            let (free, total) = (self.total - heap.now, self.total);
            return Err(CudaError::OutOfMemory { asked: bytes, free, total });
        }
        // SAFETY: the size is not zero; the fill is within it.
        let base = unsafe {
            let base = std::alloc::alloc(layout);
            assert!(!base.is_null());
            base.write_bytes(0xff, layout.size());
            base
        };
        let at = base as Address + RED_ZONE as Address;
        heap.live.insert(at, Allocation { base, layout, bytes });
        heap.now += bytes;
        heap.peak = heap.peak.max(heap.now);
        Ok(at)
    }

    unsafe fn free(&self, at: Address) {
        let mut heap = self.heap.lock().unwrap();
        let allocation = heap.live.remove(&at).expect("what is freed was allocated");
        heap.now -= allocation.bytes;
        // SAFETY: allocated above with this layout, and no longer known.
        unsafe { std::alloc::dealloc(allocation.base, allocation.layout) };
    }

    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<(), CudaError> {
        self.not_recording("upload")?;
        self.check("upload", to, from.len())?;
        // SAFETY: within a live allocation, as checked.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<(), CudaError> {
        self.not_recording("download")?;
        self.check("download", from, to.len())?;
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), CudaError> {
        if self.noted(|| Work::Copy { to, from, bytes }) {
            return Ok(());
        }
        self.check("copy", to, bytes)?;
        self.check("copy", from, bytes)?;
        // SAFETY: as above; `copy` allows for overlap.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn zero(&self, at: Address, bytes: usize) -> Result<(), CudaError> {
        if self.noted(|| Work::Zero { at, bytes }) {
            return Ok(());
        }
        self.check("zero", at, bytes)?;
        // SAFETY: as above.
        unsafe { (at as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        let Launch { kernel, grid, block, shared, args } = *launch;
        if self.noted(|| Work::Launch { kernel: kernel.into(), grid, block, shared, args: args.to_vec() }) {
            return Ok(());
        }
        if self.faulty.lock().unwrap().as_deref() == Some(kernel) {
            return Err(CudaError::call(kernel, "CUDA_ERROR_LAUNCH_FAILED"));
        }
        let mut values: Vec<u64> = Vec::with_capacity(launch.args.len());
        for arg in launch.args {
            values.push(match *arg {
                Arg::Pointer(0) => 0,
                Arg::Pointer(at) => {
                    self.check(launch.kernel, at, 0)?;
                    at
                }
                Arg::I32(n) => u64::from(n.cast_unsigned()),
                Arg::U32(n) => u64::from(n),
                Arg::U64(n) => n,
                Arg::F32(x) => u64::from(x.to_bits()),
            });
        }
        // A 4-byte argument is the lower half of its 8 bytes.
        const { assert!(cfg!(target_endian = "little")) };
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        let name = CString::new(launch.kernel).unwrap();
        // SAFETY: the arguments' number is checked by the callee, their types are the caller's promise.
        let error = unsafe {
            (self.launch)(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.block.as_ptr(),
                launch.shared,
                pointers.as_mut_ptr(),
                pointers.len() as c_int,
                self.order,
            )
        };
        if !error.is_null() {
            // SAFETY: a string that lives until the next launch on this thread.
            let message = unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned();
            return Err(CudaError::call(launch.kernel, message));
        }
        self.check_red_zones(launch.kernel)
    }

    unsafe fn gemm(&self, gemm: &Gemm) -> Result<(), CudaError> {
        if self.noted(|| Work::Gemm(*gemm)) {
            return Ok(());
        }
        let Gemm { m, n, k, ld, .. } = *gemm;
        assert!(m > 0 && n > 0 && k > 0 && ld >= n, "an empty or overlapping product: {gemm:?}");
        let (a, b) = (self.matrix(&gemm.a, m, k)?, self.matrix(&gemm.b, k, n)?);
        let bytes = ((m - 1) * ld + n) * gemm.output.bytes();
        self.check("gemm", gemm.d, bytes)?;
        if gemm.beta != 0.0 {
            self.check("gemm", gemm.c, bytes)?;
        }
        let mut row = vec![0_f32; n];
        for i in 0..m {
            row.fill(0.0);
            for (x, from) in a[i * k..(i + 1) * k].iter().zip(b.chunks_exact(n)) {
                for (sum, y) in row.iter_mut().zip(from) {
                    *sum += x * y;
                }
            }
            for (j, product) in row.iter().enumerate() {
                let at = i * ld + j;
                // SAFETY: within the allocations, as checked above.
                unsafe {
                    match gemm.output {
                        Dtype::F32 => {
                            let (c, d) = ((gemm.c as *const f32).add(at), (gemm.d as *mut f32).add(at));
                            let before = if gemm.beta == 0.0 { 0.0 } else { gemm.beta * c.read_unaligned() };
                            d.write_unaligned(gemm.alpha * product + before);
                        }
                        Dtype::Bf16 => {
                            let (c, d) = ((gemm.c as *const bf16).add(at), (gemm.d as *mut bf16).add(at));
                            let before =
                                if gemm.beta == 0.0 { 0.0 } else { gemm.beta * c.read_unaligned().to_f32() };
                            d.write_unaligned(bf16::from_f32(gemm.alpha * product + before));
                        }
                        other => panic!("a product into {other:?}"),
                    }
                }
            }
        }
        Ok(())
    }

    fn record(&self) -> Result<(), CudaError> {
        if self.unrecordable {
            return Err(CudaError::call("cuStreamBeginCapture", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"));
        }
        self.not_recording("record")?;
        self.recordings.lock().unwrap().open = Some(Vec::new());
        Ok(())
    }

    fn recorded(&self) -> Result<Graph, CudaError> {
        let mut recordings = self.recordings.lock().unwrap();
        let work = recordings.open.take().expect("a recording is under way");
        recordings.done.push(Some(work));
        Ok(Graph(recordings.done.len() as u64 - 1))
    }

    unsafe fn replay(&self, graph: Graph) -> Result<(), CudaError> {
        let work = {
            let mut recordings = self.recordings.lock().unwrap();
            recordings.replays += 1;
            recordings.done[graph.0 as usize].clone().expect("a recording that was not forgotten")
        };
        for work in &work {
            // SAFETY: the caller's.
            unsafe {
                match work {
                    Work::Launch { kernel, grid, block, shared, args } => {
                        let (grid, block, shared) = (*grid, *block, *shared);
                        self.launch(&Launch { kernel, grid, block, shared, args })?;
                    }
                    Work::Gemm(gemm) => self.gemm(gemm)?,
                    Work::Copy { to, from, bytes } => self.copy(*to, *from, *bytes)?,
                    Work::Zero { at, bytes } => self.zero(*at, *bytes)?,
                }
            }
        }
        Ok(())
    }

    fn forget(&self, graph: Graph) {
        self.recordings.lock().unwrap().done[graph.0 as usize] = None;
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        self.not_recording("synchronize")
    }

    fn memory(&self) -> Result<Memory, CudaError> {
        let heap = self.heap.lock().unwrap();
        Ok(Memory { free: self.total - heap.now, total: self.total })
    }

    fn peak(&self) -> usize {
        self.heap.lock().unwrap().peak
    }

    fn name(&self) -> String {
        "emulator".into()
    }

    fn multiprocessors(&self) -> u32 {
        2
    }
}
