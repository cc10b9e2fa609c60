#![allow(unsafe_code)]
//! The seam's implementation on a GPU: CUDA's driver and cuBLASLt, one stream.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::blas::Blas;
use super::compile::{self, Cache};
use super::error::CudaError;
use super::kernels::KERNELS;
use super::libraries::libraries;
use super::seam::{Address, Arg, Gemm, Graph, Launch, Launcher, Memory};

/// Makes every launch wait for its end, so that a fault names its kernel.
pub const SYNC_VARIABLE: &str = "TUNEBENCH_CUDA_SYNC";
/// Dynamic shared memory that a kernel gets without asking.
const SHARED_BY_DEFAULT: u32 = 48 << 10;
/// Kernels named when a fault shows later than it happened.
const RECENT: usize = 4;

/// A GPU: its primary context, one stream, the kernels' modules.
pub struct Driver {
    ordinal: usize,
    name: String,
    /// 90 for compute capability 9.0.
    capability: i32,
    multiprocessors: u32,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    blas: Mutex<Blas>,
    state: Mutex<State>,
    sync_always: bool,
}

#[derive(Default)]
struct State {
    functions: HashMap<String, Function>,
    allocated: HashMap<Address, usize>,
    now: usize,
    peak: usize,
    /// Names of the last launches since the last wait, the newest last.
    recent: Vec<String>,
    graphs: HashMap<Graph, sys::CUgraphExec>,
    /// Graphs that ever were.
    recorded: u64,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it may use.
    shared: u32,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs, which `enter` sees to before each
// call; what is mutable on our side is behind mutexes.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driver(cuda:{}, {}, compute {})", self.ordinal, self.name, self.capability)
    }
}

fn failed(call: &str) -> impl Fn(DriverError) -> CudaError + '_ {
    move |error| CudaError::call(call, describe(error))
}

fn describe(error: DriverError) -> String {
    let name =
        error.error_name().map_or_else(|_| format!("{:?}", error.0), |s| s.to_string_lossy().into_owned());
    match error.error_string() {
        Ok(text) => format!("{name} ({})", text.to_string_lossy()),
        Err(_) => name,
    }
}

/// Number of GPUs; 0 where there is no driver or it does not work.
pub fn devices() -> usize {
    if !libraries().driver.is_there() || result::init().is_err() {
        return 0;
    }
    result::device::get_count().map_or(0, |n| usize::try_from(n).unwrap_or(0))
}

