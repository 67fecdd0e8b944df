//! Logits, loss and gradients against an independent implementation in PyTorch: a model whose layers all
//! have different shapes, with grouped heads, QK-norm, tied embeddings and document masks.
//! `tests/golden/README.md` says how the files are made.

use std::path::{Path, PathBuf};

use elmwood_engine::{Arena, Batch, CacheFormat, Cpu, Dtype, Gradients, Isa, LossGradient, NO_TARGET, Tape};
use elmwood_model::{LocalModel, Model, SafetensorsFile, Weights};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/openelm")
}

struct Golden(SafetensorsFile);

impl Golden {
    fn open() -> Self {
        Self(SafetensorsFile::open(folder().join("golden.safetensors")).unwrap())
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.0.tensor(name).unwrap().to_f32().unwrap()
    }

    fn i32(&self, name: &str) -> Vec<i32> {
        let bytes = self.0.tensor(name).unwrap().bytes;
        bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
    }

    /// The two rows of the batch, each with its documents or as one.
    fn batch(&self, masked: bool) -> Batch {
        let (tokens, starts) = (self.i32("tokens"), self.i32("segment_starts"));
        let mut batch = Batch::new(48);
        for (tokens, starts) in tokens.chunks(48).zip(starts.chunks(3)) {
            let mut starts: Vec<usize> = starts.iter().filter(|s| **s >= 0).map(|s| *s as usize).collect();
            if !masked {
                starts = vec![0];
            }
            let ends = starts.iter().skip(1).copied().chain([48]).collect::<Vec<_>>();
            let segments = starts.into_iter().zip(ends).map(|(start, end)| start..end);
            batch.push_row(tokens.iter().map(|t| *t as u32), segments);
        }
        batch
    }
}

fn model() -> Model {
    let (config, weights) = Weights::load(folder()).unwrap();
    Model::new(config, &weights)
}

/// Largest difference, relative to the largest value.
fn relative(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
    got.iter().zip(want).fold(0.0, |a: f32, (g, w)| a.max((g - w).abs())) / scale
}

fn logits(model: &Model, cpu: &Cpu, batch: &Batch, dtype: Dtype) -> Vec<f32> {
    let mut arena = Arena::default();
    let mut tape = Tape::forgetting(cpu, &mut arena, model.parameters(), batch, dtype);
    let hidden = model.forward(&mut tape);
    let vocab = model.config().vocab_size();
    let mut out = vec![0.0; batch.tokens().len() * vocab];
    for (row, out) in out.chunks_mut(vocab).enumerate() {
        tape.logits(hidden, row, model.head(), out);
    }
    out
}

#[test]
fn logits_agree_with_and_without_document_masks() {
    let (golden, model) = (Golden::open(), model());
    for isa in Isa::available() {
        let cpu = Cpu::with(isa, 2);
        for (masked, name) in [(false, "logits"), (true, "logits_masked")] {
            let want = golden.f32(name);
            // PyTorch's own f32 is 2e-6 of the largest logit away from f64, see deviation.json.
            let difference = relative(&logits(&model, &cpu, &golden.batch(masked), Dtype::F32), &want);
            assert!(difference < 1e-5, "{isa} {name}: f32 differs by {difference}");
            // 13 roundings to 2^-9 in a row, of independent sign, on values that add up.
            let difference = relative(&logits(&model, &cpu, &golden.batch(masked), Dtype::Bf16), &want);
            assert!(difference < 2e-2, "{isa} {name}: bf16 differs by {difference}");
        }
    }
}

