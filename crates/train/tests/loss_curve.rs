//! One hundred steps from the same weights and tokens as an independent loop in PyTorch, of AdamW and of Muon: the
//! same loss at every step. `tests/golden/README.md` says how the files are made and what rounding alone does.

use std::path::{Path, PathBuf};

use elmwood_engine::{AdamW, Arena, Batch, Cpu, Dtype, Gradients, Isa, LossGradient, Moments, Muon, Tape};
use elmwood_model::{Model, OpenElmConfig, SafetensorsFile, Weights};
use elmwood_train::{Schedule, muon_moments};
use serde_json::Value;

const ROWS: usize = 8;
const SEQ: usize = 64;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/loss_curve")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

/// Loss and gradient length of every step; with Muon for the matrices in the layers if `muon`.
fn curve(isa: Isa, dtype: Dtype, muon: bool) -> Vec<(f64, f64)> {
    let config = OpenElmConfig::from_json(&golden("curve.json")["model"].to_string()).unwrap();
    let initial = SafetensorsFile::open(folder().join("initial.safetensors")).unwrap();
    let mut weights = Weights::zeros(&config);
    for (spec, values) in weights.tensors_mut() {
        assert!(initial.tensor(&spec.name).unwrap().read_f32(values), "{}", spec.name);
    }
    let file = SafetensorsFile::open(folder().join("tokens.safetensors")).unwrap();
    let bytes = file.tensor("tokens").unwrap().bytes;
    let tokens: Vec<u32> = bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))).collect();

    let schedule = Schedule { peak: 4e-3, floor: 4e-4, warmup_steps: 10, steps: 100 };
    let cpu = Cpu::with(isa, 2);
    let mut model = Model::new(config.clone(), &weights);
    let mut arena = Arena::default();
    let mut moments =
        if muon { muon_moments(&config, model.parameters()) } else { Moments::new(model.parameters()) };
    let mut gradients = Gradients::new(model.parameters());
    let mut batch = Batch::new(SEQ);
    let mut per_token = vec![0.0; ROWS * SEQ];
    let step = |step: u64| {
        batch.clear();
        for row in 0..ROWS {
            let first = (step as usize * ROWS + row) * SEQ;
            batch.push_window(&tokens[first..=first + SEQ]);
        }
        gradients.clear();
        let mut tape = Tape::recording(&cpu, &mut arena, model.parameters(), &batch, dtype);
        let hidden = model.forward(&mut tape);
        let n = batch.target_count() as f64;
        let gradient = LossGradient { gradients: &mut gradients, z: 1e-4, grad_scale: (1.0 / n) as f32 };
        let loss = tape.cross_entropy(hidden, model.head(), &mut per_token, Some(gradient));
        tape.backward(&mut gradients);
        let norm = gradients.norm(&cpu);
        let lr = schedule.at(step) as f32;
        let adamw = AdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: step + 1 };
        let clip = (1.0 / (norm + 1e-6)).min(1.0) as f32;
        moments.step(&cpu, &adamw, clip, &mut gradients, model.parameters_mut());
        let muon = Muon { lr, momentum: 0.95, weight_decay: 0.1, dtype };
        moments.step_muon(&cpu, &mut arena, &muon, clip, &mut gradients, model.parameters_mut());
        ((loss.cross_entropy + 1e-4 * loss.squared_log_z) / n, norm)
    };
    (0..100).map(step).collect()
}

fn check(file: &str, dtype: Dtype, reference: &str, every: f64, mean: f64, norm_bound: f64) {
    let golden = golden(file);
    let want = numbers(&golden[reference]["loss"]);
    let norms = numbers(&golden[reference]["grad_norm"]);
    for isa in Isa::available() {
        let got = curve(isa, dtype, file == "muon.json");
        let differences: Vec<f64> =
            got.iter().zip(&want).map(|((got, _), want)| (got / want - 1.0).abs()).collect();
        let largest = differences.iter().fold(0.0, |a: f64, b| a.max(*b));
        let average = differences.iter().sum::<f64>() / 100.0;
        println!("{file}, {isa} {dtype:?} against {reference}: largest {largest:.2e}, mean {average:.2e}");
        assert!(
            largest < every && average < mean,
            "{isa} {dtype:?}: {largest:e} at most, {average:e} in the mean"
        );
        let norm =
            got.iter().zip(&norms).map(|((_, got), want)| (got / want - 1.0).abs()).fold(0.0, f64::max);
        assert!(norm < norm_bound, "{isa} {dtype:?}: gradient norm differs by {norm:e}");
    }
}

#[test]
fn f32_follows_the_curve() {
    // Asked for: 1e-4. PyTorch's own f32 is 1.2e-6 away; a z-loss off by one part in a hundred, 6.6e-5.
    check("curve.json", Dtype::F32, "f64", 1e-5, 3e-6, 1e-4);
}

#[test]
fn bf16_follows_the_curve() {
    // Asked for: 1e-2. PyTorch's own bf16 is 7.5e-3 from f64, and moves by 2e-3 with its number of threads.
    check("curve.json", Dtype::Bf16, "bf16", 1e-2, 4e-3, 5e-2);
}

#[test]
fn f32_follows_the_curve_of_muon() {
    // PyTorch's own f32 is 8e-7 away.
    check("muon.json", Dtype::F32, "f64", 1e-5, 3e-6, 1e-4);
}

#[test]
fn bf16_follows_the_curve_of_muon() {
    // PyTorch's own bf16 is 3.5e-3 from f64; weights moved by half a unit of bf16 move it by 5.5e-3.
    check("muon.json", Dtype::Bf16, "bf16", 1e-2, 4e-3, 5e-2);
}
