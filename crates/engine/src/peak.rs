//! What the machine gives to the bare kernel: the floor that a step is held against.

use std::time::Instant;

use crate::matmul::{
    Block, Geometry, Layout, Left, Precision, Source, Target, left_tiling, multiply_block, pack, right_tiling,
};
use crate::tensor::AlignedVec;
use crate::{Cpu, Dtype};

/// Groups of the reduction: both operands stay in a first-level cache of 32 KiB, or of 48 where there are tiles.
const GROUPS: usize = 8;
/// Calls of one sample; some milliseconds.
const CALLS: usize = 1 << 13;
const SAMPLES: usize = 5;

/// The rate of matrix products whose operands never leave the first-level cache, on all threads of `cpu`, in
/// units of 10⁹ multiplications and additions a second. The best of five samples, since others use the
/// machine too; takes a fraction of a second.
#[must_use]
pub fn peak_gflops(cpu: &Cpu, dtype: Dtype) -> f64 {
    let geometry = Geometry::of(cpu.isa, Precision::from(dtype));
    let (rows, cols) = (geometry.rows, geometry.width);
    let groups = GROUPS.div_ceil(geometry.format.planes());
    let k = groups * geometry.format.group_elements();
    let ones = vec![1.0_f32; rows.max(cols) * k];
    let (left, right) = (left_tiling(geometry, Layout::Lines, k), right_tiling(geometry, k));
    let (mut a, mut b) = (AlignedVec::new(), AlignedVec::new());
    a.grow(left.stride);
    b.grow(right.stride);
    pack(cpu.isa, &Source::along_cols(&ones[..], k), 0..rows, 0..k, left, &mut a);
    pack(cpu.isa, &Source::along_cols(&ones[..], k), 0..cols, 0..k, right, &mut b);
    let threads = cpu.threads.count();
    let sample = || {
        let began = Instant::now();
        cpu.threads.run(threads, |_| {
            let mut c = AlignedVec::<f32>::new();
            c.grow(rows * cols);
            let a = Left::Packed(&a, Layout::Lines);
            let block = Block { a, rows, b: &b, panel_stride: right.stride, cols, groups, geometry };
            for _ in 0..CALLS {
                // SAFETY: C is this task's own, `rows` rows of `cols`.
                unsafe { multiply_block(cpu.isa, &block, Target::f32(c.as_mut_ptr(), cols, false)) };
            }
            assert!(c.iter().all(|sum| *sum == k as f32), "a product is wrong");
        });
        let flops = 2 * threads * CALLS * rows * cols * k;
        flops as f64 / began.elapsed().as_secs_f64() / 1e9
    };
    (0..SAMPLES).map(|_| sample()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn wider_instructions_are_measured_as_such() {
        // Plain code and the widest instructions lie so far apart that no neighbour hides it.
        let peak = |isa| peak_gflops(&Cpu::with(isa, 1), Dtype::F32);
        let isas = Isa::available();
        assert!(peak(isas[0]) > 0.01);
        if isas.contains(&Isa::Avx2) {
            assert!(peak(Isa::Avx2) > peak(Isa::Scalar));
        }
    }
}
