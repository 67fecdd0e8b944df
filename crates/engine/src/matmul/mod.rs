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
mod format;
pub(crate) mod one_row;
mod pack;

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

pub(crate) use block::{Block, Left, Pointer, Target, multiply_block};
pub(crate) use format::{Format, Geometry, Layout, Precision};
use pack::pack_shared;
pub(crate) use pack::{Source, Tiling, Values, pack};

use crate::arena::{Arena, Units};
use crate::tensor::AlignedVec;
use crate::threads::Parts;
use crate::{Cpu, Dtype, Tensor};

/// How a product is cut so that its parts stay in the caches. A task has a block of rows and a range of columns
/// of C. It goes over blocks of the reduction; for each it packs its rows of A, and goes over blocks of columns of
/// B with them.
struct Blocking {
    /// Rows of a task, at most.
    rows: usize,
    /// Bytes of B that are passed over again and again: with the rows of A they stay in the second-level cache.
    b_bytes: usize,
    /// Elements of the reduction in a block. A tile of A and the panel of B in use should stay in the first-level
    /// cache, but sums go to memory and back between the blocks.
    reduction: usize,
}

impl Blocking {
    fn of(geometry: Geometry) -> Self {
        match (geometry.tiles, geometry.format) {
            // 2 MiB of second-level cache on every processor with tiles.
            (true, Format::Split) => Self { rows: 256, b_bytes: 1 << 19, reduction: 512 },
            (true, _) => Self { rows: 512, b_bytes: 1 << 19, reduction: 512 },
            // 1 MiB.
            (false, Format::Bf16) => Self { rows: 96, b_bytes: 1 << 19, reduction: 2048 },
            (false, _) => Self { rows: 192, b_bytes: 1 << 18, reduction: 1024 },
        }
    }
}

/// Products of fewer multiplications are computed sooner than other threads are called.
const SHARED: usize = 1 << 16;

/// f32 sums that a task holds until it can round them, at most.
const SUMS_BYTES: usize = 1 << 21;

/// An operand packed once, to be multiplied with many.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    units: Units,
    geometry: Geometry,
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
        Self::with_geometry(cpu, arena, source, cols, k, Geometry::of(cpu.isa, precision))
    }

    /// [`PackedMatrix::new`] for a register tile of the caller's choice.
    pub(crate) fn with_geometry(
        cpu: &Cpu,
        arena: &mut Arena,
        source: &Source<'_>,
        cols: usize,
        k: usize,
        geometry: Geometry,
    ) -> Self {
        let tiling = right_tiling(geometry, k);
        let panels = cols.div_ceil(geometry.width);
        let bytes = cols * k * source.element_bytes() + panels * tiling.stride * 4;
        let _span = cpu.profile.span("pack operands", 0, bytes);
        let mut units = arena.units(panels * tiling.stride);
        let parts = Parts::new(units.as_mut_slice());
        if source.is_contiguous() {
            // A task has some panels.
            cpu.threads.run_ranges(panels, (1 << 16) / tiling.stride.max(1), |range| {
                let (outer, start) = (range.start * geometry.width, range.start * tiling.stride);
                let outer = outer..(range.end * geometry.width).min(cols);
                // SAFETY: every panel is packed by one task.
                unsafe { pack_shared(cpu.isa, source, outer, 0..k, tiling, &parts, start) };
            });
        } else {
            // A task has some groups of all panels: rows of the source are read whole, one after the other.
            let (groups, elements) = (geometry.format.groups(k), geometry.format.group_elements());
            cpu.threads.run_ranges(groups, groups.div_ceil(8 * cpu.threads.count()), |range| {
                let (from, to) = (range.start * elements, (range.end * elements).min(k));
                let start = geometry.format.units(from) * geometry.width;
                // SAFETY: every group is packed by one task.
                unsafe { pack_shared(cpu.isa, source, 0..cols, from..to, tiling, &parts, start) };
            });
        }
        Self { units, geometry, cols, k }
    }
}

/// Whole panels of columns, reduced over `k` elements.
pub(crate) fn right_tiling(geometry: Geometry, k: usize) -> Tiling {
    Tiling {
        format: geometry.format,
        layout: Layout::Panels,
        height: geometry.width,
        whole: true,
        stride: geometry.format.units(k) * geometry.width,
    }
}

