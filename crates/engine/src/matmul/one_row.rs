//! One row of A with panels of B, on vectors, with the bits of the matrix tiles.
//!
//! Whoever makes one token at a time multiplies one row with all keys and values of a cache, and with every matrix.
//! That is bound by memory, which tiles read slowly: 11 GB/s a core, where vectors that ask ahead get 16. They need 64
//! cycles for a group of a panel, as tiles do for 32 rows, so that a second row would be better off there.
//!
//! What the instruction TDPBF16PS computes (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2):
//!
//! ```text
//! for every group of 32 elements:
//!   even, odd = 0, 0
//!   for every pair of the group:
//!     even, odd = fma(a[0], b[0], even), fma(a[1], b[1], odd)
//!   sum = sum + (even + odd)
//! ```
//!
//! All is rounded to nearest even, and subnormal operands and results are zero. Vectors do the latter only in a mode of
//! the processor, in which the compiler's own code must not run: so the loops are assembly, and restore it.

use super::block::{Block, Left, Target};
use super::format::Format;
use crate::Isa;

/// Columns of a panel.
const WIDTH: usize = 32;
/// Columns whose sums are held at a time: so many that changing the mode, some 40 ns, is nothing beside them.
const COLS: usize = 256;

/// Two elements of B that are neighbours in the reduction: bf16 in one unit, or whole numbers, which are exact in bf16.
pub(crate) trait Pair: Copy {
    /// What multiplies them.
    const KERNEL: Kernel<Self>;
}

impl Pair for u32 {
    const KERNEL: Kernel<Self> = vectors::multiply_bf16;
}

impl Pair for [i8; 2] {
    const KERNEL: Kernel<Self> = vectors::multiply_whole_numbers;
}

/// Multiplies a block of one row, in [`Format::Bf16`], into its target.
///
/// # Safety
/// As [`super::multiply_block`]; the machine must have AVX-512 F and BW.
pub(crate) unsafe fn multiply<P: Pair>(block: &Block<'_, P>, target: Target) {
    block.check();
    assert!(block.rows == 1 && block.geometry.format == Format::Bf16, "one row of bf16");
    assert!(
        block.geometry.width == WIDTH && !block.geometry.tiles,
        "a row that is not padded, with wide panels"
    );
    let (Left::Packed(a, _) | Left::Rows(a, _)) = block.a;
    let mut sums = Sums([0.0; COLS]);
    for col in (0..block.cols).step_by(COLS) {
        let cols = COLS.min(block.cols - col);
        let target = target.part(0, col);
        let panels = Panels {
            first: block.b[col / WIDTH * block.panel_stride..].as_ptr(),
            count: cols.div_ceil(WIDTH),
            stride: block.panel_stride,
        };
        // SAFETY: the target is the caller's promise; the lengths of A and B were checked.
        unsafe {
            target.read(1, cols, &mut sums.0, COLS);
            if block.groups > 0 {
                P::KERNEL(&a[..16 * block.groups], panels, &mut sums);
            }
            target.write(Isa::Amx, 1, cols, &sums.0, COLS);
        }
    }
}

/// Sums of columns that are neighbours.
#[repr(align(64))]
pub(crate) struct Sums([f32; COLS]);

/// Panels of B, `stride` units apart.
pub(crate) struct Panels<P> {
    first: *const P,
    count: usize,
    stride: usize,
}

/// Adds products of a row of one or more groups with at most `COLS / WIDTH` panels, and at least one.
pub(crate) type Kernel<P> = unsafe fn(&[u32], Panels<P>, &mut Sums);

/// Elsewhere there are no tiles, and no row that would have to agree with them.
#[cfg(not(target_arch = "x86_64"))]
mod vectors {
    use super::{Panels, Sums};

    pub(super) unsafe fn multiply_bf16(_: &[u32], _: Panels<u32>, _: &mut Sums) {
        unreachable!("no tiles on this platform")
    }

