//! Writes the first inputs of every fuzz target into `corpus/`: small whole files of each kind, made here or taken from
//! the golden files of the tests.

use std::fs;
use std::path::{Path, PathBuf};

use elmwood_fuzz::small_gguf::{KINDS, SmallGguf};
use elmwood_model::{
    FloatType, OpenElmConfig, PLAIN_TEMPLATE, SafetensorsWriter, Scaling, Tokenizer, Weights,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    gguf(&golden)?;
    safetensors(&golden)?;
    tokenizer_json()?;
    let plain = PLAIN_TEMPLATE.as_bytes();
    seed("chat_template", "plain", plain)?;
    for template in fs::read_dir(golden.join("chat_templates"))? {
        let path = template?.path();
        if path.extension().is_some_and(|extension| extension == "jinja") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            seed("chat_template", &name, &fs::read(&path)?)?;
        }
    }
    for (name, temperature, top_k) in [("greedy", 0.0_f32, 0_u32), ("warm", 0.8, 3)] {
        let numbers = [0.9_f32, 0.05, 1.0, 2.0, 3.0, f32::NEG_INFINITY, f32::NAN, f32::INFINITY];
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        let settings = temperature.to_le_bytes().into_iter().chain(top_k.to_le_bytes());
        seed("sampler", name, &settings.chain(numbers).collect::<Vec<u8>>())?;
    }
    Ok(())
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(format!("seed_{name}")), bytes)?)
}

fn gguf(golden: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    for kind in 0..KINDS {
        SmallGguf::new(kind).write(&path)?;
        seed("gguf", &format!("model_{kind}"), &fs::read(&path)?)?;
        for (name, edits) in [("whole", &[][..]), ("edits", &[0, 3, 4, 0, 16, 5, 2, 3, 1, 9])] {
            seed("gguf_edits", &format!("{name}_{kind}"), &[&[kind], edits].concat())?;
        }
    }
    seed("gguf", "every_type", &fs::read(golden.join("gguf/every_type.gguf"))?)
}