impl Driver {
    /// Opens GPU `ordinal`: context, stream, all kernels compiled or taken from the cache.
    ///
    /// # Errors
    /// A library that is missing, with its remedy; no such GPU; a kernel that does not compile or load.
    pub fn open(ordinal: usize) -> Result<Arc<dyn Launcher>, CudaError> {
        let found = libraries();
        if let Some(remedy) = found.remedy() {
            return Err(CudaError::Unavailable(format!(
                "CUDA cannot be used: {} not found. {remedy}",
                found.missing().join(", ")
            )));
        }
        result::init().map_err(failed("cuInit"))?;
        let count = devices();
        if ordinal >= count {
            return Err(CudaError::Unavailable(format!(
                "there is no device cuda:{ordinal}: the driver shows {count} of them; see nvidia-smi and CUDA_VISIBLE_DEVICES"
            )));
        }
        let device = result::device::get(ordinal as i32).map_err(failed("cuDeviceGet"))?;
        let attribute = |which| {
            // SAFETY: the device came from `get`.
            unsafe { result::device::get_attribute(device, which) }.map_err(failed("cuDeviceGetAttribute"))
        };
        let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let name = result::device::get_name(device).unwrap_or_else(|_| "unknown".into());
        if major < 8 {
            return Err(CudaError::Unavailable(format!(
                "cuda:{ordinal} ({name}) has compute capability {major}.{minor}; bf16 needs 8.0 (Ampere) or newer"
            )));
        }
        // SAFETY: the device came from `get`; the context is released once, in `drop`.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(failed("cuDevicePrimaryCtxRetain"))?;
        let mut driver = Self {
            ordinal,
            name,
            capability: 10 * major + minor,
            multiprocessors: multiprocessors.max(1) as u32,
            device,
            context,
            stream: std::ptr::null_mut(),
            modules: Vec::new(),
            blas: Mutex::new(Blas::none()),
            state: Mutex::new(State::default()),
            sync_always: std::env::var_os(SYNC_VARIABLE).is_some_and(|v| v != "0"),
        };
        driver.enter()?;
        driver.stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("cuStreamCreate"))?;
        driver.load_kernels()?;
        let workspace = driver.alloc(Blas::WORKSPACE)?;
        driver.blas = Mutex::new(Blas::new(workspace)?);
        Ok(Arc::new(driver))
    }

    fn load_kernels(&mut self) -> Result<(), CudaError> {
        let arch = format!("sm_{}", self.capability);
        let cache = Cache::of_user();
        for (file, source) in KERNELS {
            let image = match &cache {
                Some(cache) => cache.image(file, source, &arch)?,
                None => compile::compile(file, source, &arch)?,
            };
            // SAFETY: a whole cubin, made by nvrtc for this device; the module is unloaded once, in `drop`.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
                .map_err(failed(&format!("cuModuleLoadData of {file}")))?;
            self.modules.push(module);
        }
        Ok(())
    }

    /// Makes the context this thread's; every call into the driver needs that.
    fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained for as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("cuCtxSetCurrent"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fault in a kernel shows at whatever is called next: the kernels launched since the last wait are named with it.
    fn fault(&self, call: &str, error: DriverError) -> CudaError {
        let call = match std::mem::take(&mut self.state().recent).as_slice() {
            [] => call.to_owned(),
            names => format!("{call} after the kernels {}", names.join(", ")),
        };
        let in_a_kernel = matches!(
            error.0,
            sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
                | sys::CUresult::CUDA_ERROR_LAUNCH_FAILED
                | sys::CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
                | sys::CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        );
        let hint = if in_a_kernel {
            format!("; {SYNC_VARIABLE}=1 names the kernel, device = \"cpu\" does without the GPU")
        } else {
            String::new()
        };
        CudaError::call(call, format!("{}{hint}", describe(error)))
    }

    fn function(&self, name: &str, shared: u32) -> Result<sys::CUfunction, CudaError> {
        let mut state = self.state();
        let mut function = match state.functions.get(name) {
            Some(function) => *function,
            None => Function { handle: self.find(name)?, shared: SHARED_BY_DEFAULT },
        };
        if shared > function.shared {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is of a loaded module.
            unsafe { result::function::set_function_attribute(function.handle, attribute, shared as i32) }
                .map_err(failed(&format!("{shared} bytes of shared memory for kernel {name}")))?;
            function.shared = shared;
        }
        state.functions.insert(name.to_owned(), function);
        Ok(function.handle)
    }

    fn find(&self, name: &str) -> Result<sys::CUfunction, CudaError> {
        let missing = || CudaError::call(format!("kernel {name}"), "is in none of the kernel files");
        let c_name = CString::new(name).map_err(|_| missing())?;
        self.modules
            .iter()
            // SAFETY: modules stay loaded until `drop`.
            .find_map(|module| unsafe { result::module::get_function(*module, c_name.clone()) }.ok())
            .ok_or_else(missing)
    }
}

