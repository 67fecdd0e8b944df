//! Products with quantised matrices, timed: `quantised FORMAT TOKENS ROWS COLS COUNT REPS [THREADS]`.

use elmwood_engine::measure::quantised;
use elmwood_engine::quant::BlockFormat;
use elmwood_engine::{Cpu, bandwidth_gbs};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let format = BlockFormat::from_name(&arguments[0]).expect("a format");
    let n: Vec<usize> = arguments[1..].iter().map(|n| n.parse().expect("a number")).collect();
    let cpu = Cpu::new(n.get(5).copied().unwrap_or(0)).expect("the instruction set is there");
    let timing = quantised(&cpu, format, [n[0], n[1], n[2]], n[3], n[4]);
    let bytes = (format.row_bytes(n[2]).unwrap() * n[1] * n[3] * n[4]) as f64;
    let bandwidth = if n[0] == 1 && n[3] > 1 { bandwidth_gbs(&cpu) } else { 0.0 };
    println!(
        "{format} {} tokens, {}: {:.0} GOP/s, {:.1} GB/s of {bandwidth:.1}, f32 peak {:.0}",
        n[0],
        cpu.isa(),
        timing.flops / timing.seconds / 1e9,
        bytes / timing.seconds / 1e9,
        timing.peak_gflops
    );
}
