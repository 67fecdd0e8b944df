//! Element by element: conversion, sums, scaling.

use crate::simd::{Element, for_lanes, kernel, load, store};

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
