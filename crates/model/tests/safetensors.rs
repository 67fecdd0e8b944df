//! Safetensors files and model folders: what is written comes back, and no damage goes unnoticed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use elmwood_model::{
    CONFIG_FILE, Dtype, Error, Fault, FloatType, INDEX_FILE, LayerShape, OpenElmConfig, SafetensorsFile,
    SafetensorsFolder, SafetensorsWriter, Scaling, TensorProblem, TensorRole, WEIGHTS_FILE, Weights, layout,
};

/// OpenELM-270M with everything a twentieth as wide: the same heads in every layer, the same steps of the
/// feed-forward width, other sizes.
fn small_270m() -> OpenElmConfig {
    let small = Scaling {
        model_dim: 80,
        head_dim: 4,
        ffn_dim_divisor: 16,
        vocab_size: 50,
        max_context_length: 64,
        ..Scaling::published(16, 80, 4)
    };
    OpenElmConfig::new(&small).unwrap()
}

/// A whole file: header length, header, values.
fn file_of(header: &str, n_value_bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; n_value_bytes]].concat()
}

fn open(bytes: &[u8]) -> Result<SafetensorsFile, Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(WEIGHTS_FILE), bytes).unwrap();
    SafetensorsFile::open(folder.path().join(WEIGHTS_FILE))
}

#[test]
fn the_small_model_has_the_heads_of_the_large_one() {
    let heads = |layer: LayerShape| (layer.query_heads, layer.kv_heads);
    let (small, large) = (small_270m(), OpenElmConfig::openelm_270m());
    assert!(small.layers().map(heads).eq(large.layers().map(heads)));
    assert!(small.layers().map(|l| l.ffn_dim * 16).eq(large.layers().map(|l| l.ffn_dim)));
}

#[test]
fn read_and_written_again_a_file_is_the_same() {
    let config = small_270m();
    for dtype in [FloatType::F32, FloatType::Bf16] {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Weights::init(&config, 3).save(first.path(), &config, dtype).unwrap();
        let (read_config, weights) = Weights::load(first.path()).unwrap();
        assert_eq!(read_config.torch_dtype(), dtype.torch_name());
        weights.save(second.path(), &read_config, dtype).unwrap();
        for name in [WEIGHTS_FILE, CONFIG_FILE, "generation_config.json"] {
            let bytes = |folder: &tempfile::TempDir| fs::read(folder.path().join(name)).unwrap();
            assert!(bytes(&first) == bytes(&second), "{name}");
        }
        if dtype == FloatType::F32 {
            assert!(weights == Weights::init(&config, 3), "f32 keeps every bit");
        }
    }
}