    pub(super) unsafe fn multiply_whole_numbers(_: &[u32], _: Panels<[i8; 2]>, _: &mut Sums) {
        unreachable!("no tiles on this platform")
    }
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    use std::arch::asm;

    use super::{Panels, Sums, WIDTH};

    /// How far ahead of its use B is asked for: half as much and twice as much are both slower.
    const AHEAD: usize = 2048;

    /// Sums are rounded to nearest even, no exceptions are raised, and subnormal operands and results are zero.
    const MODE: u32 = 0x1f80 | FLUSH_TO_ZERO | SUBNORMALS_ARE_ZERO;
    const FLUSH_TO_ZERO: u32 = 1 << 15;
    const SUBNORMALS_ARE_ZERO: u32 = 1 << 6;

    /// What the loops keep in memory.
    #[repr(C, align(64))]
    struct Workspace {
        /// A group of A in f32.
        group: [f32; 32],
        mode: u32,
        mode_before: u32,
    }

    /// The elements of half a pair of lines of B, 16 columns, in f32.
    macro_rules! load_bf16 {
        ($at:literal) => {
            concat!("vpslld {even}, [", $at, "], 16\n", "vpandd {odd}, {upper}, [", $at, "]")
        };
    }

    macro_rules! load_whole_numbers {
        ($at:literal) => {
            concat!(
                "vpmovsxbw {odd}, [",
                $at,
                "]\n",
                "vpslld {even}, {odd}, 16\n",
                "vpsrad {even}, {even}, 16\n",
                "vpsrad {odd}, {odd}, 16\n",
                "vcvtdq2ps {even}, {even}\n",
                "vcvtdq2ps {odd}, {odd}"
            )
        };
    }

    macro_rules! kernel {
        ($name:ident, $pair:ty, $load:ident) => {
            /// # Safety
            /// As [`Kernel`] says; all of the panels must be readable.
            #[target_feature(enable = "avx512f,avx512bw")]
            pub(super) unsafe fn $name(a: &[u32], b: Panels<$pair>, sums: &mut Sums) {
                let mut workspace = Workspace { group: [0.0; 32], mode: MODE, mode_before: 0 };
                let ends = a.as_ptr_range();
                // SAFETY: A and B are read within their lengths; asking ahead reads nothing. The mode is what it was when
                // the compiler's code goes on.
                unsafe {
                    asm!(
                        "stmxcsr [{workspace} + 132]",
                        "ldmxcsr [{workspace} + 128]",
                        "vpternlogd {upper}, {upper}, {upper}, 255",
                        "vpslld {upper}, {upper}, 16",
                        "2:", // a panel
                        "mov {a}, {a_first}",
                        "mov {b}, {b_first}",
                        "vmovups {sum_0}, [{sums}]",
                        "vmovups {sum_1}, [{sums} + 64]",
                        "3:", // a group
                        "vpmovzxwd {even}, [{a}]",
                        "vpmovzxwd {odd}, [{a} + 32]",
                        "vpslld {even}, {even}, 16",
                        "vpslld {odd}, {odd}, 16",
                        "vmovaps [{workspace}], {even}",
                        "vmovaps [{workspace} + 64], {odd}",
                        "vpxord {even_0}, {even_0}, {even_0}",
                        "vpxord {even_1}, {even_1}, {even_1}",
                        "vpxord {odd_0}, {odd_0}, {odd_0}",
                        "vpxord {odd_1}, {odd_1}, {odd_1}",
                        "xor {pair:e}, {pair:e}",
                        "4:", // a pair, at its bytes in the group of A
                        "vbroadcastss {a_even}, [{workspace} + {pair}]",
                        "vbroadcastss {a_odd}, [{workspace} + {pair} + 4]",
                        "prefetcht0 [{b} + {ahead}]",
                        $load!("{b}"),
                        "vfmadd231ps {even_0}, {a_even}, {even}",
                        "vfmadd231ps {odd_0}, {a_odd}, {odd}",
                        "prefetcht0 [{b} + {ahead} + {half}]",
                        $load!("{b} + {half}"),
                        "vfmadd231ps {even_1}, {a_even}, {even}",
                        "vfmadd231ps {odd_1}, {a_odd}, {odd}",
                        "add {b}, {line}",
                        "add {pair}, 8",
                        "cmp {pair}, 128",
                        "jb 4b",
                        "vaddps {even_0}, {even_0}, {odd_0}",
                        "vaddps {even_1}, {even_1}, {odd_1}",
                        "vaddps {sum_0}, {sum_0}, {even_0}",
                        "vaddps {sum_1}, {sum_1}, {even_1}",
                        "add {a}, 64",
                        "cmp {a}, {a_end}",
                        "jb 3b",
                        "vmovups [{sums}], {sum_0}",
                        "vmovups [{sums} + 64], {sum_1}",
                        "add {sums}, 128",
                        "add {b_first}, {stride}",
                        "dec {count}",
                        "jnz 2b",
                        "ldmxcsr [{workspace} + 132]",
                        workspace = in(reg) &raw mut workspace, sums = inout(reg) sums.0.as_mut_ptr() => _,
                        a_first = in(reg) ends.start, a_end = in(reg) ends.end, a = out(reg) _, pair = out(reg) _,
                        b_first = inout(reg) b.first => _, b = out(reg) _, count = inout(reg) b.count => _,
                        stride = in(reg) b.stride * size_of::<$pair>(), ahead = const AHEAD,
                        half = const WIDTH / 2 * size_of::<$pair>(), line = const WIDTH * size_of::<$pair>(),
                        upper = out(zmm_reg) _, a_even = out(zmm_reg) _, a_odd = out(zmm_reg) _,
                        even = out(zmm_reg) _, odd = out(zmm_reg) _, sum_0 = out(zmm_reg) _, sum_1 = out(zmm_reg) _,
                        even_0 = out(zmm_reg) _, even_1 = out(zmm_reg) _, odd_0 = out(zmm_reg) _,
                        odd_1 = out(zmm_reg) _,
                        options(nostack),
                    );
                }
            }
        };
    }

