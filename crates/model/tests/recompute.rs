//! Layers that are run again on the way back, and weights that were packed before, give the same gradients.

use elmwood_engine::{Arena, Batch, Cpu, Dtype, Gradients, LossGradient, PackedParameters, Tape};
use elmwood_model::{Model, OpenElmConfig, Scaling, Weights};

#[test]
fn recomputed_layers_and_packed_weights_give_the_same_bits() {
    let config = OpenElmConfig::new(&Scaling {
        model_dim: 64,
        num_transformer_layers: 12,
        head_dim: 16,
        num_gqa_groups: 2,
        qkv_multipliers: [0.5, 1.0],
        ffn_multipliers: [0.5, 4.0],
        ffn_dim_divisor: 32,
        vocab_size: 100,
        max_context_length: 64,
    })
    .expect("the shape is valid");
    let model = Model::new(config.clone(), &Weights::init(&config, 3));
    let mut batch = Batch::new(64);
    for row in 0..4 {
        batch.push_window(&(0..=64).map(|i| (i * 7 + row * 13) % 100).collect::<Vec<_>>());
    }
    let cpu = Cpu::new(2).expect("the instruction set is there");
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut packed = PackedParameters::for_training(dtype);
        packed.update(&cpu, model.parameters());
        let run = |recompute: bool, packed: Option<&PackedParameters>| {
            let (mut arena, mut gradients) = (Arena::default(), Gradients::new(model.parameters()));
            let mut per_token = vec![0.0; 4 * 64];
            let mut tape =
                Tape::recording(&cpu, &mut arena, model.parameters(), &batch, dtype).recomputing(recompute);
            if let Some(packed) = packed {
                tape = tape.with_packed(packed);
            }
            let hidden = model.forward(&mut tape);
            let gradient = LossGradient { gradients: &mut gradients, z: 1e-3, grad_scale: 0.01 };
            let loss = tape.cross_entropy(hidden, model.head(), &mut per_token, Some(gradient));
            tape.backward(&mut gradients);
            let ids = 0..model.parameters().iter().len();
            let all: Vec<Vec<f32>> =
                ids.map(|i| gradients.get(model.parameters().id(i)).f32().to_vec()).collect();
            (loss, all, arena.bytes())
        };
        let (kept, recomputed) = (run(false, None), run(true, None));
        for packed in [run(false, Some(&packed)), run(true, Some(&packed))] {
            assert!(kept.0 == packed.0 && kept.1 == packed.1, "{dtype:?}: packed before");
        }
        assert!(kept.0 == recomputed.0 && kept.1 == recomputed.1, "{dtype:?}");
        assert!(recomputed.2 * 2 < kept.2, "{dtype:?}: {} of {} bytes", recomputed.2, kept.2);
    }
}
