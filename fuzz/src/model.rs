//! What is done with hostile files of models, by the fuzz targets and by the test that replays their corpora.
//!
//! Every function takes one input and returns, whatever the input is: an error is as good as success. What must not
//! happen is a panic, a crash, endless work, or memory out of proportion to the input.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use elmwood_engine::{CacheFormat, Cpu, Dtype};
use elmwood_model::{
    Architecture, CONFIG_FILE, ChatMessage, ChatTemplate, GgufFile, GgufMetadata, INDEX_FILE, LocalModel,
    OpenElmConfig, SafetensorsFile, SafetensorsFolder, Special, TOKENIZER_FILE, Tokenizer, WEIGHTS_FILE,
    Weights,
};
use tempfile::TempDir;

use crate::small_gguf::SmallGguf;

/// Divides the parts of an input that stands for several files: no JSON has it.
pub const DIVIDER: u8 = 0xFF;

static CPU: LazyLock<Cpu> = LazyLock::new(|| Cpu::new(1).expect("an instruction set"));

/// Files are written here, one after the other: in memory where that is possible.
pub static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    folder.expect("a folder for files")
});

/// A GGUF file.
pub fn gguf(input: &[u8]) {
    let path = FOLDER.path().join("model.gguf");
    fs::write(&path, input).expect("a file can be written");
    open_gguf(&path);
}

/// Edits of a whole GGUF file.
pub fn gguf_edits(input: &[u8]) {
    let path = FOLDER.path().join("edited.gguf");
    if let Ok(true) = SmallGguf::edited(input).write(&path) {
        open_gguf(&path);
    }
}

/// All that is done with a GGUF file.
pub fn open_gguf(path: &Path) {
    let Ok(file) = GgufFile::open(path) else { return };
    for (key, _) in file.metadata().iter() {
        let metadata = file.metadata();
        let _ =
            (metadata.u32(key), metadata.u64(key), metadata.f32(key), metadata.bool(key), metadata.str(key));
        let _ = (metadata.strings(key), metadata.u32s(key), metadata.f32s(key));
    }
    for tensor in file.tensors() {
        assert_eq!(tensor.shape.iter().product::<usize>(), tensor.n_values());
        assert!(file.tensor(tensor.name).is_some(), "tensors are found by name");
        std::hint::black_box(tensor.data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
    }
    let _ = Architecture::from_gguf(&file);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file) {
        use_tokenizer(&tokenizer);
    }
    compute(path);
}

/// A model folder: `config.json`, index and file of weights, divided; a file of weights alone.
pub fn safetensors(input: &[u8]) {
    let folder = FOLDER.path().join("safetensors");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let write =
        |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("a file can be written");
    let mut parts = input.splitn(3, |&byte| byte == DIVIDER);
    let (config, index, weights) = match (parts.next(), parts.next(), parts.next()) {
        (Some(config), Some(index), Some(weights)) => (config, index, weights),
        _ => (&b""[..], &b""[..], input),
    };
    write(CONFIG_FILE, config);
    let weights_file = if index.is_empty() { WEIGHTS_FILE } else { "part.safetensors" };
    let _ = fs::remove_file(folder.join(WEIGHTS_FILE));
    write(INDEX_FILE, index);
    write(weights_file, weights);
    if let Ok(file) = SafetensorsFile::open(folder.join(weights_file)) {
        for tensor in file.tensors() {
            assert_eq!(tensor.shape.iter().product::<usize>(), tensor.n_values());
            let _ = tensor.to_f32();
        }
    }
    let config = String::from_utf8_lossy(config);
    let _ = (Architecture::from_config_json(&config), OpenElmConfig::from_json(&config));
    let _ = SafetensorsFolder::open(&folder);
    let _ = Weights::load(&folder);
    compute(&folder);
}

/// Loads a model and lets it read four tokens.
fn compute(path: &Path) {
    let Ok(model) = LocalModel::load(path, &CPU, Dtype::F32) else { return };
    let mut sequence = model.sequence(&CPU, 8, CacheFormat::F32);
    let vocab = model.architecture().vocab_size as u32;
    for tokens in [&[0, 1 % vocab, vocab / 2][..], &[vocab - 1]] {
        let logits = model.advance(&CPU, &mut sequence, tokens);
        assert_eq!(logits.len(), vocab as usize);
    }
}

/// A folder of a tokenizer: `tokenizer.json` and `tokenizer_config.json`, divided; the former alone.
pub fn tokenizer_json(input: &[u8]) {
    let folder = FOLDER.path().join("tokenizer");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let mut parts = input.splitn(2, |&byte| byte == DIVIDER);
    let (tokenizer, config) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(b"{}"));
    fs::write(folder.join(TOKENIZER_FILE), tokenizer).expect("a file can be written");
    fs::write(folder.join("tokenizer_config.json"), config).expect("a file can be written");
    if let Ok(tokenizer) = Tokenizer::open(&folder) {
        use_tokenizer(&tokenizer);
    }
}

/// Texts go in and come out, and nothing is asked of them.
fn use_tokenizer(tokenizer: &Tokenizer) {
    let vocab = tokenizer.vocab_size();
    for text in ["", "ab abab  ab\n", "<s> Héllo <|end|>\n\n 123's \u{1F408}</s>", "\0\u{FFFD}▁▁ <0x0A>"]
    {
        for special in [Special::AsText, Special::Parse] {
            let ids = tokenizer.encode_prompt(text, special);
            assert!(ids.iter().all(|&id| (id as usize) < vocab), "{ids:?} of {vocab} tokens");
            let _ = tokenizer.decode_with(&ids, special);
            let mut stream = tokenizer.decode_stream_after(&ids);
            for &id in &ids {
                let _ = stream.push(id);
            }
            let _ = stream.finish();
        }
    }
    for id in (0..vocab as u32).take(64).chain([u32::MAX]) {
        let _ = (tokenizer.token_bytes(id), tokenizer.special_name(id), tokenizer.ends_generation(id));
    }
    let _ = tokenizer.write_gguf(&mut GgufMetadata::default());
    if let Ok(template) = ChatTemplate::of(tokenizer) {
        let _ = template.render(&chat());
    }
}

/// A chat template.
pub fn chat_template(input: &[u8]) {
    if let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(input), "<s>", "</s>") {
        let _ = template.render(&chat());
    }
}

fn chat() -> [ChatMessage; 4] {
    [("system", "Be brief."), ("user", "Hello"), ("assistant", " Hi! "), ("user", "<|end|> {{ 1 }}\n")]
        .map(|(role, text)| ChatMessage::new(role, text))
}
