//! Matrices in memory that is used again and again.
//!
//! A training step asks for the same sizes every time. [`Arena`] keeps what was given back, so that from
//! the second step on nothing is allocated.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use half::bf16;

use crate::Element;

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

/// One cache line; buffers are made of these so that they are aligned to it.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

const LINE: usize = 64;

/// A row-major matrix `[rows, cols]` of f32 or bf16, contiguous.
#[derive(Debug)]
pub struct Tensor {
    lines: Vec<Line>,
    rows: usize,
    cols: usize,
    dtype: Dtype,
}

impl Tensor {
    /// Zeros, outside any arena: for parameters and their state.
    #[must_use]
    pub fn zeros(rows: usize, cols: usize, dtype: Dtype) -> Self {
        let lines = (rows * cols * dtype.bytes()).div_ceil(LINE);
        Self { lines: vec![Line([0; LINE]); lines], rows, cols, dtype }
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

/// Buffers that were given back, by size.
#[derive(Debug, Default)]
pub struct Arena {
    free: BTreeMap<usize, Vec<Vec<Line>>>,
    /// Buffers of packed operands, which live only for a product or two. They are few, and each grows to the largest
    /// need: layers of many sizes would leave a buffer of every size behind.
    free_units: Vec<Vec<Line>>,
    allocations: usize,
    bytes: usize,
}

impl Arena {
    /// A matrix with **arbitrary content**: a buffer that was given back if one fits, a new one otherwise.
    pub fn tensor(&mut self, rows: usize, cols: usize, dtype: Dtype) -> Tensor {
        let lines = self.lines((rows * cols * dtype.bytes()).div_ceil(LINE));
        Tensor { lines, rows, cols, dtype }
    }

    /// Takes a matrix's memory back.
    pub fn give_back(&mut self, tensor: Tensor) {
        self.give_back_lines(tensor.lines);
    }

    /// Words of packed operands, aligned to a cache line, with arbitrary content.
    pub(crate) fn units(&mut self, len: usize) -> Units {
        let needed = (len * 4).div_ceil(LINE);
        self.free_units.sort_unstable_by_key(Vec::len);
        let fitting = self.free_units.iter().position(|lines| lines.len() >= needed);
        let found =
            fitting.or(self.free_units.len().checked_sub(1)).map(|at| self.free_units.swap_remove(at));
        let mut lines = match found {
            Some(lines) if lines.len() >= needed => lines,
            too_small => {
                // Given up before the larger one is asked for.
                self.bytes -= too_small.map_or(0, |lines| lines.len()) * LINE;
                self.allocate(needed)
            }
        };
        if cfg!(debug_assertions) {
            lines.fill(Line([0xff; LINE]));
        }
        Units { lines, len }
    }

    pub(crate) fn give_back_units(&mut self, units: Units) {
        self.free_units.push(units.lines);
    }

    /// How often memory was asked of the system; constant in the steady state.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.allocations
    }

    /// All memory that the arena has, in use or not, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn lines(&mut self, len: usize) -> Vec<Line> {
        // A buffer that is much too large would be missed where it is needed.
        let fitting = self.free.range_mut(len..=len + len / 4).next();
        if let Some((&size, buffers)) = fitting {
            let mut lines = buffers.pop().expect("empty lists are removed");
            if buffers.is_empty() {
                self.free.remove(&size);
            }
            if cfg!(debug_assertions) {
                // Whoever reads before writing gets NaN, in f32 and in bf16.
                lines.fill(Line([0xff; LINE]));
            }
            return lines;
        }
        self.allocate(len)
    }

    fn allocate(&mut self, len: usize) -> Vec<Line> {
        self.allocations += 1;
        self.bytes += len * LINE;
        vec![Line([0; LINE]); len]
    }

    fn give_back_lines(&mut self, lines: Vec<Line>) {
        if !lines.is_empty() {
            self.free.entry(lines.len()).or_default().push(lines);
        }
    }
}

/// 32-bit units of packed operands: one f32, or two bf16.
#[derive(Debug)]
pub(crate) struct Units {
    lines: Vec<Line>,
    len: usize,
}

impl Units {
    pub(crate) fn as_slice(&self) -> &[u32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
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
            self.lines.resize((len * size_of::<T>()).div_ceil(LINE), Line([0; LINE]));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let mut arena = Arena::default();
        let a = arena.tensor(10, 10, Dtype::F32);
        let b = arena.tensor(10, 20, Dtype::Bf16);
        let start = a.f32().as_ptr();
        assert_eq!(start as usize % LINE, 0);
        arena.give_back(a);
        arena.give_back(b);
        let again = arena.tensor(20, 5, Dtype::F32);
        assert_eq!(again.f32().len(), 100);
        let _second = arena.tensor(200, 1, Dtype::Bf16);
        assert_eq!(arena.allocations(), 2);
        // Far too large a buffer is not given out for a small need.
        arena.give_back(again);
        let _small = arena.tensor(1, 1, Dtype::F32);
        assert_eq!(arena.allocations(), 3);
    }
}
