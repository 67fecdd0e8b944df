//! What is done with hostile settings and logits, by the fuzz target and by the test that replays its corpus.

use elmwood_infer::{Sampler, Sampling};

/// Draws three tokens. The input is temperature, `top_k`, `top_p` and `min_p`, four bytes each, then logits.
pub fn sampler(input: &[u8]) {
    let (numbers, _) = input.as_chunks::<4>();
    let Some((&[temperature, top_k, top_p, min_p], logits)) = numbers.split_first_chunk() else { return };
    let logits: Vec<f32> = logits.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    if logits.iter().all(|logit| logit.is_nan()) {
        return;
    }
    let sampling = Sampling {
        temperature: f32::from_le_bytes(temperature),
        top_k: u32::from_le_bytes(top_k) as usize,
        top_p: f32::from_le_bytes(top_p),
        min_p: f32::from_le_bytes(min_p),
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(sampling);
    for _ in 0..3 {
        let id = sampler.draw(&logits);
        assert!(!logits[id as usize].is_nan(), "what is no number is never chosen");
    }
}
