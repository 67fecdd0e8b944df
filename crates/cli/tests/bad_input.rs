//! Everything that a user can give wrong, or a disk can damage: what is said of it, with which exit code, and
//! that nothing is lost.

mod common;

use std::fs;

use common::{MODEL, Place, TINY, article, verify};

#[test]
fn mistakes_in_a_recipe_are_pointed_at() {
    let place = Place::new();
    let with = |from: &str, to: &str| {
        assert!(TINY.contains(from), "{from}");
        TINY.replace(from, to)
    };
    // What the file holds, and what is said of it.
    let cases: [(String, &[&str]); 10] = [
        (
            with("vocab_size", "vocab_sise"),
            &["unknown key `vocab_sise`", ":11:1)", "11 | vocab_sise = 320", "did you mean `vocab_size`?"],
        ),
        (with("seq_len", "learning_rate"), &["unknown key `learning_rate`", ":25:1)", "did you mean `lr`?"]),
        (
            with("[tokenizer]", "[tokeniser]"),
            &["unknown key `tokeniser`", ":10:2)", "did you mean `tokenizer`?"],
        ),
        (
            with("steps = 20", "steps = \"20\""),
            &["`train.steps` must be a whole number", "not the text \"20\"", ":27:9)"],
        ),
        (with("\"f32\"", "\"f16\""), &["`train.dtype` cannot be \"f16\"", ":24:9)", "help: "]),
        (
            with("batch_rows = 2", "batch_rows = 0"),
            &["`train.batch_rows` must be from 1", ":26:14)", "26 | batch_rows = 0"],
        ),
        (with("0.15", "0.9"), &["`curate.held_out_share` must be", ":8:18)"]),
        (
            with("\"site\"\npages = 60", "\"html\"\npath = \"nowhere\""),
            &["nowhere` does not exist", ":5:8)", "working directory"],
        ),
        (
            with("\"site\"\npages = 60", "\"html\""),
            &["`source.path` is missing", ":3:2)", "--set source.path=FOLDER"],
        ),
        (with("[model]", "[model"), &["(bad.toml:13:", "13 | [model", "recipes are TOML"]),
    ];
    for (recipe, words) in cases {
        place.write("bad.toml", recipe);
        let said = place.elmwood(&["grow", "bad.toml"]);
        said.fails(3, words).fails(3, &["(bad.toml:", "    |", "^"]);
        assert_eq!(said.out, "");
        assert!(!place.path("runs").exists(), "a wrong recipe left something");
    }
    // The same through --set is a wrong command line.
    place
        .grow(&["--set", "train.lrr=1"])
        .fails(2, &["unknown key `lrr`", "(--set:1:7)", "did you mean `lr`?"]);
    place
        .grow(&["--set", "train.lr=1e30"])
        .fails(2, &["`train.lr` must be above 0, at most 10", "(--set:1:10)"]);
    place
        .grow(&["--set", "source.kind=text", "--set", "source.path=no"])
        .fails(2, &["does not exist", "--set"]);
}