fn safetensors(golden: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let weights = |names: &[(&str, &[usize])], dtype| -> Result<Vec<u8>> {
        let path = folder.path().join("weights");
        let mut writer = SafetensorsWriter::create(&path, names.iter().copied(), dtype)?;
        for (_, shape) in names {
            writer.tensor(&vec![0.5; shape.iter().product()])?;
        }
        writer.finish()?;
        Ok(fs::read(path)?)
    };
    let divided =
        |config: &[u8], index: &str, weights: &[u8]| [config, index.as_bytes(), weights].join(&0xFF);

    let two = weights(&[("a", &[2, 3]), ("b", &[0, 4])], FloatType::Bf16)?;
    seed("safetensors", "two_tensors", &two)?;
    let index =
        r#"{"metadata":{"total_size":12},"weight_map":{"a":"part.safetensors","b":"part.safetensors"}}"#;
    seed("safetensors", "indexed", &divided(b"{}", index, &two))?;
    let mut configs: Vec<PathBuf> = Vec::new();
    for case in fs::read_dir(golden.join("architectures"))? {
        for file in fs::read_dir(case?.path())? {
            configs.push(file?.path());
        }
    }
    configs.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("config")));
    configs.sort();
    for (idx, path) in configs.iter().enumerate() {
        seed("safetensors", &format!("config_{idx:02}"), &divided(&fs::read(path)?, "", &two))?;
    }

    let openelm = Scaling {
        ffn_dim_divisor: 4,
        vocab_size: 10,
        max_context_length: 16,
        ..Scaling::published(2, 16, 4)
    };
    let openelm = OpenElmConfig::new(&openelm)?;
    Weights::init(&openelm, 1).save(folder.path(), &openelm, FloatType::F32)?;
    let file = |name: &str| fs::read(folder.path().join(name));
    seed("safetensors", "openelm", &divided(&file("config.json")?, "", &file("model.safetensors")?))?;

    let sizes = r#""hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,
        "intermediate_size":4,"vocab_size":10,"max_position_embeddings":16,"bos_token_id":1,"eos_token_id":[2,3]"#;
    let common: [(&str, &[usize]); 4] = [
        ("model.embed_tokens.weight", &[10, 8]),
        ("model.norm.weight", &[8]),
        ("model.layers.0.input_layernorm.weight", &[8]),
        ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ];
    let llama: [(&str, &[usize]); 7] = [
        ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
        ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
        ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
        ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
        ("model.layers.0.mlp.gate_proj.weight", &[4, 8]),
        ("model.layers.0.mlp.up_proj.weight", &[4, 8]),
        ("model.layers.0.mlp.down_proj.weight", &[8, 4]),
    ];
    let phi3: [(&str, &[usize]); 5] = [
        ("model.layers.0.self_attn.qkv_proj.weight", &[16, 8]),
        ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
        ("model.layers.0.mlp.gate_up_proj.weight", &[8, 8]),
        ("model.layers.0.mlp.down_proj.weight", &[8, 4]),
        ("lm_head.weight", &[10, 8]),
    ];
    let config = format!(r#"{{"model_type":"llama","tie_word_embeddings":true,{sizes}}}"#);
    let bytes = weights(&[&common[..], &llama].concat(), FloatType::F32)?;
    seed("safetensors", "llama", &divided(config.as_bytes(), "", &bytes))?;
    let config = format!(r#"{{"model_type":"phi3","sliding_window":3,{sizes}}}"#);
    let bytes = weights(&[&common[..], &phi3].concat(), FloatType::Bf16)?;
    seed("safetensors", "phi3", &divided(config.as_bytes(), "", &bytes))
}

fn tokenizer_json() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("tokenizer.json");
    let texts = ["the cat sat on the mat", "the dog saw the cat"].map(String::from);
    Tokenizer::train(texts.into_iter(), 270, |_| {})?.save(&path)?;
    seed("tokenizer_json", "own", &fs::read(&path)?)?;

    let added = r#""added_tokens":[
        {"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
        {"id":1,"content":"</s>","single_word":false,"lstrip":true,"rstrip":true,"normalized":false,"special":true}]"#;
    let config = br#"{"bos_token":"<s>","eos_token":{"content":"</s>"},"add_bos_token":true,
        "chat_template":"{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"}"#;
    let models = [
        ("word_level", r#"{"type":"WordLevel","vocab":{"<s>":0,"</s>":1,"a":2,"ab":3},"unk_token":"a"}"#),
        (
            "word_piece",
            r###"{"type":"WordPiece","unk_token":"a","continuing_subword_prefix":"##",
            "max_input_chars_per_word":100,"vocab":{"<s>":0,"</s>":1,"a":2,"##b":3}}"###,
        ),
        (
            "unigram",
            r#"{"type":"Unigram","unk_id":2,"vocab":[["<s>",0.0],["</s>",0.0],["a",-1.0],["ab",-1.5]],
            "byte_fallback":false}"#,
        ),
        (
            "bpe",
            r#"{"type":"BPE","dropout":null,"unk_token":"a","fuse_unk":true,"byte_fallback":true,
            "vocab":{"<s>":0,"</s>":1,"a":2,"b":3,"ab":4,"<0x0A>":5},"merges":["a b"]}"#,
        ),
    ];
    let steps = [
        r#""normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
            {"type":"Replace","pattern":{"String":" "},"content":"▁"},{"type":"NFKC"},{"type":"Lowercase"}]},
            "pre_tokenizer":null,"post_processor":null,"decoder":{"type":"Sequence","decoders":[
            {"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},
            {"type":"Strip","content":" ","start":1,"stop":0}]}"#,
        r#""normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,
            "lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece","prefix":"",
            "cleanup":true},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>",
            "type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},
            {"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}}"#,
        r#""normalizer":null,"post_processor":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split",
            "pattern":{"Regex":"[a-z]+(?!b)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel",
            "add_prefix_space":false,"trim_offsets":true,"use_regex":true},{"type":"Digits","individual_digits":true}]},
            "decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}"#,
        r#""normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first",
            "split":true},"post_processor":null,"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":
            "first","split":true}"#,
    ];
    for ((name, model), steps) in models.iter().zip(steps) {
        let json = format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,{added},{steps},"model":{model}}}"#
        );
        seed("tokenizer_json", name, &[json.as_bytes(), config].join(&0xFF))?;
    }
    Ok(())
}