    kernel!(multiply_bf16, u32, load_bf16);
    kernel!(multiply_whole_numbers, [i8; 2], load_whole_numbers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::expand;
    use crate::matmul::{Geometry, Layout, Precision, multiply_block};

    /// Numbers of 32 bits that look random.
    fn noise(mut state: u64) -> impl FnMut() -> u32 {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        }
    }

    /// Where there are no tiles nothing comes here.
    fn tiles() -> Option<Geometry> {
        let tiles = Isa::available().contains(&Isa::Amx);
        if !tiles {
            eprintln!("skipped: this machine has no matrix tiles");
        }
        tiles.then(|| Geometry::of(Isa::Amx, Precision::Bf16))
    }

    /// Any bf16 with an exponent of `lowest` and `count` from there on, biased as it is held.
    fn element(noise: &mut impl FnMut() -> u32, lowest: u32, count: u32) -> u32 {
        let (exponent, bits) = (lowest + noise() % count, noise());
        (bits & 0x8000) | exponent << 7 | (bits & 0x7f)
    }

    #[test]
    fn a_row_has_the_bits_that_it_has_among_others_on_tiles() {
        let Some(geometry) = tiles() else { return };
        let mut noise = noise(1);
        // Exponents of A and B, and those of C to start from: ordinary; all finite ones, which overflow; infinities and NaN
        // among them; products near the smallest normal number, whose sums are subnormal; subnormal operands.
        let ranges = [
            [(120, 10), (125, 5), (120, 10)],
            [(0, 255), (0, 255), (0, 255)],
            [(240, 16), (0, 256), (240, 16)],
            [(60, 8), (60, 8), (0, 4)],
            [(0, 2), (127, 128), (0, 2)],
        ];
        for (ranges, (cols, groups)) in
            ranges.iter().flat_map(|r| [(1_usize, 1_usize), (40, 3), (96, 8), (544, 2)].map(|s| (r, s)))
        {
            for start in [false, true] {
                let mut element = |i: usize| element(&mut noise, ranges[i].0, ranges[i].1);
                let mut units =
                    |i: usize, n: usize| (0..n).map(|_| element(i) | element(i) << 16).collect::<Vec<_>>();
                let (a, b) = (units(0, 512 * groups), units(1, cols.div_ceil(32) * 512 * groups));
                let row: Vec<u32> = (0..groups).flat_map(|g| &a[512 * g..][..16]).copied().collect();
                let from: Vec<f32> = units(2, 32 * cols).into_iter().map(f32::from_bits).collect();
                let product = |a: &[u32], rows: usize| {
                    let mut c = from.clone();
                    let (a, geometry) = (Left::Packed(a, Layout::Lines), geometry.for_rows(rows));
                    let block = Block { a, rows, b: &b, panel_stride: 512 * groups, cols, groups, geometry };
                    // SAFETY: C has 32 rows of `cols`.
                    unsafe { multiply_block(Isa::Amx, &block, Target::f32(c.as_mut_ptr(), cols, start)) };
                    c.truncate(cols);
                    c
                };
                let (alone, among) = (product(&row, 1), product(&a, 32));
                for (alone, among) in alone.iter().zip(&among) {
                    let same = alone.to_bits() == among.to_bits() || (alone.is_nan() && among.is_nan());
                    assert!(same, "{ranges:?}, {cols} columns, {groups} groups: {alone:e} not {among:e}");
                }
            }
        }
    }

