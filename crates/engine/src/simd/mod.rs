//! Vectors of f32 at the width the machine offers, written once and chosen at run time.
//!
//! Kernels are generic over [`Simd`], a zero-sized token whose existence proves that the instructions it
//! uses are there. The [`kernel!`] macro stamps one entry point per instruction set and picks among them
//! by [`Isa`]. Within one instruction set every result is the same on every machine.

mod avx2;
mod avx512;
mod isa;
mod math;
mod scalar;

pub use isa::{Isa, IsaError};
pub(crate) use math::{exp2, sigmoid};

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use scalar::Scalar;

use half::bf16;

/// A vector width: how to load, compute with and store `LANES` f32 values at a time.
///
/// Values are in registers, so all methods but the loads and stores are pure. Slices given to loads and
/// stores must have at least `LANES` elements; the `_partial` forms take fewer.
pub trait Simd: Copy {
    /// A register of `LANES` f32 values.
    type F: Copy;
    /// How many f32 values a register holds.
    const LANES: usize;
    /// Rows of the register tile of the matmul kernel.
    const TILE_ROWS: usize;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32]) -> Self::F;
    fn store(self, v: Self::F, x: &mut [f32]);
    fn load_bf16(self, x: &[bf16]) -> Self::F;
    fn load_i8(self, x: &[i8]) -> Self::F;
    fn store_bf16(self, v: Self::F, x: &mut [bf16]);
    /// The nearest integers, ties to even; lanes must be at most 127 in size.
    fn store_i8(self, v: Self::F, x: &mut [i8]);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the machine can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The nearest integer to each lane.
    fn round(self, a: Self::F) -> Self::F;
    /// `a · 2^whole` for `whole` the integer nearest to `x`; 0 where `x` is below -126, too large to be true but
    /// positive where it is above 127.
    fn scale_pow2(self, a: Self::F, whole: Self::F, x: Self::F) -> Self::F;
    /// The first `n` lanes of `a`, `otherwise` in the others.
    fn first_lanes(self, a: Self::F, n: usize, otherwise: Self::F) -> Self::F;
    /// All lanes added, in a fixed order.
    fn sum(self, a: Self::F) -> f32;
    /// The largest lane.
    fn largest(self, a: Self::F) -> f32;
    /// `acc + hi(a) * hi(b)`, rounded, `+ lo(a) * lo(b)`, rounded, where each 32-bit lane of `a` and `b`
    /// holds two bf16 values: what AVX512-BF16 computes, up to subnormals.
    fn dot_bf16_pairs(self, acc: Self::F, a: Self::F, b: Self::F) -> Self::F;
    /// `LANES` 32-bit units from memory, as they are.
    ///
    /// # Safety
    /// `x` must be readable for `LANES` units.
    unsafe fn load_units(self, x: *const u32) -> Self::F;
    /// One 32-bit unit in every lane.
    fn splat_unit(self, x: u32) -> Self::F;
    /// Stores `LANES` f32 values.
    ///
    /// # Safety
    /// `x` must be writable for `LANES` values.
    unsafe fn store_at(self, v: Self::F, x: *mut f32);

    /// Each lane rounded to the nearest bf16, its lower 16 bits zero.
    fn round_bf16(self, a: Self::F) -> Self::F;
    /// Three bf16 values each whose sum is the lane, the largest first.
    #[inline(always)]
    fn split_bf16(self, a: Self::F) -> [Self::F; 3] {
        let first = self.round_bf16(a);
        let rest = self.sub(a, first);
        let second = self.round_bf16(rest);
        [first, second, self.round_bf16(self.sub(rest, second))]
    }
    /// Stores `2 * LANES` values that are bf16 values already.
    #[inline(always)]
    fn store_exact(self, a: Self::F, b: Self::F, x: &mut [bf16]) {
        self.store_bf16(a, &mut x[..Self::LANES]);
        self.store_bf16(b, &mut x[Self::LANES..]);
    }
    /// Units of two bf16 each: `low` in the lower half, `high` in the upper. Both hold bf16 values.
    fn pair_bf16(self, low: Self::F, high: Self::F) -> Self::F;
    /// The first `2 * LANES` values of two rows, paired: `to[i]` holds `low[i]` below `high[i]`.
    #[inline(always)]
    fn pair_rows(self, low: &[bf16], high: &[bf16], to: &mut [f32]) {
        for i in [0, Self::LANES] {
            let (low, high) = (self.load_bf16(&low[i..]), self.load_bf16(&high[i..]));
            self.store(self.pair_bf16(low, high), &mut to[i..]);
        }
    }
    /// `to[c][r] = from[r][c]` for `LANES` by `LANES` units; rows lie `from_stride` and `to_stride` apart.
    ///
    /// # Safety
    /// All rows of `from` must be readable, those of `to` writable.
    unsafe fn transpose_units(self, from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize);

    /// Fewer than `LANES` values, the other lanes zero.
    #[inline(always)]
    fn load_partial<E: Element>(self, x: &[E]) -> Self::F {
        let mut lanes = [E::ZERO; 16];
        lanes[..x.len()].copy_from_slice(x);
        E::load(self, &lanes)
    }

    /// The first `x.len()` lanes.
    #[inline(always)]
    fn store_partial<E: Element>(self, v: Self::F, x: &mut [E]) {
        let mut lanes = [E::ZERO; 16];
        E::store(self, v, &mut lanes);
        x.copy_from_slice(&lanes[..x.len()]);
    }
}