/// Tiles of rows, reduced over `k` elements.
pub(crate) fn left_tiling(geometry: Geometry, layout: Layout, k: usize) -> Tiling {
    Tiling {
        format: geometry.format,
        layout,
        height: geometry.rows,
        whole: geometry.tiles,
        stride: geometry.format.units(k) * geometry.rows,
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

impl<'a> Output<'a> {
    /// Overwrites a tensor, whatever it holds.
    pub(crate) fn overwrite(tensor: &'a mut Tensor) -> Self {
        match tensor.dtype() {
            Dtype::F32 => Self::F32(tensor.as_mut_slice()),
            Dtype::Bf16 => Self::Bf16(tensor.as_mut_slice()),
        }
    }

    /// Bytes that are read and written, each once.
    fn bytes(&self) -> usize {
        match self {
            Self::F32(c) => 4 * c.len(),
            Self::Bf16(c) => 2 * c.len(),
            Self::Accumulate(c) | Self::AddTo(_, c) => 8 * c.len(),
        }
    }
}

thread_local! {
    /// Packed rows of A and the f32 block of a bf16 output, kept by each thread.
    static SCRATCH: RefCell<(AlignedVec<u32>, AlignedVec<f32>)> =
        const { RefCell::new((AlignedVec::new(), AlignedVec::new())) };
}

/// `C = A · Bᵀ` for `rows` rows of `a` and all columns of `b`; C is row-major and as wide as `b` has columns.
/// `name` is what a profile calls it.
pub(crate) fn multiply(
    cpu: &Cpu,
    name: &'static str,
    a: &Source<'_>,
    rows: usize,
    b: &PackedMatrix,
    output: Output<'_>,
) {
    let bytes = rows * b.k * a.element_bytes() + b.units.as_slice().len() * 4 + output.bytes();
    let _span = cpu.profile.span(name, 2 * rows * b.cols * b.k, bytes);
    let geometry = b.geometry.for_rows(rows);
    let panels = b.cols.div_ceil(geometry.width);
    let c = Destination::new(output, rows * b.cols);
    if rows == 0 || panels == 0 {
        return;
    }
    let blocking = Blocking::of(geometry);
    let reduction_units = geometry.format.units(b.k.min(blocking.reduction));
    let block_panels = (blocking.b_bytes / (reduction_units * geometry.width * 4).max(1)).clamp(1, panels);
    // As few blocks of rows as all threads share evenly: each goes over all of B. Where there are too few rows for
    // that, ranges of columns share the work, though every range packs the rows again.
    let threads = if rows * b.cols * b.k < SHARED { 1 } else { cpu.threads.count() };
    let tiles = rows.div_ceil(geometry.rows);
    let least_blocks = tiles.div_ceil((blocking.rows / geometry.rows).max(1));
    let block_rows = tiles.div_ceil(least_blocks.next_multiple_of(threads)) * geometry.rows;
    let row_blocks = rows.div_ceil(block_rows);
    let mut splits = if row_blocks.is_multiple_of(threads) { 1 } else { (4 * threads).div_ceil(row_blocks) };
    if matches!(c, Destination::Bf16(_)) && b.k > blocking.reduction {
        splits = splits.max((block_rows * b.cols * 4).div_ceil(SUMS_BYTES));
    }
    let task_panels = panels.div_ceil(splits.clamp(1, panels));
    let column_tasks = panels.div_ceil(task_panels);

    cpu.threads.run(row_blocks * column_tasks, |task| {
        let (row_block, column_task) = (task / column_tasks, task % column_tasks);
        let rows = row_block * block_rows..((row_block + 1) * block_rows).min(rows);
        let panels = column_task * task_panels..((column_task + 1) * task_panels).min(panels);
        SCRATCH.with_borrow_mut(|(packed, sums)| {
            // An empty reduction still writes its zeros.
            for first_k in (0..b.k.max(1)).step_by(blocking.reduction) {
                let k = first_k..(first_k + blocking.reduction).min(b.k);
                let left = LeftBlock::new(cpu, a, rows.clone(), k, b, packed);
                for first in panels.clone().step_by(block_panels) {
                    let block = first..(first + block_panels).min(panels.end);
                    // SAFETY: this task alone writes these rows and columns of C.
                    unsafe { c.write(cpu, &left, b, &panels, block, sums) };
                }
            }
        });
    });
}

/// Rows of A over a block of the reduction, as the kernel takes them.
struct LeftBlock<'p> {
    rows: Range<usize>,
    k: Range<usize>,
    left: Left<'p>,
}

/// Rows so many bytes apart fall on the same few lines of the first-level cache.
const ALIASING_BYTES: usize = 4096;

impl<'p> LeftBlock<'p> {
    fn new(
        cpu: &Cpu,
        a: &Source<'p>,
        rows: Range<usize>,
        k: Range<usize>,
        b: &PackedMatrix,
        packed: &'p mut AlignedVec<u32>,
    ) -> Self {
        let geometry = b.geometry.for_rows(rows.len());
        let row_units = geometry.format.units(k.len());
        let needed = geometry.packed_rows(rows.len()) * row_units;
        // One row of f32 lies as a tile of one row would, but for the zeros after its last group.
        if geometry.format == Format::F32
            && rows.len() == 1
            && let Some(units) = a.f32_row(rows.start, k.clone())
        {
            let left = if units.len() == needed {
                units
            } else {
                packed.grow(needed);
                packed[..units.len()].copy_from_slice(units);
                packed[units.len()..needed].fill(0);
                &packed[..needed]
            };
            return Self { rows, k, left: Left::Packed(left, Layout::Lines) };
        }
        if geometry.format == Format::Bf16
            && k.len().is_multiple_of(geometry.format.group_elements())
            && let Some((units, stride)) = a.bf16_rows(rows.start, k.start)
            && geometry.loads_rows(rows.len(), stride)
            && !(4 * stride).is_multiple_of(ALIASING_BYTES)
        {
            return Self { rows, k, left: Left::Rows(units, stride) };
        }
        let layout = geometry.layout_for(a);
        packed.grow(needed);
        let tiling = left_tiling(geometry, layout, k.len());
        pack(cpu.isa, a, rows.clone(), k.clone(), tiling, &mut packed[..needed]);
        Self { rows, k, left: Left::Packed(&packed[..needed], layout) }
    }

    /// Multiplies the rows with panels of `b`.
    ///
    /// # Safety
    /// As [`multiply_block`].
    unsafe fn multiply(&self, cpu: &Cpu, b: &PackedMatrix, panels: &Range<usize>, target: Target) {
        let geometry = b.geometry.for_rows(self.rows.len());
        let (width, all_units) = (geometry.width, geometry.format.units(b.k));
        let block = Block {
            a: self.left,
            rows: self.rows.len(),
            b: &b.units.as_slice()
                [(panels.start * all_units + geometry.format.units(self.k.start)) * width..],
            panel_stride: width * all_units,
            cols: (panels.end * width).min(b.cols) - panels.start * width,
            groups: geometry.format.groups(self.k.len()),
            geometry,
        };
        // SAFETY: by the caller's promise.
        unsafe { multiply_block(cpu.isa, &block, target) };
    }
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

    /// Multiplies a block of rows with panels `block` of `b` into C. Called for all blocks of the reduction in
    /// order, the task's columns being `task_panels`.
    ///
    /// # Safety
    /// Nobody else may use these rows and columns of C meanwhile.
    unsafe fn write(
        &self,
        cpu: &Cpu,
        left: &LeftBlock<'_>,
        b: &PackedMatrix,
        task_panels: &Range<usize>,
        block: Range<usize>,
        sums: &mut AlignedVec<f32>,
    ) {
        let width = b.geometry.width;
        let cols = block.start * width..(block.end * width).min(b.cols);
        let first = left.rows.start * b.cols + cols.start;
        let (continued, last) = (left.k.start > 0, left.k.end == b.k);
        let stride = b.cols;
        let target = match self {
            Self::F32(c) => Target::f32(c.at(first), stride, continued),
            Self::Accumulate(c) => Target::f32(c.at(first), stride, true),
            Self::AddTo(_, c) if continued => Target::f32(c.at(first), stride, true),
            Self::AddTo(x, c) => {
                let from = Some((x[first..].as_ptr(), stride));
                Target { from, to: Pointer::F32(c.at(first)), stride }
            }
            Self::Bf16(c) if last && !continued => {
                Target { from: None, to: Pointer::Bf16(c.at(first)), stride }
            }
            Self::Bf16(c) => {
                // The reduction is cut: the sums of all rows and columns of the task are kept until it ends.
                let task_cols = (task_panels.end * width).min(b.cols) - task_panels.start * width;
                sums.grow(left.rows.len() * task_cols);
                let kept = sums[cols.start - task_panels.start * width..].as_mut_ptr();
                if last {
                    Target {
                        from: Some((kept.cast_const(), task_cols)),
                        to: Pointer::Bf16(c.at(first)),
                        stride,
                    }
                } else {
                    Target::f32(kept, task_cols, continued)
                }
            }
        };
        // SAFETY: the part is the caller's alone and inside C; the sums are this thread's own.
        unsafe { left.multiply(cpu, b, &block, target) };
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
