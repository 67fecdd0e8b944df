//! Matrices and growing buffers, aligned to cache lines.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use half::bf16;

use crate::Element;
use crate::arena::{Buffer, LINE, Line};

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// The upper half of an f32; sums are kept in f32.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// A row-major matrix `[rows, cols]` of f32 or bf16, contiguous.
#[derive(Debug)]
pub struct Tensor {
    lines: Buffer,
    rows: usize,
    cols: usize,
    dtype: Dtype,
}

impl Clone for Tensor {
    /// A copy outside any arena.
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.rows, self.cols, self.dtype);
        copy.lines.copy_from_slice(&self.lines);
        copy
    }
}

impl Tensor {
    /// Zeros, outside any arena: for parameters and their state.
    #[must_use]
    pub fn zeros(rows: usize, cols: usize, dtype: Dtype) -> Self {
        Self::new(Buffer::zeros((rows * cols * dtype.bytes()).div_ceil(LINE)), rows, cols, dtype)
    }

    pub(crate) fn new(lines: Buffer, rows: usize, cols: usize, dtype: Dtype) -> Self {
        Self { lines, rows, cols, dtype }
    }

    /// A copy of `values`, row-major, as f32.
    ///
    /// # Panics
    /// If there are not `rows * cols` values.
    #[must_use]
    pub fn from_f32(rows: usize, cols: usize, values: &[f32]) -> Self {
        let mut tensor = Self::zeros(rows, cols, Dtype::F32);
        tensor.f32_mut().copy_from_slice(values);
        tensor
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The type of the elements.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The elements, row by row.
    ///
    /// # Panics
    /// If the tensor is of another type.
    #[must_use]
    pub fn as_slice<E: Element>(&self) -> &[E] {
        assert_eq!(self.dtype, E::DTYPE, "a tensor of another type");
        &bytemuck::cast_slice(&self.lines)[..self.rows * self.cols]
    }

    /// The elements, row by row, to write.
    ///
    /// # Panics
    /// If the tensor is of another type.
    #[must_use]
    pub fn as_mut_slice<E: Element>(&mut self) -> &mut [E] {
        assert_eq!(self.dtype, E::DTYPE, "a tensor of another type");
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.rows * self.cols]
    }

    /// [`Tensor::as_slice`] of f32.
    #[must_use]
    pub fn f32(&self) -> &[f32] {
        self.as_slice()
    }

    /// [`Tensor::as_mut_slice`] of f32.
    #[must_use]
    pub fn f32_mut(&mut self) -> &mut [f32] {
        self.as_mut_slice()
    }

    /// A copy of the elements as f32, for looking at them.
    #[must_use]
    pub fn to_f32_vec(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.f32().to_vec(),
            Dtype::Bf16 => self.as_slice::<bf16>().iter().map(|x| x.to_f32()).collect(),
        }
    }
}

/// A buffer that grows and is aligned to a cache line: what a thread keeps for itself between tasks. A load of
/// a line that is not aligned to one costs two.
#[derive(Debug)]
pub(crate) struct AlignedVec<T> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<T>,
}

impl<T> AlignedVec<T> {
    pub(crate) const fn new() -> Self {
        Self { lines: Vec::new(), len: 0, element: PhantomData }
    }

    /// Makes it at least `len` elements long; new ones are zero.
    pub(crate) fn grow(&mut self, len: usize) {
        if self.len < len {
            self.lines.resize((len * size_of::<T>()).div_ceil(LINE), Line::ZERO);
            self.len = len;
        }
    }
}

impl<T> Default for AlignedVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: bytemuck::Pod> Deref for AlignedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: bytemuck::Pod> DerefMut for AlignedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}
