//! Products with quantised matrices, sixteen rows at a time.
//!
//! A matrix of any [`BlockFormat`] is rearranged once, when it is loaded, so that one instruction multiplies four
//! columns of sixteen rows ([`form`]). Activations become 8-bit integers with a scale for every 32 ([`activations`]), or,
//! where there are matrix tiles and the format's scales allow it, 16-bit integers with a scale for every 256 ([`wide`]).
//! Sums of their products with the codes are exact, and what is rounded has one order ([`product`]), so that vectors of
//! any width and tiles give the same bits for one token as for a thousand.

mod activations;
mod codes;
mod form;
mod lanes;
mod product;
mod tiles;
mod wide;

use std::array::from_fn;
use std::cell::RefCell;
use std::iter::StepBy;
use std::ops::Range;
use std::slice::from_ref;

use half::bf16;

use activations::{Activations, TILE};
use form::{BLOCK, Form, ROWS, by_format};
use product::{PAIR, Square, multiply_tile};
pub(crate) use product::{PRODUCTS_PER_CALL, multiply_in_registers};

use crate::matmul::Output;
use crate::memory::Memory;
use crate::quant::BlockFormat;
use crate::simd::Element;
use crate::threads::Parts;
use crate::{Cpu, Isa};

/// A matrix in a block format, `[rows, cols]`, with its rows interleaved.
#[derive(Debug)]
pub struct QuantMatrix {
    format: BlockFormat,
    rows: usize,
    cols: usize,
    strips: Memory,
    strip_bytes: usize,
}

/// Bytes of weights that a task takes at a time; they should stay in the second-level cache with a tile of activations.
const TASK_BYTES: usize = 1 << 18;

/// The same for a single row, which waits for memory: more in one piece come faster.
const ROW_TASK_BYTES: usize = 1 << 19;

impl QuantMatrix {
    /// Rearranges the rows of a file, one after the other without gaps.
    ///
    /// # Panics
    /// If `cols` are not whole blocks, or there are not as many bytes as `rows` of them have.
    #[must_use]
    pub fn new(cpu: &Cpu, format: BlockFormat, rows: usize, cols: usize, blocks: &[u8]) -> Self {
        let row_bytes = format.row_bytes(cols).expect("whole blocks");
        assert_eq!(blocks.len(), rows * row_bytes, "bytes of {rows} x {cols} in {format:?}");
        let strip_bytes = cols.div_ceil(BLOCK) * form::block_bytes(format);
        let n_strips = rows.div_ceil(ROWS);
        let mut strips = Memory::zeroed(n_strips * strip_bytes);
        let parts = Parts::new(&mut strips);
        cpu.threads.run_ranges(n_strips, (TASK_BYTES / strip_bytes.max(1)).max(1), |range| {
            for strip in range {
                // SAFETY: every strip is written by one task.
                let to = unsafe { parts.part(strip * strip_bytes..(strip + 1) * strip_bytes) };
                let first = strip * ROWS * row_bytes;
                let from = &blocks[first..(first + ROWS * row_bytes).min(blocks.len())];
                codes::interleave(format, from, cols, to);
            }
        });
        Self { format, rows, cols, strips, strip_bytes }
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// Rows: features that come out of a product.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: features that go into a product.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that a product reads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.strips.len()
    }

    /// How many strips these are, and the strips.
    fn pair(&self, mut pair: StepBy<Range<usize>>) -> (usize, [&[u8]; PAIR]) {
        (pair.len(), from_fn(|_| pair.next().map_or(&[][..], |strip| self.strip(strip))))
    }

    fn strip(&self, strip: usize) -> &[u8] {
        &self.strips[strip * self.strip_bytes..(strip + 1) * self.strip_bytes]
    }
}

/// Activations as integers, in the forms that are needed; memory that is kept for the next time.
#[derive(Default)]
struct Integers {
    narrow: Activations,
    wide: wide::Activations,
}

thread_local! {
    static INTEGERS: RefCell<Integers> = RefCell::new(Integers::default());
}

/// Whether activations have 16 bits: see [`wide`].
fn is_wide(isa: Isa, format: BlockFormat) -> bool {
    isa == Isa::Amx && by_format!(format, F => F::WHOLE)
}

