#![allow(unsafe_code)]
//! Device memory with a length and an element type.

use std::sync::Arc;

use half::bf16;
use half::slice::HalfFloatSliceExt as _;

use super::error::CudaError;
use super::seam::{Address, Dtype, Launcher};

/// Memory of a device, freed when dropped. An empty buffer has no memory.
#[derive(Debug)]
pub struct Buffer {
    /// None only while empty.
    owner: Option<Arc<dyn Launcher>>,
    at: Address,
    len: usize,
    dtype: Dtype,
}

impl Buffer {
    pub const fn empty(dtype: Dtype) -> Self {
        Self { owner: None, at: 0, len: 0, dtype }
    }

    /// As [`Buffer::fit`], with a type for what is empty yet.
    pub fn fit_as(
        &mut self,
        launcher: &Arc<dyn Launcher>,
        len: usize,
        dtype: Dtype,
    ) -> Result<(), CudaError> {
        if self.is_empty() {
            self.dtype = dtype;
        }
        self.fit(launcher, len)
    }

    /// `len` elements of arbitrary content.
    pub fn new(launcher: &Arc<dyn Launcher>, len: usize, dtype: Dtype) -> Result<Self, CudaError> {
        if len == 0 {
            return Ok(Self::empty(dtype));
        }
        let at = launcher.alloc(len * dtype.bytes())?;
        Ok(Self { owner: Some(launcher.clone()), at, len, dtype })
    }

    pub fn zeros(launcher: &Arc<dyn Launcher>, len: usize, dtype: Dtype) -> Result<Self, CudaError> {
        let buffer = Self::new(launcher, len, dtype)?;
        buffer.zero()?;
        Ok(buffer)
    }

    pub fn from_f32(launcher: &Arc<dyn Launcher>, values: &[f32]) -> Result<Self, CudaError> {
        let buffer = Self::new(launcher, values.len(), Dtype::F32)?;
        buffer.write_f32(0, values)?;
        Ok(buffer)
    }

    /// At least `len` elements; what stood in it is lost when it grows. The old memory goes first, so that both are never
    /// there at once.
    pub fn fit(&mut self, launcher: &Arc<dyn Launcher>, len: usize) -> Result<(), CudaError> {
        if self.len < len {
            *self = Self::empty(self.dtype);
            *self = Self::new(launcher, len, self.dtype)?;
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn bytes(&self) -> usize {
        self.len * self.dtype.bytes()
    }

    /// Address of element `offset`.
    ///
    /// # Errors
    /// Fewer than `count` elements stand from there on.
    pub fn at(&self, offset: usize, count: usize) -> Result<Address, CudaError> {
        if offset + count > self.len {
            return Err(CudaError::call(
                "device buffer",
                format!("{count} elements from {offset} on were asked of {} of {:?}", self.len, self.dtype),
            ));
        }
        Ok(self.at + (offset * self.dtype.bytes()) as Address)
    }

    pub fn zero(&self) -> Result<(), CudaError> {
        match &self.owner {
            // SAFETY: the whole of this buffer's own allocation.
            Some(owner) => unsafe { owner.zero(self.at, self.bytes()) },
            None => Ok(()),
        }
    }

    fn write(&self, offset: usize, count: usize, bytes: &[u8]) -> Result<(), CudaError> {
        let to = self.at(offset, count)?;
        match &self.owner {
            // SAFETY: `at` checked that the elements are within the buffer; callers pass as many bytes as those have.
            Some(owner) if count > 0 => unsafe { owner.upload(to, bytes) },
            _ => Ok(()),
        }
    }

    fn read(&self, offset: usize, count: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        let from = self.at(offset, count)?;
        match &self.owner {
            // SAFETY: as in `write`.
            Some(owner) if count > 0 => unsafe { owner.download(from, bytes) },
            _ => Ok(()),
        }
    }

    /// Writes f32 values from `offset` on, rounded to nearest even where the buffer is of bf16.
    pub fn write_f32(&self, offset: usize, values: &[f32]) -> Result<(), CudaError> {
        match self.dtype {
            Dtype::F32 => self.write(offset, values.len(), bytes_of(values)),
            Dtype::Bf16 => {
                // In pieces: a large tensor has no second whole copy on the host.
                let mut piece = vec![bf16::ZERO; values.len().min(PIECE)];
                for (i, values) in values.chunks(PIECE).enumerate() {
                    let piece = &mut piece[..values.len()];
                    piece.convert_from_f32_slice(values);
                    self.write(offset + i * PIECE, values.len(), bytes_of(piece))?;
                }
                Ok(())
            }
            Dtype::U32 | Dtype::U8 => Err(self.wrong("f32")),
        }
    }

    pub fn write_u32(&self, offset: usize, values: &[u32]) -> Result<(), CudaError> {
        if self.dtype != Dtype::U32 {
            return Err(self.wrong("u32"));
        }
        self.write(offset, values.len(), bytes_of(values))
    }

    pub fn write_u8(&self, offset: usize, values: &[u8]) -> Result<(), CudaError> {
        if self.dtype != Dtype::U8 {
            return Err(self.wrong("u8"));
        }
        self.write(offset, values.len(), values)
    }

    /// Reads `out.len()` values from `offset` on, as f32; waits for all work before.
    pub fn read_f32(&self, offset: usize, out: &mut [f32]) -> Result<(), CudaError> {
        match self.dtype {
            Dtype::F32 => self.read(offset, out.len(), bytes_of_mut(out)),
            Dtype::Bf16 => {
                let mut bits = vec![bf16::ZERO; out.len()];
                self.read(offset, out.len(), bytes_of_mut(&mut bits))?;
                bits.convert_to_f32_slice(out);
                Ok(())
            }
            Dtype::U32 | Dtype::U8 => Err(self.wrong("f32")),
        }
    }

    /// Reads `out.len()` numbers from `offset` on; waits for all work before.
    pub fn read_u32(&self, offset: usize, out: &mut [u32]) -> Result<(), CudaError> {
        match self.dtype {
            Dtype::U32 => self.read(offset, out.len(), bytes_of_mut(out)),
            _ => Err(self.wrong("u32")),
        }
    }

    /// The whole buffer as f32.
    pub fn to_f32(&self) -> Result<Vec<f32>, CudaError> {
        let mut out = vec![0.0; self.len];
        self.read_f32(0, &mut out)?;
        Ok(out)
    }

    fn wrong(&self, what: &str) -> CudaError {
        CudaError::call("copy", format!("{what} values and a buffer of {:?}", self.dtype))
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::empty(Dtype::Bf16)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(owner) = &self.owner {
            // SAFETY: the address came from this owner's `alloc`, and with the buffer the last name of it goes.
            unsafe { owner.free(self.at) };
        }
    }
}

/// Elements converted at once.
const PIECE: usize = 1 << 20;

/// Plain numbers without padding, any bits of which are a value.
trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for u32 {}
impl Plain for bf16 {}

fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain numbers; a byte has no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and any bytes are valid numbers.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
