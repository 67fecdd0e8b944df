//! GGUF files as folders: the same numbers under the same names, and tokenizers that give the same ids.

mod golden_models;

use std::fs;
use std::path::{Path, PathBuf};

use elmwood_engine::{Cpu, Dtype};
use elmwood_model::{
    Error, GgmlType, GgufFile, GgufTensorSpec, GgufWriter, LocalModel, Quantization, SafetensorsFile,
    SourceModel, Special, Tokenizer, WEIGHTS_FILE,
};
use golden_models::{all_logits, folder};

fn gguf(cpu: &Cpu, from: &Path, to: Option<Quantization>, out: &Path) {
    let source = SourceModel::open(from, None).unwrap();
    source.write_gguf(cpu, to, out, &mut |_, _| true).unwrap().unwrap();
}

fn unpacked(cpu: &Cpu, from: &Path, to: Option<Quantization>, out: &Path) -> Result<(), Error> {
    SourceModel::open(from, None)?
        .write_folder(cpu, to, out, &mut |_, _| true)
        .map(|done| assert!(done.is_some()))
}

#[test]
fn a_model_comes_back_from_its_gguf_file_as_it_was() {
    let cpu = Cpu::new(2).unwrap();
    let place = tempfile::tempdir().unwrap();
    for case in [
        "llama",
        "llama_head_dim",
        "mistral",
        "qwen2",
        "phi3_mini",
        "phi3_medium",
        "phi3_longrope",
        "phi4_mini",
    ] {
        let model = folder(case, "config.json");
        let file = place.path().join(format!("{case}.gguf"));
        let back = place.path().join(case);
        gguf(&cpu, model.path(), None, &file);
        unpacked(&cpu, &file, None, &back).unwrap();
        let [before, after] =
            [model.path(), &back].map(|path| SafetensorsFile::open(path.join(WEIGHTS_FILE)).unwrap());
        for tensor in after.tensors() {
            let same = before.tensor(tensor.name).unwrap();
            assert!(same.bytes == tensor.bytes && same.shape == tensor.shape, "{case}, {}", tensor.name);
        }
        let [before, after] =
            [model.path(), &back].map(|path| LocalModel::load(path, &cpu, Dtype::F32).unwrap());
        assert_eq!(before.architecture(), after.architecture(), "{case}");
        let tokens: Vec<u32> = (0..100).map(|i| (i * 29 + 3) % 100).collect();
        let rows = [&before, &after].map(|model| all_logits(model, &cpu, &tokens));
        assert!(rows[0] == rows[1], "{case} differs");
    }
}

#[test]
fn few_bits_become_the_numbers_that_they_stand_for() {
    let cpu = Cpu::new(2).unwrap();
    let place = tempfile::tempdir().unwrap();
    let model = folder("phi3_mini", "config.json");
    let (file, back) = (place.path().join("m.gguf"), place.path().join("m"));
    gguf(&cpu, model.path(), Some(Quantization::Q8_0), &file);
    unpacked(&cpu, &file, Some(Quantization::F32), &back).unwrap();
    let tensors = SafetensorsFile::open(back.join(WEIGHTS_FILE)).unwrap();
    let down = tensors.tensor("model.layers.1.mlp.down_proj.weight").unwrap().to_f32().unwrap();
    let source = GgufFile::open(&file).unwrap();
    let source = source.tensor("blk.1.ffn_down.weight").unwrap();
    assert_eq!(source.ty, GgmlType::Q8_0);
    let mut values = vec![0.0; down.len()];
    elmwood_engine::quant::BlockFormat::Q8_0.dequantize(source.data, &mut values);
    assert!(down == values);
    // Without a type, half precision.
    unpacked(&cpu, &file, None, &back).unwrap();
    let config = fs::read_to_string(back.join("config.json")).unwrap();
    assert!(config.contains("\"torch_dtype\": \"float16\""), "{config}");
    assert!(LocalModel::load(&back, &cpu, Dtype::F32).is_ok());
}

