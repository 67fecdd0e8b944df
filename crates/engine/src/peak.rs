//! What the machine gives to the bare kernel and to plain memory: the floor that a step is held against.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use crate::interleaved;
use crate::matmul::{
    Block, Geometry, Layout, Left, Precision, Source, Target, left_tiling, multiply_block, pack, right_tiling,
};
use crate::memory::Memory;
use crate::tensor::AlignedVec;
use crate::{Cpu, Dtype};

/// Groups of the reduction: both operands stay in a first-level cache of 32 KiB, or of 48 where there are tiles.
const GROUPS: usize = 8;
/// Calls of one sample; some milliseconds.
const CALLS: usize = 1 << 13;
const SAMPLES: usize = 5;
/// 512 MiB, more than caches keep for one process.
const MEMORY_VALUES: usize = 1 << 27;
const READ_BYTES: usize = 1 << 30;
const INT8_CALLS: usize = 1 << 20;

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

/// The rate of integer products of quantised weights whose operands never leave the first-level cache, on vectors of
/// all threads of `cpu`, in units of 10⁹ multiplications and additions a second: 8-bit weights and activations with
/// 32-bit sums. The best of five samples.
#[must_use]
pub fn int8_peak_gops(cpu: &Cpu) -> f64 {
    let threads = cpu.threads.count();
    let sample = || {
        let began = Instant::now();
        cpu.threads.run(threads, |_| {
            black_box(interleaved::multiply_in_registers(cpu.isa, INT8_CALLS));
        });
        let products = threads * INT8_CALLS * interleaved::PRODUCTS_PER_CALL;
        2.0 * products as f64 / began.elapsed().as_secs_f64() / 1e9
    };
    (0..SAMPLES).map(|_| sample()).fold(0.0, f64::max)
}

/// The rate at which all threads of `cpu` together read memory in huge pages, from one end to the other, in 10⁹ bytes
/// a second: the floor of generating text. The best of five samples; takes a gigabyte of memory and about a second.
#[must_use]
pub fn read_gbs(cpu: &Cpu) -> f64 {
    let mut memory = Memory::zeroed(READ_BYTES);
    memory.fill(1);
    let words: &[u64] = bytemuck::cast_slice(&memory);
    let threads = cpu.threads.count();
    let sample = || {
        let began = Instant::now();
        cpu.threads.run_ranges(words.len(), words.len().div_ceil(threads), |range| {
            black_box(words[range].iter().fold(0, |sum, word| sum ^ word));
        });
        READ_BYTES as f64 / began.elapsed().as_secs_f64() / 1e9
    };
    (0..SAMPLES).map(|_| sample()).fold(0.0, f64::max)
}

/// The rate at which all threads of `cpu` together move memory, in 10⁹ bytes a second: the better of reading an
/// array and of changing it in place, where each value counts as read and written. The best of five samples;
/// takes half a gigabyte of memory and about a second.
#[must_use]
pub fn bandwidth_gbs(cpu: &Cpu) -> f64 {
    let mut values = vec![1.0_f32; MEMORY_VALUES];
    let threads = cpu.threads.count();
    let parts: Vec<_> = values.chunks_mut(MEMORY_VALUES.div_ceil(threads)).map(Mutex::new).collect();
    let sample = |bytes: usize, pass: fn(&mut [f32])| {
        let began = Instant::now();
        cpu.threads.run(parts.len(), |i| pass(&mut parts[i].lock().expect("a part has one task")));
        (bytes * MEMORY_VALUES) as f64 / began.elapsed().as_secs_f64() / 1e9
    };
    // Whole words, since sums of floats may not be reordered and so would not be vectors.
    let read: fn(&mut [f32]) = |part| {
        black_box(part.iter().fold(0, |sum, value| sum ^ value.to_bits()));
    };
    let change: fn(&mut [f32]) = |part| part.iter_mut().for_each(|value| *value = -*value);
    (0..SAMPLES).map(|_| sample(4, read).max(sample(8, change))).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn memory_moves() {
        let rate = bandwidth_gbs(&Cpu::with(Isa::available()[0], 2));
        assert!((0.1..1e5).contains(&rate), "{rate} GB/s");
    }

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