/// `C = X · Bᵀ` for all rows of `x[rows, cols]` and the rows of all `matrices`, which stand one below the other; C is
/// row-major. `name` is what a profile calls it.
pub(crate) fn multiply<E: Element>(
    cpu: &Cpu,
    name: &'static str,
    x: &[E],
    cols: usize,
    matrices: &[QuantMatrix],
    output: Output<'_>,
) {
    let tokens = x.len() / cols;
    let rows: usize = matrices.iter().map(QuantMatrix::rows).sum();
    let c = Destination::new(output, tokens * rows, rows);
    INTEGERS.with_borrow_mut(|activations| {
        let Integers { narrow, wide } = activations;
        let wides = matrices.iter().filter(|matrix| is_wide(cpu.isa, matrix.format)).count();
        if wides > 0 {
            wide.set(cpu, x, cols);
        }
        if wides < matrices.len() {
            narrow.set(cpu, x, cols);
        }
        let (narrow, wide) = (&*narrow, &*wide);
        let bytes = matrices.iter().map(QuantMatrix::bytes).sum::<usize>() + tokens * (cols + 4 * rows);
        let _span = cpu.profile.span(name, 2 * tokens * rows * cols, bytes);
        let mut first_row = 0;
        for matrix in matrices {
            assert_eq!(matrix.cols, cols, "a matrix for other features");
            let n_strips = matrix.rows.div_ceil(ROWS);
            let is_wide = is_wide(cpu.isa, matrix.format);
            let task_bytes = if tokens == 1 { ROW_TASK_BYTES } else { TASK_BYTES };
            let at_least = if is_wide && !wide.is_few() { wide::STRIPS } else { 1 };
            let grain = (task_bytes / matrix.strip_bytes)
                .min(n_strips.div_ceil(4 * cpu.threads.count()))
                .max(at_least);
            cpu.threads.run_ranges(n_strips, grain, |strips| {
                // SAFETY: every strip's columns of C are written by one task.
                by_format!(matrix.format, F => unsafe {
                    if is_wide {
                        wide::multiply_strips::<F>(cpu.isa, wide, matrix, strips, first_row, &c)
                    } else {
                        multiply_strips::<F>(cpu.isa, narrow, matrix, strips, first_row, &c)
                    }
                });
                end_streams();
            });
            first_row += matrix.rows;
        }
    });
}

/// # Safety
/// Nobody else may use these columns of C meanwhile.
unsafe fn multiply_strips<F: form::Form>(
    isa: Isa,
    activations: &Activations,
    matrix: &QuantMatrix,
    strips: Range<usize>,
    first_row: usize,
    c: &Destination<'_>,
) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx && activations.is_in_whole_tiles() {
        // SAFETY: the instruction set is there; by the caller's promise.
        unsafe { tiles::multiply_strips::<F>(activations, matrix, strips, first_row, c) };
        return;
    }
    let mut squares = [Square::ZERO; PAIR];
    for (t, tile) in activations.tiles().enumerate() {
        for pair in pairs(&strips) {
            let (n, data) = matrix.pair(pair.clone());
            multiply_tile::<F>(isa, &data[..n], &tile, &mut squares);
            for (strip, square) in pair.zip(&squares) {
                // SAFETY: by the caller's promise.
                unsafe { c.write_squares(t, tile.used, first_row, matrix.rows, strip, from_ref(square)) };
            }
        }
    }
}

/// Strips two by two, one from the first half and one from the second: where a row waits for memory, what comes after
/// the end of a strip is needed next. The last one may be alone.
fn pairs(strips: &Range<usize>) -> impl Iterator<Item = StepBy<Range<usize>>> {
    let (end, half) = (strips.end, strips.len().div_ceil(PAIR));
    (strips.start..strips.start + half).map(move |strip| (strip..end).step_by(half))
}

/// Bytes of a C that is larger than the second-level cache, so that nothing of it is read again soon.
const STREAMED_BYTES: usize = 4 << 20;

