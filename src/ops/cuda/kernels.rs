//! The kernels of `kernels/` and the rules by which they are launched; `kernels/README.md` has their arguments.

use std::ops::Range;

/// The kernels by file name: compiled one file at a time.
pub const KERNELS: [(&str, &str); 14] = [
    ("adamw.cu", include_str!("../../../kernels/adamw.cu")),
    ("attention.cu", include_str!("../../../kernels/attention.cu")),
    ("cross_entropy.cu", include_str!("../../../kernels/cross_entropy.cu")),
    ("dora.cu", include_str!("../../../kernels/dora.cu")),
    ("dropout.cu", include_str!("../../../kernels/dropout.cu")),
    ("nearest.cu", include_str!("../../../kernels/nearest.cu")),
    ("nf4.cu", include_str!("../../../kernels/nf4.cu")),
    ("norm_rope.cu", include_str!("../../../kernels/norm_rope.cu")),
    ("paged_attention.cu", include_str!("../../../kernels/paged_attention.cu")),
    ("rms_norm.cu", include_str!("../../../kernels/rms_norm.cu")),
    ("rope.cu", include_str!("../../../kernels/rope.cu")),
    ("rows.cu", include_str!("../../../kernels/rows.cu")),
    ("sampling.cu", include_str!("../../../kernels/sampling.cu")),
    ("swiglu.cu", include_str!("../../../kernels/swiglu.cu")),
];

/// What the kernels include, by the name that they include it by.
pub const HEADERS: [(&str, &str); 2] = [
    ("common.h", include_str!("../../../kernels/common.h")),
    ("device.h", include_str!("../../../kernels/device.h")),
];

/// Rows of an attention tile.
pub const TILE: usize = 64;

/// Names of the kernels that a file declares: `extern "C" __global__ void [__launch_bounds__(..)] NAME(`.
#[cfg(test)]
pub fn names(source: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for part in source.split("extern \"C\" __global__ void ").skip(1) {
        let part =
            part.strip_prefix("__launch_bounds__").and_then(|p| p.split_once(") ")).map_or(part, |p| p.1);
        if let Some((name, _)) = part.split_once('(') {
            names.push(name);
        }
    }
    names
}

/// The tiles of packed rows, four numbers each: first token, one past the last, the row's first, one past the row's last.
pub fn attention_tiles(rows: &[Range<usize>]) -> Vec<u32> {
    let tiles = rows.iter().flat_map(|row| {
        row.clone().step_by(TILE).map(|first| [first, (first + TILE).min(row.end), row.start, row.end])
    });
    tiles.flatten().map(|n| n as u32).collect()
}

/// The kernels of one attention layer, and the dynamic shared memory that each wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionKernels {
    pub forward: (&'static str, u32),
    pub backward_kv: (&'static str, u32),
    pub backward_q: (&'static str, u32),
}

impl AttentionKernels {
    /// For heads of `dim`: a multiple of 8 up to 256; none for others.
    pub fn of(dim: usize) -> Option<Self> {
        // Elements of a tile and of a stage; see the heads of the kernels in attention.cu.
        let bytes = |tiles: u32, width: u32, others: u32, floats: u32| {
            2 * width * (tiles * TILE as u32 + 4 * others) + 4 * floats * others
        };
        Some(match dim {
            _ if !dim.is_multiple_of(8) => return None,
            1..=64 => Self {
                forward: ("attention_64", bytes(0, 64, 64, 0)),
                backward_kv: ("attention_backward_kv_64", bytes(2, 64, 64, 4)),
                backward_q: ("attention_backward_q_64", bytes(2, 64, 64, 0)),
            },
            65..=128 => Self {
                forward: ("attention_128", bytes(0, 128, 64, 0)),
                backward_kv: ("attention_backward_kv_128", bytes(2, 128, 32, 4)),
                backward_q: ("attention_backward_q_128", bytes(2, 128, 32, 0)),
            },
            129..=256 => Self {
                forward: ("attention_256", bytes(0, 256, 32, 0)),
                backward_kv: ("attention_backward_kv_256", bytes(2, 256, 16, 4)),
                backward_q: ("attention_backward_q_256", bytes(2, 256, 16, 0)),
            },
            _ => return None,
        })
    }
}

/// Whether the attention kernels take heads of `dim`.
pub fn attention_takes(dim: usize) -> bool {
    AttentionKernels::of(dim).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once_and_never_two() {
        assert_eq!(attention_tiles(&[]), [0; 0]);
        assert_eq!(attention_tiles(&[0..1, 1..66]), [0, 1, 0, 1, 1, 65, 1, 66, 65, 66, 1, 66]);
    }

    #[test]
    fn shared_memory_fits_every_gpu_from_compute_8_0_on() {
        for dim in (8..=256).step_by(8) {
            let kernels = AttentionKernels::of(dim).unwrap();
            for (name, shared) in [kernels.forward, kernels.backward_kv, kernels.backward_q] {
                assert!(shared <= 99 << 10 && names(KERNELS[1].1).contains(&name), "{name}: {shared}");
            }
        }
        assert_eq!(AttentionKernels::of(128).unwrap().forward.1, 65536);
        assert_eq!(AttentionKernels::of(256).unwrap().backward_kv.1, 98560);
        for dim in [0, 4, 100, 264] {
            assert_eq!(AttentionKernels::of(dim), None);
        }
    }

    #[test]
    fn a_kernel_is_found_by_its_declaration_and_has_a_name_of_its_own() {
        let mut all: Vec<_> = KERNELS.iter().flat_map(|(_, source)| names(source)).collect();
        assert!(all.contains(&"attention_64") && all.contains(&"rope"));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
