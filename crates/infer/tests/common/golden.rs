//! A model of `tests/golden/architectures`, whose weights a formula gives; see tests/golden/README.md.

use std::path::{Path, PathBuf};

use elmwood_engine::{Cpu, Dtype};
use elmwood_model::{FloatType, LocalModel, SafetensorsWriter, WEIGHTS_FILE};
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path(name)).unwrap()).unwrap()
}

/// What the formula gives for element `index` of a tensor.
fn weight(name: &str, hash: u64, index: u64, fan_in: usize) -> f32 {
    let mut z =
        hash.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let u = (z >> 40) as f64 / f64::from(1 << 23) - 1.0;
    let value = match name {
        _ if name.contains("norm") => 1.0 + 0.25 * u,
        "model.embed_tokens.weight" => u,
        _ => u * (3.0 / fan_in as f64).sqrt(),
    };
    value as f32
}

fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

pub(crate) fn model(case: &str, cpu: &Cpu) -> LocalModel {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path(&format!("architectures/{case}/config.json")), folder.path().join("config.json"))
        .unwrap();
    let golden = json(&format!("architectures/{case}/golden.json"));
    let shape = |about: &Value| -> Vec<usize> { serde_json::from_value(about["shape"].clone()).unwrap() };
    let tensors: Vec<(&String, Vec<usize>)> =
        golden["tensors"].as_object().unwrap().iter().map(|(name, about)| (name, shape(about))).collect();
    let specs = tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..]));
    let mut writer =
        SafetensorsWriter::create(folder.path().join(WEIGHTS_FILE), specs, FloatType::F32).unwrap();
    for (name, shape) in &tensors {
        let (hash, fan_in, n) = (fnv1a(name), *shape.last().unwrap(), shape.iter().product::<usize>());
        let values: Vec<f32> = (0..n as u64).map(|i| weight(name, hash, i, fan_in)).collect();
        writer.tensor(&values).unwrap();
    }
    writer.finish().unwrap();
    LocalModel::load(folder.path(), cpu, Dtype::F32).unwrap()
}
