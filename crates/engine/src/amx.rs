//! Products on the matrix tiles of Sapphire Rapids and later: bf16, f32 as sums of three bf16, and 8-bit integers.
//!
//! Eight tile registers hold 16 rows of 64 bytes each: four for 32 x 32 sums, two for A, two for B. Stable
//! Rust has no intrinsics for them, so the loops are written in assembly.
//!
//! What decides the rate is where the operands come from: tiles multiply in 64 cycles what takes 32 to load from
//! the first-level cache and twice that from the second. So the callers keep a tile of A in the first and B in
//! the second, and panels of B are loaded with the hint not to push A out.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use tiles::{
    configure_bytes, configure_groups, is_available, multiply_block, multiply_bytes, multiply_groups,
    multiply_sums, store_bytes,
};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) use absent::{
    configure_bytes, configure_groups, is_available, multiply_block, multiply_bytes, multiply_groups,
    multiply_sums, store_bytes,
};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod absent {
    use crate::matmul::{Block, Target};

    pub(crate) fn is_available() -> bool {
        false
    }

    /// # Safety
    /// Never called: nothing makes an `Isa::Amx` here.
    pub(crate) unsafe fn multiply_block(_: &Block<'_>, _: Target) {
        unreachable!("no tiles on this platform")
    }

    /// # Safety
    /// As above.
    pub(crate) unsafe fn configure_groups(_: usize) {
        unreachable!("no tiles on this platform")
    }

    /// # Safety
    /// As above.
    pub(crate) unsafe fn multiply_groups<const COLS: usize>(_: *const i8, _: *const i8, _: *mut i32) {
        unreachable!("no tiles on this platform")
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::cell::Cell;
    use std::sync::OnceLock;

    use crate::Isa;
    use crate::matmul::{Block, Format, Left, Pointer, Target};

    /// Whether the processor has bf16 tiles and the system lets this process use them.
    pub(crate) fn is_available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| {
            const TILE_BF16: u32 = 1 << 22;
            const TILE: u32 = 1 << 24;
            const TILE_INT8: u32 = 1 << 25;
            const SAVED_BY_SYSTEM: u32 = 1 << 27;
            const TILE_STATE: u32 = 0b11 << 17;
            #[allow(unused_unsafe, reason = "safe in newer compilers")]
            // SAFETY: every x86-64 processor has this instruction.
            let (max, flags, features) = unsafe { (__cpuid(0).eax, __cpuid(1).ecx, __cpuid_count(7, 0).edx) };
            const NEEDED: u32 = TILE | TILE_BF16 | TILE_INT8;
            if max < 7 || flags & SAVED_BY_SYSTEM == 0 || features & NEEDED != NEEDED {
                return false;
            }
            let enabled: u32;
            // SAFETY: the flag above says that the instruction is there; it only reads a register.
            unsafe { asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack)) };
            enabled & TILE_STATE == TILE_STATE && ask_for_tiles()
        })
    }

    /// Linux gives the 8 KiB of tile state to those who ask: `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`.
    fn ask_for_tiles() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const REQUEST_PERMISSION: u64 = 0x1023;
        const TILE_DATA: u64 = 18;
        let result: i64;
        // SAFETY: the call takes two numbers and touches no memory of ours.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") REQUEST_PERMISSION,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    /// The rows of each tile register, and their bytes.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes_per_row: [u16; 16],
        rows: [u8; 16],
    }

    impl Config {
        /// Four tiles of sums, two of A and two of B, which holds `a_bytes / 4` rows of 64 bytes.
        const fn new(a_bytes: u16) -> Self {
            let b_rows = (a_bytes / 4) as u8;
            Self {
                palette: 1,
                start_row: 0,
                reserved: [0; 14],
                bytes_per_row: [64, 64, 64, 64, a_bytes, a_bytes, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
                rows: [16, 16, 16, 16, 16, 16, b_rows, b_rows, 0, 0, 0, 0, 0, 0, 0, 0],
            }
        }
    }

    static WHOLE: Config = Config::new(64);
    static GROUPS_OF_32: Config = Config::new(32);
    static GROUPS_OF_16: Config = Config::new(16);

    const SIDE: usize = 32;

    /// Sums that are not written as they are: at an edge of C, or rounded.
    #[repr(align(64))]
    struct Edge([f32; SIDE * SIDE]);

    const LINE: usize = 64;

    /// 32 rows of A: where they begin, and the bytes from a row to the next and from a group to the next.
    #[derive(Clone, Copy)]
    struct Rows {
        start: *const u8,
        row_bytes: usize,
        group_bytes: usize,
    }

    /// See [`Target::from`].
    type From = Option<(*const f32, usize)>;

    thread_local! {
        static CONFIGURED: Cell<Option<&'static Config>> = const { Cell::new(None) };
    }

    /// Sets up this thread's tiles, if they are not yet like that: nothing else in the process uses them, and the
    /// system keeps them over changes of context. Doing it for every block costs small ones a tenth of their time.
    ///
    /// # Safety
    /// The tiles must be available.
    unsafe fn configure(config: &'static Config) {
        if !CONFIGURED.get().is_some_and(|have| std::ptr::eq(have, config)) {
            // SAFETY: by the caller's promise; the configuration is a valid one.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const *config, options(nostack, readonly)) };
            CONFIGURED.set(Some(config));
        }
    }

    /// Makes ready for [`multiply_groups`].
    ///
    /// # Safety
    /// The tiles must be available.
    pub(crate) unsafe fn configure_groups(cols: usize) {
        // SAFETY: by the caller's promise.
        unsafe { configure(if cols == 32 { &GROUPS_OF_32 } else { &GROUPS_OF_16 }) };
    }

    /// Sums of products of 16 rows of 8-bit activations with 16 rows of weights, for two groups of `COLS` columns, 16 or
    /// 32: `sums[group][activation][weight]`. Activations lie `[32 columns][activation][column]`, weights `[4
    /// columns][weight][column]`.
    ///
    /// # Safety
    /// [`configure_groups`] must have been called on this thread, `a` and `b` be readable and `sums` writable for that
    /// much.
    #[inline(always)]
    pub(crate) unsafe fn multiply_groups<const COLS: usize>(a: *const i8, b: *const i8, sums: *mut i32) {
        // SAFETY: by the caller's promise.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm4, [{a} + {a_row}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a} + {a_row} + {a_next}]",
                "tileloadd tmm7, [{b} + {line} + {b_next}]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                a = in(reg) a, b = in(reg) b, sums = in(reg) sums, a_row = in(reg) 32_usize, line = in(reg) 64_usize,
                a_next = const if COLS == 32 { 512 } else { 16 }, b_next = const 16 * COLS,
                options(nostack),
            );
        }
    }

    /// Makes ready for [`multiply_bytes`] and what belongs to it.
    ///
    /// # Safety
    /// The tiles must be available.
    pub(crate) unsafe fn configure_bytes() {
        // SAFETY: by the caller's promise.
        unsafe { configure(&WHOLE) };
    }

    /// Adds the products of 16 rows of 64 activations with 16 rows of weights, each in a high and a low byte:
    /// `[high, low][row][64]` of activations, `[high, low][4 columns][row][column]` of weights. All bytes have a sign
    /// but the low ones of weights. Sums stay in the tiles, from zero on for the `first` call.
    ///
    /// # Safety
    /// [`configure_bytes`] must have been called on this thread, `a` and `b` be readable for that much; tiles must be
    /// used for nothing else until [`store_bytes`].
    #[inline(always)]
    pub(crate) unsafe fn multiply_bytes(first: bool, a: *const i8, b: *const i8) {
        // SAFETY: by the caller's promise.
        unsafe {
            if first {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    options(nomem, nostack)
                );
            }
            asm!(
                "tileloadd tmm6, [{b} + {line}]",
                "tileloadd tmm4, [{a} + {line}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line} + 1024]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 1024]",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                a = in(reg) a, b = in(reg) b, line = in(reg) 64_usize,
                options(nostack, readonly),
            );
        }
    }

    /// Writes what [`multiply_bytes`] has added up, `[high, low of activations][high, low of weights][16][16]`.
    ///
    /// # Safety
    /// `sums` must be writable for that much.
    #[inline(always)]
    pub(crate) unsafe fn store_bytes(sums: *mut i32) {
        // SAFETY: by the caller's promise.
        unsafe {
            asm!(
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 3072], tmm3",
                sums = in(reg) sums, line = in(reg) 64_usize,
                options(nostack),
            );
        }
    }

    /// Products of 16 rows of 32 bf16 with 16 others: `a[row][32]`, `b[2 columns][row][column]`, `sums[16][16]`.
    ///
    /// # Safety
    /// [`configure_bytes`] must have been called on this thread, `a` and `b` be readable and `sums` writable for that
    /// much.
    #[inline(always)]
    pub(crate) unsafe fn multiply_sums(a: *const u16, b: *const u16, sums: *mut f32) {
        // SAFETY: by the caller's promise.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tileloadd tmm4, [{a} + {line}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tilestored [{sums} + {line}], tmm0",
                a = in(reg) a, b = in(reg) b, sums = in(reg) sums, line = in(reg) 64_usize,
                options(nostack),
            );
        }
    }

    /// See [`crate::matmul::multiply_block`]; A is padded to whole tiles of 32 rows.
    ///
    /// # Safety
    /// The tiles must be available, A and B as long as their sizes say, and C writable.
    pub(crate) unsafe fn multiply_block(block: &Block<'_>, target: Target) {
        // SAFETY: by the caller's promise; the configuration is a valid one.
        unsafe {
            configure(&WHOLE);
            let square = match block.geometry.format {
                Format::Split => split_square,
                _ => square,
            };
            let mut edge = Edge([0.0; SIDE * SIDE]);
            for row in (0..block.rows).step_by(SIDE) {
                let a = match block.a {
                    Left::Packed(units, _) => {
                        let planes = block.geometry.format.planes();
                        let start = units.as_ptr().add(row * block.groups * planes * 16).cast();
                        Rows { start, row_bytes: LINE, group_bytes: SIDE * LINE * planes }
                    }
                    Left::Rows(values, stride) => {
                        let start = values.as_ptr().add(row * stride).cast();
                        Rows { start, row_bytes: 4 * stride, group_bytes: LINE }
                    }
                };
                for col in (0..block.cols).step_by(SIDE) {
                    let b = block.b.as_ptr().add(col / SIDE * block.panel_stride);
                    let (height, width) = (SIDE.min(block.rows - row), SIDE.min(block.cols - col));
                    let target = target.part(row, col);
                    if height == SIDE
                        && width == SIDE
                        && let Pointer::F32(c) = target.to
                    {
                        square(a, b, block.groups, target.from, c, target.stride);
                        continue;
                    }
                    let whole = height == SIDE && width == SIDE;
                    let from = if whole || target.from.is_none() {
                        target.from
                    } else {
                        target.read(height, width, &mut edge.0, SIDE);
                        Some((edge.0.as_ptr(), SIDE))
                    };
                    square(a, b, block.groups, from, edge.0.as_mut_ptr(), SIDE);
                    target.write(Isa::Amx, height, width, &edge.0, SIDE);
                }
            }
        }
    }

    /// 32 rows of A with 32 columns of B.
    ///
    /// # Safety
    /// The tiles must be configured; `a` and `b` must hold `groups` groups, `c` 32 rows of 32 values.
    unsafe fn square(a: Rows, b: *const u32, groups: usize, from: From, c: *mut f32, stride: usize) {
        // SAFETY: by the caller's promise. The compiler uses no tile registers, so none are clobbered.
        unsafe {
            begin(from);
            asm!(
                "test {groups}, {groups}",
                "jz 3f",
                "2:",
                "tileloaddt1 tmm6, [{b} + {b_stride}]",
                "tileloadd tmm4, [{upper} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b} + {b_stride} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{lower} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {upper}, {group}",
                "add {lower}, {group}",
                "add {b}, 2048",
                "dec {groups}",
                "jnz 2b",
                "3:",
                upper = inout(reg) a.start => _, lower = inout(reg) a.start.wrapping_add(16 * a.row_bytes) => _,
                b = inout(reg) b => _, groups = inout(reg) groups => _,
                row = in(reg) a.row_bytes, group = in(reg) a.group_bytes, b_stride = in(reg) 128_usize,
                options(nostack, readonly),
            );
            end(c, stride);
        }
    }

    /// As [`square`], for elements in three parts: with the parts of A `a0 > a1 > a2`, and so those of B,
    /// `a0·b2 + a0·b1 + a1·b1 + a1·b0 + a2·b0 + a0·b0`, in an order in which every product shares an operand
    /// with the one before.
    ///
    /// # Safety
    /// As [`square`]; A must be packed.
    unsafe fn split_square(a: Rows, b: *const u32, groups: usize, from: From, c: *mut f32, stride: usize) {
        // SAFETY: as above. A plane of either operand takes 2,048 bytes, half a plane of A 1,024.
        unsafe {
            begin(from);
            asm!(
                "test {groups}, {groups}",
                "jz 3f",
                "2:",
                "tileloaddt1 tmm6, [{b} + {wide} + 4096]",
                "tileloadd tmm4, [{a} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b} + {wide} + 4160]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloaddt1 tmm6, [{b} + {wide} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b} + {wide} + 2112]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a} + {line} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a} + {line} + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloaddt1 tmm6, [{b} + {wide}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b} + {wide} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a} + {line} + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a} + {line} + 5120]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a} + {line} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 6144",
                "add {b}, 6144",
                "dec {groups}",
                "jnz 2b",
                "3:",
                a = inout(reg) a.start => _, b = inout(reg) b => _, groups = inout(reg) groups => _,
                line = in(reg) 64_usize, wide = in(reg) 128_usize,
                options(nostack, readonly),
            );
            end(c, stride);
        }
    }

    /// Sums that start from other values, or from zero.
    ///
    /// # Safety
    /// As [`square`].
    #[inline(always)]
    unsafe fn begin(from: From) {
        // SAFETY: by the caller's promise.
        unsafe {
            if let Some((c, stride)) = from {
                asm!(
                    "tileloadd tmm0, [{upper} + {stride}]",
                    "tileloadd tmm1, [{upper} + {stride} + 64]",
                    "tileloadd tmm2, [{lower} + {stride}]",
                    "tileloadd tmm3, [{lower} + {stride} + 64]",
                    upper = in(reg) c, lower = in(reg) c.wrapping_add(16 * stride), stride = in(reg) 4 * stride,
                    options(nostack, readonly),
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    options(nostack, nomem)
                );
            }
        }
    }

    /// Writes the sums to C.
    ///
    /// # Safety
    /// As [`square`].
    #[inline(always)]
    unsafe fn end(c: *mut f32, stride: usize) {
        // SAFETY: by the caller's promise.
        unsafe {
            asm!(
                "tilestored [{upper} + {stride}], tmm0",
                "tilestored [{upper} + {stride} + 64], tmm1",
                "tilestored [{lower} + {stride}], tmm2",
                "tilestored [{lower} + {stride} + 64], tmm3",
                upper = in(reg) c, lower = in(reg) c.wrapping_add(16 * stride), stride = in(reg) 4 * stride,
                options(nostack),
            );
        }
    }
}
