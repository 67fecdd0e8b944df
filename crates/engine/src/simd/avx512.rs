//! Sixteen lanes: AVX-512 F, BW, DQ, VL and BF16.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::mem::transmute;

use half::bf16;

use super::{Element, Simd};
use crate::Dtype;

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
    fn load_i8(self, x: &[i8]) -> __m512 {
        let x = &x[..16];
        avx512!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }
    #[inline(always)]
    fn store_i8(self, v: __m512, x: &mut [i8]) {
        let x = &mut x[..16];
        avx512!(_mm_storeu_si128(x.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v))));
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
    fn round(self, a: __m512) -> __m512 {
        avx512!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale_pow2(self, a: __m512, whole: __m512, x: __m512) -> __m512 {
        avx512!({
            let large_enough = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0));
            _mm512_maskz_scalef_ps(large_enough, a, whole)
        })
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
    #[inline(always)]
    fn first_lanes(self, a: __m512, n: usize, otherwise: __m512) -> __m512 {
        avx512!(_mm512_mask_blend_ps(((1_u32 << n.min(16)) - 1) as u16, otherwise, a))
    }
    #[inline(always)]
    fn round_bf16(self, a: __m512) -> __m512 {
        avx512!({
            let halves: __m256i = transmute(_mm512_cvtneps_pbh(a));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        })
    }
    #[inline(always)]
    fn split_bf16(self, a: __m512) -> [__m512; 3] {
        avx512!({
            // Half a unit added to the bits rounds, ties away from zero, at a third of what a conversion and back
            // costs. A NaN that overflows to zero this way stays one in the last part.
            let (half, upper) = (_mm512_set1_epi32(0x8000), _mm512_set1_epi32(0xffff_0000_u32 as i32));
            let bits = _mm512_add_epi32(_mm512_castps_si512(a), half);
            let first = _mm512_castsi512_ps(_mm512_and_si512(bits, upper));
            let rest = _mm512_sub_ps(a, first);
            let bits = _mm512_add_epi32(_mm512_castps_si512(rest), half);
            let second = _mm512_castsi512_ps(_mm512_and_si512(bits, upper));
            // What remains has eight bits, unless it is subnormal.
            let third = _mm512_and_si512(_mm512_castps_si512(_mm512_sub_ps(rest, second)), upper);
            [first, second, _mm512_castsi512_ps(third)]
        })
    }
    #[inline(always)]
    fn store_exact(self, a: __m512, b: __m512, x: &mut [bf16]) {
        const UPPER: [u16; 32] = {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 32 {
                order[i] = 2 * i as u16 + 1;
                i += 1;
            }
            order
        };
        let x = &mut x[..32];
        avx512!({
            let order = _mm512_loadu_si512(UPPER.as_ptr().cast());
            let halves = _mm512_permutex2var_epi16(_mm512_castps_si512(a), order, _mm512_castps_si512(b));
            _mm512_storeu_si512(x.as_mut_ptr().cast(), halves);
        });
    }
    #[inline(always)]
    fn pair_bf16(self, low: __m512, high: __m512) -> __m512 {
        avx512!({
            let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(low));
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(high)))
        })
    }
    #[inline(always)]
    fn pair_rows(self, low: &[bf16], high: &[bf16], to: &mut [f32]) {
        /// Which of 64 values goes where: the first or second 16 of each row, in turn.
        const fn turns(first: u16) -> [u16; 32] {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 16 {
                order[2 * i] = first + i as u16;
                order[2 * i + 1] = 32 + first + i as u16;
                i += 1;
            }
            order
        }
        const ORDERS: [[u16; 32]; 2] = [turns(0), turns(16)];
        let (low, high, to) = (&low[..32], &high[..32], &mut to[..32]);
        avx512!({
            let (low, high) =
                (_mm512_loadu_si512(low.as_ptr().cast()), _mm512_loadu_si512(high.as_ptr().cast()));
            for (order, to) in ORDERS.iter().zip(to.chunks_exact_mut(16)) {
                let order = _mm512_loadu_si512(order.as_ptr().cast());
                let pairs = _mm512_permutex2var_epi16(low, order, high);
                _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs);
            }
        });
    }
    #[inline(always)]
    unsafe fn transpose_units(self, from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
        // SAFETY: the token proves the instructions, the caller that 16 rows of 16 are there on each side.
        unsafe {
            let mut x = [_mm512_setzero_ps(); 16];
            for (r, x) in x.iter_mut().enumerate() {
                *x = _mm512_loadu_ps(from.add(r * from_stride).cast());
            }
            // Pairs of rows, then pairs of pairs, within each quarter of the registers.
            let mut y = [_mm512_setzero_ps(); 16];
            for i in 0..8 {
                y[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
                y[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
            }
            for i in 0..4 {
                let [a, b, c, d] = [y[4 * i], y[4 * i + 1], y[4 * i + 2], y[4 * i + 3]];
                x[4 * i] = _mm512_shuffle_ps::<0x44>(a, c);
                x[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                x[4 * i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                x[4 * i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
            }
            // Now x[4 i + j] holds, in its quarter q, rows 4 i.. of column 4 q + j: the quarters change places.
            for j in 0..4 {
                let low = _mm512_shuffle_f32x4::<0x88>(x[j], x[4 + j]);
                let high = _mm512_shuffle_f32x4::<0xdd>(x[j], x[4 + j]);
                let low_2 = _mm512_shuffle_f32x4::<0x88>(x[8 + j], x[12 + j]);
                let high_2 = _mm512_shuffle_f32x4::<0xdd>(x[8 + j], x[12 + j]);
                let columns = [
                    _mm512_shuffle_f32x4::<0x88>(low, low_2),
                    _mm512_shuffle_f32x4::<0x88>(high, high_2),
                    _mm512_shuffle_f32x4::<0xdd>(low, low_2),
                    _mm512_shuffle_f32x4::<0xdd>(high, high_2),
                ];
                for (q, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((4 * q + j) * to_stride).cast(), column);
                }
            }
        }
    }
    #[inline(always)]
    fn load_partial<E: Element>(self, x: &[E]) -> __m512 {
        let n = x.len().min(16);
        let mask = ((1_u32 << n) - 1) as u16;
        // SAFETY: the token proves the instructions; lanes beyond the slice are not touched.
        #[allow(unused_unsafe, reason = "some intrinsics are safe by now")]
        unsafe {
            match E::DTYPE {
                Dtype::F32 => _mm512_maskz_loadu_ps(mask, x.as_ptr().cast()),
                Dtype::Bf16 => {
                    let halves = _mm256_maskz_loadu_epi16(mask, x.as_ptr().cast());
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
                }
            }
        }
    }
    #[inline(always)]
    fn store_partial<E: Element>(self, v: __m512, x: &mut [E]) {
        let n = x.len().min(16);
        let mask = ((1_u32 << n) - 1) as u16;
        // SAFETY: as above.
        #[allow(unused_unsafe, reason = "some intrinsics are safe by now")]
        unsafe {
            match E::DTYPE {
                Dtype::F32 => _mm512_mask_storeu_ps(x.as_mut_ptr().cast(), mask, v),
                Dtype::Bf16 => {
                    let halves: __m256i = transmute(_mm512_cvtneps_pbh(v));
                    _mm256_mask_storeu_epi16(x.as_mut_ptr().cast(), mask, halves);
                }
            }
        }
    }
}
