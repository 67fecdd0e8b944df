//! Models in another form compute the same, and what cannot be converted is refused.

mod golden_models;

use std::fs;
use std::path::{Path, PathBuf};

use elmwood_engine::{Cpu, Dtype, RowFormat};
use elmwood_model::{
    Converted, Error, GgmlType, GgufFile, GgufMetadata, GgufTensorSpec, GgufWriter, LocalModel, Quantization,
    SafetensorsFile, SourceModel, Tokenizer,
};
use golden_models::{all_logits, folder, golden};

fn write(cpu: &Cpu, from: &Path, quantization: Option<Quantization>, out: &Path) -> Converted {
    let source = SourceModel::open(from, None).unwrap();
    source.write_gguf(cpu, quantization, out, &mut |_, _| true).unwrap().expect("nobody stopped it")
}

fn convert(cpu: &Cpu, from: &Path, quantization: Option<Quantization>, out: &Path) -> GgufFile {
    write(cpu, from, quantization, out);
    GgufFile::open(out).unwrap()
}

/// A file of the shared data, or a notice that it is absent.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// A GGUF file in f32 holds the same numbers, so it computes the same bits.
#[test]
fn every_architecture_computes_the_same_from_its_gguf_file() {
    let cpu = Cpu::new(2).unwrap();
    let out = tempfile::tempdir().unwrap();
    let cases = [
        ("llama", "llama"),
        ("llama_tied", "llama"),
        ("llama_head_dim", "llama"),
        ("mistral", "llama"),
        ("qwen2", "qwen2"),
        ("phi3_mini", "phi3"),
        ("phi3_medium", "phi3"),
        ("phi3_longrope", "phi3"),
        ("phi4_mini", "phi3"),
        ("openelm", "openelm"),
    ];
    for (case, architecture) in cases {
        let made;
        let path = if case == "openelm" {
            golden("../openelm")
        } else {
            made = folder(case, "config.json");
            made.path().to_owned()
        };
        let gguf = out.path().join(format!("{case}.gguf"));
        let file = convert(&cpu, &path, None, &gguf);
        assert_eq!(file.metadata().architecture().unwrap(), architecture);
        assert!(file.tensors().all(|tensor| tensor.ty == GgmlType::F32));
        let [before, after] = [&path, &gguf].map(|path| LocalModel::load(path, &cpu, Dtype::F32).unwrap());
        // Long enough for windows and for the second kind of turns, where there are some.
        let n = before.architecture().context_length.min(200) as u32;
        let tokens: Vec<u32> = (0..n).map(|i| (i * 29 + 3) % 100).collect();
        let rows = [&before, &after].map(|model| all_logits(model, &cpu, &tokens));
        if case == "llama_tied" {
            // Llama 3.1 divides frequencies by factors that the file keeps in f32: angles of up to 200 are off by
            // 2^-23 of themselves, twice, which moves logits as far as other roundings do.
            let largest = rows[0].iter().flatten().fold(0.0_f32, |a, b| a.max(b.abs()));
            for (a, b) in rows[0].iter().flatten().zip(rows[1].iter().flatten()) {
                assert!((a - b).abs() <= 2e-4 * largest, "{case}: {a} and {b}");
            }
        } else {
            assert!(rows[0] == rows[1], "{case} differs");
        }
    }
}

#[test]
fn what_gguf_has_no_layout_for_is_refused() {
    let model = folder("phi3_small", "config.json");
    let error = SourceModel::open(model.path(), None).unwrap_err();
    assert!(matches!(error, Error::Conversion { .. }), "{error}");
    assert!(error.to_string().contains("Phi-3-small"), "{error}");
}

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    let out = tempfile::tempdir().unwrap();
    let model = folder("llama", "config.json");
    for quantization in Quantization::all() {
        let bytes = [1, 2, 5].map(|threads| {
            let path = out.path().join("model.gguf");
            write(&Cpu::new(threads).unwrap(), model.path(), Some(quantization), &path);
            fs::read(path).unwrap()
        });
        assert!(bytes[0] == bytes[1] && bytes[0] == bytes[2], "{quantization}");
    }
}

