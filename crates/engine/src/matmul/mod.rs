//! Matrix products: the one place where a model spends most of its time.
//!
//! `C[m, n] = sum over k of A[m, k] · B[n, k]`, for operands that lie in memory either way round, in f32 or
//! in bf16 with f32 sums. All three products of a linear layer are this one:
//!
//! | product | A | B | reduction |
//! |---|---|---|---|
//! | forward, `Y = X · Wᵀ` | X | W | features in, along the columns of both |
//! | input gradient, `dX = dY · W` | dY | W | features out, along the *rows* of W |
//! | weight gradient, `dW = dYᵀ · X` | dY | X | tokens, along the rows of both |
//!
//! B is packed whole into panels of columns ([`pack`]), A in blocks of rows by the task that needs them, and
//! [`block`] multiplies packed operands in a register tile. No matrix is ever transposed in memory. One task
//! computes the whole reduction of its part of C, in order, so the number of threads changes nothing; and a
//! row of C depends on its row of A alone, so neither does the number of rows.

mod block;
mod pack;

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

pub(crate) use block::{Block, Left, multiply_block};
pub(crate) use pack::{Geometry, Layout, Precision, Source, Values, groups_of, pack_tile};

use crate::Cpu;
use crate::tensor::{Arena, Units};
use crate::threads::Parts;

/// Rows of A that a task packs and multiplies at a time, at most. With a reduction of 1,024 units they
/// take half a megabyte and stay in the second-level cache.
const BLOCK_ROWS: usize = 96;
/// Units of the reduction that are multiplied before the next columns: what one panel of B and one tile of
/// A keep in the first-level cache.
const BLOCK_UNITS: usize = 1024;
/// Bytes of packed B that a task passes over with one block of A; half of a second-level cache of 1 MiB.
const BLOCK_B_BYTES: usize = 1 << 19;

/// An operand packed once, to be multiplied with many.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    units: Units,
    geometry: Geometry,
    precision: Precision,
    cols: usize,
    k: usize,
}

impl PackedMatrix {
    /// Packs `cols` columns of a reduction over `k`.
    pub(crate) fn new(
        cpu: &Cpu,
        arena: &mut Arena,
        source: &Source<'_>,
        cols: usize,
        k: usize,
        precision: Precision,
    ) -> Self {
        let geometry = Geometry::of(cpu.isa, precision);
        let panel_units = groups_of(k, precision) * 16 * geometry.width;
        let panels = cols.div_ceil(geometry.width);
        let mut units = arena.units(panels * panel_units);
        let parts = Parts::new(units.as_mut_slice());
        cpu.threads.run_ranges(panels, (1 << 16) / panel_units.max(1), |range| {
            for panel in range {
                // SAFETY: every panel is packed by one task.
                let out = unsafe { parts.part(panel * panel_units..(panel + 1) * panel_units) };
                let first = panel * geometry.width;
                let valid = geometry.width.min(cols - first);
                pack_tile(
                    cpu.isa,
                    precision,
                    source,
                    first,
                    valid,
                    geometry.width,
                    0..k,
                    Layout::Panels,
                    out,
                );
            }
        });
        Self { units, geometry, precision, cols, k }
    }

    pub(crate) fn give_back(self, arena: &mut Arena) {
        arena.give_back_units(self.units);
    }
}

