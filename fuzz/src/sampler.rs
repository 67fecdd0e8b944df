//! What is done with hostile settings and logits, by the fuzz target and by the test that replays its corpus.

use elmwood_infer::{Sampler, Sampling};

/// Draws three tokens. The input is temperature, `top_k`, `top_p` and `min_p`, four bytes each, then logits; of these the
/// first ones are penalties as well.
pub fn sampler(input: &[u8]) {
    let (numbers, _) = input.as_chunks::<4>();
    let Some((&[temperature, top_k, top_p, min_p], logits)) = numbers.split_first_chunk() else { return };
    let logits: Vec<f32> = logits.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let penalty = |i: usize| logits.get(i).copied().unwrap_or(1.0);
    for penalties in [false, true] {
        let mut sampling = Sampling {
            temperature: f32::from_le_bytes(temperature),
            top_k: u32::from_le_bytes(top_k) as usize,
            top_p: f32::from_le_bytes(top_p),
            min_p: f32::from_le_bytes(min_p),
            ..Sampling::default()
        };
        if penalties {
            sampling.repeat_penalty = penalty(0);
            sampling.presence_penalty = penalty(1);
            sampling.frequency_penalty = penalty(2);
        }
        let Ok(mut sampler) = Sampler::new(sampling) else { continue };
        let mut text = vec![0, 1, u32::MAX];
        for _ in 0..3 {
            match sampler.draw(&logits, &text, None) {
                Some(id) => {
                    assert!(!logits[id as usize].is_nan(), "what is no number is never chosen");
                    text.push(id);
                }
                None => assert!(logits.iter().all(|x| x.is_nan()) || penalties, "a token could be chosen"),
            }
        }
    }
}
