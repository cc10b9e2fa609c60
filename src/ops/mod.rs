//! Operations over f32 buffers, forward and backward by hand; no autograd, no model.
//!
//! One file per operation. Each says its formula and the derivation of its backward, works on views ([`Mat`], [`MatMut`]) of
//! buffers that the caller owns and reuses, and takes its degree of parallelism ([`Par`]) from the caller: training splits the
//! batch by sequence over threads and calls every operation serially, which measures faster than threads inside of each.
//!
//! This is the seam for a second device: `model/` computes only by calling functions of this module, so that a device brings
//! buffers of its own and a twin of each function (the kernels in `kernels/`), and no layer above knows of it.

mod adamw;
mod attention;
mod cross_entropy;
pub mod cuda;
mod dora;
pub mod dots;
mod dropout;
mod embedding;
mod encode;
mod grad_norm;
mod kv_pages;
mod lora;
mod mat;
mod matmul;
mod min_hash;
mod nf4;
mod paged_attention;
mod par;
mod rms_norm;
mod rope;
pub(crate) mod simd;
mod some_rows;
mod svd;
mod swiglu;
#[cfg(test)]
mod tests;
pub(crate) mod vocabulary;
mod weight;

pub use adamw::{AdamW, adamw};
pub use attention::{AttentionShape, attention, attention_backward};
pub use cross_entropy::{
    CHUNK as CROSS_ENTROPY_ROWS, cross_entropy, linear_cross_entropy, linear_cross_entropy_backward,
};
pub use dora::{dora_backward, dora_forward, dora_gains, dora_norms};
pub use dropout::{Dropout, dropout, dropout_backward, mix};
pub use embedding::{embedding, embedding_backward};
pub use encode::{gelu, gelu_tanh, layer_norm, softmax};
pub use grad_norm::squared_norm;
pub use kv_pages::KvPages;
pub use lora::{LoraGroup, LoraPart, lora_backward_weights, lora_backward_x, lora_down, lora_forward};
pub use mat::{Mat, MatMut};
pub use matmul::{Write, add_bias, bias_backward, matmul};
pub use min_hash::min_hashes;
pub use nf4::Nf4;
pub use paged_attention::{PagedPlan, PagedRow, paged_attention};
pub use par::Par;
pub use rms_norm::{
    rms_norm, rms_norm_again, rms_norm_backward, rms_norm_heads, rms_norm_heads_backward,
    rms_norm_weight_backward,
};
pub use rope::{Rope, RopeTable, rotate};
pub use svd::{Components, principal_components};
pub use swiglu::{swiglu, swiglu_backward};
pub use weight::{Weight, linear, linear_backward_x};