    #[test]
    fn whole_numbers_are_multiplied_as_their_bf16_are() {
        let Some(geometry) = tiles() else { return };
        let geometry = geometry.for_rows(1);
        let mut noise = noise(2);
        for (cols, groups) in [(1_usize, 1), (40, 3), (300, 8)] {
            let a: Vec<u32> = (0..16 * groups).map(|_| element(&mut noise, 115, 16)).collect();
            let pairs: Vec<[i8; 2]> =
                (0..cols.div_ceil(32) * 512 * groups).map(|_| [noise() as i8, noise() as i8]).collect();
            let mut units = vec![0; pairs.len()];
            expand(Isa::Amx, Format::Bf16, pairs.as_flattened(), &mut units);
            let (mut whole, mut expanded) = (vec![f32::NAN; cols], vec![f32::NAN; cols]);
            let (a, panel_stride) = (Left::Rows(&a, 0), 512 * groups);
            let bytes = Block { a, rows: 1, b: &pairs[..], panel_stride, cols, groups, geometry };
            let bf16 = Block { a, rows: 1, b: &units[..], panel_stride, cols, groups, geometry };
            // SAFETY: there are tiles, so vectors too; C has a row of `cols`.
            unsafe {
                multiply(&bytes, Target::f32(whole.as_mut_ptr(), cols, false));
                multiply(&bf16, Target::f32(expanded.as_mut_ptr(), cols, false));
            }
            assert!(whole == expanded, "{cols} columns, {groups} groups");
        }
    }

    #[test]
    fn the_mode_of_the_processor_is_restored() {
        let Some(geometry) = tiles() else { return };
        let (a, b, mut c) = ([0; 16], [0; 512], [1.0_f32; 32]);
        let block = Block {
            a: Left::Rows(&a, 0),
            rows: 1,
            b: &b[..],
            panel_stride: 512,
            cols: 32,
            groups: 1,
            geometry: geometry.for_rows(1),
        };
        // SAFETY: there are tiles, so vectors too; C has a row of 32.
        unsafe { multiply(&block, Target::f32(c.as_mut_ptr(), 32, true)) };
        let smallest = std::hint::black_box(f32::MIN_POSITIVE);
        assert!(c == [1.0; 32] && smallest / 2.0 > 0.0, "subnormal numbers are numbers again");
    }
}
