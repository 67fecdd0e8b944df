//! Where the time of training went, operator by operator, against what the machine can do.

use std::fmt::Write;

use elmwood_engine::{Cpu, Dtype, bandwidth_gbs, peak_gflops};
use serde::{Deserialize, Serialize};

/// All operators of a run, and the machine's own rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileTable {
    /// The rate of the bare kernel in the first-level cache, in 10⁹ multiplications and additions a second.
    pub peak_gflops: f64,
    /// The rate of memory, in 10⁹ bytes a second.
    pub bandwidth_gbs: f64,
    /// What took longest comes first.
    pub operators: Vec<Operator>,
}

/// One operator, over all steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    /// What it is called.
    pub name: String,
    /// How often it ran.
    pub calls: u64,
    /// Time in it alone.
    pub seconds: f64,
    /// Its part of all time.
    pub share: f64,
    /// 10⁹ multiplications and additions a second.
    pub gflops: f64,
    /// 10⁹ bytes a second of its operands and results, each counted once.
    pub gbs: f64,
}

impl Operator {
    /// What part of the machine's rate it reaches: of arithmetic, or of memory where there is none to speak of.
    fn reached(&self, table: &ProfileTable) -> f64 {
        (self.gflops / table.peak_gflops).max(self.gbs / table.bandwidth_gbs)
    }
}

impl ProfileTable {
    /// Reads the profile of `cpu` and measures its peaks, which takes about two seconds.
    #[must_use]
    pub fn measure(cpu: &Cpu, dtype: Dtype) -> Self {
        let entries = cpu.profile().entries();
        let total: f64 = entries.iter().map(|(_, entry)| entry.seconds).sum();
        let operator = |(name, entry): &(&str, elmwood_engine::Entry)| Operator {
            name: (*name).to_owned(),
            calls: entry.calls,
            seconds: entry.seconds,
            share: entry.seconds / total,
            gflops: entry.flops / entry.seconds / 1e9,
            gbs: entry.bytes / entry.seconds / 1e9,
        };
        Self {
            peak_gflops: peak_gflops(cpu, dtype),
            bandwidth_gbs: bandwidth_gbs(cpu),
            operators: entries.iter().map(operator).collect(),
        }
    }

    /// The table as people read it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{:<24} {:>8} {:>10} {:>7} {:>9} {:>7} {:>8}\n",
            "operator", "calls", "seconds", "share", "GFLOP/s", "GB/s", "reached"
        );
        for operator in &self.operators {
            let gflops =
                if operator.gflops > 0.0 { format!("{:.0}", operator.gflops) } else { String::new() };
            let (gbs, reached) = if operator.gbs > 0.0 {
                (format!("{:.1}", operator.gbs), format!("{:.0} %", 100.0 * operator.reached(self)))
            } else {
                (String::new(), String::new())
            };
            writeln!(
                text,
                "{:<24} {:>8} {:>10.3} {:>5.1} % {gflops:>9} {gbs:>7} {reached:>8}",
                operator.name,
                operator.calls,
                operator.seconds,
                100.0 * operator.share,
            )
            .expect("a string takes all");
        }
        write!(
            text,
            "reached: of {:.0} GFLOP/s, our kernel in the first-level cache, or of {:.0} GB/s, memory, whichever is more",
            self.peak_gflops, self.bandwidth_gbs
        )
        .expect("a string takes all");
        text
    }
}
