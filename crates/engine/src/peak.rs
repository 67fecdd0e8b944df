//! What the machine gives to the bare kernel: the floor that a step is held against.

use std::time::Instant;

use half::bf16;

use crate::matmul::{Block, Geometry, Layout, Left, Precision, multiply_block};
use crate::{Cpu, Dtype};

/// Groups of 16 units: both operands stay in a first-level cache of 32 KiB.
const GROUPS: usize = 8;
/// Calls of one sample; some milliseconds.
const CALLS: usize = 1 << 13;
const SAMPLES: usize = 5;

/// The rate of matrix products whose operands never leave the first-level cache, on all threads of `cpu`, in
/// units of 10⁹ multiplications and additions a second. The best of five samples, since others use the
/// machine too; takes a fraction of a second.
#[must_use]
pub fn peak_gflops(cpu: &Cpu, dtype: Dtype) -> f64 {
    let precision = Precision::from(dtype);
    let geometry = Geometry::of(cpu.isa, precision);
    let (rows, cols, units) = (geometry.rows, geometry.width, GROUPS * 16);
    let one = match precision {
        Precision::F32 => 1.0_f32.to_bits(),
        Precision::Bf16 => u32::from(bf16::ONE.to_bits()) * 0x1_0001,
    };
    let (a, b) = (vec![one; rows * units], vec![one; cols * units]);
    let threads = cpu.threads.count();
    let sample = || {
        let began = Instant::now();
        cpu.threads.run(threads, |_| {
            let mut c = vec![0.0_f32; rows * cols];
            let a = Left::Packed(&a, Layout::Lines);
            let block = Block { a, rows, b: &b, panel_stride: cols * units, cols, groups: GROUPS, precision };
            for _ in 0..CALLS {
                // SAFETY: C is this task's own, `rows` rows of `cols`.
                unsafe { multiply_block(cpu.isa, &block, c.as_mut_ptr(), cols, false) };
            }
            assert!(c.iter().all(|sum| *sum == (units * precision.per_unit()) as f32), "a product is wrong");
        });
        let flops = 2 * threads * CALLS * rows * cols * units * precision.per_unit();
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
