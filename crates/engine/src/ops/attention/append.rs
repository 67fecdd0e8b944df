//! New keys and values, brought into the order in which attention reads them.
//!
//! A head's rows are rounded a stretch at a time, into a buffer in the first-level cache. From there a whole stretch is
//! packed in vectors, as any right operand is; the tokens before and after go element by element.

use std::cell::RefCell;

use super::forward::elements_of_unit;
use crate::Isa;
use crate::elementwise::{convert, narrow, whole_numbers};
use crate::matmul::{Geometry, Source, Tiling, Values, pack, right_tiling};
use crate::simd::Element;
use crate::tensor::AlignedVec;

/// Slots of a stretch: whole panels and groups of every instruction set.
pub(super) const STRETCH: usize = 32;

#[derive(Default)]
struct Scratch {
    /// `[token][coordinate]` of a stretch: numbers as products take them, and whole ones as bytes.
    rows: AlignedVec<u32>,
    bytes: AlignedVec<i8>,
    /// Whole numbers, packed, before they become bytes.
    packed: AlignedVec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// What a token is in the product that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A column, its coordinates summed over.
    Key,
    /// One term of the sums in columns of coordinates.
    Value,
}

/// Where the elements of a head are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) geometry: Geometry,
    pub(super) role: Role,
    pub(super) dim: usize,
    pub(super) slots: usize,
}

impl Order {
    /// How all tokens are packed.
    fn tiling(self) -> Tiling {
        let k = if self.role == Role::Key { self.dim } else { self.slots };
        right_tiling(self.geometry, k)
    }

    /// Where the element of a slot is; see [`crate::matmul::Layout::Panels`].
    #[inline(always)]
    fn element(self, slot: usize, coordinate: usize) -> usize {
        let Geometry { format, width, .. } = self.geometry;
        let (column, k) = if self.role == Role::Key { (slot, coordinate) } else { (coordinate, slot) };
        // Widths and elements of a unit are powers of two.
        let (width_log, each_log) = (width.ilog2(), elements_of_unit(format).ilog2());
        let unit = (column >> width_log) * self.tiling().stride
            + ((k >> each_log) << width_log)
            + (column & (width - 1));
        (unit << each_log) + (k & ((1 << each_log) - 1))
    }
}

/// Room for the keys or the values of one head.
pub(super) struct HeadSlots<'a> {
    pub(super) order: Order,
    /// Elements in panels.
    pub(super) elements: &'a mut [u8],
    /// One for every slot if elements are bytes, none if not.
    pub(super) scales: &'a mut [f32],
}

/// A head's columns of rows of `stride`, from column `first` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) rows: &'a [f32],
    pub(super) stride: usize,
    pub(super) first: usize,
}

impl HeadSlots<'_> {
    /// Writes `count` tokens to the slots from `first` on, after the last of which comes the first again.
    pub(super) fn write<E: Element>(&mut self, isa: Isa, tokens: Columns<'_>, count: usize, first: usize)
    where
        for<'a> &'a [E]: Into<Values<'a>>,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let (mut done, mut slot) = (0, first);
            while done < count {
                let now = (STRETCH - slot % STRETCH).min(count - done);
                let rows = &tokens.rows[done * tokens.stride..(done + now) * tokens.stride];
                self.write_stretch::<E>(isa, Columns { rows, ..tokens }, now, slot, scratch);
                done += now;
                // Stretches end where the ring does.
                slot = if slot + now == self.order.slots { 0 } else { slot + now };
            }
        });
    }

    /// Writes `count` tokens of one stretch.
    fn write_stretch<E: Element>(
        &mut self,
        isa: Isa,
        tokens: Columns<'_>,
        count: usize,
        slot: usize,
        scratch: &mut Scratch,
    ) where
        for<'a> &'a [E]: Into<Values<'a>>,
    {
        let (order, dim) = (self.order, self.order.dim);
        let (len, are_bytes) = (count * dim, !self.scales.is_empty());
        scratch.rows.grow(STRETCH * dim);
        let rows: &mut [E] = &mut bytemuck::cast_slice_mut(&mut scratch.rows)[..len];
        let pairs = tokens.rows.chunks_exact(tokens.stride).zip(rows.chunks_exact_mut(dim));
        for (i, (from, to)) in pairs.enumerate() {
            let from = &from[tokens.first..][..dim];
            if are_bytes {
                self.scales[slot + i] = whole_numbers(isa, from, to);
            } else {
                convert(isa, from, to);
            }
        }
        match (count == STRETCH, are_bytes) {
            (true, false) => {
                let start = order.element(slot, 0) / elements_of_unit(order.geometry.format);
                let to = &mut bytemuck::cast_slice_mut(self.elements)[start..];
                pack_stretch(isa, order, rows, order.tiling(), to);
            }
            (true, true) => self.write_bytes(isa, rows, slot, &mut scratch.packed),
            (false, false) => self.scatter(rows, slot),
            (false, true) => {
                scratch.bytes.grow(STRETCH * dim);
                narrow(isa, rows, &mut scratch.bytes[..len]);
                self.scatter(&scratch.bytes[..len], slot);
            }
        }
    }

    /// Packs whole numbers, and writes them as bytes in the same order.
    fn write_bytes<E: Element>(&mut self, isa: Isa, rows: &[E], slot: usize, packed: &mut AlignedVec<u32>)
    where
        for<'a> &'a [E]: Into<Values<'a>>,
    {
        let Order { geometry, role, dim, .. } = self.order;
        let (panels, k) = match role {
            Role::Key => (STRETCH / geometry.width, dim),
            Role::Value => (dim.div_ceil(geometry.width), STRETCH),
        };
        let tiling = right_tiling(geometry, k);
        packed.grow(panels * tiling.stride);
        let packed = &mut packed[..panels * tiling.stride];
        pack_stretch(isa, self.order, rows, tiling, packed);
        let each = elements_of_unit(geometry.format);
        let to: &mut [i8] = &mut bytemuck::cast_slice_mut(self.elements)[self.order.element(slot, 0)..];
        let pairs = packed.chunks_exact(tiling.stride).zip(to.chunks_mut(self.order.tiling().stride * each));
        for (from, to) in pairs {
            narrow::<E>(isa, bytemuck::cast_slice(from), &mut to[..tiling.stride * each]);
        }
    }

    /// Writes rows of a stretch element by element.
    fn scatter<T: bytemuck::Pod>(&mut self, rows: &[T], slot: usize) {
        let (order, elements) = (self.order, bytemuck::cast_slice_mut::<_, T>(self.elements));
        for (i, row) in rows.chunks_exact(order.dim).enumerate() {
            for (coordinate, x) in row.iter().enumerate() {
                elements[order.element(slot + i, coordinate)] = *x;
            }
        }
    }
}

/// Packs the rows of a whole stretch, the first unit of `to` being that of its first slot and coordinate.
fn pack_stretch<'a, E: Element>(isa: Isa, order: Order, rows: &'a [E], tiling: Tiling, to: &mut [u32])
where
    &'a [E]: Into<Values<'a>>,
{
    let dim = order.dim;
    match order.role {
        Role::Key => pack(isa, &Source::along_cols(rows, dim), 0..STRETCH, 0..dim, tiling, to),
        Role::Value => pack(isa, &Source::along_rows(rows, dim), 0..dim, 0..STRETCH, tiling, to),
    }
}
