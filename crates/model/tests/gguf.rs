//! GGUF files from outside: a golden file of the `gguf` package of Python, real files, and damage.

use std::fs;
use std::path::{Path, PathBuf};

use elmwood_model::{
    Error, GgmlType, GgufArray, GgufFault, GgufFile, GgufMetadata, GgufTensorSpec, GgufValue, GgufWriter,
};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gguf/every_type.gguf")
}

/// What `make_gguf.py` put into the golden file.
fn golden_metadata() -> GgufMetadata {
    let mut metadata = GgufMetadata::default();
    metadata.set("general.architecture", "golden");
    macro_rules! number {
        ($($key:literal $value:expr;)*) => {$(
            metadata.set(concat!("golden.", $key), $value);
            metadata.set(concat!("golden.", $key, "s"), vec![$value, 1 as _, 2 as _]);
        )*};
    }
    number! {
        "u8" 200_u8; "i8" -100_i8; "u16" 60_000_u16; "i16" -30_000_i16; "u32" 4_000_000_000_u32;
        "i32" -2_000_000_000_i32; "u64" u64::MAX; "i64" i64::MIN; "f32" 0.1_f32; "f64" 0.1_f64;
    }
    metadata.set("golden.bool", true);
    metadata.set("golden.bools", vec![true, false, true]);
    metadata.set("golden.string", "Grün, 中文, 🐈\n");
    metadata.set("golden.strings", ["a", "", "▁b", "ç"].map(String::from).to_vec());
    let nested = [vec![1, 2, 3], vec![4], vec![5, 6]].map(GgufArray::I32).to_vec();
    metadata.set("golden.nested", GgufArray::Array(nested));
    metadata
}

/// Writes what `file` holds, each tensor in parts of up to `part` bytes.
fn write_again(file: &GgufFile, path: &Path, part: usize) {
    let specs: Vec<GgufTensorSpec> = file
        .tensors()
        .map(|tensor| GgufTensorSpec { name: tensor.name.into(), shape: tensor.shape.into(), ty: tensor.ty })
        .collect();
    let mut writer = GgufWriter::create(path, file.metadata(), &specs).unwrap();
    for tensor in file.tensors() {
        tensor.data.chunks(part).for_each(|part| writer.write(part).unwrap());
    }
    writer.finish().unwrap();
}

#[test]
fn the_golden_file_is_read() {
    let file = GgufFile::open(golden()).unwrap();
    assert_eq!(file.version(), 3);
    assert_eq!(*file.metadata(), golden_metadata());
    let about =
        |name: &str| file.tensor(name).map(|tensor| (tensor.shape.to_vec(), tensor.ty, tensor.n_values()));
    assert_eq!(about("vector"), Some((vec![5], GgmlType::F32, 5)));
    assert_eq!(about("matrix"), Some((vec![2, 3], GgmlType::F16, 6)));
    for ty in [GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::BF16] {
        assert_eq!(about(&format!("cube.{ty}")), Some((vec![3, 2, 64], ty, 384)));
    }
    assert_eq!(about("indices"), Some((vec![1, 2, 2, 1], GgmlType::I32, 4)));
    assert_eq!(about("nothing"), None);

    let vector =
        file.tensor("vector").unwrap().data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    assert!(vector.eq((0..5_u8).map(|idx| f32::from(idx) / 4.0)));
    // The last weight of the cube is sin(383) = -0.28; Q8_0 keeps it to half of a step, which is 1/127.
    let block = file.tensor("cube.Q8_0").unwrap().data.as_chunks::<34>().0.last().unwrap();
    let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
    let last = scale * f32::from(block[33] as i8);
    assert!((last - 383_f32.sin()).abs() <= 0.5 * scale * 1.001, "{last} by steps of {scale}");
}

#[test]
fn what_is_written_is_what_the_package_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.gguf");
    let file = GgufFile::open(golden()).unwrap();
    for part in [usize::MAX, 100, 7] {
        write_again(&file, &path, part);
        assert_eq!(fs::read(&path).unwrap(), fs::read(golden()).unwrap());
    }
}

