//! Sixteen rows at a time: what the kernels need of an instruction set, for integers.
//!
//! A `Bytes` is a quad, `[16 rows][4 columns]`; an `Ints` or `Floats` holds one value of each row.

use std::array::from_fn;

use half::f16;

use super::form::{LEVELS, QUAD, ROWS};

/// Vectors of sixteen rows. A value proves that the instructions are there. Pointers must be readable, or
/// writable, for what is loaded or stored.
pub(crate) trait Lanes: Copy {
    /// 64 bytes.
    type Bytes: Copy;
    /// 16 i32.
    type Ints: Copy;
    /// 16 f32.
    type Floats: Copy;

    /// Asks for a line of memory that need not exist.
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    unsafe fn load_bytes(self, x: *const u8) -> Self::Bytes;
    unsafe fn store_bytes(self, v: Self::Bytes, x: *mut u8);
    /// The bits of each byte moved down by `BY` (up, if negative), and those of `mask` kept. Bits must not cross
    /// into `mask` from other bytes.
    fn field<const BY: i32>(self, x: Self::Bytes, mask: u8) -> Self::Bytes;
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Each byte with its highest bit turned: unsigned numbers raised by 128, or lowered, as signed ones.
    fn flip(self, x: Self::Bytes) -> Self::Bytes;
    /// `x - by`, byte by byte.
    fn lower(self, x: Self::Bytes, by: u8) -> Self::Bytes;
    /// [`LEVELS`] at the bytes, all below 16.
    fn levels(self, x: Self::Bytes) -> Self::Bytes;

    fn splat_int(self, x: i32) -> Self::Ints;
    /// `acc + Σ over 4 columns of w · a` for unsigned `w` below 128 and four signed bytes `a`.
    unsafe fn dot(self, acc: Self::Ints, w: Self::Bytes, a: *const i8) -> Self::Ints;
    /// The same for any unsigned `w`.
    unsafe fn dot_wide(self, acc: Self::Ints, w: Self::Bytes, a: *const i8) -> Self::Ints;
    /// `a * b + c`.
    fn mul_add_ints(self, a: Self::Ints, b: Self::Ints, c: Self::Ints) -> Self::Ints;
    unsafe fn load_u8_ints(self, x: *const u8) -> Self::Ints;
    unsafe fn load_i8_ints(self, x: *const u8) -> Self::Ints;
    fn to_floats(self, x: Self::Ints) -> Self::Floats;

    fn splat(self, x: f32) -> Self::Floats;
    unsafe fn store(self, v: Self::Floats, x: *mut f32);
    unsafe fn load_f16(self, x: *const u8) -> Self::Floats;
    unsafe fn load_u8(self, x: *const u8) -> Self::Floats;
    unsafe fn load_i8(self, x: *const u8) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
}

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain;

impl Lanes for Plain {
    type Bytes = [u8; QUAD];
    type Ints = [i32; ROWS];
    type Floats = [f32; ROWS];

