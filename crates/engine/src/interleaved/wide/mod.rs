//! Products with activations of 16 bits, for formats whose blocks of 256 columns have whole-numbered scales.
//!
//! Tiles multiply eight times as fast as vectors, which still have to scale and add up what comes out of them: with a
//! scale for every 32 columns that takes most of the time. So the scales of groups go into the weights, which become
//! whole numbers of 13 bits, and activations get 16, with a scale for every 256. Tiles then do four times the work, on
//! bytes, and vectors an eighth. Results are closer to those of the activations as they are, too. Where there are tiles,
//! few rows are multiplied in the same way, on vectors, which wait for memory anyway.

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

/// Strips that share a pass over many rows of activations; a task should have no fewer.
pub(super) const STRIPS: usize = 16;

/// Products of some strips of a matrix with all activations.
///
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

/// `x[rows, cols]` times a matrix, row by row in plain Rust.
#[cfg(test)]
pub(super) fn plain(matrix: &QuantMatrix, x: &[f32]) -> Vec<f32> {
    use super::form::by_format;
    let cpu = crate::Cpu::with(Isa::Scalar, 1);
    let (mut activations, mut y) = (Activations::default(), vec![0.0; x.len() / matrix.cols * matrix.rows]);
    for (x, y) in x.chunks_exact(matrix.cols).zip(y.chunks_exact_mut(matrix.rows)) {
        activations.set(&cpu, x, matrix.cols);
        let c = Destination::new(crate::matmul::Output::F32(y), matrix.rows, matrix.rows);
        let strips = 0..matrix.rows.div_ceil(super::ROWS);
        // SAFETY: nobody else has C.
        by_format!(matrix.format, F => unsafe {
            multiply_strips::<F>(Isa::Scalar, &activations, matrix, strips, 0, &c)
        });
    }
    y
}