#[test]
fn weights_keep_their_types_unless_others_are_asked_for() {
    let cpu = Cpu::new(2).unwrap();
    let out = tempfile::tempdir().unwrap();
    let model = folder("llama", "config.json");
    let [first, second, third] =
        ["first.gguf", "second.gguf", "third.gguf"].map(|name| out.path().join(name));
    let written = write(&cpu, model.path(), Some(Quantization::Q8_0), &first);
    assert_eq!((written.requantised, written.bytes), (0, fs::metadata(&first).unwrap().len()));
    // A copy of a GGUF file is the same to the byte.
    write(&cpu, &first, None, &second);
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
    // In f32, it holds what the few bits stand for.
    let (first, second) =
        (GgufFile::open(&first).unwrap(), convert(&cpu, &first, Some(Quantization::F32), &second));
    assert_eq!(second.metadata().u32("general.file_type").unwrap(), 0);
    for tensor in first.tensors() {
        let read = |format: RowFormat, data: &[u8]| {
            let mut values = vec![0.0; tensor.n_values()];
            format.read(data, &mut values);
            values
        };
        let values = match tensor.ty {
            GgmlType::F32 => read(RowFormat::F32, tensor.data),
            GgmlType::Q8_0 => read(RowFormat::Blocks(elmwood_engine::quant::BlockFormat::Q8_0), tensor.data),
            other => panic!("{} is {other}", tensor.name),
        };
        assert!(values == read(RowFormat::F32, second.tensor(tensor.name).unwrap().data), "{}", tensor.name);
    }
    // From few bits to other few bits is said.
    let requantised = write(&cpu, first.path(), Some(Quantization::Q4_0), &third);
    assert!(requantised.requantised > 10, "{requantised:?}");
    assert!(requantised.tensors["Q4_0"] > 10 && requantised.tensors["F32"] > 3, "{requantised:?}");
}

#[test]
fn gguf_files_of_any_kind_are_requantised_as_far_as_they_can_be() {
    let cpu = Cpu::new(1).unwrap();
    let out = tempfile::tempdir().unwrap();
    let [from, to] = ["from.gguf", "to.gguf"].map(|name| out.path().join(name));
    let spec =
        |name: &str, shape: &[usize], ty| GgufTensorSpec { name: name.into(), shape: shape.into(), ty };
    let mut metadata = GgufMetadata::default();
    metadata.set("general.architecture", "unheard-of");
    let tensors = [
        spec("blk.18446744073709551615.ffn_down.weight", &[2, 256], GgmlType::F32),
        spec("a.weight", &[3, 0], GgmlType::F32),
        spec("b.weight", &[2, 2, 64], GgmlType::F16),
        spec("c.weight", &[2, 33], GgmlType::F32),
        spec("d", &[2, 256], GgmlType::IQ2_S),
        spec("e", &[5], GgmlType::I32),
    ];
    let mut writer = GgufWriter::create(&from, &metadata, &tensors).unwrap();
    for tensor in &tensors {
        writer.write(&vec![1; tensor.n_bytes().unwrap()]).unwrap();
    }
    writer.finish().unwrap();
    let file = convert(&cpu, &from, Some(Quantization::Q4_K_M), &to);
    let types: Vec<GgmlType> = file.tensors().map(|tensor| tensor.ty).collect();
    use GgmlType::{F16, I32, IQ2_S, Q4_K, Q5_0, Q6_K};
    assert!(matches!(types[..], [Q4_K | Q6_K, Q4_K, Q5_0, F16, IQ2_S, I32]), "{types:?}");
    // Weights of a type that is only known by name cannot become others.
    let weights = [spec("d.weight", &[2, 256], GgmlType::IQ2_S)];
    let mut writer = GgufWriter::create(&from, &metadata, &weights).unwrap();
    writer.write(&vec![1; weights[0].n_bytes().unwrap()]).unwrap();
    writer.finish().unwrap();
    write(&cpu, &from, None, &to);
    assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
    let source = SourceModel::open(&from, None).unwrap();
    let error = source.write_gguf(&cpu, Some(Quantization::Q8_0), &to, &mut |_, _| true).unwrap_err();
    assert!(error.to_string().contains("`d.weight` is of type IQ2_S"), "{error}");
}

#[test]
fn writing_that_is_stopped_or_fails_leaves_nothing() {
    let cpu = Cpu::new(1).unwrap();
    let out = tempfile::tempdir().unwrap();
    let model = folder("phi3_mini", "config.json");
    let source = SourceModel::open(model.path(), None).unwrap();
    let path = out.path().join("model.gguf");
    let mut seen = Vec::new();
    let mut on_progress = |done, total| {
        seen.push((done, total));
        seen.len() < 3
    };
    assert_eq!(source.write_gguf(&cpu, None, &path, &mut on_progress).unwrap(), None);
    assert!(seen.len() == 3 && seen.iter().all(|(done, total)| done <= total), "{seen:?}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);

    // One weight that no block can hold.
    let weights = model.path().join("model.safetensors");
    let file = SafetensorsFile::open(&weights).unwrap();
    let tensor = file.tensor("model.layers.1.mlp.down_proj.weight").unwrap();
    let cols = tensor.shape[1];
    let mut bytes = fs::read(&weights).unwrap();
    let at = bytes.windows(64).position(|window| *window == tensor.bytes[..64]).unwrap() + 4 * (2 * cols + 5);
    for (value, quantization, words) in [
        (f32::NAN, Quantization::Q8_0, "row 2, column 5: NaN is no finite number"),
        (1e6, Quantization::F16, "row 2, column 5: 1000000 is beyond f16"),
    ] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&weights, &bytes).unwrap();
        let source = SourceModel::open(model.path(), None).unwrap();
        let error = source.write_gguf(&cpu, Some(quantization), &path, &mut |_, _| true).unwrap_err();
        assert!(error.to_string().contains("blk.1.ffn_down.weight"), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }
}

