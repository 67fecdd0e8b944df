//! The plain formats: 32 weights share one scale, and in the `_1` formats an offset.
//!
//! | format | a weight is | fields, in bytes |
//! |---|---|---|
//! | Q4_0 | `d·(q - 8)` | d 2, low 16 |
//! | Q4_1 | `d·q + m` | d 2, m 2, low 16 |
//! | Q5_0 | `d·(q - 16)` | d 2, high 4, low 16 |
//! | Q5_1 | `d·q + m` | d 2, m 2, high 4, low 16 |
//! | Q8_0 | `d·q` | d 2, q 32 signed |
//!
//! `d` and `m` are f16. `low` holds the low four bits of each `q`, weight `i` beside weight `i + 16`; `high` the
//! fifth bit, weight `i` in bit `i` of a little-endian u32.

use bytemuck::{Pod, Zeroable};

use super::bits::{pack, unpack};
use super::group::{best_line, best_scale, number};
use super::search::{Line, Whole};
use super::{Block, from_f16, to_f16};

/// Weights of a block.
const N: usize = 32;

/// The levels of numbers of `bits` bits around zero.
const fn signed(bits: u32) -> Whole {
    let half = (1 << (bits - 1)) as f32;
    Whole { low: -half, high: half - 1.0 }
}

/// The levels of numbers of `bits` bits from zero.
const fn unsigned(bits: u32) -> Whole {
    Whole { low: 0.0, high: ((1 << bits) - 1) as f32 }
}

/// The scale for `levels`, and the number of each weight's level.
#[inline(always)]
fn scaled(levels: Whole, x: &[f32], w: &[f32]) -> ([u8; 2], [u8; N]) {
    let d = to_f16(best_scale(levels, x, w)).to_le_bytes();
    let mut q = [0; N];
    number(levels, x, Line { scale: from_f16(d), offset: 0.0 }, &mut q);
    (d, q)
}

/// Scale and offset for `levels`, and the number of each weight's level.
#[inline(always)]
fn lined(levels: Whole, x: &[f32], w: &[f32]) -> ([u8; 2], [u8; 2], [u8; N]) {
    let line = best_line(levels, x, w, false);
    let (d, m) = (to_f16(line.scale).to_le_bytes(), to_f16(line.offset).to_le_bytes());
    let mut q = [0; N];
    number(levels, x, Line { scale: from_f16(d), offset: from_f16(m) }, &mut q);
    (d, m, q)
}

/// 4 bits around zero.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4_0 {
    d: [u8; 2],
    low: [u8; N / 2],
}

impl Block for Q4_0 {
    const WEIGHTS: usize = N;

    fn dequantize(&self, out: &mut [f32]) {
        let (d, mut q) = (from_f16(self.d), [0; N]);
        unpack(4, 16, 0, &self.low, &mut q);
        for (out, q) in out.iter_mut().zip(q) {
            *out = d * (f32::from(q) - 8.0);
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let (d, q) = scaled(signed(4), x, w);
        let mut block = Self { d, ..Self::zeroed() };
        pack(4, 16, 0, &q, &mut block.low);
        block
    }
}

/// 4 bits and an offset.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4_1 {
    d: [u8; 2],
    m: [u8; 2],
    low: [u8; N / 2],
}

impl Block for Q4_1 {
    const WEIGHTS: usize = N;

    fn dequantize(&self, out: &mut [f32]) {
        let (d, m, mut q) = (from_f16(self.d), from_f16(self.m), [0; N]);
        unpack(4, 16, 0, &self.low, &mut q);
        for (out, q) in out.iter_mut().zip(q) {
            *out = d * f32::from(q) + m;
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let (d, m, q) = lined(unsigned(4), x, w);
        let mut block = Self { d, m, ..Self::zeroed() };
        pack(4, 16, 0, &q, &mut block.low);
        block
    }
}

/// 5 bits around zero.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5_0 {
    d: [u8; 2],
    high: [u8; N / 8],
    low: [u8; N / 2],
}

impl Block for Q5_0 {
    const WEIGHTS: usize = N;

    fn dequantize(&self, out: &mut [f32]) {
        let (d, mut q) = (from_f16(self.d), [0; N]);
        unpack(4, 16, 0, &self.low, &mut q);
        unpack(1, 1, 4, &self.high, &mut q);
        for (out, q) in out.iter_mut().zip(q) {
            *out = d * (f32::from(q) - 16.0);
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let (d, q) = scaled(signed(5), x, w);
        let mut block = Self { d, ..Self::zeroed() };
        pack(4, 16, 0, &q, &mut block.low);
        pack(1, 1, 4, &q, &mut block.high);
        block
    }
}

/// 5 bits and an offset.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5_1 {
    d: [u8; 2],
    m: [u8; 2],
    high: [u8; N / 8],
    low: [u8; N / 2],
}

impl Block for Q5_1 {
    const WEIGHTS: usize = N;

    fn dequantize(&self, out: &mut [f32]) {
        let (d, m, mut q) = (from_f16(self.d), from_f16(self.m), [0; N]);
        unpack(4, 16, 0, &self.low, &mut q);
        unpack(1, 1, 4, &self.high, &mut q);
        for (out, q) in out.iter_mut().zip(q) {
            *out = d * f32::from(q) + m;
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let (d, m, q) = lined(unsigned(5), x, w);
        let mut block = Self { d, m, ..Self::zeroed() };
        pack(4, 16, 0, &q, &mut block.low);
        pack(1, 1, 4, &q, &mut block.high);
        block
    }
}

/// 8 bits around zero.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q8_0 {
    d: [u8; 2],
    q: [i8; N],
}

impl Block for Q8_0 {
    const WEIGHTS: usize = N;

    fn dequantize(&self, out: &mut [f32]) {
        let d = from_f16(self.d);
        for (out, q) in out.iter_mut().zip(self.q) {
            *out = d * f32::from(q);
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        // Not -128: products of bytes are taken of |q|, which then has to fit.
        let (d, q) = scaled(Whole { low: -127.0, high: 127.0 }, x, w);
        Self { d, q: q.map(|q| q.wrapping_sub(127) as i8) }
    }
}
