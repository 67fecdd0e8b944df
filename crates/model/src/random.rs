//! Random numbers that depend on nothing but their place: Philox4x32-10 and normal values from it.
//!
//! A counter-based generator has no state to carry, so tensors can be filled in any order on any number
//! of threads and come out the same to the last bit. Logarithm, sine and cosine come from a fixed
//! implementation in plain Rust (`libm`), since those of the operating systems differ in the last bit.
//!
//! Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

use std::f64::consts::TAU;
use std::num::NonZero;
use std::thread;

/// Four random words from a counter and a key: ten rounds of Philox4x32.
#[must_use]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let product_0 = u64::from(counter[0]) * 0xD251_1F53;
        let product_1 = u64::from(counter[2]) * 0xCD9E_8D57;
        let high = |product: u64| (product >> 32) as u32;
        counter = [
            high(product_1) ^ counter[1] ^ key[0],
            product_1 as u32,
            high(product_0) ^ counter[3] ^ key[1],
            product_0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// Fills `out` with independent normal values of mean 0 and the given standard deviation.
///
/// Value `i` depends on `seed`, `stream` and `i` alone; use one `stream` per tensor.
///
/// # Source
/// Box and Muller 1958, in f64, rounded to f32 at the end.
pub fn fill_normal(out: &mut [f32], seed: u64, stream: u64, standard_deviation: f64) {
    /// Values per task; each block of the generator makes four.
    const CHUNK: usize = 1 << 16;
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get).min(out.len().div_ceil(CHUNK));
    let chunks = std::sync::Mutex::new(out.chunks_mut(CHUNK).enumerate());
    let work = || {
        loop {
            let next = chunks.lock().expect("no thread panics while it holds the list").next();
            let Some((chunk_idx, chunk)) = next else { break };
            fill_chunk(chunk, (chunk_idx * CHUNK / 4) as u64, seed, stream, standard_deviation);
        }
    };
    thread::scope(|scope| {
        for _ in 1..n_threads {
            scope.spawn(work);
        }
        work();
    });
}

fn fill_chunk(out: &mut [f32], first_block: u64, seed: u64, stream: u64, standard_deviation: f64) {
    for (block, values) in (first_block..).zip(out.chunks_mut(4)) {
        let counter = [block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32];
        let [a, b, c, d] = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
        let normals = [box_muller(a, b), box_muller(c, d)].concat();
        for (value, normal) in values.iter_mut().zip(normals) {
            *value = (normal * standard_deviation) as f32;
        }
    }
}

/// Two independent standard normal values from two random words.
fn box_muller(a: u32, b: u32) -> [f64; 2] {
    // Half a step off the edges: never ln(0).
    let unit = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    let radius = libm::sqrt(-2.0 * libm::log(unit(a)));
    let (sin, cos) = libm::sincos(TAU * unit(b));
    [radius * cos, radius * sin]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_test_vectors() {
        // Random123, `kat_vectors`, philox4x32 with 10 rounds.
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([!0; 4], [!0; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn values_depend_on_their_place_only_and_are_normal() {
        let mut long = vec![0.0; 1_000_000];
        fill_normal(&mut long, 42, 7, 0.5);
        let mut short = vec![0.0; 70_001];
        fill_normal(&mut short, 42, 7, 0.5);
        assert_eq!(short, long[..short.len()]);
        let mean = |power: i32| long.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / 1e6;
        // Standard errors: 0.0005, 0.00035, 0.0006.
        assert!(mean(1).abs() < 0.0025, "mean {}", mean(1));
        assert!((mean(2) - 0.25).abs() < 0.002, "variance {}", mean(2));
        assert!((mean(4) - 3.0 / 16.0).abs() < 0.004, "fourth moment {}", mean(4));
    }
}