    unsafe fn load_bytes(self, x: *const u8) -> [u8; QUAD] {
        // SAFETY: by the caller's promise.
        unsafe { x.cast::<[u8; QUAD]>().read_unaligned() }
    }
    unsafe fn store_bytes(self, v: [u8; QUAD], x: *mut u8) {
        // SAFETY: by the caller's promise.
        unsafe { x.cast::<[u8; QUAD]>().write_unaligned(v) }
    }
    fn field<const BY: i32>(self, x: [u8; QUAD], mask: u8) -> [u8; QUAD] {
        x.map(|x| if BY < 0 { x << -BY } else { x >> BY } & mask)
    }
    fn or(self, a: [u8; QUAD], b: [u8; QUAD]) -> [u8; QUAD] {
        from_fn(|i| a[i] | b[i])
    }
    fn flip(self, x: [u8; QUAD]) -> [u8; QUAD] {
        x.map(|x| x ^ 0x80)
    }
    fn lower(self, x: [u8; QUAD], by: u8) -> [u8; QUAD] {
        x.map(|x| x.wrapping_sub(by))
    }
    fn levels(self, x: [u8; QUAD]) -> [u8; QUAD] {
        x.map(|x| LEVELS[usize::from(x & 15)])
    }
    fn splat_int(self, x: i32) -> [i32; ROWS] {
        [x; ROWS]
    }
    unsafe fn dot(self, acc: [i32; ROWS], w: [u8; QUAD], a: *const i8) -> [i32; ROWS] {
        // SAFETY: by the caller's promise.
        let a = unsafe { a.cast::<[i8; 4]>().read_unaligned() };
        from_fn(|l| acc[l] + (0..4).map(|j| i32::from(w[4 * l + j]) * i32::from(a[j])).sum::<i32>())
    }
    unsafe fn dot_wide(self, acc: [i32; ROWS], w: [u8; QUAD], a: *const i8) -> [i32; ROWS] {
        // SAFETY: by the caller's promise.
        unsafe { self.dot(acc, w, a) }
    }
    fn mul_add_ints(self, a: [i32; ROWS], b: [i32; ROWS], c: [i32; ROWS]) -> [i32; ROWS] {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    unsafe fn load_u8_ints(self, x: *const u8) -> [i32; ROWS] {
        // SAFETY: by the caller's promise.
        unsafe { x.cast::<[u8; ROWS]>().read_unaligned() }.map(i32::from)
    }
    unsafe fn load_i8_ints(self, x: *const u8) -> [i32; ROWS] {
        // SAFETY: by the caller's promise.
        unsafe { x.cast::<[i8; ROWS]>().read_unaligned() }.map(i32::from)
    }
    fn to_floats(self, x: [i32; ROWS]) -> [f32; ROWS] {
        x.map(|x| x as f32)
    }
    fn splat(self, x: f32) -> [f32; ROWS] {
        [x; ROWS]
    }
    unsafe fn store(self, v: [f32; ROWS], x: *mut f32) {
        // SAFETY: by the caller's promise.
        unsafe { x.cast::<[f32; ROWS]>().write_unaligned(v) }
    }
    unsafe fn load_f16(self, x: *const u8) -> [f32; ROWS] {
        // SAFETY: by the caller's promise.
        let x = unsafe { x.cast::<[[u8; 2]; ROWS]>().read_unaligned() };
        x.map(|x| f16::from_le_bytes(x).to_f32())
    }
    unsafe fn load_u8(self, x: *const u8) -> [f32; ROWS] {
        // SAFETY: by the caller's promise.
        unsafe { x.cast::<[u8; ROWS]>().read_unaligned() }.map(f32::from)
    }
    unsafe fn load_i8(self, x: *const u8) -> [f32; ROWS] {
        // SAFETY: by the caller's promise.
        unsafe { x.cast::<[i8; ROWS]>().read_unaligned() }.map(f32::from)
    }
    fn mul(self, a: [f32; ROWS], b: [f32; ROWS]) -> [f32; ROWS] {
        from_fn(|i| a[i] * b[i])
    }
    fn fma(self, a: [f32; ROWS], b: [f32; ROWS], c: [f32; ROWS]) -> [f32; ROWS] {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Lanes256, Lanes512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LEVELS, Lanes, QUAD};

    /// AVX-512 F, BW, VL and VNNI.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Lanes512(());

    /// AVX2, FMA and F16C: two registers for each value.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Lanes256(());

    impl Lanes512 {
        /// # Safety
        /// The machine must have the instructions.
        #[inline(always)]
        pub(crate) unsafe fn new_unchecked() -> Self {
            Self(())
        }
    }

    impl Lanes256 {
        /// # Safety
        /// The machine must have the instructions.
        #[inline(always)]
        pub(crate) unsafe fn new_unchecked() -> Self {
            Self(())
        }
    }

    /// Wraps intrinsics in the one reason that makes all of them sound here.
    macro_rules! sound {
        ($e:expr) => {
            // SAFETY: the token proves the instructions; pointers are good by the caller's promise.
            #[allow(unused_unsafe, reason = "some intrinsics are safe by now")]
            unsafe {
                $e
            }
        };
    }

    /// Four bytes of activations as one number.
    #[inline(always)]
    unsafe fn word(a: *const i8) -> i32 {
        // SAFETY: by the caller's promise.
        unsafe { a.cast::<i32>().read_unaligned() }
    }

    impl Lanes for Lanes512 {
        type Bytes = __m512i;
        type Ints = __m512i;
        type Floats = __m512;

        #[inline(always)]
        fn prefetch(self, x: *const u8) {
            sound!(_mm_prefetch::<_MM_HINT_T0>(x.cast()));
        }
        #[inline(always)]
        unsafe fn load_bytes(self, x: *const u8) -> __m512i {
            sound!(_mm512_loadu_si512(x.cast()))
        }
        #[inline(always)]
        unsafe fn store_bytes(self, v: __m512i, x: *mut u8) {
            sound!(_mm512_storeu_si512(x.cast(), v))
        }
        #[inline(always)]
        fn field<const BY: i32>(self, x: __m512i, mask: u8) -> __m512i {
            sound!({
                let moved = match BY {
                    0 => x,
                    1.. => _mm512_srl_epi16(x, _mm_cvtsi32_si128(BY)),
                    _ => _mm512_sll_epi16(x, _mm_cvtsi32_si128(-BY)),
                };
                _mm512_and_si512(moved, _mm512_set1_epi8(mask as i8))
            })
        }
        #[inline(always)]
        fn or(self, a: __m512i, b: __m512i) -> __m512i {
            sound!(_mm512_or_si512(a, b))
        }
        #[inline(always)]
        fn flip(self, x: __m512i) -> __m512i {
            sound!(_mm512_xor_si512(x, _mm512_set1_epi8(-128)))
        }
        #[inline(always)]
        fn lower(self, x: __m512i, by: u8) -> __m512i {
            sound!(_mm512_sub_epi8(x, _mm512_set1_epi8(by as i8)))
        }
        #[inline(always)]
        fn levels(self, x: __m512i) -> __m512i {
            sound!({
                let table = _mm512_broadcast_i32x4(_mm_loadu_si128(LEVELS.as_ptr().cast()));
                _mm512_shuffle_epi8(table, x)
            })
        }
        #[inline(always)]
        fn splat_int(self, x: i32) -> __m512i {
            sound!(_mm512_set1_epi32(x))
        }
        #[inline(always)]
        unsafe fn dot(self, acc: __m512i, w: __m512i, a: *const i8) -> __m512i {
            sound!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(word(a))))
        }
        #[inline(always)]
        unsafe fn dot_wide(self, acc: __m512i, w: __m512i, a: *const i8) -> __m512i {
            sound!(self.dot(acc, w, a))
        }
        #[inline(always)]
        fn mul_add_ints(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
            sound!(_mm512_add_epi32(_mm512_mullo_epi32(a, b), c))
        }
        #[inline(always)]
        unsafe fn load_u8_ints(self, x: *const u8) -> __m512i {
            sound!(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.cast())))
        }
        #[inline(always)]
        unsafe fn load_i8_ints(self, x: *const u8) -> __m512i {
            sound!(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.cast())))
        }
        #[inline(always)]
        fn to_floats(self, x: __m512i) -> __m512 {
            sound!(_mm512_cvtepi32_ps(x))
        }
        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            sound!(_mm512_set1_ps(x))
        }
        #[inline(always)]
        unsafe fn store(self, v: __m512, x: *mut f32) {
            sound!(_mm512_storeu_ps(x, v))
        }
        #[inline(always)]
        unsafe fn load_f16(self, x: *const u8) -> __m512 {
            sound!(_mm512_cvtph_ps(_mm256_loadu_si256(x.cast())))
        }
        #[inline(always)]
        unsafe fn load_u8(self, x: *const u8) -> __m512 {
            sound!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.cast()))))
        }
        #[inline(always)]
        unsafe fn load_i8(self, x: *const u8) -> __m512 {
            sound!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.cast()))))
        }
        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            sound!(_mm512_mul_ps(a, b))
        }
        #[inline(always)]
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            sound!(_mm512_fmadd_ps(a, b, c))
        }
    }

    impl Lanes for Lanes256 {
        type Bytes = [__m256i; 2];
        type Ints = [__m256i; 2];
        type Floats = [__m256; 2];

        #[inline(always)]
        fn prefetch(self, x: *const u8) {
            sound!(_mm_prefetch::<_MM_HINT_T0>(x.cast()));
        }
        #[inline(always)]
        unsafe fn load_bytes(self, x: *const u8) -> [__m256i; 2] {
            sound!([_mm256_loadu_si256(x.cast()), _mm256_loadu_si256(x.add(QUAD / 2).cast())])
        }
        #[inline(always)]
        unsafe fn store_bytes(self, v: [__m256i; 2], x: *mut u8) {
            sound!({
                _mm256_storeu_si256(x.cast(), v[0]);
                _mm256_storeu_si256(x.add(QUAD / 2).cast(), v[1]);
            })
        }
        #[inline(always)]
        fn field<const BY: i32>(self, x: [__m256i; 2], mask: u8) -> [__m256i; 2] {
            sound!({
                let mask = _mm256_set1_epi8(mask as i8);
                let by = _mm_cvtsi32_si128(BY.abs());
                let moved = match BY {
                    0 => x,
                    1.. => [_mm256_srl_epi16(x[0], by), _mm256_srl_epi16(x[1], by)],
                    _ => [_mm256_sll_epi16(x[0], by), _mm256_sll_epi16(x[1], by)],
                };
                [_mm256_and_si256(moved[0], mask), _mm256_and_si256(moved[1], mask)]
            })
        }
        #[inline(always)]
        fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            sound!([_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])])
        }
        #[inline(always)]
        fn flip(self, x: [__m256i; 2]) -> [__m256i; 2] {
            sound!({
                let high = _mm256_set1_epi8(-128);
                [_mm256_xor_si256(x[0], high), _mm256_xor_si256(x[1], high)]
            })
        }
        #[inline(always)]
        fn lower(self, x: [__m256i; 2], by: u8) -> [__m256i; 2] {
            sound!({
                let by = _mm256_set1_epi8(by as i8);
                [_mm256_sub_epi8(x[0], by), _mm256_sub_epi8(x[1], by)]
            })
        }
        #[inline(always)]
        fn levels(self, x: [__m256i; 2]) -> [__m256i; 2] {
            sound!({
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(LEVELS.as_ptr().cast()));
                [_mm256_shuffle_epi8(table, x[0]), _mm256_shuffle_epi8(table, x[1])]
            })
        }
        #[inline(always)]
        fn splat_int(self, x: i32) -> [__m256i; 2] {
            sound!([_mm256_set1_epi32(x); 2])
        }
        #[inline(always)]
        unsafe fn dot(self, acc: [__m256i; 2], w: [__m256i; 2], a: *const i8) -> [__m256i; 2] {
            sound!({
                let (a, ones) = (_mm256_set1_epi32(word(a)), _mm256_set1_epi16(1));
                // Two products of at most 127 · 127 fit in 16 bits.
                let low = _mm256_madd_epi16(_mm256_maddubs_epi16(w[0], a), ones);
                let high = _mm256_madd_epi16(_mm256_maddubs_epi16(w[1], a), ones);
                [_mm256_add_epi32(acc[0], low), _mm256_add_epi32(acc[1], high)]
            })
        }
        #[inline(always)]
        unsafe fn dot_wide(self, acc: [__m256i; 2], w: [__m256i; 2], a: *const i8) -> [__m256i; 2] {
            sound!({
                let word = _mm256_set1_epi32(word(a));
                let times = _mm256_set1_epi16(128);
                // The highest bit is multiplied apart: with it, two products would not fit in 16 bits.
                let (rest, top) = (self.field::<0>(w, 127), self.field::<7>(w, 1));
                let acc = self.dot(acc, rest, a);
                let low = _mm256_madd_epi16(_mm256_maddubs_epi16(top[0], word), times);
                let high = _mm256_madd_epi16(_mm256_maddubs_epi16(top[1], word), times);
                [_mm256_add_epi32(acc[0], low), _mm256_add_epi32(acc[1], high)]
            })
        }
        #[inline(always)]
        fn mul_add_ints(self, a: [__m256i; 2], b: [__m256i; 2], c: [__m256i; 2]) -> [__m256i; 2] {
            sound!([
                _mm256_add_epi32(_mm256_mullo_epi32(a[0], b[0]), c[0]),
                _mm256_add_epi32(_mm256_mullo_epi32(a[1], b[1]), c[1]),
            ])
        }
        #[inline(always)]
        unsafe fn load_u8_ints(self, x: *const u8) -> [__m256i; 2] {
            sound!({
                let x = _mm_loadu_si128(x.cast());
                [_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(x))]
            })
        }
        #[inline(always)]
        unsafe fn load_i8_ints(self, x: *const u8) -> [__m256i; 2] {
            sound!({
                let x = _mm_loadu_si128(x.cast());
                [_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(x))]
            })
        }
        #[inline(always)]
        fn to_floats(self, x: [__m256i; 2]) -> [__m256; 2] {
            sound!([_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])])
        }
        #[inline(always)]
        fn splat(self, x: f32) -> [__m256; 2] {
            sound!([_mm256_set1_ps(x); 2])
        }
        #[inline(always)]
        unsafe fn store(self, v: [__m256; 2], x: *mut f32) {
            sound!({
                _mm256_storeu_ps(x, v[0]);
                _mm256_storeu_ps(x.add(8), v[1]);
            })
        }
        #[inline(always)]
        unsafe fn load_f16(self, x: *const u8) -> [__m256; 2] {
            sound!([
                _mm256_cvtph_ps(_mm_loadu_si128(x.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(x.add(16).cast()))
            ])
        }
        #[inline(always)]
        unsafe fn load_u8(self, x: *const u8) -> [__m256; 2] {
            sound!({
                let x = _mm_loadu_si128(x.cast());
                [
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)),
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(x))),
                ]
            })
        }
        #[inline(always)]
        unsafe fn load_i8(self, x: *const u8) -> [__m256; 2] {
            sound!({
                let x = _mm_loadu_si128(x.cast());
                [
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(x))),
                ]
            })
        }
        #[inline(always)]
        fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            sound!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
        }
        #[inline(always)]
        fn fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            sound!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
        }
    }
}
