//! Rows of a table by token id.

use super::CHUNK_ROWS;
use crate::Cpu;
use crate::elementwise::add_assign;
use crate::threads::Parts;

/// Columns of one task of the gradient, which goes over all tokens in order.
const GRAIN_COLS: usize = 64;

/// `y[t] = table[tokens[t]]`.
///
/// # Panics
/// If a token is not in the table.
pub(crate) fn forward(cpu: &Cpu, table: &[f32], features: usize, tokens: &[u32], y: &mut [f32]) {
    let _span = cpu.profile.span("embedding: forward", 0, 2 * size_of_val(y));
    let ids = table.len() / features.max(1);
    let y = Parts::new(y);
    cpu.threads.run_ranges(tokens.len(), CHUNK_ROWS, |rows| {
        for row in rows {
            assert!((tokens[row] as usize) < ids, "token {} is not in a table of {ids}", tokens[row]);
            let from = &table[tokens[row] as usize * features..][..features];
            // SAFETY: every row is written by one task.
            unsafe { y.part(row * features..(row + 1) * features) }.copy_from_slice(from);
        }
    });
}

/// `dtable[tokens[t]] += dy[t]`.
pub(crate) fn backward(cpu: &Cpu, dy: &[f32], features: usize, tokens: &[u32], dtable: &mut [f32]) {
    let _span = cpu.profile.span("embedding: backward", 0, 3 * size_of_val(dy));
    let dtable = Parts::new(dtable);
    cpu.threads.run_ranges(features, GRAIN_COLS, |cols| {
        for (row, &token) in tokens.iter().enumerate() {
            let start = token as usize * features;
            // SAFETY: every column is written by one task.
            let to = unsafe { dtable.part(start + cols.start..start + cols.end) };
            add_assign(cpu.isa, &dy[row * features..][cols.clone()], to);
        }
    });
}