#[test]
fn loss_and_every_gradient_agree() {
    let (golden, model) = (Golden::open(), model());
    let batch = golden.batch(true);
    let want_targets = golden.i32("targets").into_iter().map(|t| if t < 0 { NO_TARGET } else { t as u32 });
    assert!(batch.targets().iter().copied().eq(want_targets));
    for isa in Isa::available() {
        for (dtype, loss_bound, gradient_bound) in [(Dtype::F32, 2e-6, 2e-5), (Dtype::Bf16, 5e-3, 4e-2)] {
            let cpu = Cpu::with(isa, 2);
            let mut arena = Arena::default();
            let mut gradients = Gradients::new(model.parameters());
            let mut tape = Tape::recording(&cpu, &mut arena, model.parameters(), &batch, dtype);
            let hidden = model.forward(&mut tape);
            let n = batch.target_count() as f32;
            let gradient = LossGradient { gradients: &mut gradients, z: 1e-4, grad_scale: 1.0 / n };
            let mut per_token = vec![0.0; batch.tokens().len()];
            let loss = tape.cross_entropy(hidden, model.head(), &mut per_token, Some(gradient));
            tape.backward(&mut gradients);
            let cross_entropy = (loss.cross_entropy / f64::from(n)) as f32;
            let z_loss = (1e-4 * loss.squared_log_z / f64::from(n)) as f32;
            for (name, got) in [("cross_entropy", cross_entropy), ("z_loss", z_loss)] {
                let want = golden.f32(name)[0];
                assert!((got / want - 1.0).abs() < loss_bound, "{isa} {dtype:?} {name}: {got}, not {want}");
            }
            let names = model.to_weights();
            for (i, tensor) in names.tensors().iter().enumerate() {
                let want = golden.f32(&format!("grad.{}", tensor.spec.name));
                let got = gradients.get(model.parameters().id(i)).f32().to_vec();
                let difference = relative(&got, &want);
                assert!(
                    difference < gradient_bound,
                    "{isa} {dtype:?} {}: differs by {difference}",
                    tensor.spec.name
                );
            }
        }
    }
}

#[test]
fn prefill_and_decode_agree_and_give_the_same_bits_as_the_whole() {
    let golden = Golden::open();
    let tokens: Vec<u32> = golden.i32("tokens")[..48].iter().map(|t| *t as u32).collect();
    for isa in Isa::available() {
        let cpu = Cpu::with(isa, 2);
        // The bounds are those of the tape's logits.
        for (dtype, format, bound) in
            [(Dtype::F32, CacheFormat::F32, 1e-5), (Dtype::Bf16, CacheFormat::Bf16, 2e-2)]
        {
            let model = LocalModel::load(folder(), &cpu, dtype).unwrap();
            let vocab = model.architecture().vocab_size;
            let mut whole = Vec::new();
            let mut sequence = model.sequence(&cpu, 48, format);
            model.advance_with(&cpu, &mut sequence, &tokens, 0, |_, row| whole.extend(row));
            let difference = relative(&whole, &golden.f32("logits")[..48 * vocab]);
            assert!(difference < bound, "{isa} {dtype:?}: differs by {difference}");
            let mut sequence = model.sequence(&cpu, 48, format);
            for range in [0..31, 31..32, 32..33, 33..40, 40..48] {
                let got = model.advance(&cpu, &mut sequence, &tokens[range.clone()]);
                let want = &whole[(range.end - 1) * vocab..range.end * vocab];
                assert!(got == want, "{isa} {dtype:?} tokens {range:?}");
            }
        }
    }
}

#[test]
fn a_step_allocates_nothing_after_the_first() {
    let (golden, model) = (Golden::open(), model());
    let (batch, cpu) = (golden.batch(true), Cpu::with(*Isa::available().last().unwrap(), 2));
    let mut arena = Arena::default();
    let mut gradients = Gradients::new(model.parameters());
    let mut per_token = vec![0.0; batch.tokens().len()];
    let mut allocations = Vec::new();
    for _ in 0..6 {
        let mut tape = Tape::recording(&cpu, &mut arena, model.parameters(), &batch, Dtype::Bf16);
        let hidden = model.forward(&mut tape);
        let gradient = LossGradient { gradients: &mut gradients, z: 0.0, grad_scale: 1.0 };
        tape.cross_entropy(hidden, model.head(), &mut per_token, Some(gradient));
        tape.backward(&mut gradients);
        allocations.push(arena.allocations());
    }
    assert_eq!(allocations[2..], [allocations[2]; 4], "{allocations:?}");
}
