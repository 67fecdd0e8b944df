//! Memory that is used again and again.
//!
//! A training step asks for the same sizes every time. [`Arena`] keeps what was dropped, so that from the second
//! step on nothing is allocated. Its memory is not sorted by size: what lies side by side and is free becomes one
//! [`Part`] again, whatever it was cut into. On the way back, the gradients of a model thus take the place of its
//! activations, one coming as the other goes, where two lists of buffers would hold the sum of both.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{MmapMut, MmapRaw};

use crate::{Dtype, Tensor};

/// One cache line; buffers are made of these so that they are aligned to it.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; LINE]);

pub(crate) const LINE: usize = 64;

impl Line {
    pub(crate) const ZERO: Self = Self([0; LINE]);
}

/// Where matrices come from, and return to when they are dropped.
#[derive(Debug, Default)]
pub struct Arena {
    pool: Arc<Pool>,
}

impl Arena {
    /// A matrix with **arbitrary content**: where an earlier one lay if there is room, in new memory otherwise.
    pub fn tensor(&mut self, rows: usize, cols: usize, dtype: Dtype) -> Tensor {
        let lines = (rows * cols * dtype.bytes()).div_ceil(LINE);
        Tensor::new(self.buffer(lines), rows, cols, dtype)
    }

    /// Words of packed operands, aligned to a cache line, with arbitrary content.
    pub(crate) fn units(&mut self, len: usize) -> Units {
        Units { lines: self.buffer((len * size_of::<u32>()).div_ceil(LINE)), len }
    }

    /// How often memory was asked of the system; constant in the steady state.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.pool.lock().stretches.len()
    }

    /// All memory that was ever used, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pool.lock().stretches.iter().map(|stretch| stretch.used * LINE).sum()
    }

    fn buffer(&mut self, lines: usize) -> Buffer {
        let mut buffer = Buffer::new(&self.pool, lines);
        if cfg!(debug_assertions) {
            // Whoever reads before writing gets NaN, in f32 and in bf16.
            buffer.fill(Line([0xff; LINE]));
        }
        buffer
    }
}

/// What an arena and all its buffers share.
#[derive(Debug, Default)]
struct Pool(Mutex<Memory>);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Memory {
    stretches: Vec<Stretch>,
    /// What nobody uses, in order; parts that touch are one.
    free: Vec<Part>,
}

/// Memory that the system gave at once. It gives a page when that is first written, so what is never used costs
/// nothing but addresses.
#[derive(Debug)]
struct Stretch {
    memory: MmapRaw,
    /// Lines that were ever in use: those before this one.
    used: usize,
}

impl Stretch {
    /// Zeros.
    fn new(lines: usize) -> Self {
        let bytes = lines * LINE;
        let memory = MmapMut::map_anon(bytes).unwrap_or_else(|e| panic!("no memory for {bytes} bytes: {e}"));
        // Pages of 2 MiB: whoever goes through the columns of a large matrix soon needs more small ones than the
        // processor can remember the places of. A step takes a twentieth less time; a refusal does no harm.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Self { memory: memory.into(), used: 0 }
    }

    fn lines(&self) -> usize {
        self.memory.len() / LINE
    }
}

/// Neighbouring lines of a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    stretch: usize,
    start: usize,
    end: usize,
}

impl Part {
    fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether `next` begins where this one ends.
    fn touches(self, next: Self) -> bool {
        self.stretch == next.stretch && self.end == next.start
    }
}

impl Memory {
    /// `lines` lines, at least one, from the smallest free part that has them.
    fn take(&mut self, lines: usize) -> (Part, NonNull<Line>) {
        let fitting = (0..self.free.len()).filter(|&at| self.free[at].len() >= lines);
        let at = fitting.min_by_key(|&at| self.free[at].len()).unwrap_or_else(|| self.grow(lines));
        let rest = &mut self.free[at];
        let part = Part { end: rest.start + lines, ..*rest };
        rest.start = part.end;
        if rest.len() == 0 {
            self.free.remove(at);
        }
        let stretch = &mut self.stretches[part.stretch];
        stretch.used = stretch.used.max(part.end);
        let first = stretch.memory.as_mut_ptr().cast::<Line>().wrapping_add(part.start);
        (part, NonNull::new(first).expect("memory is not at address zero"))
    }

    /// Asks for a stretch of at least `lines` lines, and as much as there is already, so that this happens a few
    /// times only; says which free part it is.
    fn grow(&mut self, lines: usize) -> usize {
        let lines = lines.max(self.stretches.iter().map(Stretch::lines).sum());
        self.free.push(Part { stretch: self.stretches.len(), start: 0, end: lines });
        self.stretches.push(Stretch::new(lines));
        self.free.len() - 1
    }

