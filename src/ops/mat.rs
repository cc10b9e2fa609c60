#![allow(unsafe_code)]
//! Strided views of f32 buffers: rows, columns and transposes of a matrix without copying.
//!
//! Stacked projections (q|k|v, gate|up) are one buffer whose column ranges are operands of different operations, some read
//! and some written at once; slices cannot say that two column ranges are disjoint, these views can.

use std::marker::PhantomData;
use std::ops::Range;

/// A matrix that is read: `rows x cols`, element `(i, j)` at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    ptr: *const f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    life: PhantomData<&'a [f32]>,
}

/// A matrix that is written; its columns are contiguous (column stride 1).
#[derive(Debug)]
pub struct MatMut<'a> {
    ptr: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Mat` is a shared borrow of plain floats, a `MatMut` a unique one of the elements it names.
unsafe impl Send for Mat<'_> {}
// SAFETY: as above.
unsafe impl Sync for Mat<'_> {}
// SAFETY: as above.
unsafe impl Send for MatMut<'_> {}

fn needed(rows: usize, cols: usize, row_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols }
}

impl<'a> Mat<'a> {
    /// The first `rows * cols` elements, row by row.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert!(
            data.len() >= needed(rows, cols, cols),
            "{rows} x {cols} matrix over {} elements",
            data.len()
        );
        Self { ptr: data.as_ptr(), rows, cols, row_stride: cols, col_stride: 1, life: PhantomData }
    }

    pub fn n_rows(&self) -> usize {
        self.rows
    }

    pub fn n_cols(&self) -> usize {
        self.cols
    }

    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows);
        // SAFETY: an empty range may start one past the end; only then is the offset not of an element, and it is not read.
        let ptr =
            if range.is_empty() { self.ptr } else { unsafe { self.ptr.add(range.start * self.row_stride) } };
        Self { ptr, rows: range.len(), ..self }
    }

    pub fn cols(self, range: Range<usize>) -> Self {
        self.t().rows(range).t()
    }

    pub fn at(&self, i: usize, j: usize) -> f32 {
        assert!(i < self.rows && j < self.cols);
        // SAFETY: the view's constructor checked that its elements lie in the borrowed buffer; no `MatMut` names this one.
        unsafe { *self.ptr.add(i * self.row_stride + j * self.col_stride) }
    }

    /// Row `i` as a slice; the columns must be contiguous.
    pub fn row(&self, i: usize) -> &'a [f32] {
        assert!(i < self.rows && (self.col_stride == 1 || self.cols <= 1));
        // SAFETY: the view's constructor checked that its rows lie in the borrowed buffer; no `MatMut` names these elements.
        unsafe { std::slice::from_raw_parts(self.ptr.add(i * self.row_stride), self.cols) }
    }

    /// The single row's elements as rows of `width`: `(1 x n*width)` becomes `(n x width)`.
    pub fn fold_row(self, width: usize) -> Self {
        assert!(self.rows == 1 && self.col_stride == 1 && width > 0 && self.cols.is_multiple_of(width));
        Self { rows: self.cols / width, cols: width, row_stride: width, ..self }
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.ptr
    }

    pub(super) fn strides(&self) -> (usize, usize) {
        (self.row_stride, self.col_stride)
    }
}

impl<'a> MatMut<'a> {
    /// The first `rows * cols` elements, row by row.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert!(
            data.len() >= needed(rows, cols, cols),
            "{rows} x {cols} matrix over {} elements",
            data.len()
        );
        Self { ptr: data.as_mut_ptr(), rows, cols, row_stride: cols, life: PhantomData }
    }

    pub fn n_rows(&self) -> usize {
        self.rows
    }

    pub fn n_cols(&self) -> usize {
        self.cols
    }

    /// The same view, borrowed for a shorter time.
    pub fn rb(&mut self) -> MatMut<'_> {
        MatMut {
            ptr: self.ptr,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            life: PhantomData,
        }
    }

    pub fn as_mat(&self) -> Mat<'_> {
        Mat {
            ptr: self.ptr,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: 1,
            life: PhantomData,
        }
    }

    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows);
        // SAFETY: rows lie in the borrowed buffer (constructor), and `self` is the only view of these elements.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.row_stride), self.cols) }
    }

    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows);
        // SAFETY: see `Mat::rows`.
        let ptr =
            if range.is_empty() { self.ptr } else { unsafe { self.ptr.add(range.start * self.row_stride) } };
        Self { ptr, rows: range.len(), ..self }
    }

    pub fn cols(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.cols);
        // SAFETY: see `Mat::rows`.
        let ptr = if range.is_empty() { self.ptr } else { unsafe { self.ptr.add(range.start) } };
        Self { ptr, cols: range.len(), ..self }
    }

    /// Rows before and from `at`.
    pub fn split_rows(self, at: usize) -> (Self, Self) {
        let (rows, cols, row_stride, ptr) = (self.rows, self.cols, self.row_stride, self.ptr);
        let half = |range| MatMut { ptr, rows, cols, row_stride, life: PhantomData }.rows(range);
        // The two ranges share no row, hence no element.
        (half(0..at), half(at..rows))
    }

    /// Columns before and from `at`.
    pub fn split_cols(self, at: usize) -> (Self, Self) {
        let (rows, cols, row_stride, ptr) = (self.rows, self.cols, self.row_stride, self.ptr);
        let half = |range| MatMut { ptr, rows, cols, row_stride, life: PhantomData }.cols(range);
        // The two ranges share no column, hence no element (columns are contiguous and `row_stride >= cols`).
        (half(0..at), half(at..cols))
    }

    /// Column blocks of `width`.
    pub fn col_blocks(self, width: usize) -> Vec<Self> {
        assert!(width > 0 && self.cols.is_multiple_of(width));
        let mut rest = self;
        let mut blocks = Vec::with_capacity(rest.cols / width);
        while rest.cols > 0 {
            let (head, tail) = rest.split_cols(width);
            blocks.push(head);
            rest = tail;
        }
        blocks
    }

    /// The single row's elements as rows of `width`: `(1 x n*width)` becomes `(n x width)`.
    pub fn fold_row(self, width: usize) -> Self {
        assert!(self.rows == 1 && width > 0 && self.cols.is_multiple_of(width));
        Self { rows: self.cols / width, cols: width, row_stride: width, ..self }
    }

    pub fn fill(&mut self, value: f32) {
        for i in 0..self.rows {
            self.row_mut(i).fill(value);
        }
    }

    pub fn copy_from(&mut self, from: Mat<'_>) {
        assert!(self.rows == from.rows && self.cols == from.cols);
        for i in 0..self.rows {
            self.row_mut(i).copy_from_slice(from.row(i));
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.ptr
    }

    pub(super) fn row_stride(&self) -> usize {
        self.row_stride
    }
}