impl Launcher for Driver {
    fn alloc(&self, bytes: usize) -> Result<Address, CudaError> {
        self.enter()?;
        // SAFETY: any size; the result is freed by `free`.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(at) => {
                let mut state = self.state();
                state.allocated.insert(at, bytes);
                state.now += bytes;
                state.peak = state.peak.max(state.now);
                Ok(at)
            }
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = result::mem_get_info().unwrap_or_default();
                Err(CudaError::OutOfMemory { asked: bytes, free, total })
            }
            Err(error) => Err(self.fault("cuMemAlloc", error)),
        }
    }

    unsafe fn free(&self, at: Address) {
        let known = self.state().allocated.remove(&at);
        if let Some(bytes) = known
            && self.enter().is_ok()
        {
            self.state().now -= bytes;
            // SAFETY: allocated by `alloc` (it was in the table) and freed once. The call waits for work under way; after a fault
            // it fails, and the process ends anyway.
            let _ = unsafe { result::free_sync(at) };
        }
    }

    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's. Pageable memory is copied to a staging buffer before the call returns.
        unsafe { result::memcpy_htod_async(to, from, self.stream) }
            .map_err(|e| self.fault("copy to the device", e))
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's; `to` stays borrowed until the wait is over.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream) }
            .map_err(|e| self.fault("copy from the device", e))?;
        self.synchronize()
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(|e| self.fault("copy on the device", e))
    }

    unsafe fn zero(&self, at: Address, bytes: usize) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the caller's.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream) }.map_err(|e| self.fault("cuMemsetD8", e))
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        self.enter()?;
        let function = self.function(launch.kernel, launch.shared)?;
        // The driver wants the address of each argument's value, which starts where the number does.
        let mut values: Vec<[u8; 8]> = launch
            .args
            .iter()
            .map(|arg| match *arg {
                Arg::Pointer(x) | Arg::U64(x) => x.to_ne_bytes(),
                Arg::I32(x) => first_four(x.to_ne_bytes()),
                Arg::U32(x) => first_four(x.to_ne_bytes()),
                Arg::F32(x) => first_four(x.to_ne_bytes()),
            })
            .collect();
        let mut pointers: Vec<*mut std::ffi::c_void> =
            values.iter_mut().map(|v| v.as_mut_ptr().cast()).collect();
        let (g, b) = (launch.grid, launch.block);
        // SAFETY: the caller vouches for kernel and arguments; the driver copies the values before it returns.
        let launched = unsafe {
            result::launch_kernel(
                function,
                (g[0], g[1], g[2]),
                (b[0], b[1], b[2]),
                launch.shared,
                self.stream,
                &mut pointers,
            )
        };
        launched.map_err(|e| {
            let call =
                format!("launch of {} (grid {g:?}, block {b:?}, shared {})", launch.kernel, launch.shared);
            self.fault(&call, e)
        })?;
        if self.sync_always {
            // SAFETY: the stream lives as long as `self`.
            return unsafe { result::stream::synchronize(self.stream) }
                .map_err(|e| CudaError::call(format!("kernel {}", launch.kernel), describe(e)));
        }
        let mut state = self.state();
        if state.recent.len() == RECENT {
            state.recent.remove(0);
        }
        state.recent.push(launch.kernel.to_owned());
        Ok(())
    }

    unsafe fn gemm(&self, gemm: &Gemm) -> Result<(), CudaError> {
        self.enter()?;
        let mut blas = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller vouches for the matrices; the stream is of the context that the handle was made in.
        unsafe { blas.gemm(gemm, self.stream.cast()) }
    }

    fn record(&self) -> Result<(), CudaError> {
        if self.sync_always {
            return Err(CudaError::call(
                "recording",
                format!("{SYNC_VARIABLE} wants to wait for every kernel"),
            ));
        }
        self.enter()?;
        // SAFETY: the stream lives as long as `self`. What else this thread would do that a recording cannot hold is refused then.
        unsafe {
            result::stream::begin_capture(
                self.stream,
                sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            )
        }
        .map_err(|e| self.fault("cuStreamBeginCapture", e))
    }

    fn recorded(&self) -> Result<Graph, CudaError> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`; a null graph (a capture that broke) is not used.
        let graph =
            unsafe { result::stream::end_capture(self.stream) }.map_err(failed("cuStreamEndCapture"))?;
        if graph.is_null() {
            return Err(CudaError::call("cuStreamEndCapture", "the recording was broken off"));
        }
        // SAFETY: the graph was made above and is destroyed once, here: what is made of it stands by itself.
        let made = unsafe {
            let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            made
        };
        let made = made.map_err(failed("cuGraphInstantiate"))?;
        let mut state = self.state();
        state.recorded += 1;
        let name = Graph(state.recorded);
        state.graphs.insert(name, made);
        Ok(name)
    }

    unsafe fn replay(&self, graph: Graph) -> Result<(), CudaError> {
        self.enter()?;
        let known = self.state().graphs.get(&graph).copied();
        let Some(made) = known else {
            return Err(CudaError::call("cuGraphLaunch", "no recording of this device"));
        };
        // SAFETY: made by `recorded` and not forgotten; the caller vouches for the memory that it names.
        unsafe { result::graph::launch(made, self.stream) }.map_err(|e| self.fault("cuGraphLaunch", e))
    }

    fn forget(&self, graph: Graph) {
        let known = self.state().graphs.remove(&graph);
        if let Some(made) = known
            && self.enter().is_ok()
        {
            // SAFETY: made by `recorded`, destroyed once. The driver keeps what is still running.
            let _ = unsafe { result::graph::exec_destroy(made) };
        }
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|e| self.fault("wait for the device", e))?;
        self.state().recent.clear();
        Ok(())
    }

    fn memory(&self) -> Result<Memory, CudaError> {
        self.enter()?;
        let (free, total) = result::mem_get_info().map_err(failed("cuMemGetInfo"))?;
        Ok(Memory { free, total })
    }

    fn peak(&self) -> usize {
        self.state().peak
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

fn first_four(bytes: [u8; 4]) -> [u8; 8] {
    let mut eight = [0; 8];
    eight[..4].copy_from_slice(&bytes);
    eight
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        let blas =
            std::mem::replace(self.blas.get_mut().unwrap_or_else(PoisonError::into_inner), Blas::none());
        let workspace = blas.workspace();
        drop(blas);
        let graphs = std::mem::take(&mut self.state().graphs);
        // SAFETY: each was made by `open`, is released once here, and no buffer is left (each holds the driver).
        unsafe {
            if !self.stream.is_null() {
                let _ = result::stream::synchronize(self.stream);
            }
            if workspace != 0 {
                let _ = result::free_sync(workspace);
            }
            for graph in graphs.into_values() {
                let _ = result::graph::exec_destroy(graph);
            }
            for module in &self.modules {
                let _ = result::module::unload(*module);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_opening_says_what_is_missing_and_does_not_panic() {
        if libraries().driver.is_there() && devices() > 0 {
            println!("skipped: this machine has a GPU");
            return;
        }
        let error = Driver::open(0).unwrap_err();
        assert!(matches!(error, CudaError::Unavailable(_)), "{error}");
        assert_eq!(devices(), 0);
    }
}
