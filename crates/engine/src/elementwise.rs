//! Element by element: conversion, sums, scaling.

use half::bf16;

use crate::matmul::Format;
use crate::simd::{Element, for_lanes, kernel, lanes_of, load, store};

kernel! {
    /// Copies from one type to another, rounding to nearest even.
    pub(crate) fn convert[E: Element, D: Element](s, from: &[E], to: &mut [D]) {
        assert_eq!(from.len(), to.len(), "a conversion keeps the number of elements");
        for_lanes!(s, from.len(), |i, n| { store(s, load(s, from, i, n), to, i, n); });
    }
}

kernel! {
    /// `to += from`.
    pub(crate) fn add_assign[E: Element, D: Element](s, from: &[E], to: &mut [D]) {
        assert_eq!(from.len(), to.len(), "a sum keeps the number of elements");
        for_lanes!(s, from.len(), |i, n| {
            let sum = s.add(load(s, to, i, n), load(s, from, i, n));
            store(s, sum, to, i, n);
        });
    }
}

kernel! {
    /// `x *= factor`.
    pub(crate) fn scale[E: Element](s, factor: f32, x: &mut [E]) {
        let factor = s.splat(factor);
        for_lanes!(s, x.len(), |i, n| { store(s, s.mul(load(s, x, i, n), factor), x, i, n); });
    }
}

kernel! {
    /// `x *= factors`, one by one.
    pub(crate) fn multiply_by[E: Element](s, factors: &[f32], x: &mut [E]) {
        assert_eq!(factors.len(), x.len(), "a factor for every element");
        for_lanes!(s, x.len(), |i, n| {
            let y = s.mul(load(s, x, i, n), load(s, factors, i, n));
            store(s, y, x, i, n);
        });
    }
}

kernel! {
    /// Whole numbers of at most 127, and what they must be multiplied with to be `x` again.
    pub(crate) fn whole_numbers[E: Element](s, x: &[f32], out: &mut [E]) -> f32 {
        let mut largest = s.splat(0.0);
        for_lanes!(s, x.len(), |i, n| {
            let x = load(s, x, i, n);
            largest = s.max(largest, s.max(x, s.sub(s.splat(0.0), x)));
        });
        let largest = s.largest(largest);
        // Where the largest is nearly nothing its inverse is beyond f32; then all are zero, times anything finite.
        let factor = 127.0 / largest;
        let (factor, back) = if factor.is_finite() { (factor, largest / 127.0) } else { (0.0, 1.0) };
        let factor = s.splat(factor);
        for_lanes!(s, x.len(), |i, n| { store(s, s.round(s.mul(load(s, x, i, n), factor)), out, i, n); });
        back
    }
}

kernel! {
    /// Units whose elements are whole numbers, from bytes in the same order; a multiple of 32 of them. Whole numbers of 8
    /// bits are exact in bf16.
    pub(crate) fn expand(s, format: Format, from: &[i8], to: &mut [u32]) {
        let lanes = lanes_of(s);
        if format == Format::Bf16 {
            let to: &mut [bf16] = bytemuck::cast_slice_mut(to);
            assert_eq!(from.len(), to.len(), "an expansion keeps the number of elements");
            for (from, to) in from.chunks_exact(2 * lanes).zip(to.chunks_exact_mut(2 * lanes)) {
                s.store_exact(s.load_i8(&from[..lanes]), s.load_i8(&from[lanes..]), to);
            }
        } else {
            let to: &mut [f32] = bytemuck::cast_slice_mut(to);
            assert_eq!(from.len(), to.len(), "an expansion keeps the number of elements");
            for (from, to) in from.chunks_exact(lanes).zip(to.chunks_exact_mut(lanes)) {
                s.store(s.load_i8(from), to);
            }
        }
    }
}

kernel! {
    /// Whole numbers of at most 127 as bytes.
    pub(crate) fn narrow[E: Element](s, from: &[E], to: &mut [i8]) {
        assert_eq!(from.len(), to.len(), "a conversion keeps the number of elements");
        let lanes = lanes_of(s);
        let (vectors, rest) = (from.chunks_exact(lanes), from.chunks_exact(lanes).remainder());
        let mut to = to.chunks_exact_mut(lanes);
        for (from, to) in vectors.zip(&mut to) {
            s.store_i8(E::load(s, from), to);
        }
        let mut last = [0; 16];
        s.store_i8(s.load_partial(rest), &mut last);
        to.into_remainder().copy_from_slice(&last[..rest.len()]);
    }
}

kernel! {
    /// The sum of squares, each lane in f32: for at most a few thousand elements at a time.
    pub(crate) fn sum_of_squares(s, x: &[f32]) -> f32 {
        let mut sum = s.splat(0.0);
        for_lanes!(s, x.len(), |i, n| {
            let x = load(s, x, i, n);
            sum = s.fma(x, x, sum);
        });
        s.sum(sum)
    }
}
