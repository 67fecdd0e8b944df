//! Products with activations of 16 bits, for formats whose blocks of 256 columns have whole-numbered scales.
//!
//! Vectors need all their time for codes of 8 bits. Matrix tiles multiply eight times as fast as vectors, which then
//! scale and add what comes out: so tiles had better do four times the work and leave less to vectors. With scales in
//! the weights, and activations that have more bits than codes of 8 bits with a scale for every 32 columns leave
//! them, one sum is scaled where eight or sixteen were, and results are closer to those of the activations as they
//! are. Where there are tiles, single rows are computed in the same way, on vectors.

mod activations;
mod product;
mod tiles;

use std::ops::Range;
use std::slice::from_ref;

pub(super) use activations::Activations;
use activations::RowBlock;
use product::multiply_rows;

use super::form::Form;
use super::product::{PAIR, Square};
use super::{Destination, QuantMatrix, pairs};
use crate::Isa;

/// Strips that a task should have, if there are many rows of activations.
pub(super) const STRIPS: usize = 16;

/// # Safety
/// Nobody else may use these columns of C meanwhile.
pub(super) unsafe fn multiply_strips<F: Form>(
    isa: Isa,
    activations: &Activations,
    matrix: &QuantMatrix,
    strips: Range<usize>,
    first_row: usize,
    c: &Destination<'_>,
) {
    #[cfg(target_arch = "x86_64")]
    if !activations.is_few() {
        // SAFETY: where activations are wide there are tiles; by the caller's promise.
        return unsafe { tiles::multiply_strips::<F>(activations, matrix, strips, first_row, c) };
    }
    let rows: Vec<&[RowBlock]> = (0..activations.n_rows()).map(|row| activations.row(row)).collect();
    let mut squares = [Square::ZERO; PAIR];
    for pair in pairs(&strips) {
        let (n, data) = matrix.pair(pair.clone());
        multiply_rows::<F>(isa, &data[..n], &rows, &mut squares);
        for (strip, square) in pair.zip(&squares) {
            // SAFETY: by the caller's promise.
            unsafe { c.write_squares(0, rows.len(), first_row, matrix.rows(), strip, from_ref(square)) };
        }
    }
}