#[test]
fn real_files_come_back_byte_for_byte() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tokenizers");
    for (name, n_keys, n_tokens, architecture) in [
        ("ggml-vocab-phi-3.gguf", 26, 32064, "phi3"),
        ("ggml-vocab-llama-spm.gguf", 22, 32000, "llama"),
        ("ggml-vocab-gpt-2.gguf", 16, 50257, "gpt2"),
    ] {
        let path = folder.join(name);
        if !path.exists() {
            println!("skipped: {} is not there", path.display());
            continue;
        }
        let file = GgufFile::open(&path).unwrap();
        assert_eq!((file.version(), file.tensors().len()), (3, 0));
        let metadata = file.metadata();
        assert_eq!((metadata.iter().len(), metadata.architecture().unwrap()), (n_keys, architecture));
        assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().len(), n_tokens);
        let scratch = tempfile::tempdir().unwrap();
        let again = scratch.path().join("again.gguf");
        write_again(&file, &again, usize::MAX);
        let (ours, theirs) = (fs::read(again).unwrap(), fs::read(path).unwrap());
        // The package leaves out the last padding where there are no tensors.
        assert!(ours.starts_with(&theirs) && ours[theirs.len()..].iter().all(|&byte| byte == 0), "{name}");
        assert!(ours.len() - theirs.len() < 32);
    }
}

#[test]
fn alignment_and_empty_tensors_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("aligned.gguf");
    let mut metadata = GgufMetadata::default();
    metadata.set("general.alignment", 256_u32);
    let spec = |name: &str, shape: &[usize]| GgufTensorSpec {
        name: name.into(),
        shape: shape.into(),
        ty: GgmlType::F32,
    };
    let specs = [
        spec("empty", &[0, 3]),
        spec("one", &[1]),
        spec("none", &[0]),
        spec("two", &[2]),
        spec("scalar", &[]),
    ];
    let mut writer = GgufWriter::create(&path, &metadata, &specs).unwrap();
    for data in [[1; 4].as_slice(), &[2; 8], &[3; 4]] {
        writer.write(data).unwrap();
    }
    writer.finish().unwrap();
    let file = GgufFile::open(&path).unwrap();
    let read: Vec<_> = file.tensors().map(|tensor| (tensor.name, tensor.data.to_vec())).collect();
    let expected = [
        ("empty", vec![]),
        ("one", vec![1; 4]),
        ("none", vec![]),
        ("two", vec![2; 8]),
        ("scalar", vec![3; 4]),
    ];
    assert_eq!(read, expected);
    let start = file.tensor("one").unwrap().data.as_ptr() as usize;
    assert_eq!((file.tensor("two").unwrap().data.as_ptr() as usize - start, file.version()), (256, 3));
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.gguf");
    let metadata = GgufMetadata::default();
    let refused = |metadata: &GgufMetadata, shape: &[usize], ty: GgmlType| {
        let spec = |name: &str| GgufTensorSpec { name: name.into(), shape: shape.into(), ty };
        let specs = [spec("a"), spec(if shape.is_empty() { "a" } else { "b" })];
        match GgufWriter::create(&path, metadata, &specs) {
            Err(Error::Gguf { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(refused(&metadata, &[2, 31], GgmlType::Q8_0), GgufFault::Row { row: 31, .. }));
    assert!(matches!(refused(&metadata, &[1; 5], GgmlType::F32), GgufFault::TooManyDimensions { n: 5 }));
    assert!(matches!(refused(&metadata, &[usize::MAX, 2], GgmlType::F32), GgufFault::ShapeOverflow { .. }));
    assert!(matches!(refused(&metadata, &[], GgmlType::F32), GgufFault::DuplicateTensor));
    let mut unaligned = metadata.clone();
    unaligned.set("general.alignment", 48_u32);
    assert!(matches!(refused(&unaligned, &[1], GgmlType::F32), GgufFault::Alignment));
    unaligned.set("general.alignment", GgufValue::U64(32));
    assert!(matches!(refused(&unaligned, &[1], GgmlType::F32), GgufFault::Alignment));
    assert!(!path.exists() && fs::read_dir(folder.path()).unwrap().count() == 0);
}

#[test]
fn errors_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short.gguf");
    let bytes = fs::read(golden()).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 32]).unwrap();
    let text = GgufFile::open(&path).unwrap_err().to_string();
    assert!(
        text.contains("short.gguf") && text.contains("tensor `indices`") && text.contains("at byte"),
        "{text}"
    );
    for n in [0, 3, 10, 700] {
        fs::write(&path, &bytes[..n]).unwrap();
        assert!(matches!(GgufFile::open(&path), Err(Error::Gguf { .. })), "{n} bytes");
    }
    assert!(matches!(GgufFile::open("/nowhere/a.gguf"), Err(Error::Io { .. })));
}