#[test]
fn what_is_no_recipe_is_said_to_be_none() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    place.write("page.toml", "<!doctype html><html></html>");
    place.write("binary.toml", [0x7f, b'E', b'L', b'F', 0xff, 0xfe]);
    place.write("large.toml", vec![b'#'; (1 << 20) + 1]);
    place.write("empty.toml", "");
    let cases: [(&str, i32, &[&str]); 6] = [
        ("missing.toml", 4, &["there is no such recipe (missing.toml)", "the working directory is"]),
        ("folder", 4, &["the recipe cannot be read: Is a directory", "(folder)"]),
        ("page.toml", 3, &["(page.toml:1:", "recipes are TOML"]),
        ("binary.toml", 3, &["not UTF-8 text: byte 4", "(binary.toml)"]),
        ("large.toml", 3, &["longer than 1 MiB", "(large.toml)"]),
        ("empty.toml", 3, &["`source.kind` is missing", "(empty.toml:1:1)", "add kind ="]),
    ];
    for (name, code, words) in cases {
        for verb in ["grow", "train"] {
            place.elmwood(&[verb, name]).fails(code, words);
        }
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn a_corpus_that_gives_no_model_says_what_to_change() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    place.write("one/only.txt", article(0));
    place.write("picture/a.png", [1, 2, 3]);
    place.write("short/a.txt", "too short");
    let text = |path: &str| {
        vec!["--set".to_owned(), "source.kind=text".into(), "--set".into(), format!("source.path={path}")]
    };
    let set = |value: &str| vec!["--set".to_owned(), value.to_owned()];
    let cases: [(Vec<String>, &[&str]); 7] = [
        (
            set("curate.min_words=100000"),
            &[
                "stage `curate` stopped",
                "no document left after curation: 60 read, 60 dropped by `too_few_words`",
                "lower `min_words`",
            ],
        ),
        (
            set("train.batch_rows=5000"),
            &[
                "stage `train` stopped",
                "the corpus is too small",
                "one step takes 5000",
                "use more text, or lower `batch_rows`",
            ],
        ),
        (set("train.grad_accum=5000"), &["the corpus is too small", "one step takes 10000"]),
        (
            text("one"),
            &["stage `curate` stopped", "no document was held out of 1", "help: give more documents"],
        ),
        (text("empty"), &["stage `extract` stopped", "/empty` holds no text file", "name another folder"]),
        (text("picture"), &["/picture` holds no text file"]),
        (text("short"), &["no document left after extraction", "`near_empty`"]),
    ];
    for (i, (args, words)) in cases.iter().enumerate() {
        let name = format!("name=case{i}");
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["--set", &name]).collect();
        let said = place.grow(&args);
        said.fails(3, words);
        assert_eq!(said.out, "");
        let run = format!("runs/case{i}");
        assert!(
            !place.path(&format!("{run}/report.html")).exists()
                && !place.path(&format!("{run}/model")).exists()
        );
        assert!(place.half_done(&run).is_empty());
        // A second time nothing of the first is taken for whole.
        place.grow(&args).fails(3, words);
    }
    // With the setting put right, the same run goes through.
    place.grow(&["--quiet", "--set", "name=case0"]).succeeds();
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_the_model_is_the_same() {
    let place = Place::new();
    place.grow(&["--quiet"]).succeeds();
    let want = place.read(MODEL);
    assert_eq!(place.checkpoints("tiny"), [16, 20]);
    let newest = "runs/tiny/train/checkpoints/step-00000020";
    let damages: [(&str, &dyn Fn()); 4] = [
        ("optimizer.safetensors` is damaged", &|| {
            place.flip(&format!("{newest}/optimizer.safetensors"), 0.9)
        }),
        ("model.safetensors` is damaged", &|| place.halve(&format!("{newest}/model.safetensors"))),
        ("state.json` is damaged", &|| place.remove(&format!("{newest}/state.json"))),
        ("step-00000020` is not complete", &|| place.halve(&format!("{newest}/manifest.json"))),
    ];
    for (words, damage) in damages {
        damage();
        // The stage has to look at its checkpoints again.
        place.remove("runs/tiny/train/model/model.safetensors");
        let said = place.grow(&[]);
        said.succeeds();
        assert!(said.err.contains("going on after step 16 of 20"), "{}", said.err);
        assert!(
            said.err.contains("warning: a checkpoint was passed over") && said.err.contains(words),
            "{words}: {}",
            said.err
        );
        assert_eq!(place.read("runs/tiny/train/model/model.safetensors"), place.read(MODEL));
        assert!(place.read(MODEL) == want, "{words}: another model");
        verify(&place.path(newest));
    }

    for step in [16, 20] {
        place.flip(&format!("runs/tiny/train/checkpoints/step-{step:08}/model.safetensors"), 0.5);
    }
    place.remove("runs/tiny/train/model/model.safetensors");
    let said = place.grow(&[]);
    said.fails(3, &["stage `train` stopped", "no checkpoint in `runs/tiny/train/checkpoints` can be used"]);
    said.fails(3, &["step-00000016/model.safetensors` is damaged", "remove the folder to start anew"]);
    place.remove("runs/tiny/train/checkpoints");
    place.grow(&["--quiet"]).succeeds();
    assert!(place.read(MODEL) == want);
}

#[test]
fn a_damaged_checkpoint_never_gets_into_the_mean() {
    let place = Place::new();
    let args = ["--quiet", "--set", "train.average_last=3"];
    place.grow(&args).succeeds();
    assert_eq!(place.checkpoints("tiny"), [12, 16, 20]);
    place.flip("runs/tiny/train/checkpoints/step-00000012/model.safetensors", 0.9);
    place.remove("runs/tiny/train/model/model.safetensors");
    place.grow(&args).fails(3, &["step-00000012/model.safetensors` is damaged", "BLAKE3"]);
}

