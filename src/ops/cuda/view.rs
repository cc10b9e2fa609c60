//! Matrices within device buffers: rows, columns and transposes without copying.

use std::ops::Range;

use super::buffer::Buffer;
use super::error::CudaError;
use super::seam::{Address, Operand};

/// A row-major matrix within a buffer: element `(i, j)` at `offset + i * stride + j`. What is read and what is written is the
/// operation's affair: work on a device is in order, and two names of the same memory are no danger to the host.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub buffer: &'a Buffer,
    pub offset: usize,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
    transposed: bool,
}

impl<'a> View<'a> {
    /// The first `rows * cols` elements from `offset` on.
    pub fn at(buffer: &'a Buffer, offset: usize, rows: usize, cols: usize) -> Self {
        Self { buffer, offset, rows, cols, stride: cols, transposed: false }
    }

    pub fn new(buffer: &'a Buffer, rows: usize, cols: usize) -> Self {
        Self::at(buffer, 0, rows, cols)
    }

    /// As its transpose. Ranges of rows and columns are taken before.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    pub fn rows(self, range: Range<usize>) -> Self {
        Self { offset: self.offset + range.start * self.stride, rows: range.len(), ..self }
    }

    pub fn cols(self, range: Range<usize>) -> Self {
        Self { offset: self.offset + range.start, cols: range.len(), ..self }
    }

    /// Rows and columns as the operation sees them.
    pub(super) fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// The first element's address.
    ///
    /// # Errors
    /// A view that reaches beyond its buffer.
    pub(super) fn address(&self) -> Result<Address, CudaError> {
        let count =
            if self.rows == 0 || self.cols == 0 { 0 } else { (self.rows - 1) * self.stride + self.cols };
        self.buffer.at(self.offset, count)
    }

    pub(super) fn operand(&self) -> Result<Operand, CudaError> {
        Ok(Operand { at: self.address()?, ld: self.stride, transposed: self.transposed })
    }
}