#[test]
fn writing_that_is_stopped_leaves_no_file() {
    let cpu = Cpu::new(1).unwrap();
    let place = tempfile::tempdir().unwrap();
    let model = folder("phi3_mini", "config.json");
    let (file, back) = (place.path().join("m.gguf"), place.path().join("m"));
    gguf(&cpu, model.path(), None, &file);
    let mut calls = 0;
    let mut on_progress = |done, total| {
        assert!(done <= total);
        calls += 1;
        calls < 5
    };
    let source = SourceModel::open(&file, None).unwrap();
    assert_eq!(source.write_folder(&cpu, None, &back, &mut on_progress).unwrap(), None);
    assert_eq!(fs::read_dir(&back).unwrap().count(), 0);
}

#[test]
fn what_a_folder_cannot_say_is_refused() {
    let cpu = Cpu::new(1).unwrap();
    let place = tempfile::tempdir().unwrap();
    let (file, back) = (place.path().join("m.gguf"), place.path().join("m"));
    for (case, words) in [("../openelm", "GGUF only"), ("llama_tied", "factors of frequencies")] {
        let made;
        let path = if case == "llama_tied" {
            made = folder(case, "config.json");
            made.path().to_owned()
        } else {
            golden_models::golden(case)
        };
        gguf(&cpu, &path, None, &file);
        let error = unpacked(&cpu, &file, None, &back).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!back.exists());
        let error = unpacked(&cpu, &path, None, &back).unwrap_err().to_string();
        assert!(error.contains("a folder already"), "{error}");
    }
}

/// A real vocabulary, or a notice that it is absent.
fn vocabulary(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tokenizers");
    let path = folder.join(format!("ggml-vocab-{name}.gguf"));
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn tokenizers_give_the_recorded_ids_from_a_folder_too() {
    let cpu = Cpu::new(2).unwrap();
    let place = tempfile::tempdir().unwrap();
    for name in ["phi-3", "llama-spm", "gpt-2"] {
        let Some(path) = vocabulary(name) else { continue };
        let (file, back) = (place.path().join(format!("{name}.gguf")), place.path().join(name));
        with_small_model(&path, &file);
        unpacked(&cpu, &file, None, &back).unwrap();
        let [before, after] = [&file, &back].map(|path| Tokenizer::open(path).unwrap());
        let texts = fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
        let ids = fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        for (text, ids) in texts.split_terminator("\n__ggml_vocab_test__\n").zip(ids.lines()) {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(after.encode(text), ids, "{name}: {text:?}");
            assert_eq!(after.decode(&ids), *text, "{name}");
        }
        assert_eq!(
            (after.bos(), after.eos(), after.add_bos()),
            (before.bos(), before.eos(), before.add_bos())
        );
        assert_eq!(after.end_of_generation(), before.end_of_generation(), "{name}");
        assert_eq!(after.chat_template(), before.chat_template());
        let chat = "<|user|>\nHi<|end|>\n<|assistant|>\n";
        let parsed = [&before, &after].map(|tokenizer| tokenizer.encode_with(chat, Special::Parse));
        assert_eq!(parsed[0], parsed[1], "{name}");
    }
}

/// A Llama of one narrow layer with the vocabulary of another file.
fn with_small_model(vocabulary: &Path, out: &Path) {
    const DIM: usize = 8;
    let file = GgufFile::open(vocabulary).unwrap();
    let mut metadata = file.metadata().clone();
    let vocab = metadata.strings("tokenizer.ggml.tokens").unwrap().len();
    metadata.set("general.architecture", "llama");
    for (key, value) in [
        ("context_length", 16_u32),
        ("embedding_length", DIM as u32),
        ("block_count", 1),
        ("feed_forward_length", DIM as u32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", DIM as u32 / 2),
    ] {
        metadata.set(format!("llama.{key}"), value);
    }
    metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    let matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let tensor = |name: &str, shape: &[usize]| GgufTensorSpec {
        name: format!("{name}.weight"),
        shape: shape.to_vec(),
        ty: GgmlType::F32,
    };
    let mut tensors = vec![tensor("token_embd", &[vocab, DIM]), tensor("output_norm", &[DIM])];
    tensors.extend(["attn_norm", "ffn_norm"].map(|name| tensor(&format!("blk.0.{name}"), &[DIM])));
    tensors.extend(matrices.map(|name| tensor(&format!("blk.0.{name}"), &[DIM, DIM])));
    let mut writer = GgufWriter::create(out, &metadata, &tensors).unwrap();
    for tensor in &tensors {
        writer.write(&vec![0; tensor.n_bytes().unwrap()]).unwrap();
    }
    writer.finish().unwrap();
}