#[test]
fn the_published_file_has_a_header_of_the_same_length() {
    // OpenELM-270M in bf16 is 543,068,952 bytes: 14,616 more than its values.
    let config = OpenElmConfig::openelm_270m();
    let specs = layout(&config);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(WEIGHTS_FILE);
    let tensors = specs.iter().map(|spec| (spec.name.as_str(), &spec.shape[..]));
    drop(SafetensorsWriter::create(&path, tensors, FloatType::Bf16).unwrap());
    assert!(!path.exists(), "an unfinished file has no name");

    let small = small_270m();
    Weights::init(&small, 0).save(folder.path(), &small, FloatType::Bf16).unwrap();
    let bytes = fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(header_len % 8, 0);
    let header = std::str::from_utf8(&bytes[8..8 + header_len]).unwrap();
    assert!(
        header.starts_with(r#"{"__metadata__":{"format":"pt"},"transformer.layers.0.attn.k_norm.weight":"#)
    );
    // The same header with the numbers of the large model.
    let mut begin = 0;
    let mut json = r#"{"__metadata__":{"format":"pt"}"#.len() + "}".len();
    for spec in &specs {
        let end = begin + 2 * spec.n_values();
        let shape = format!("{:?}", spec.shape).replace(' ', "");
        let entry =
            format!(r#","{}":{{"dtype":"BF16","shape":{shape},"data_offsets":[{begin},{end}]}}"#, spec.name);
        json += entry.len();
        begin = end;
    }
    assert_eq!(8 + json.next_multiple_of(8) + begin, 543_068_952);
}

#[test]
fn the_reference_library_writes_the_same_bytes() {
    let config = small_270m();
    let weights = Weights::init(&config, 3);
    let folder = tempfile::tempdir().unwrap();
    weights.save(folder.path(), &config, FloatType::F32).unwrap();
    let bytes: Vec<Vec<u8>> = (weights.tensors().iter())
        .map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = weights.tensors().iter().zip(&bytes).map(|(tensor, bytes)| {
        let shape = tensor.spec.shape.clone();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).unwrap();
        (tensor.spec.name.as_str(), view)
    });
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let expected = safetensors::serialize(views, Some(metadata)).unwrap();
    assert!(fs::read(folder.path().join(WEIGHTS_FILE)).unwrap() == expected);
}

#[test]
fn views_convert_and_tell_what_they_are() {
    let header = r#"{"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},
        "b":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]},
        "i":{"dtype":"U8","shape":[],"data_offsets":[8,9]},
        "none":{"dtype":"F32","shape":[0,7],"data_offsets":[9,9]},
        "__metadata__":{"format":"pt","by":"hand"}}"#;
    let mut bytes = file_of(header, 0);
    bytes.extend([0x00, 0x3C, 0x00, 0xC0, 0x80, 0x3F, 0x00, 0xC0, 5]);
    let file = open(&bytes).unwrap();
    let values = |name: &str| file.tensor(name).unwrap().to_f32();
    assert_eq!(values("h"), Some(vec![1.0, -2.0]));
    assert_eq!(values("b"), Some(vec![1.0, -2.0]));
    assert_eq!(values("i"), None);
    assert_eq!(values("none"), Some(vec![]));
    assert!(file.tensor("x").is_none());
    assert_eq!(file.metadata()["by"], "hand");
    let b = file.tensor("b").unwrap();
    assert_eq!((b.dtype, b.shape, b.n_values()), (Dtype::Bf16, &[1, 2][..], 2));
    let names: Vec<&str> = file.tensors().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["h", "b", "i", "none"], "in the order of the values");
}