/// Where a product goes.
#[derive(Debug)]
pub(crate) enum Output<'a> {
    /// Overwrites f32.
    F32(&'a mut [f32]),
    /// Overwrites bf16, rounding once.
    Bf16(&'a mut [bf16]),
    /// Adds to what is there.
    Accumulate(&'a mut [f32]),
    /// Overwrites the second with the first plus the product.
    AddTo(&'a [f32], &'a mut [f32]),
}

thread_local! {
    /// Packed rows of A and the f32 block of a bf16 output, kept by each thread.
    static SCRATCH: RefCell<(Vec<u32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// `C = A · Bᵀ` for `rows` rows of `a` and all columns of `b`; C is row-major and as wide as `b` has columns.
pub(crate) fn multiply(cpu: &Cpu, a: &Source<'_>, rows: usize, b: &PackedMatrix, output: Output<'_>) {
    let width = b.geometry.width;
    let panels = b.cols.div_ceil(width);
    if rows == 0 || panels == 0 {
        return;
    }
    // The sum of a bf16 output may not be rounded half-way, so its reduction is never cut.
    let cut = match output {
        Output::Bf16(_) => b.k,
        _ => BLOCK_UNITS * b.precision.per_unit(),
    };
    let block_units = groups_of(b.k.min(cut), b.precision) * 16;
    let block_panels = (BLOCK_B_BYTES / (block_units * width * 4).max(1)).clamp(1, panels);
    // As many blocks of rows as keep all threads busy; with few rows, blocks of columns share the work.
    let tiles = rows.div_ceil(b.geometry.rows);
    let block_rows =
        (BLOCK_ROWS / b.geometry.rows).min(tiles.div_ceil(2 * cpu.threads.count())).max(1) * b.geometry.rows;
    let row_blocks = rows.div_ceil(block_rows);
    let splits = (4 * cpu.threads.count()).div_ceil(row_blocks).clamp(1, panels);
    let task_panels = panels.div_ceil(splits);
    let column_tasks = panels.div_ceil(task_panels);

    let c = Destination::new(output, rows * b.cols);
    cpu.threads.run(row_blocks * column_tasks, |task| {
        let (row_block, column_task) = (task / column_tasks, task % column_tasks);
        let row_range = row_block * block_rows..((row_block + 1) * block_rows).min(rows);
        let panel_range = column_task * task_panels..((column_task + 1) * task_panels).min(panels);
        SCRATCH.with_borrow_mut(|(packed, sums)| {
            let mut first_k = 0;
            while first_k < b.k || first_k == 0 {
                let k_range = first_k..(first_k + cut).min(b.k);
                let left = left_operand(cpu, a, &row_range, &k_range, b, packed);
                let mut panel = panel_range.start;
                while panel < panel_range.end {
                    let end = (panel + block_panels).min(panel_range.end);
                    let cols = panel * width..(end * width).min(b.cols);
                    let total_units = groups_of(b.k, b.precision) * 16 * width;
                    let offset = panel * total_units + first_k / b.precision.per_unit() * width;
                    let block = Block {
                        a: left,
                        rows: row_range.len(),
                        b: &b.units.as_slice()[offset..],
                        panel_stride: total_units,
                        cols: cols.len(),
                        groups: groups_of(k_range.len(), b.precision),
                        precision: b.precision,
                    };
                    // SAFETY: this task alone writes these rows and columns of C.
                    unsafe { c.write(cpu, &block, &row_range, &cols, b.cols, first_k > 0, sums) };
                    panel = end;
                }
                first_k += cut;
                if b.k == 0 {
                    break;
                }
            }
        });
    });
}

/// Rows of A as the kernel takes them: as they lie in memory where it can, otherwise packed in tiles of its
/// height.
fn left_operand<'p>(
    cpu: &Cpu,
    a: &Source<'p>,
    rows: &Range<usize>,
    k: &Range<usize>,
    b: &PackedMatrix,
    packed: &'p mut Vec<u32>,
) -> Left<'p> {
    let geometry = b.geometry;
    if geometry.loads_rows(rows.len(), k.len())
        && let Some((values, stride)) = a.bf16_rows(rows.start, k.start)
    {
        return Left::Rows(values, stride);
    }
    let groups = groups_of(k.len(), b.precision);
    let needed = geometry.packed_rows(rows.len()) * groups * 16;
    if packed.len() < needed {
        packed.resize(needed, 0);
    }
    let layout = geometry.strided_layout_for(a);
    let mut offset = 0;
    for first in rows.clone().step_by(geometry.rows) {
        let valid = geometry.rows.min(rows.end - first);
        let height = geometry.packed_rows(valid);
        let out = &mut packed[offset..offset + height * groups * 16];
        pack_tile(cpu.isa, b.precision, a, first, valid, height, k.clone(), layout, out);
        offset += out.len();
    }
    Left::Packed(&packed[..needed], layout)
}

/// C, as the tasks share it.
enum Destination<'a> {
    F32(Parts<'a, f32>),
    Bf16(Parts<'a, bf16>),
    Accumulate(Parts<'a, f32>),
    AddTo(&'a [f32], Parts<'a, f32>),
}

impl<'a> Destination<'a> {
    fn new(output: Output<'a>, len: usize) -> Self {
        let (destination, have) = match output {
            Output::F32(c) => (c.len(), Self::F32(Parts::new(c))),
            Output::Bf16(c) => (c.len(), Self::Bf16(Parts::new(c))),
            Output::Accumulate(c) => (c.len(), Self::Accumulate(Parts::new(c))),
            Output::AddTo(x, c) => {
                assert_eq!(x.len(), len, "the addend has another size than the product");
                (c.len(), Self::AddTo(x, Parts::new(c)))
            }
        };
        assert_eq!(destination, len, "the output has another size than the product");
        have
    }

    /// Multiplies `block` into rows and columns of C.
    ///
    /// # Safety
    /// Nobody else may use that part of C meanwhile.
    #[expect(clippy::too_many_arguments, reason = "a place in C takes this many")]
    unsafe fn write(
        &self,
        cpu: &Cpu,
        block: &Block<'_>,
        rows: &Range<usize>,
        cols: &Range<usize>,
        stride: usize,
        continued: bool,
        sums: &mut Vec<f32>,
    ) {
        let first = rows.start * stride + cols.start;
        match self {
            // SAFETY: the part is the caller's alone, and inside C.
            Self::F32(c) => unsafe { multiply_block(cpu.isa, block, c.at(first), stride, continued) },
            // SAFETY: as above.
            Self::Accumulate(c) => unsafe { multiply_block(cpu.isa, block, c.at(first), stride, true) },
            Self::AddTo(x, c) => {
                if !continued {
                    for row in rows.clone() {
                        let range = row * stride + cols.start..row * stride + cols.end;
                        // SAFETY: as above.
                        unsafe { c.part(range.clone()) }.copy_from_slice(&x[range]);
                    }
                }
                // SAFETY: as above.
                unsafe { multiply_block(cpu.isa, block, c.at(first), stride, true) };
            }
            Self::Bf16(c) => {
                sums.resize(sums.len().max(rows.len() * cols.len()), 0.0);
                // SAFETY: the sums are this thread's own, and large enough.
                unsafe { multiply_block(cpu.isa, block, sums.as_mut_ptr(), cols.len(), false) };
                for (i, row) in rows.clone().enumerate() {
                    // SAFETY: as above.
                    let out = unsafe { c.part(row * stride + cols.start..row * stride + cols.end) };
                    crate::elementwise::convert(cpu.isa, &sums[i * cols.len()..][..cols.len()], out);
                }
            }
        }
    }
}

/// The definition, one sum at a time in f64: what the kernels are tested against.
#[cfg(test)]
pub(crate) fn multiply_reference(
    a: &Source<'_>,
    m: usize,
    b: &Source<'_>,
    n: usize,
    k: usize,
    precision: Precision,
) -> Vec<f64> {
    let value = |source: &Source<'_>, i, k| {
        let x = source.at(i, k);
        f64::from(if precision == Precision::Bf16 { bf16::from_f32(x).to_f32() } else { x })
    };
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            c.push((0..k).map(|k| value(a, i, k) * value(b, j, k)).sum());
        }
    }
    c
}

#[cfg(test)]
mod tests;
