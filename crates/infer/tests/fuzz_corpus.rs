//! What the fuzz target of the sampler found worth keeping, and some thousand mutations of it: see `fuzz/README.md`.

#![expect(unreachable_pub, reason = "the files are public to the fuzz targets")]

#[path = "../../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../../fuzz/src/sampler.rs"]
mod sampler;

#[test]
fn hostile_settings_and_logits_give_a_token() {
    replay::replay("sampler", 100_000, |_, input| sampler::sampler(input));
}
