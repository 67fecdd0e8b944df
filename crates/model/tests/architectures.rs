//! Models of other makers against what Hugging Face `transformers` computes for them, and Phi-3-small against a script
//! that follows its paper. Weights come from a formula that both sides know; see tests/golden/README.md.

use std::path::{Path, PathBuf};

use elmwood_engine::{CacheFormat, Cpu, Dtype, Isa};
use elmwood_model::{FloatType, LocalModel, SafetensorsFile, SafetensorsWriter, Sequence, WEIGHTS_FILE};
use serde_json::Value;

const VOCABULARY: usize = 128;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/architectures").join(name)
}

/// What the formula gives for element `index` of a tensor.
fn weight(name: &str, hash: u64, index: u64, fan_in: usize) -> f32 {
    let mut z =
        hash.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let u = (z >> 40) as f64 / f64::from(1 << 23) - 1.0;
    let value = if name.ends_with(".bias") {
        0.25 * u
    } else if name.contains("norm") {
        1.0 + 0.25 * u
    } else if name == "model.embed_tokens.weight" {
        u
    } else {
        u * (3.0 / fan_in as f64).sqrt()
    };
    value as f32
}

fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A Hugging Face folder of the case, its configuration from `config`.
fn folder(case: &str, config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden(case).join(config), folder.path().join("config.json")).unwrap();
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(golden(case).join("golden.json")).unwrap()).unwrap();
    let tensors: Vec<(String, Vec<usize>, &Value)> = json["tensors"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, about)| {
            let shape =
                about["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            (name.clone(), shape, about)
        })
        .collect();
    let specs = tensors.iter().map(|(name, shape, _)| (name.as_str(), &shape[..]));
    let mut writer =
        SafetensorsWriter::create(folder.path().join(WEIGHTS_FILE), specs, FloatType::F32).unwrap();
    for (name, shape, about) in &tensors {
        let (hash, fan_in) = (fnv1a(name), *shape.last().unwrap());
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n as u64).map(|i| weight(name, hash, i, fan_in)).collect();
        for (at, value) in [("first", values[0]), ("last", values[n - 1])] {
            assert_eq!(about[at].as_f64().unwrap() as f32, value, "{at} of {name}: is the formula the same?");
        }
        writer.tensor(&values).unwrap();
    }
    writer.finish().unwrap();
    folder
}

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

fn all_logits(model: &LocalModel, cpu: &Cpu, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let mut sequence = model.sequence(cpu, tokens.len(), CacheFormat::F32);
    model.advance_with(cpu, &mut sequence, tokens, 0, |_, row| rows.push(row.to_vec()));
    rows
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
