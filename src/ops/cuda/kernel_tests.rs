//! Every kernel against its CPU twin, by the emulator: same inputs (rounded to bf16), tolerances of bf16.
//!
//! Each runs in three orders of its threads and blocks and must give the same bits in all of them: a kernel that misses a
//! barrier, or whose blocks read what other blocks write, does not. Outputs start as NaN.

mod attention;
mod generation;
mod layers;
mod methods;
mod nearest;
mod norms;
mod optimizer;
mod trouble;

use std::sync::Arc;

use half::bf16;

use super::emulator::Emulator;
use super::seam::{Arg, Dtype, Launch, Launcher};
use super::{Buffer, CudaError};

/// A result in bf16 is off by at most 2^-8 of it, by 1.6e-3 in the mean of many.
const BF16: f64 = 2e-3;
/// Sums in f32 in another order.
const F32: f64 = 2e-6;

struct Device(Arc<dyn Launcher>);

impl Device {
    fn bf16(&self, values: &[f32]) -> Buffer {
        let buffer = Buffer::new(&self.0, values.len(), Dtype::Bf16).unwrap();
        buffer.write_f32(0, values).unwrap();
        buffer
    }

    fn f32(&self, values: &[f32]) -> Buffer {
        Buffer::from_f32(&self.0, values).unwrap()
    }

    fn u32(&self, values: &[u32]) -> Buffer {
        let buffer = Buffer::new(&self.0, values.len(), Dtype::U32).unwrap();
        buffer.write_u32(0, values).unwrap();
        buffer
    }

    fn u8(&self, values: &[u8]) -> Buffer {
        let buffer = Buffer::new(&self.0, values.len(), Dtype::U8).unwrap();
        buffer.write_u8(0, values).unwrap();
        buffer
    }

    /// Memory that holds NaN.
    fn room(&self, len: usize, dtype: Dtype) -> Buffer {
        Buffer::new(&self.0, len, dtype).unwrap()
    }

    fn try_launch(
        &self,
        kernel: &str,
        grid: [usize; 2],
        block: [u32; 2],
        shared: u32,
        args: &[Arg],
    ) -> Result<(), CudaError> {
        let [x, y] = grid.map(|n| n as u32);
        let launch = Launch { kernel, grid: [x, y, 1], block: [block[0], block[1], 1], shared, args };
        // SAFETY: buffers are made by the tests in the sizes that the kernel wants; the emulator checks what it can.
        #[allow(unsafe_code)]
        unsafe {
            self.0.launch(&launch)
        }
    }

    fn launch(&self, kernel: &str, grid: usize, block: u32, args: &[Arg]) {
        self.try_launch(kernel, [grid, 1], [block, 1], 0, args).unwrap();
    }
}

fn at(buffer: &Buffer) -> Arg {
    Arg::Pointer(buffer.at(0, buffer.len()).unwrap())
}

fn int(n: usize) -> Arg {
    Arg::I32(n as i32)
}

/// What `run` reads back, the same in all orders. None where there is no emulator.
fn in_all_orders(run: impl Fn(&Device) -> Vec<Vec<f32>>) -> Option<Vec<Vec<f32>>> {
    let mut first: Option<Vec<Vec<f32>>> = None;
    for order in 0..3 {
        let found = run(&Device(Emulator::new(order)?));
        let bits = |lists: &[Vec<f32>]| -> Vec<u32> { lists.iter().flatten().map(|x| x.to_bits()).collect() };
        match &first {
            Some(first) => {
                assert!(bits(first) == bits(&found), "order {order} of the threads gives another result");
            }
            None => first = Some(found),
        }
    }
    first
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
}

/// Numbers in ±scale that bf16 has.
fn noise(n: usize, seed: u32, scale: f32) -> Vec<f32> {
    rounded(&exact_noise(n, seed, scale))
}

fn exact_noise(n: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        scale * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..n).map(|_| next()).collect()
}

/// Off by at most `tolerance` of the whole (twice that for one element alone), and nowhere by much more than that of the element or
/// of the mean size.
fn assert_close(found: &[f32], wanted: &[f32], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let norm = wanted.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
    let root = (wanted.len() as f64).sqrt();
    let off = |f: f32, w: f32| (f64::from(f) - f64::from(w)).abs();
    let total = found.iter().zip(wanted).map(|(f, w)| off(*f, *w).powi(2)).sum::<f64>().sqrt();
    let allowed = tolerance * (1.0 + 1.0 / root);
    assert!(norm > 1e-6 && total <= allowed * norm, "{what}: off by {total:e} of {norm:e}");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        let allowed = 4.0 * tolerance * (f64::from(w.abs()) + norm / root);
        assert!(off(*f, *w) <= allowed, "{what}: element {i} is {f}, not {w}");
    }
}
