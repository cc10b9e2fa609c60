#![allow(unsafe_code)]
//! Matrix products by cuBLASLt: bf16 operands, f32 accumulation.
//!
//! cuBLASLt counts columns first. A row-major matrix is its transpose there, so `D = A B` is asked for as `D^T = B^T A^T`: operands
//! change places, no byte moves. Descriptors and the algorithm that its heuristic picks are kept by shape, leading dimensions,
//! alignment and type.

use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;

use cudarc::cublaslt::{result, sys};

use super::error::CudaError;
use super::seam::{Address, Dtype, Gemm, Operand};

/// What decides the algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    m: usize,
    n: usize,
    k: usize,
    a: (usize, bool, u32),
    b: (usize, bool, u32),
    c: (usize, u32, u32),
    output: Dtype,
    adds: bool,
}

impl Key {
    fn new(g: &Gemm) -> Self {
        let operand = |o: &Operand| (o.ld, o.transposed, alignment(o.at));
        let adds = g.beta != 0.0;
        Self {
            m: g.m,
            n: g.n,
            k: g.k,
            a: operand(&g.a),
            b: operand(&g.b),
            c: (g.ld, alignment(if adds { g.c } else { g.d }), alignment(g.d)),
            output: g.output,
            adds,
        }
    }
}

/// The largest power of two up to 256 that divides the address: some algorithms ask for aligned operands.
fn alignment(at: Address) -> u32 {
    1 << at.trailing_zeros().min(8)
}

/// Descriptors of one kind of product, and its algorithm.
struct Plan {
    desc: sys::cublasLtMatmulDesc_t,
    /// In cuBLASLt's order: its A is our b.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algo: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made by `plan`, destroyed once.
        unsafe {
            for layout in self.layouts {
                if !layout.is_null() {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
            if !self.desc.is_null() {
                let _ = result::destroy_matmul_desc(self.desc);
            }
        }
    }
}

/// A handle, its workspace, and the products seen so far.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: Address,
    plans: HashMap<Key, Rc<Plan>>,
}

// SAFETY: the handle may be used from any thread; this is behind the driver's mutex.
unsafe impl Send for Blas {}

fn failed(call: &'static str) -> impl Fn(result::CublasError) -> CudaError {
    move |error| CudaError::call(call, error.to_string())
}

impl Blas {
    /// What NVIDIA advises for Hopper (cuBLAS documentation, "cublasSetWorkspace").
    pub const WORKSPACE: usize = 32 << 20;

    /// Before and after its life.
    pub fn none() -> Self {
        Self { handle: std::ptr::null_mut(), workspace: 0, plans: HashMap::new() }
    }

    /// `workspace` is device memory of [`Blas::WORKSPACE`] bytes. The device's context is current.
    pub fn new(workspace: Address) -> Result<Self, CudaError> {
        let handle = result::create_handle().map_err(failed("cublasLtCreate"))?;
        Ok(Self { handle, workspace, plans: HashMap::new() })
    }

    pub fn workspace(&self) -> Address {
        self.workspace
    }

    /// # Safety
    /// The matrices lie in live allocations of the context that is current and that `stream` is of.
    pub unsafe fn gemm(&mut self, g: &Gemm, stream: sys::cudaStream_t) -> Result<(), CudaError> {
        if g.m == 0 || g.n == 0 {
            return Ok(());
        }
        let key = Key::new(g);
        let plan = match self.plans.get(&key) {
            Some(plan) => plan.clone(),
            None => {
                let plan = Rc::new(self.plan(&key)?);
                self.plans.insert(key, plan.clone());
                plan
            }
        };
        let pointer = |at: Address| at as *const c_void;
        let [a, b, d] = plan.layouts;
        let c = if key.adds { g.c } else { g.d };
        // SAFETY: the caller vouches for the memory; scalars live on the host, as the default pointer mode has it, until the
        // call returns.
        let done = unsafe {
            result::matmul(
                self.handle,
                plan.desc,
                (&raw const g.alpha).cast(),
                (&raw const g.beta).cast(),
                pointer(g.b.at),
                a,
                pointer(g.a.at),
                b,
                pointer(c),
                d,
                g.d as *mut c_void,
                d,
                &raw const plan.algo,
                self.workspace as *mut c_void,
                plan.workspace,
                stream,
            )
        };
        done.map_err(|e| CudaError::call(describe(&key), e.to_string()))
    }