#[test]
fn missing_tensors_are_all_named() {
    let model = folder("llama", "config.json");
    let config = fs::read_to_string(model.path().join("config.json")).unwrap();
    let taller = config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4");
    assert_ne!(config, taller);
    fs::write(model.path().join("config.json"), taller).unwrap();
    let error = SourceModel::open(model.path(), None).unwrap_err();
    assert!(matches!(&error, Error::Tensors { problems, .. } if problems.len() == 9), "{error}");
}

#[test]
fn a_tokenizer_travels_with_its_model() {
    let cpu = Cpu::new(1).unwrap();
    let model = folder("llama", "config.json");
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.gguf");
    assert!(!SourceModel::open(model.path(), None).unwrap().has_tokenizer());
    // 260 tokens at least, which the 128 rows of the embedding do not have.
    let texts = ["one two one two".to_owned()].into_iter();
    let tokenizer = Tokenizer::train(texts, 262, |_| {}).unwrap();
    tokenizer.save(model.path().join("tokenizer.json")).unwrap();
    let error = SourceModel::open(model.path(), None).unwrap_err();
    assert!(error.to_string().contains("128 rows"), "{error}");

    // And one with fewer tokens than rows.
    let small = tempfile::tempdir().unwrap();
    let (config, weights) = small_openelm();
    weights.save(small.path(), &config, elmwood_model::FloatType::Bf16).unwrap();
    tokenizer.save(small.path().join("tokenizer.json")).unwrap();
    let file = convert(&cpu, small.path(), None, &path);
    assert_eq!(file.metadata().strings("tokenizer.ggml.tokens").unwrap().len(), 300);
    assert_eq!(file.tensor("token_embd.weight").unwrap().ty, GgmlType::BF16);
    assert_eq!(file.metadata().u32("general.file_type").unwrap(), 32);
    let back = Tokenizer::open(&path).unwrap();
    assert_eq!(back.encode("two one"), tokenizer.encode("two one"));
    let heads = file.metadata().u32s("openelm.attention.head_count").unwrap();
    assert!(heads.len() == 3 && heads[0] < heads[2], "{heads:?}");
    let [before, after] = [small.path(), &path].map(|path| LocalModel::load(path, &cpu, Dtype::F32).unwrap());
    assert_eq!(all_logits(&before, &cpu, &[1, 2, 3]), all_logits(&after, &cpu, &[1, 2, 3]));
}

fn small_openelm() -> (elmwood_model::OpenElmConfig, elmwood_model::Weights) {
    let config = elmwood_model::OpenElmConfig::new(&elmwood_model::Scaling {
        model_dim: 32,
        num_transformer_layers: 3,
        head_dim: 8,
        num_gqa_groups: 2,
        qkv_multipliers: [0.5, 1.0],
        ffn_multipliers: [0.5, 2.0],
        ffn_dim_divisor: 16,
        vocab_size: 300,
        max_context_length: 40,
    })
    .unwrap();
    let weights = elmwood_model::Weights::init(&config, 3);
    (config, weights)
}

/// A model of llama2.c's format, all numbers different.
fn checkpoint(vocab: i32) -> Vec<u8> {
    let header = [8_i32, 12, 2, 4, 2, vocab, 16];
    let n: usize =
        5 * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 3 * 96) + 8 + 16 * 2 + if vocab < 0 { 40 } else { 0 };
    let numbers = (0..n).flat_map(|i| (i as f32).to_le_bytes());
    header.into_iter().flat_map(i32::to_le_bytes).chain(numbers).collect()
}

