//! Models of the golden files as folders, their weights made by formula; see tests/golden/README.md.

use std::path::{Path, PathBuf};

use elmwood_engine::{CacheFormat, Cpu};
use elmwood_model::{FloatType, LocalModel, SafetensorsWriter, WEIGHTS_FILE};
use serde_json::Value;

/// Where the files of a case are.
pub(crate) fn golden(name: &str) -> PathBuf {
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
pub(crate) fn folder(case: &str, config: &str) -> tempfile::TempDir {
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

/// Logits after every token.
pub(crate) fn all_logits(model: &LocalModel, cpu: &Cpu, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let mut sequence = model.sequence(cpu, tokens.len(), CacheFormat::F32);
    model.advance_with(cpu, &mut sequence, tokens, 0, |_, row| rows.push(row.to_vec()));
    rows
}