    fn give_back(&mut self, mut part: Part) {
        let mut at = self.free.partition_point(|free| *free < part);
        if at < self.free.len() && part.touches(self.free[at]) {
            part.end = self.free.remove(at).end;
        }
        if at > 0 && self.free[at - 1].touches(part) {
            at -= 1;
            part.start = self.free.remove(at).start;
        }
        self.free.insert(at, part);
    }
}

/// Lines that belong to one owner, and go back to their pool when they are dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    first: NonNull<Line>,
    part: Part,
    pool: Arc<Pool>,
}

// SAFETY: as with a `Vec<Line>`, nobody else reads or writes the lines.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Zeros in memory of their own.
    pub(crate) fn zeros(lines: usize) -> Self {
        // New memory is zero.
        Self::new(&Arc::default(), lines)
    }

    fn new(pool: &Arc<Pool>, lines: usize) -> Self {
        let (part, first) = pool.lock().take(lines.max(1));
        Self { first, part, pool: Arc::clone(pool) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.lock().give_back(self.part);
    }
}

impl Deref for Buffer {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: the part lies in a stretch, which lives as long as the pool and is initialised; parts that are
        // taken do not overlap, so this one is ours alone.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.part.len()) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.part.len()) }
    }
}

/// 32-bit units of packed operands: one f32, or two bf16.
#[derive(Debug)]
pub(crate) struct Units {
    lines: Buffer,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let mut arena = Arena::default();
        let a = arena.tensor(10, 10, Dtype::F32);
        let start = a.f32().as_ptr();
        assert_eq!(start as usize % LINE, 0);
        drop(a);
        let again = arena.tensor(20, 5, Dtype::F32);
        assert_eq!((again.f32().as_ptr(), again.f32().len()), (start, 100));
        assert_eq!(arena.allocations(), 1);
        let mut second = arena.tensor(10, 20, Dtype::Bf16);
        assert_eq!(arena.allocations(), 2);
        second.as_mut_slice::<half::bf16>().fill(half::bf16::ONE);
        // Memory lives as long as who uses it.
        drop(arena);
        assert!(second.as_slice::<half::bf16>().iter().all(|x| *x == half::bf16::ONE));
    }

    #[test]
    fn what_lies_side_by_side_is_one() {
        let line = LINE / 4;
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut arena = Arena::default();
            drop(arena.tensor(1, 6 * line, Dtype::F32));
            let mut parts = [1, 2, 3].map(|lines| Some(arena.tensor(1, lines * line, Dtype::F32)));
            for i in order {
                parts[i] = None;
            }
            let whole = arena.tensor(1, 6 * line, Dtype::F32);
            assert_eq!((arena.allocations(), arena.bytes()), (1, 6 * LINE), "{order:?}");
            drop(whole);
        }
    }

    #[test]
    fn the_smallest_part_that_fits_is_taken() {
        let line = LINE / 4;
        let mut arena = Arena::default();
        drop(arena.tensor(1, 100 * line, Dtype::F32));
        let sizes = [4, 1, 2, 1, 3, 1];
        let mut parts = sizes.map(|lines| Some(arena.tensor(1, lines * line, Dtype::F32)));
        let starts = [0, 2, 4].map(|i| parts[i].take().map(|part| part.f32().as_ptr()));
        let taken = [2, 3, 4].map(|lines| arena.tensor(1, lines * line, Dtype::F32));
        let [four, two, three] = starts.map(Option::unwrap);
        assert_eq!(taken.each_ref().map(|part| part.f32().as_ptr()), [two, three, four]);
    }

    #[test]
    fn nothing_overlaps() {
        let mut arena = Arena::default();
        let mut held: Vec<(Tensor, f32)> = Vec::new();
        let mut state = 1_u32;
        for i in 0..2000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = (state >> 16) as usize;
            if !held.is_empty() && (random.is_multiple_of(2) || held.len() > 50) {
                let (tensor, value) = held.swap_remove(random / 2 % held.len());
                assert!(tensor.f32().iter().all(|x| *x == value));
            } else {
                let mut tensor = arena.tensor(1, random % 500, Dtype::F32);
                tensor.f32_mut().fill(i as f32);
                held.push((tensor, i as f32));
            }
        }
        assert!(held.iter().all(|(tensor, value)| tensor.f32().iter().all(|x| x == value)));
        drop(held);
        let free = arena.pool.lock().free.len();
        assert_eq!(free, arena.allocations(), "each stretch is whole again");
    }
}