    fn plan(&self, key: &Key) -> Result<Plan, CudaError> {
        let bf16 = sys::cudaDataType_t::CUDA_R_16BF;
        let f32 = sys::cudaDataType_t::CUDA_R_32F;
        let output = if key.output == Dtype::F32 { f32 } else { bf16 };
        let layout = |dtype, rows: usize, cols: usize, ld: usize| {
            result::create_matrix_layout(dtype, rows as u64, cols as u64, ld as i64)
                .map_err(failed("cublasLtMatrixLayoutCreate"))
        };
        let mut plan = Plan {
            desc: result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32)
                .map_err(failed("cublasLtMatmulDescCreate"))?,
            layouts: [std::ptr::null_mut(); 3],
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspace: 0,
        };
        let Key { m, n, k, a, b, c, .. } = *key;
        // Stored row-major `rows x cols` is column-major `cols x rows`.
        let ((b_rows, b_cols), (a_rows, a_cols)) =
            (if b.1 { (k, n) } else { (n, k) }, if a.1 { (m, k) } else { (k, m) });
        plan.layouts = [
            layout(bf16, b_rows, b_cols, b.0)?,
            layout(bf16, a_rows, a_cols, a.0)?,
            layout(output, n, m, c.0)?,
        ];
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        for (attribute, transposed) in
            [(CUBLASLT_MATMUL_DESC_TRANSA, b.1), (CUBLASLT_MATMUL_DESC_TRANSB, a.1)]
        {
            // cublasOperation_t: CUBLAS_OP_N = 0, CUBLAS_OP_T = 1.
            let operation = i32::from(transposed);
            // SAFETY: the descriptor was made above; the attribute is an int that is copied.
            unsafe {
                result::set_matmul_desc_attribute(
                    plan.desc,
                    attribute,
                    (&raw const operation).cast(),
                    size_of::<i32>(),
                )
            }
            .map_err(failed("cublasLtMatmulDescSetAttribute"))?;
        }
        let found = self.heuristic(&plan, key)?;
        plan.algo = found.algo;
        plan.workspace = found.workspaceSize;
        Ok(plan)
    }

    fn heuristic(&self, plan: &Plan, key: &Key) -> Result<sys::cublasLtMatmulHeuristicResult_t, CudaError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let preference = result::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?;
        let workspace = Self::WORKSPACE;
        let alignments = [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b.2),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a.2),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c.1),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c.2),
        ];
        // SAFETY: preference, descriptor and layouts are alive; attributes are copied.
        let found = unsafe {
            let mut set = result::set_matmul_pref_attribute(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of::<usize>(),
            );
            for (attribute, bytes) in alignments {
                set = set.and_then(|()| {
                    result::set_matmul_pref_attribute(
                        preference,
                        attribute,
                        (&raw const bytes).cast(),
                        size_of::<u32>(),
                    )
                });
            }
            let [a, b, d] = plan.layouts;
            let found = set.and_then(|()| {
                result::get_matmul_algo_heuristic(self.handle, plan.desc, a, b, d, d, preference)
            });
            let _ = result::destroy_matmul_pref(preference);
            found
        };
        found.map_err(|e| CudaError::call(describe(key), format!("no algorithm: {e}")))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.plans.clear();
        if !self.handle.is_null() {
            // SAFETY: made by `new`, destroyed once.
            let _ = unsafe { result::destroy_handle(self.handle) };
        }
    }
}

/// The product in words.
fn describe(key: &Key) -> String {
    let side = |rows, cols, (ld, transposed, _): (usize, bool, u32)| {
        format!("({rows} x {cols}, ld {ld}{})", if transposed { ", transposed" } else { "" })
    };
    format!(
        "matrix product {} * {} to {:?} (ld {})",
        side(key.m, key.k, key.a),
        side(key.k, key.n, key.b),
        key.output,
        key.c.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_is_the_largest_power_of_two_up_to_256() {
        assert_eq!([256, 512, 0x7f00_0010, 2, 6, 8 + 4096].map(alignment), [256, 256, 16, 2, 2, 8]);
    }

    #[test]
    fn a_products_plan_is_shared_only_where_the_algorithm_may_be() {
        let operand = |at| Operand { at, ld: 64, transposed: false };
        let gemm = Gemm {
            m: 32,
            n: 16,
            k: 64,
            a: operand(256),
            b: operand(512),
            c: 1024,
            d: 1024,
            ld: 16,
            output: Dtype::Bf16,
            alpha: 1.0,
            beta: 0.0,
        };
        let moved = Gemm { a: operand(768), alpha: 0.5, ..gemm };
        assert_eq!(Key::new(&gemm), Key::new(&moved));
        for other in [
            Gemm { beta: 1.0, ..gemm },
            Gemm { a: operand(258), ..gemm },
            Gemm { output: Dtype::F32, ..gemm },
            Gemm { b: Operand { transposed: true, ..gemm.b }, ..gemm },
        ] {
            assert_ne!(Key::new(&gemm), Key::new(&other));
        }
        assert_eq!(
            describe(&Key::new(&gemm)),
            "matrix product (32 x 64, ld 64) * (64 x 16, ld 64) to Bf16 (ld 16)"
        );
    }
}
