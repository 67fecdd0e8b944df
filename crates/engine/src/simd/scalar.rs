//! One lane in plain Rust: the twin that every vector width is tested against.

use half::bf16;

use super::Simd;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type F = f32;
    const LANES: usize = 1;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> f32 {
        x[0]
    }
    #[inline(always)]
    fn store(self, v: f32, x: &mut [f32]) {
        x[0] = v;
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> f32 {
        x[0].to_f32()
    }
    #[inline(always)]
    fn store_bf16(self, v: f32, x: &mut [bf16]) {
        x[0] = bf16::from_f32(v);
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> f32 {
        f32::from(x[0])
    }
    #[inline(always)]
    fn store_i8(self, v: f32, x: &mut [i8]) {
        x[0] = v.round_ties_even() as i8;
    }
    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    fn sqrt(self, a: f32) -> f32 {
        a.sqrt()
    }
    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn round(self, a: f32) -> f32 {
        a.round_ties_even()
    }
    #[inline(always)]
    fn scale_pow2(self, a: f32, whole: f32, x: f32) -> f32 {
        let power = f32::from_bits(((whole.clamp(-126.0, 127.0) as i32 + 127) << 23) as u32);
        if x < -126.0 { 0.0 } else { a * power }
    }
    #[inline(always)]
    fn sum(self, a: f32) -> f32 {
        a
    }
    #[inline(always)]
    fn largest(self, a: f32) -> f32 {
        a
    }
    #[inline(always)]
    fn dot_bf16_pairs(self, acc: f32, a: f32, b: f32) -> f32 {
        let (a, b) = (a.to_bits(), b.to_bits());
        let high = f32::from_bits(a & 0xffff_0000) * f32::from_bits(b & 0xffff_0000);
        let low = f32::from_bits(a << 16) * f32::from_bits(b << 16);
        (acc + high) + low
    }
    #[inline(always)]
    unsafe fn load_units(self, x: *const u32) -> f32 {
        // SAFETY: the caller's promise.
        f32::from_bits(unsafe { *x })
    }
    #[inline(always)]
    fn splat_unit(self, x: u32) -> f32 {
        f32::from_bits(x)
    }
    #[inline(always)]
    unsafe fn store_at(self, v: f32, x: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { *x = v };
    }
    #[inline(always)]
    fn first_lanes(self, a: f32, n: usize, otherwise: f32) -> f32 {
        if n > 0 { a } else { otherwise }
    }
    #[inline(always)]
    fn round_bf16(self, a: f32) -> f32 {
        bf16::from_f32(a).to_f32()
    }
    #[inline(always)]
    fn pair_bf16(self, low: f32, high: f32) -> f32 {
        f32::from_bits(low.to_bits() >> 16 | high.to_bits())
    }
    #[inline(always)]
    unsafe fn transpose_units(self, from: *const u32, _: usize, to: *mut u32, _: usize) {
        // SAFETY: by the caller's promise.
        unsafe { *to = *from };
    }
}
