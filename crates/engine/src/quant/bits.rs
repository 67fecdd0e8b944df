//! Numbers of a few bits, side by side in bytes.
//!
//! All formats lay them out alike: out of `8 / bits · stride` numbers, those `stride` apart share a byte, the
//! first in the lowest bits. Byte `i` of a stride thus holds numbers `i`, `i + stride`, `i + 2·stride`, ...
//! The wide numbers of some formats are cut, the low bits in one field and the high ones in another; `shift`
//! says where in the number the field's bits belong.

/// Puts `bits` bits of every number, from bit `shift` on, into `bytes`, which must be zero before.
#[inline(always)]
pub(super) fn pack(bits: usize, stride: usize, shift: usize, numbers: &[u8], bytes: &mut [u8]) {
    let per_byte = 8 / bits;
    let mask = ((1_u16 << bits) - 1) as u8;
    for (numbers, bytes) in numbers.chunks_exact(stride * per_byte).zip(bytes.chunks_exact_mut(stride)) {
        for (place, numbers) in numbers.chunks_exact(stride).enumerate() {
            for (byte, &number) in bytes.iter_mut().zip(numbers) {
                *byte |= ((number >> shift) & mask) << (place * bits);
            }
        }
    }
}

/// Adds the bits in `bytes` to every number, from bit `shift` on: the inverse of [`pack`].
#[inline(always)]
pub(super) fn unpack(bits: usize, stride: usize, shift: usize, bytes: &[u8], numbers: &mut [u8]) {
    let per_byte = 8 / bits;
    let mask = ((1_u16 << bits) - 1) as u8;
    for (numbers, bytes) in numbers.chunks_exact_mut(stride * per_byte).zip(bytes.chunks_exact(stride)) {
        for (place, numbers) in numbers.chunks_exact_mut(stride).enumerate() {
            for (number, &byte) in numbers.iter_mut().zip(bytes) {
                *number |= ((byte >> (place * bits)) & mask) << shift;
            }
        }
    }
}