fn tokens(texts: &[&str]) -> Vec<u8> {
    let mut bytes = 7_u32.to_le_bytes().to_vec();
    for (i, text) in texts.iter().enumerate() {
        bytes.extend((-(i as f32)).to_le_bytes());
        bytes.extend((text.len() as i32).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

#[test]
fn models_of_llama2_c_are_read_in_the_order_of_their_file() {
    let cpu = Cpu::new(1).unwrap();
    let place = tempfile::tempdir().unwrap();
    let (model, out) = (place.path().join("m.bin"), place.path().join("m.gguf"));
    for vocab in [5, -5] {
        fs::write(&model, checkpoint(vocab)).unwrap();
        fs::write(place.path().join("tok5.bin"), tokens(&["<unk>", "\n<s>\n", "", "<0x00>", "<0x01>"]))
            .unwrap();
        let file = convert(&cpu, &model, None, &out);
        let first = |name: &str| {
            let data = file.tensor(name).unwrap().data;
            f32::from_le_bytes(*data.first_chunk().unwrap())
        };
        // Queries of both layers, keys of both, and so on; the output matrix lies behind the tables.
        let names = [
            "token_embd",
            "blk.0.attn_norm",
            "blk.1.attn_norm",
            "blk.0.attn_q",
            "blk.1.attn_q",
            "blk.0.attn_k",
        ];
        assert_eq!(names.map(|name| first(&format!("{name}.weight"))), [0.0, 40.0, 48.0, 56.0, 120.0, 184.0]);
        let ffn = ["blk.0.ffn_gate", "blk.0.ffn_down", "blk.1.ffn_up", "output_norm"];
        assert_eq!(ffn.map(|name| first(&format!("{name}.weight"))), [456.0, 648.0, 936.0, 1032.0]);
        match file.tensor("output.weight") {
            Some(_) if vocab < 0 => assert_eq!(first("output.weight"), 1072.0),
            other => assert!(other.is_none() && vocab > 0),
        }
        assert_eq!(file.metadata().strings("tokenizer.ggml.tokens").unwrap()[1..3], ["<s>", "</s>"]);
        assert_eq!(file.metadata().u32("llama.attention.head_count_kv").unwrap(), 2);
    }
}

#[test]
fn damaged_models_of_llama2_c_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (place.path().join("m.bin"), place.path().join("tokenizer.bin"));
    let open = |bytes: &[u8]| {
        fs::write(&model, bytes).unwrap();
        SourceModel::open(&model, None).map(|_| ()).map_err(|error| error.to_string())
    };
    let whole = checkpoint(5);
    let beside = open(&whole).unwrap_err();
    assert!(beside.contains("neither `tok5.bin` nor") || beside.contains("--tokenizer"), "{beside}");
    let pieces = tokens(&["a", "b", "c", "d", "e"]);
    for (bytes, words) in [
        (pieces[..pieces.len() - 1].to_vec(), "token 4 is cut off"),
        ([&pieces[..], &[0]].concat(), "1 bytes follow"),
        (pieces[..3].to_vec(), "too short"),
        ([&pieces[..8], &[255; 4], &pieces[12..]].concat(), "token 0 is cut off"),
    ] {
        fs::write(&tokenizer, bytes).unwrap();
        let error = open(&whole).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    fs::write(&tokenizer, &pieces).unwrap();
    open(&whole).unwrap();
    for cut in 0..whole.len() {
        assert!(open(&whole[..cut]).is_err(), "{cut} bytes");
    }
    for at in 0..7 {
        for value in [0, -1, 3, i32::MAX, i32::MIN] {
            let mut bytes = whole.clone();
            bytes[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(open(&bytes).is_err(), "number {at} is {value}");
        }
    }
    fs::write(place.path().join("tok5.bin"), &pieces).unwrap();
    assert!(open(&whole).unwrap_err().contains("both"));
}

/// `bench/peers/make_stories.py` writes the same tensors and tokens.
#[test]
fn a_trained_model_of_llama2_c_keeps_its_numbers() {
    let Some(model) = shared("models/stories260K.bin") else { return };
    let cpu = Cpu::new(2).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("stories.gguf");
    let file = convert(&cpu, &model, None, &path);
    let source = fs::read(model).unwrap();
    assert!(source[28..].starts_with(file.tensor("token_embd.weight").unwrap().data));
    let all: usize = file.tensors().map(|tensor| tensor.data.len()).sum();
    // All but the tables: 512 places of 8 numbers.
    assert_eq!(all, source.len() - 28 - 512 * 8 * 4);
    let tokenizer = Tokenizer::open(&path).unwrap();
    let ids = tokenizer.encode_prompt("Once upon a time, Zoë", elmwood_model::Special::AsText);
    assert_eq!(ids[0], tokenizer.bos());
    assert_eq!(tokenizer.decode(&ids), "Once upon a time, Zoë");
    // A width of 64 has no blocks of 256: the types with blocks of 32 take their place.
    let q4_k = write(&cpu, &path, Some(Quantization::Q4_K_M), &out.path().join("q4_k.gguf"));
    assert!(q4_k.tensors.contains_key("Q5_0") && !q4_k.tensors.contains_key("Q4_K"), "{q4_k:?}");
}
