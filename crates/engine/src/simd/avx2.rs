//! Eight lanes: AVX2 with FMA. bf16 is widened to f32, in which its products are exact.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use half::bf16;

use super::{Element, Simd};
use crate::Dtype;

/// Wraps intrinsics in the one reason that makes all of them sound here.
macro_rules! avx2 {
    ($e:expr) => {
        // SAFETY: the token proves the instructions; slices were checked to hold eight values.
        #[allow(unused_unsafe, reason = "some intrinsics are safe by now")]
        unsafe {
            $e
        }
    };
}

/// Proof that AVX2 and FMA are there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine must have AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new_unchecked() -> Self {
        Self(())
    }

    /// All bits of the first `n` lanes.
    #[inline(always)]
    fn first(self, n: usize) -> __m256i {
        avx2!({
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes)
        })
    }

    /// The upper halves of the lanes, rounded to nearest even, as 32-bit integers; NaN stays NaN.
    #[inline(always)]
    fn rounded_halves(self, v: __m256) -> __m256i {
        avx2!({
            let bits = _mm256_castps_si256(v);
            // Just under half a unit, or half of one where that makes the result even.
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan))
        })
    }
}

impl Simd for Avx2 {
    type F = __m256;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        avx2!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m256 {
        let x = &x[..8];
        avx2!(_mm256_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: __m256, x: &mut [f32]) {
        let x = &mut x[..8];
        avx2!(_mm256_storeu_ps(x.as_mut_ptr(), v));
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> __m256 {
        let x = &x[..8];
        avx2!({
            let halves = _mm_loadu_si128(x.as_ptr().cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
        })
    }
    #[inline(always)]
    fn store_bf16(self, v: __m256, x: &mut [bf16]) {
        let x = &mut x[..8];
        avx2!({
            let high = self.rounded_halves(v);
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(high, high));
            _mm_storeu_si128(x.as_mut_ptr().cast(), _mm256_castsi256_si128(packed));
        });
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> __m256 {
        let x = &x[..8];
        avx2!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast()))))
    }
    #[inline(always)]
    fn store_i8(self, v: __m256, x: &mut [i8]) {
        let x = &mut x[..8];
        avx2!({
            let whole = _mm256_cvtps_epi32(v);
            let words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole));
            _mm_storel_epi64(x.as_mut_ptr().cast(), _mm_packs_epi16(words, words));
        });
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        avx2!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        avx2!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        avx2!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale_pow2(self, a: __m256, whole: __m256, x: __m256) -> __m256 {
        avx2!({
            let lowest = _mm256_set1_ps(-126.0);
            let whole = _mm256_max_ps(lowest, _mm256_min_ps(_mm256_set1_ps(127.0), whole));
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
            let scaled = _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)));
            _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, lowest), scaled)
        })
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        avx2!({
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        avx2!({
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn dot_bf16_pairs(self, acc: __m256, a: __m256, b: __m256) -> __m256 {
        avx2!({
            let high = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32));
            let low = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(x)));
            let acc = _mm256_fmadd_ps(_mm256_and_ps(a, high), _mm256_and_ps(b, high), acc);
            _mm256_fmadd_ps(low(a), low(b), acc)
        })
    }
    #[inline(always)]
    unsafe fn load_units(self, x: *const u32) -> __m256 {
        // SAFETY: the token proves the instruction, the caller that eight units are readable.
        unsafe { _mm256_loadu_ps(x.cast()) }
    }
    #[inline(always)]
    fn splat_unit(self, x: u32) -> __m256 {
        avx2!(_mm256_castsi256_ps(_mm256_set1_epi32(x as i32)))
    }
    #[inline(always)]
    unsafe fn store_at(self, v: __m256, x: *mut f32) {
        // SAFETY: the token proves the instruction, the caller that eight values are writable.
        unsafe { _mm256_storeu_ps(x, v) };
    }
    #[inline(always)]
    fn first_lanes(self, a: __m256, n: usize, otherwise: __m256) -> __m256 {
        avx2!(_mm256_blendv_ps(otherwise, a, _mm256_castsi256_ps(self.first(n.min(8)))))
    }
    #[inline(always)]
    fn round_bf16(self, a: __m256) -> __m256 {
        avx2!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(self.rounded_halves(a))))
    }
    #[inline(always)]
    fn pair_bf16(self, low: __m256, high: __m256) -> __m256 {
        avx2!({
            let low = _mm256_srli_epi32::<16>(_mm256_castps_si256(low));
            _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_castps_si256(high)))
        })
    }
    #[inline(always)]
    unsafe fn transpose_units(self, from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
        // SAFETY: the token proves the instructions, the caller that eight rows of eight are there on each side.
        unsafe {
            let mut x = [_mm256_setzero_ps(); 8];
            for (r, x) in x.iter_mut().enumerate() {
                *x = _mm256_loadu_ps(from.add(r * from_stride).cast());
            }
            // Pairs of rows, then pairs of pairs within each half of the registers, then the halves.
            let mut y = [_mm256_setzero_ps(); 8];
            for i in 0..4 {
                y[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
                y[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
            }
            for i in 0..2 {
                let [a, b, c, d] = [y[4 * i], y[4 * i + 1], y[4 * i + 2], y[4 * i + 3]];
                x[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
                x[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                x[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                x[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
            }
            for i in 0..4 {
                _mm256_storeu_ps(
                    to.add(i * to_stride).cast(),
                    _mm256_permute2f128_ps::<0x20>(x[i], x[i + 4]),
                );
                let high = _mm256_permute2f128_ps::<0x31>(x[i], x[i + 4]);
                _mm256_storeu_ps(to.add((i + 4) * to_stride).cast(), high);
            }
        }
    }
    #[inline(always)]
    fn load_partial<E: Element>(self, x: &[E]) -> __m256 {
        if E::DTYPE == Dtype::F32 && x.len() < 8 {
            // Lanes beyond the slice are not touched.
            avx2!(_mm256_maskload_ps(x.as_ptr().cast(), self.first(x.len())))
        } else {
            let mut lanes = [E::ZERO; 8];
            let n = x.len().min(8);
            lanes[..n].copy_from_slice(&x[..n]);
            E::load(self, &lanes)
        }
    }
    #[inline(always)]
    fn store_partial<E: Element>(self, v: __m256, x: &mut [E]) {
        if E::DTYPE == Dtype::F32 && x.len() < 8 {
            avx2!(_mm256_maskstore_ps(x.as_mut_ptr().cast(), self.first(x.len()), v));
            return;
        }
        let mut lanes = [E::ZERO; 8];
        E::store(self, v, &mut lanes);
        let n = x.len().min(8);
        x[..n].copy_from_slice(&lanes[..n]);
    }
}
