//! Models of other makers against what Hugging Face `transformers` computes for them, and Phi-3-small against a script
//! that follows its paper. Weights come from a formula that both sides know; see tests/golden/README.md.

mod golden_models;

use elmwood_engine::{CacheFormat, Cpu, Dtype, Isa};
use elmwood_model::{LocalModel, SafetensorsFile, Sequence};
use golden_models::{all_logits, folder, golden};

const VOCABULARY: usize = 128;

struct Golden(SafetensorsFile);

impl Golden {
    fn open(case: &str) -> Self {
        Self(SafetensorsFile::open(golden(case).join("golden.safetensors")).unwrap())
    }

    fn has(&self, name: &str) -> bool {
        self.0.tensor(name).is_some()
    }

    fn ints(&self, name: &str) -> Vec<u32> {
        let bytes = self.0.tensor(name).unwrap().bytes;
        bytes.chunks_exact(4).map(|x| u32::from_le_bytes(x.try_into().unwrap())).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.0.tensor(name).unwrap().to_f32().unwrap()
    }
}

/// Logits in f32 are off by some millionths of the largest; mistakes in a model by 0.077 and more.
fn assert_close(what: &str, got: &[f32], expected: &[f32]) {
    let finite = expected.iter().filter(|x| x.is_finite());
    let largest = finite.fold(0.0_f32, |a, b| a.max(b.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got == expected || (got - expected).abs() <= 2e-5 * largest;
        assert!(same, "{what}, logit {i}: {got} instead of {expected}");
    }
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

fn check(case: &str, config: &str) {
    let golden = Golden::open(case);
    let folder = folder(case, config);
    let prompt = golden.ints("prompt");
    for isa in Isa::available() {
        let cpu = Cpu::with(isa, 2);
        let model = LocalModel::load(folder.path(), &cpu, Dtype::F32).unwrap();
        for (tokens, positions, logits) in
            [("prompt", "positions", "logits"), ("long_prompt", "long_positions", "long_logits")]
        {
            if !golden.has(tokens) {
                continue;
            }
            let rows = all_logits(&model, &cpu, &golden.ints(tokens));
            let expected = golden.floats(logits);
            for (position, expected) in golden.ints(positions).iter().zip(expected.chunks_exact(VOCABULARY)) {
                let what = format!("{case} ({config}), {isa}, {tokens} at {position}");
                assert_close(&what, &rows[*position as usize], expected);
            }
        }
        // Greedy, token by token over a cache, against fresh runs over everything.
        let greedy = golden.ints("greedy");
        let steps = golden.ints("steps");
        let step_logits = golden.floats("step_logits");
        let mut sequence: Sequence = model.sequence(&cpu, prompt.len() + greedy.len(), CacheFormat::F32);
        let mut logits = model.advance(&cpu, &mut sequence, &prompt).to_vec();
        for (step, expected) in greedy.iter().enumerate() {
            if let Some(at) = steps.iter().position(|s| *s as usize == step) {
                let row = &step_logits[at * VOCABULARY..(at + 1) * VOCABULARY];
                assert_close(&format!("{case} ({config}), {isa}, step {step}"), &logits, row);
            }
            assert_eq!(argmax(&logits), *expected, "{case} ({config}), {isa}: token {step}");
            logits = model.advance(&cpu, &mut sequence, &[*expected]).to_vec();
        }
        // The same bits with the cache as afresh.
        let everything: Vec<u32> = prompt.iter().chain(&greedy).copied().collect();
        let mut fresh = model.sequence(&cpu, everything.len(), CacheFormat::F32);
        assert!(model.advance(&cpu, &mut fresh, &everything) == logits, "{case}, {isa}: cached and fresh");
    }
}

macro_rules! cases {
    ($($name:ident: $($config:literal),+;)*) => {$(
        #[test]
        fn $name() {
            $(check(stringify!($name), $config);)+
        }
    )*};
}

cases! {
    llama: "config.json", "config_v5.json";
    llama_tied: "config.json", "config_v5.json";
    llama_head_dim: "config.json", "config_v5.json";
    mistral: "config.json", "config_v5.json";
    qwen2: "config.json", "config_v5.json";
    phi3_mini: "config.json", "config_v5.json";
    phi3_medium: "config.json", "config_v5.json";
    phi3_longrope: "config.json", "config_v5.json", "config_su.json", "config_yarn.json";
    phi4_mini: "config.json", "config_v5.json";
    phi3_small: "config.json";
    phi3_small_longrope: "config.json";
}