/// What tensors hold: f32, or bf16 that is widened on load and rounded to nearest even on store.
pub trait Element:
    Copy + Send + Sync + Default + PartialEq + std::fmt::Debug + bytemuck::Pod + sealed::Sealed
{
    /// Zero.
    const ZERO: Self;
    /// The type's tag.
    const DTYPE: crate::Dtype;
    /// The value as f32; exact.
    fn to_f32(self) -> f32;
    /// The nearest value of this type, ties to even.
    fn from_f32(x: f32) -> Self;
}

mod sealed {
    use half::bf16;

    use super::Simd;

    pub trait Sealed: Sized {
        fn load<S: Simd>(s: S, x: &[Self]) -> S::F;
        fn store<S: Simd>(s: S, v: S::F, x: &mut [Self]);
    }

    impl Sealed for f32 {
        #[inline(always)]
        fn load<S: Simd>(s: S, x: &[f32]) -> S::F {
            s.load(x)
        }
        #[inline(always)]
        fn store<S: Simd>(s: S, v: S::F, x: &mut [f32]) {
            s.store(v, x);
        }
    }

    impl Sealed for bf16 {
        #[inline(always)]
        fn load<S: Simd>(s: S, x: &[bf16]) -> S::F {
            s.load_bf16(x)
        }
        #[inline(always)]
        fn store<S: Simd>(s: S, v: S::F, x: &mut [bf16]) {
            s.store_bf16(v, x);
        }
    }
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const DTYPE: crate::Dtype = crate::Dtype::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;
    const DTYPE: crate::Dtype = crate::Dtype::Bf16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
}

/// Calls `$body(token, offset, lanes)` for every full vector of `0..$len` and once for what remains.
///
/// Inside, `$i` is the first index and `$n` the number of lanes in use, a constant in the main loop.
macro_rules! for_lanes {
    ($s:ident, $len:expr, |$i:ident, $n:ident| $body:block) => {{
        let len = $len;
        let mut $i = 0;
        while $i + $crate::simd::lanes_of($s) <= len {
            let $n = $crate::simd::lanes_of($s);
            $body
            $i += $n;
        }
        if $i < len {
            let $n = len - $i;
            $body
        }
    }};
}
pub(crate) use for_lanes;

/// `S::LANES`, for macros that have a token but no type name.
#[inline(always)]
pub(crate) fn lanes_of<S: Simd>(_: S) -> usize {
    S::LANES
}

/// Loads `n` lanes from `x[i..]`; the full width when `n` says so.
#[inline(always)]
pub(crate) fn load<S: Simd, E: Element>(s: S, x: &[E], i: usize, n: usize) -> S::F {
    if n == S::LANES { E::load(s, &x[i..i + S::LANES]) } else { s.load_partial(&x[i..i + n]) }
}

/// Stores `n` lanes to `x[i..]`; the full width when `n` says so.
#[inline(always)]
pub(crate) fn store<S: Simd, E: Element>(s: S, v: S::F, x: &mut [E], i: usize, n: usize) {
    if n == S::LANES {
        E::store(s, v, &mut x[i..i + S::LANES]);
    } else {
        s.store_partial(v, &mut x[i..i + n]);
    }
}

/// Defines a function whose body is compiled once per instruction set.
///
/// `kernel! { fn name[E: Element](s, x: &[E], ...) -> R { body } }` gives `name(isa, x, ...)`; in the body
/// `s` is the [`Simd`] token.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($g:ident : $bound:path),*])? ($s:ident $(, $arg:ident : $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "a kernel takes its operands and sizes flat")]
        $vis fn $name$(<$($g: $bound),*>)?(isa: $crate::Isa $(, $arg: $ty)*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn body<S: $crate::simd::Simd $($(, $g: $bound)*)?>($s: S $(, $arg: $ty)*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx512$(<$($g: $bound),*>)?(token: $crate::simd::Avx512 $(, $arg: $ty)*) $(-> $ret)? {
                body::<$crate::simd::Avx512 $($(, $g)*)?>(token $(, $arg)*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx2$(<$($g: $bound),*>)?(token: $crate::simd::Avx2 $(, $arg: $ty)*) $(-> $ret)? {
                body::<$crate::simd::Avx2 $($(, $g)*)?>(token $(, $arg)*)
            }
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this kind is only ever made where the instructions were found.
                $crate::Isa::Avx512 | $crate::Isa::Amx => unsafe { avx512$(::<$($g),*>)?($crate::simd::Avx512::new_unchecked() $(, $arg)*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::Isa::Avx2 => unsafe { avx2$(::<$($g),*>)?($crate::simd::Avx2::new_unchecked() $(, $arg)*) },
                _ => body::<$crate::simd::Scalar $($(, $g)*)?>($crate::simd::Scalar $(, $arg)*),
            }
        }
    };
}
pub(crate) use kernel;

#[cfg(test)]
mod tests;