#[test]
fn damaged_files_of_a_run_are_found_and_made_again() {
    let place = Place::new();
    place.grow(&["--quiet"]).succeeds();
    let want = place.files("runs/tiny/model");
    let same = |words: &str| {
        let got = place.files("runs/tiny/model");
        let stage = |files: &[(String, Vec<u8>)]| {
            files.iter().filter(|f| f.0 != "stage.json").cloned().collect::<Vec<_>>()
        };
        assert!(stage(&got) == stage(&want), "{words}: another model");
    };
    // Another size is noticed without being asked.
    for name in [
        "pack/train.safetensors",
        "tokenizer/tokenizer.json",
        "curate/train.jsonl.zst",
        "model/model.safetensors",
    ] {
        place.halve(&format!("runs/tiny/{name}"));
        place.grow(&["--quiet"]).succeeds();
        same(name);
    }
    // A wrong byte is noticed by the stage that reads it, or by --verify.
    let cases = [
        ("pack/held_out.safetensors", 0.0, "train", "no file of packed tokens"),
        ("tokenizer/tokenizer.json", 0.0, "pack", "no usable tokenizer"),
        ("curate/train.jsonl.zst", 0.5, "tokenizer", "train.jsonl.zst"),
        ("extract/documents.jsonl.zst", 0.5, "curate", "documents.jsonl.zst"),
        ("curate/held_out.jsonl.zst", 0.5, "judge", "held_out.jsonl.zst"),
        ("train/model/model.safetensors", 0.0, "model", "no valid safetensors file"),
    ];
    for (file, share, reader, words) in cases {
        place.flip(&format!("runs/tiny/{file}"), share);
        place.remove(&format!("runs/tiny/{reader}"));
        let said = place.grow(&[]);
        said.fails(3, &["a file that an earlier stage made is damaged", words, file, "--verify"]);
        place.grow(&["--quiet", "--verify"]).succeeds();
        same(file);
    }
    // Bookkeeping that makes no sense is as good as none.
    place.write("runs/tiny/curate/stage.json", "{ torn");
    place.write("runs/tiny/train/metrics.jsonl", [0xff, 0xfe, b'\n']);
    place.grow(&["--quiet"]).succeeds();
    same("bookkeeping");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_a_good_checkpoint() {
    for dtype in ["f32", "bf16"] {
        let place = Place::new();
        let dtype = format!("train.dtype={dtype}");
        let args = [
            "--set",
            &dtype,
            "--set",
            "train.lr=10",
            "--set",
            "train.weight_decay=1000",
            "--set",
            "train.grad_clip=0",
            "--set",
            "train.warmup_steps=15",
            "--set",
            "train.save_every=1",
        ];
        let said = place.grow(&args);
        said.fails(
            1,
            &["stage `train` stopped", "is NaN at step ", "lower `lr`", "`grad_clip`", "`warmup_steps`"],
        );
        let last = *place.checkpoints("tiny").last().unwrap();
        let kept = format!("the checkpoint of step {last} is kept");
        assert!(
            said.err.contains(&kept) && said.err.contains(&format!("at step {}", last + 1)),
            "{}",
            said.err
        );
        let folder = format!("runs/tiny/train/checkpoints/step-{last:08}");
        verify(&place.path(&folder));
        assert!(
            !place.text(&format!("{folder}/state.json")).contains("null"),
            "the kept checkpoint is no good one"
        );
        let weights = place.read(&format!("{folder}/model.safetensors"));
        let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        let values = weights[8 + header..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert!({ values }.all(f32::is_finite), "the kept checkpoint is no good one");
        assert!(!place.path("runs/tiny/model").exists() && !place.path("runs/tiny/train/model").exists());
        // The same again goes on from there, and stops at the same place.
        let again = place.grow(&args);
        again.fails(1, &[&format!("going on after step {last} of 20"), "is NaN at step ", &kept]);
        // What was asked for helps.
        place.grow(&["--quiet", "--set", &dtype]).succeeds();
    }
}

#[test]
fn a_damaged_model_is_named_by_the_command_that_reads_it() {
    let place = Place::new();
    place.grow(&["--quiet"]).succeeds();
    let [model, tokenizer, config] = ["model.safetensors", "tokenizer.json", "config.json"]
        .map(|name| place.read(&format!("runs/tiny/model/{name}")));
    let header = u64::from_le_bytes(model[..8].try_into().unwrap()) as usize;
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = model.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let replaced = |bytes: &[u8], from: &str, to: &str| {
        let text = String::from_utf8_lossy(bytes);
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1).into_bytes()
    };
    // The type of the first tensor, in a header that keeps its length.
    let dtype = model.windows(5).position(|window| window == b"\"F32\"").unwrap();
    let cases: [(&str, Vec<u8>, &[&str]); 10] = [
        ("model.safetensors", model[..model.len() - 1].to_vec(), &["no valid safetensors file", "at byte"]),
        ("model.safetensors", model[..header / 2].to_vec(), &["no valid safetensors file", "at byte"]),
        ("model.safetensors", Vec::new(), &["no valid safetensors file", "at byte"]),
        ("model.safetensors", with(0, &u64::MAX.to_le_bytes()), &["no valid safetensors file", "at byte 0"]),
        ("model.safetensors", with(8, b"?"), &["no valid safetensors file", "at byte 8"]),
        ("model.safetensors", with(dtype, b"\"X32\""), &["no valid safetensors file", "at byte"]),
        ("tokenizer.json", tokenizer[..tokenizer.len() / 2].to_vec(), &["no usable tokenizer"]),
        ("tokenizer.json", vec![0xff; 10], &["tokenizer.json"]),
        ("config.json", config[..config.len() / 2].to_vec(), &["not JSON", "config.json"]),
        (
            "config.json",
            replaced(&config, "\"vocab_size\": 320", "\"vocab_size\": 321"),
            &["do not fit its configuration", "instead of"],
        ),
    ];
    for (i, (name, bytes, words)) in cases.into_iter().enumerate() {
        let folder = format!("damaged{i}");
        for (name, bytes) in
            [("model.safetensors", &model), ("tokenizer.json", &tokenizer), ("config.json", &config)]
        {
            place.write(&format!("{folder}/{name}"), bytes);
        }
        place.write(&format!("{folder}/{name}"), bytes);
        let said = place.elmwood(&["generate", &folder, "--max-tokens", "3"]);
        said.fails(3, words).fails(3, &[&folder]);
        assert_eq!(said.out, "");
    }
}
