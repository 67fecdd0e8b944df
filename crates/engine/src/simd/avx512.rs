//! Sixteen lanes: AVX-512 F, BW, DQ, VL and BF16.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::mem::transmute;

use half::bf16;

use super::Simd;

/// Proof that AVX-512 F, BW, DQ, VL and BF16 are there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The machine must have AVX-512 F, BW, DQ, VL and BF16.
    #[inline(always)]
    pub(crate) unsafe fn new_unchecked() -> Self {
        Self(())
    }
}

/// Wraps intrinsics in the one reason that makes all of them sound here.
macro_rules! avx512 {
    ($e:expr) => {
        // SAFETY: the token proves the instructions; slices were checked to hold sixteen values.
        #[allow(unused_unsafe, reason = "some intrinsics are safe by now")]
        unsafe {
            $e
        }
    };
}

impl Simd for Avx512 {
    type F = __m512;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        avx512!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m512 {
        let x = &x[..16];
        avx512!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: __m512, x: &mut [f32]) {
        let x = &mut x[..16];
        avx512!(_mm512_storeu_ps(x.as_mut_ptr(), v));
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> __m512 {
        let x = &x[..16];
        avx512!({
            let halves = _mm256_loadu_si256(x.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        })
    }
    #[inline(always)]
    fn store_bf16(self, v: __m512, x: &mut [bf16]) {
        let x = &mut x[..16];
        avx512!({
            let halves: __m256i = transmute(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(x.as_mut_ptr().cast(), halves);
        });
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        avx512!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        avx512!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn floor(self, a: __m512) -> __m512 {
        avx512!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn pow2_of_integer(self, a: __m512) -> __m512 {
        avx512!(_mm512_scalef_ps(_mm512_set1_ps(1.0), a))
    }
    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, where_less: __m512, otherwise: __m512) -> __m512 {
        avx512!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), otherwise, where_less))
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        avx512!(_mm512_reduce_add_ps(a))
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        avx512!(_mm512_reduce_max_ps(a))
    }
    #[inline(always)]
    fn dot_bf16_pairs(self, acc: __m512, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_dpbf16_ps(acc, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)))
    }
    #[inline(always)]
    unsafe fn load_units(self, x: *const u32) -> __m512 {
        // SAFETY: the token proves the instruction, the caller that sixteen units are readable.
        unsafe { _mm512_loadu_ps(x.cast()) }
    }
    #[inline(always)]
    fn splat_unit(self, x: u32) -> __m512 {
        avx512!(_mm512_castsi512_ps(_mm512_set1_epi32(x as i32)))
    }
    #[inline(always)]
    unsafe fn store_at(self, v: __m512, x: *mut f32) {
        // SAFETY: the token proves the instruction, the caller that sixteen values are writable.
        unsafe { _mm512_storeu_ps(x, v) };
    }
}