#[test]
fn every_malformed_file_gives_its_own_error() {
    /// A well-formed entry of four bytes at `begin`.
    fn entry(name: &str, begin: u64) -> String {
        format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{begin},{}]}}"#, begin + 4)
    }
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let f32s = |shape: &str, offsets: &str| one(r#""F32""#, shape, offsets);
    let json = |reason: &str| Fault::HeaderJson { reason: reason.into() };
    let missing = |key| Fault::MissingKey { key };
    let unknown = |name: &str| Fault::UnknownDtype { name: name.into() };
    let huge = u64::MAX;

    // Header length and header bytes given raw.
    let raw = |len: u64, rest: &[u8]| [&len.to_le_bytes(), rest].concat();
    let in_header = |header: &str, n_value_bytes: usize| file_of(header, n_value_bytes);
    let many_axes = format!("[{}1]", "1,".repeat(8));
    let many_tensors = {
        let empty = |i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
        format!("{{{}}}", (0..100_002).map(empty).collect::<Vec<_>>().join(","))
    };
    let two = |second: u64| format!("{{{},{}}}", entry("a", 0), entry("b", second));

    // What is wrong, the file, and the error: rule, tensor, byte.
    type Case<'a> = (&'a str, Vec<u8>, Fault, Option<&'a str>, u64);
    let cases: Vec<Case<'_>> = vec![
        // The eight bytes of length.
        ("empty", vec![], Fault::TooShort { len: 0 }, None, 0),
        ("seven bytes", vec![0; 7], Fault::TooShort { len: 7 }, None, 0),
        ("length beyond file", raw(10, b"{}"), Fault::HeaderBeyondFile { len: 10 }, None, 0),
        ("length at 100 MB", raw(100_000_000, b"{}"), Fault::HeaderBeyondFile { len: 100_000_000 }, None, 0),
        ("length over 100 MB", raw(100_000_001, b"{}"), Fault::HeaderTooLong { len: 100_000_001 }, None, 0),
        ("length all ones", raw(huge, b"{}"), Fault::HeaderTooLong { len: huge }, None, 0),
        // The header as a text.
        ("no header", raw(0, b""), Fault::HeaderStart, None, 8),
        ("leading space", in_header(" {}", 0), Fault::HeaderStart, None, 8),
        ("a list", in_header("[]", 0), Fault::HeaderStart, None, 8),
        ("byte order mark", in_header("\u{feff}{}", 0), Fault::HeaderStart, None, 8),
        ("a pickle", raw(4, b"\x80\x04\x95\x00"), Fault::HeaderStart, None, 8),
        ("not UTF-8", raw(5, b"{\"\xff\"}"), Fault::HeaderUtf8, None, 10),
        ("cut character", raw(4, b"{\"\xe4\xb8"), Fault::HeaderUtf8, None, 10),
        ("unfinished", in_header("{", 0), json("EOF while parsing an object at line 1 column 1"), None, 8),
        ("bare word", in_header("{a}", 0), json("key must be a string at line 1 column 2"), None, 9),
        ("two objects", in_header("{}{}", 0), json("trailing characters at line 1 column 3"), None, 10),
        (
            "zeros as padding",
            in_header("{}\0\0", 0),
            json("trailing characters at line 1 column 3"),
            None,
            10,
        ),
        ("trailing comma", in_header("{\"a\":1,}", 0), json("trailing comma at line 1 column 8"), None, 15),
        // Names.
        (
            "tensor twice",
            in_header(&format!("{{{},{}}}", entry("a", 0), entry("a", 4)), 8),
            Fault::DuplicateTensor,
            Some("a"),
            66,
        ),
        (
            "twice by an escape",
            in_header(&format!("{{{},{}}}", entry("a", 0), entry("\\u0061", 4)), 8),
            Fault::DuplicateTensor,
            Some("a"),
            71,
        ),
        (
            "metadata twice",
            in_header(r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
            Fault::DuplicateTensor,
            Some("__metadata__"),
            42,
        ),
        ("too many tensors", in_header(&many_tensors, 0), Fault::TooManyTensors, None, 8),
        // Metadata.
        (
            "metadata is a list",
            in_header(r#"{"__metadata__":[]}"#, 0),
            Fault::Metadata,
            Some("__metadata__"),
            24,
        ),
        (
            "metadata of numbers",
            in_header(r#"{"__metadata__":{"a":1}}"#, 0),
            Fault::Metadata,
            Some("__metadata__"),
            24,
        ),
        (
            "metadata key twice",
            in_header(r#"{"__metadata__":{"a":"1","a":"1"}}"#, 0),
            Fault::Metadata,
            Some("__metadata__"),
            24,
        ),
        // Entries.
        ("entry is a number", in_header(r#"{"a":1}"#, 0), Fault::Entry, Some("a"), 13),
        ("entry is null", in_header(r#"{"a":null}"#, 0), Fault::Entry, Some("a"), 13),
        (
            "entry is nested deeply",
            in_header(&format!(r#"{{"a":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000)), 0),
            Fault::Entry,
            Some("a"),
            13,
        ),
        ("entry is empty", in_header(r#"{"a":{}}"#, 0), missing("dtype"), Some("a"), 13),
        ("no shape", in_header(r#"{"a":{"dtype":"F32"}}"#, 0), missing("shape"), Some("a"), 13),
        (
            "no offsets",
            in_header(r#"{"a":{"dtype":"F32","shape":[]}}"#, 4),
            missing("data_offsets"),
            Some("a"),
            13,
        ),
        (
            "foreign key",
            in_header(r#"{"a":{"type":"F32"}}"#, 0),
            Fault::UnknownKey { key: "type".into() },
            Some("a"),
            13,
        ),
        (
            "key twice",
            in_header(r#"{"a":{"dtype":"F32","dtype":"U8"}}"#, 0),
            Fault::DuplicateKey { key: "dtype".into() },
            Some("a"),
            13,
        ),
        // Types.
        ("unknown type", in_header(&one(r#""F31""#, "[1]", "[0,4]"), 4), unknown("F31"), Some("a"), 13),
        ("lower-case type", in_header(&one(r#""f32""#, "[1]", "[0,4]"), 4), unknown("f32"), Some("a"), 13),
        ("type is a number", in_header(&one("32", "[1]", "[0,4]"), 4), unknown("32"), Some("a"), 13),
        // Shapes.
        ("shape is a number", in_header(&f32s("1", "[0,4]"), 4), Fault::Shape, Some("a"), 13),
        ("negative axis", in_header(&f32s("[-1]", "[0,4]"), 4), Fault::Shape, Some("a"), 13),
        ("fractional axis", in_header(&f32s("[1.0]", "[0,4]"), 4), Fault::Shape, Some("a"), 13),
        (
            "axis over 2^64",
            in_header(&f32s("[18446744073709551616]", "[0,4]"), 4),
            Fault::Shape,
            Some("a"),
            13,
        ),
        (
            "nine axes",
            in_header(&f32s(&many_axes, "[0,4]"), 4),
            Fault::TooManyDimensions { n: 9 },
            Some("a"),
            13,
        ),
        (
            "product wraps to zero",
            in_header(&f32s("[4294967296,4294967296]", "[0,0]"), 0),
            Fault::ShapeOverflow { shape: vec![1 << 32, 1 << 32] },
            Some("a"),
            13,
        ),
        (
            "bytes wrap to four",
            in_header(&f32s("[4611686018427387905]", "[0,4]"), 4),
            Fault::ShapeOverflow { shape: vec![(1 << 62) + 1] },
            Some("a"),
            13,
        ),
        // Offsets.
        ("one offset", in_header(&f32s("[1]", "[0]"), 4), Fault::Offsets, Some("a"), 13),
        ("three offsets", in_header(&f32s("[1]", "[0,4,8]"), 4), Fault::Offsets, Some("a"), 13),
        ("negative offset", in_header(&f32s("[1]", "[-4,0]"), 4), Fault::Offsets, Some("a"), 13),
        (
            "reversed",
            in_header(&f32s("[1]", "[4,0]"), 4),
            Fault::OffsetsReversed { begin: 4, end: 0 },
            Some("a"),
            13,
        ),
        (
            "shorter than the shape",
            in_header(&f32s("[2]", "[0,4]"), 4),
            Fault::Length { expected: 8, got: 4 },
            Some("a"),
            13,
        ),
        (
            "longer than the shape",
            in_header(&f32s("[0]", "[0,4]"), 4),
            Fault::Length { expected: 0, got: 4 },
            Some("a"),
            13,
        ),
        (
            "beyond the file",
            in_header(&f32s("[2]", "[0,8]"), 4),
            Fault::BeyondFile { end: 8, len: 4 },
            Some("a"),
            13,
        ),
        (
            "far beyond the file",
            in_header(&f32s("[1]", "[18446744073709551611,18446744073709551615]"), 4),
            Fault::BeyondFile { end: huge, len: 4 },
            Some("a"),
            13,
        ),
        // Cover.
        (
            "gap at the beginning",
            in_header(&f32s("[1]", "[4,8]"), 8),
            Fault::Gap { begin: 4, previous_end: 0 },
            Some("a"),
            13,
        ),
        ("gap between", in_header(&two(8), 12), Fault::Gap { begin: 8, previous_end: 4 }, Some("b"), 66),
        ("overlap", in_header(&two(2), 6), Fault::Overlap { begin: 2, previous_end: 4 }, Some("b"), 66),
        ("same place", in_header(&two(0), 4), Fault::Overlap { begin: 0, previous_end: 4 }, Some("b"), 66),
        (
            "bytes left over",
            in_header(&f32s("[1]", "[0,4]"), 5),
            Fault::Uncovered { covered: 4, len: 5 },
            None,
            66,
        ),
        ("values without tensors", in_header("{}", 1), Fault::Uncovered { covered: 0, len: 1 }, None, 10),
    ];
    assert!(cases.len() >= 40);
    for (name, bytes, expected, expected_tensor, expected_offset) in cases {
        let started = std::time::Instant::now();
        match open(&bytes) {
            Err(Error::Safetensors { fault, tensor, offset, .. }) => {
                assert_eq!(fault, expected, "{name}");
                assert_eq!(tensor.as_deref(), expected_tensor, "{name}");
                assert_eq!(offset, expected_offset, "{name}");
            }
            other => panic!("{name} gave {other:?}"),
        }
        assert!(started.elapsed().as_millis() < 500, "{name} took {:?}", started.elapsed());
    }
}

/// Writes a file of F32 tensors.
fn write(path: &Path, tensors: &[(&str, &[usize], &[f32])]) {
    let specs = tensors.iter().map(|&(name, shape, _)| (name, shape));
    let mut writer = SafetensorsWriter::create(path, specs, FloatType::F32).unwrap();
    tensors.iter().for_each(|(_, _, values)| writer.tensor(values).unwrap());
    writer.finish().unwrap();
}

#[test]
fn sharded_folders_load_and_bad_indexes_do_not() {
    let config = small_270m();
    let weights = Weights::init(&config, 5);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    config.save(file(CONFIG_FILE)).unwrap();
    let shard_of =
        |idx: usize| if idx.is_multiple_of(3) { "model-1.safetensors" } else { "model-2.safetensors" };
    let mut index = BTreeMap::new();
    for shard in ["model-1.safetensors", "model-2.safetensors"] {
        let here: Vec<_> = (weights.tensors().iter().enumerate())
            .filter(|&(idx, _)| shard_of(idx) == shard)
            .map(|(_, tensor)| (tensor.spec.name.as_str(), &tensor.spec.shape[..], &tensor.values[..]))
            .collect();
        write(&file(shard), &here);
        index.extend(here.iter().map(|(name, ..)| (*name, shard)));
    }
    let write_index = |map: &serde_json::Value| {
        let json = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        fs::write(file(INDEX_FILE), json.to_string()).unwrap();
    };
    write_index(&serde_json::json!(index));
    assert!(Weights::load(folder.path()).unwrap().1 == weights);

    let first = "transformer.layers.0.attn.k_norm.weight";
    for (name, key, value) in [
        ("outside of the folder", first, "../model-1.safetensors"),
        ("absolute", first, "/model-1.safetensors"),
        ("another kind of file", first, "model.bin"),
        ("hidden file", first, "..safetensors"),
        ("in the other file", first, "model-2.safetensors"),
        ("in no file", "extra", "model-1.safetensors"),
    ] {
        let mut map = serde_json::json!(index);
        map[key] = value.into();
        write_index(&map);
        assert!(matches!(Weights::load(folder.path()), Err(Error::ShardIndex { .. })), "{name}");
    }
    for text in ["", "[]", "{}", r#"{"weight_map":1}"#, r#"{"weight_map":{},"weight_map":{}}"#] {
        fs::write(file(INDEX_FILE), text).unwrap();
        assert!(matches!(Weights::load(folder.path()), Err(Error::ShardIndex { .. })), "{text}");
    }
    let twice =
        format!(r#"{{"weight_map":{{"{first}":"model-1.safetensors","{first}":"model-1.safetensors"}}}}"#);
    fs::write(file(INDEX_FILE), twice).unwrap();
    assert!(matches!(Weights::load(folder.path()), Err(Error::ShardIndex { .. })));
    fs::remove_file(file(INDEX_FILE)).unwrap();
    assert!(matches!(SafetensorsFolder::open(folder.path()), Err(Error::Io { .. })));
}

#[test]
fn corenet_names_load() {
    let config = small_270m();
    let weights = Weights::init(&config, 9);
    let folder = tempfile::tempdir().unwrap();
    config.save(folder.path().join(CONFIG_FILE)).unwrap();
    let tensors: Vec<_> = (weights.tensors().iter())
        .map(|tensor| {
            (
                tensor.spec.name.strip_prefix("transformer.").unwrap(),
                &tensor.spec.shape[..],
                &tensor.values[..],
            )
        })
        .collect();
    write(&folder.path().join(WEIGHTS_FILE), &tensors);
    assert!(Weights::load(folder.path()).unwrap().1 == weights);
}

#[test]
fn every_difference_to_the_configuration_is_listed() {
    let config = small_270m();
    let weights = Weights::init(&config, 1);
    let folder = tempfile::tempdir().unwrap();
    config.save(folder.path().join(CONFIG_FILE)).unwrap();
    let mut tensors: Vec<_> = (weights.tensors().iter())
        .filter(|tensor| !tensor.spec.name.contains("layers.1."))
        .map(|tensor| (tensor.spec.name.as_str(), &tensor.spec.shape[..], &tensor.values[..]))
        .collect();
    let q_norm = tensors.iter_mut().find(|tensor| tensor.0.ends_with("layers.2.attn.q_norm.weight")).unwrap();
    *q_norm = (q_norm.0, &[3], &q_norm.2[..3]);
    tensors.extend([("lm_head.weight", &[1][..], &[0.0][..]), ("transformer.extra", &[1], &[0.0])]);
    write(&folder.path().join(WEIGHTS_FILE), &tensors);
    let error = Weights::load(folder.path()).unwrap_err();
    let text = error.to_string();
    let Error::Tensors { problems, .. } = error else { panic!("{error}") };
    assert_eq!(problems.len(), 8 + 1 + 2);
    assert!(problems.contains(&TensorProblem::Misshapen {
        name: "transformer.layers.2.attn.q_norm.weight".into(),
        expected: vec![4],
        got: vec![3],
    }));
    assert!(problems.contains(&TensorProblem::Superfluous { name: "lm_head.weight".into() }));
    assert!(
        problems.contains(&TensorProblem::Missing { name: "transformer.layers.1.ffn_norm.weight".into() })
    );
    assert!(text.ends_with("and 1 more"), "{text}");
}

#[test]
fn weights_of_whole_numbers_are_refused() {
    let config = OpenElmConfig::new(&Scaling {
        model_dim: 8,
        num_gqa_groups: 1,
        vocab_size: 4,
        ffn_dim_divisor: 4,
        ..Scaling::published(1, 8, 2)
    });
    let folder = tempfile::tempdir().unwrap();
    let config = config.unwrap();
    config.save(folder.path().join(CONFIG_FILE)).unwrap();
    let mut begin = 0;
    let entries: Vec<String> = (layout(&config).iter())
        .map(|spec| {
            let end = begin + spec.n_values();
            let entry = format!(
                r#""{}":{{"dtype":"I8","shape":{:?},"data_offsets":[{begin},{end}]}}"#,
                spec.name, spec.shape
            );
            begin = end;
            entry
        })
        .collect();
    fs::write(folder.path().join(WEIGHTS_FILE), file_of(&format!("{{{}}}", entries.join(",")), begin))
        .unwrap();
    let Err(Error::Tensors { problems, .. }) = Weights::load(folder.path()) else { panic!("it loads") };
    assert_eq!(problems.len(), 10);
    assert!(matches!(&problems[0], TensorProblem::NotFloat { got: "I8", .. }));
}

#[test]
fn fresh_weights_have_the_deviations_of_the_reference() {
    let config = small_270m();
    let weights = Weights::init(&config, 11);
    assert_eq!(weights.n_values() as u64, elmwood_model::counts::parameters(&config).total());
    let deviation = |role: TensorRole| {
        let values: Vec<f32> = (weights.tensors().iter())
            .filter(|tensor| tensor.spec.role == role)
            .flat_map(|tensor| tensor.values.iter().copied())
            .collect();
        (values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    };
    let width = 80_f64;
    let stream = 1.0 / (width * 32.0).sqrt();
    for (role, expected) in [
        (TensorRole::TokenEmbeddings, width.powf(-0.5)),
        (TensorRole::QkvProj, width.powf(-0.5)),
        (TensorRole::Proj1, width.powf(-0.5)),
        (TensorRole::OutProj, stream),
        (TensorRole::Proj2, stream),
        (TensorRole::QNorm, 1.0),
        (TensorRole::FinalNorm, 1.0),
    ] {
        let got = deviation(role);
        assert!((got / expected - 1.0).abs() < 0.05, "{role:?}: {got} instead of {expected}");
    }
    // Recorded bits: another machine, compiler or number of threads must give the same.
    let first: Vec<u32> =
        weights.get(TensorRole::TokenEmbeddings, 0)[..4].iter().map(|x| x.to_bits()).collect();
    assert_eq!(first, [1015274871, 3183544802, 3174319929, 1032991899]);
    assert!(weights != Weights::init(&config, 12));
    assert!(weights == Weights::init(&config, 11));
}