/// Writes past the caches, where that is possible: a line that is written whole need not be fetched before.
#[inline(always)]
fn stream(from: &[f32], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if (to.as_ptr() as usize).is_multiple_of(16) && to.len().is_multiple_of(4) {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
        for (to, from) in to.chunks_exact_mut(4).zip(from.chunks_exact(4)) {
            // SAFETY: both have four values, and the first one's address is a multiple of 16.
            unsafe { _mm_stream_ps(to.as_mut_ptr(), _mm_loadu_ps(from.as_ptr())) };
        }
        return;
    }
    to.copy_from_slice(from);
}

/// Asks for memory that is soon to be read and written; any address may be asked for.
#[inline(always)]
fn prefetch(to: *mut f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it reads nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(to.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = to;
}

/// Lets everybody see what this thread has streamed: no other synchronisation orders such writes.
fn end_streams() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has this instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// C, as the tasks share it.
struct Destination<'a> {
    stride: usize,
    kind: Kind<'a>,
}

enum Kind<'a> {
    F32(Parts<'a, f32>),
    /// As `F32`, past the caches: see [`stream`].
    Streamed(Parts<'a, f32>),
    Bf16(Parts<'a, bf16>),
    Accumulate(Parts<'a, f32>),
    AddTo(&'a [f32], Parts<'a, f32>),
}

impl<'a> Destination<'a> {
    fn new(output: Output<'a>, len: usize, stride: usize) -> Self {
        let kind = match output {
            Output::F32(c) if size_of_val(c) >= STREAMED_BYTES => Kind::Streamed(Parts::new(c)),
            Output::F32(c) => Kind::F32(Parts::new(c)),
            Output::Bf16(c) => Kind::Bf16(Parts::new(c)),
            Output::Accumulate(c) => Kind::Accumulate(Parts::new(c)),
            Output::AddTo(x, c) => Kind::AddTo(x, Parts::new(c)),
        };
        let have = match &kind {
            Kind::Bf16(c) => c.len(),
            Kind::F32(c) | Kind::Streamed(c) | Kind::Accumulate(c) | Kind::AddTo(_, c) => c.len(),
        };
        assert_eq!(have, len, "the output has another size than the product");
        Self { stride, kind }
    }

    /// Writes what belongs to C of the products of some strips that follow each other with tile number `tile`.
    ///
    /// # Safety
    /// Nobody else may use this part of C meanwhile.
    unsafe fn write_squares(
        &self,
        tile: usize,
        used: usize,
        first_row: usize,
        rows: usize,
        first_strip: usize,
        squares: &[Square],
    ) {
        for i in 0..used {
            let token = tile * TILE + i;
            // Along the rows of C, whose lines are fetched in order.
            for (strip, square) in (first_strip..).zip(squares) {
                let (at, sums) = (first_row + strip * ROWS, &square.0[i]);
                let rows = ROWS.min(rows - strip * ROWS);
                // SAFETY: by the caller's promise.
                unsafe {
                    // A constant length is copied by one instruction instead of a call.
                    if rows == ROWS {
                        self.write(token, at, sums)
                    } else {
                        self.write(token, at, &sums[..rows])
                    }
                }
            }
        }
    }

    /// # Safety
    /// Nobody else may use this part of C meanwhile.
    #[inline(always)]
    unsafe fn write(&self, token: usize, first_row: usize, sums: &[f32]) {
        let at = token * self.stride + first_row;
        let range = at..at + sums.len();
        // SAFETY: by the caller's promise.
        unsafe {
            match &self.kind {
                Kind::F32(c) => c.part(range).copy_from_slice(sums),
                Kind::Streamed(c) => stream(sums, c.part(range)),
                Kind::Bf16(c) => {
                    for (c, sum) in c.part(range).iter_mut().zip(sums) {
                        *c = bf16::from_f32(*sum);
                    }
                }
                Kind::Accumulate(c) => {
                    // The same columns of the next tile's rows come next, each from a line of its own.
                    prefetch(c.at(0).wrapping_add(at + TILE * self.stride));
                    for (c, sum) in c.part(range).iter_mut().zip(sums) {
                        *c += sum;
                    }
                }
                Kind::AddTo(x, c) => {
                    for ((c, x), sum) in c.part(range.clone()).iter_mut().zip(&x[range]).zip(sums) {
                        *c = x + sum;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
