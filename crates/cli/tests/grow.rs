//! `elmwood grow`, as a user meets it: from pages to a model, again, interrupted, killed, on a full disk.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{MODEL, Place, Random, article, end_of, gzip, may_mount, page, signal, wait_until, warc_record};
use serde_json::Value;

#[test]
fn a_recipe_becomes_a_model_a_report_and_metrics() {
    let place = Place::new();
    let said = place.grow(&[]);
    said.succeeds();
    for words in
        ["runs/tiny/model", "runs/tiny/report.html", "bits per byte", "trigram", "Next:\n  elmwood generate"]
    {
        assert!(said.out.contains(words), "no {words:?} in {}", said.out);
    }
    assert!(said.err.contains("train ") && said.err.contains("extract "), "no progress: {}", said.err);

    for file in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        assert!(!place.read(&format!("runs/tiny/model/{file}")).is_empty(), "{file}");
    }
    let config: Value = serde_json::from_str(&place.text("runs/tiny/model/config.json")).unwrap();
    assert_eq!((&config["model_type"], &config["vocab_size"]), (&"openelm".into(), &320.into()));
    let lines = place.text("runs/tiny/train/metrics.jsonl");
    let steps: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert!(steps.into_iter().eq(1..=20));
    assert_eq!(place.checkpoints("tiny"), [16, 20]);
    assert_eq!(place.half_done("runs"), [""; 0].map(Into::<std::path::PathBuf>::into));

    let report = place.text("runs/tiny/report.html");
    for heading in ["What it is worth", "What it writes", "Training", "Data", "Model", "How it was made"] {
        assert!(report.contains(&format!("<h2>{heading}</h2>")), "no section {heading:?}");
    }
    assert!(report.contains("<svg") && report.ends_with("</html>\n"));
    assert!(report.contains("default-src 'none'"), "the browser is not told to stay off the network");
    for asks in ["<script", "<link", "<img", "<iframe", "src=", "@import", "url(", "href=\"http"] {
        assert!(!report.contains(asks), "the report has {asks:?}");
    }

    // What was run can be run again from the copy that lies beside it.
    let again = place.elmwood(&["grow", "runs/tiny/recipe.toml", "--set", "name=copy"]);
    again.succeeds();
    assert_eq!(place.read("runs/copy/model/model.safetensors"), place.read(MODEL));
}

#[test]
fn json_is_one_object_and_nothing_else() {
    let place = Place::new();
    let json = place.grow(&["--json", "--quiet"]);
    assert_eq!((json.code, json.err.as_str()), (Some(0), ""));
    let json = json.json();
    assert_eq!((&json["name"], &json["model"]), (&"tiny".into(), &"runs/tiny/model".into()));
    assert_eq!((&json["extract"]["found"], &json["train"]["steps"]), (&60.into(), &20.into()));
    for judge in ["model", "trigram", "gzip"] {
        assert!(json["judge"][judge].as_f64().is_some_and(|bits| bits > 0.0 && bits < 20.0), "{judge}");
    }
    let read = json["curate"]["read"].as_u64().unwrap();
    let dropped: u64 =
        json["curate"]["dropped"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(read, json["curate"]["kept"].as_u64().unwrap() + dropped, "the funnel is not balanced");

    // With progress shown, it goes to stderr alone.
    let shown = place.grow(&["--json", "--set", "train.lr=2e-3"]);
    assert!(shown.err.contains("train "), "{shown:?}");
    assert!(shown.json()["judge"]["model"].is_number());
    // An error is one object too.
    let error = place.grow(&["--json", "--set", "train.lr=0"]);
    assert_eq!(error.code, Some(2));
    let error = &error.json()["error"];
    assert_eq!((&error["kind"], &error["code"]), (&"usage".into(), &2.into()));
    assert_eq!((&error["where"]["line"], &error["where"]["column"]), (&1.into(), &10.into()));
}

#[test]
fn what_was_done_is_not_done_again_and_what_changed_is() {
    let place = Place::new();
    let began = Instant::now();
    place.grow(&[]).succeeds();
    let whole = began.elapsed();
    let without_lock = |place: &Place| {
        let mut files = place.files("runs");
        files.retain(|(name, _)| !name.ends_with(".lock"));
        files
    };
    let (before, record) =
        (without_lock(&place), |stage: &str| place.path(&format!("runs/tiny/{stage}/stage.json")));
    let written = |stage: &str| record(stage).metadata().unwrap().modified().unwrap();
    let times: Vec<_> = ["extract", "pack", "train", "judge"].map(written).to_vec();

    let began = Instant::now();
    let said = place.grow(&[]);
    said.succeeds();
    assert!(began.elapsed() < whole.min(Duration::from_secs(2)), "{:?} after {whole:?}", began.elapsed());
    assert_eq!(said.err, "", "something was done again");
    assert_eq!(["extract", "pack", "train", "judge"].map(written).to_vec(), times);
    assert!(without_lock(&place) == before, "a second run changed a file");

    let model = place.read(MODEL);
    let said = place.grow(&["--set", "train.lr=1e-3"]);
    said.succeeds();
    assert_eq!(["extract", "pack"].map(written).to_vec(), times[..2]);
    assert!(written("train") > times[2] && written("judge") > times[3]);
    assert!(said.err.contains("train ") && !said.err.contains("extract "), "{}", said.err);
    assert_ne!(place.read(MODEL), model);
    // Only the samples depend on this.
    let trained = written("train");
    place.grow(&["--set", "train.lr=1e-3", "--set", "judge.sample_tokens=9"]).succeeds();
    assert_eq!(written("train"), trained);
}

#[test]
fn one_thread_and_two_make_the_same_bytes() {
    let place = Place::new();
    let made = ["f32", "bf16"].map(|dtype| {
        ["1", "2"].map(|threads| {
            let dtype = format!("train.dtype={dtype}");
            let threads = format!("train.threads={threads}");
            // Training alone is done again: the number of threads is no part of what is made, so it has to be asked
            // for by removing the folder.
            let _ = std::fs::remove_dir_all(place.path("runs/tiny/train"));
            place.grow(&["--quiet", "--set", &dtype, "--set", &threads]).succeeds();
            place.read(MODEL)
        })
    });
    assert!(made[0][0] == made[0][1] && made[1][0] == made[1][1], "the number of threads shows");
    assert!(made[0][0] != made[1][0], "the type does not show");
}

#[test]
fn text_json_lines_warc_and_html_are_sources_too() {
    const N: usize = 14;
    let place = Place::new();
    for i in 0..N {
        place.write(&format!("text/part{}/{i}.txt", i % 3), article(i));
        place.write(&format!("html/{i}.html"), page(i));
    }
    place.write("text/picture.png", [0, 1, 2]);
    let lines: Vec<String> = (0..N)
        .map(|i| {
            serde_json::json!({ "body": article(i), "url": format!("https://example.org/{i}") }).to_string()
        })
        .collect();
    place.write("docs.jsonl", lines.join("\n"));
    place.write("docs.jsonl.gz", gzip(lines.join("\n").as_bytes()));
    let warc: Vec<u8> =
        (0..N).flat_map(|i| warc_record(&format!("https://example.org/{i}"), &page(i))).collect();
    place.write("crawl/one.warc.gz", warc);
    let sources = [
        ("text", "text", "text"),
        ("jsonl", "docs.jsonl", "body"),
        ("jsonl", "docs.jsonl.gz", "body"),
        ("warc", "crawl", "text"),
        ("html", "html", "text"),
    ];
    for (i, (kind, path, field)) in sources.into_iter().enumerate() {
        let recipe = common::TINY.replace(
            "kind = \"site\"\npages = 60\n",
            &format!("kind = \"{kind}\"\npath = \"{path}\"\ntext_field = \"{field}\"\n"),
        );
        let recipe = recipe.replace("steps = 20", "steps = 3").replace("name = \"tiny\"\n", "");
        place.write(&format!("r{i}.toml"), recipe);
        let json = place.elmwood(&["grow", &format!("r{i}.toml"), "--quiet", "--json"]);
        let json = json.succeeds().json();
        assert_eq!(json["extract"]["documents"], N, "{kind}: {json}");
        assert_eq!(json["curate"]["kept"], N, "{kind}: {json}");
        assert!(place.path(&format!("runs/r{i}/model/model.safetensors")).exists(), "{kind}");
    }
}

/// What of a run must not depend on how it went: models, documents, rows; not times.
fn lasting(place: &Place) -> Vec<(String, Vec<u8>)> {
    let mut files = place.files("runs");
    let timed = ["stage.json", ".lock", "metrics.jsonl", "report.html", "judgement.json"];
    files.retain(|(name, _)| {
        !timed.iter().any(|timed| name.ends_with(timed)) && !name.contains("tensorboard")
    });
    files
}

#[track_caller]
fn assert_same(got: &[(String, Vec<u8>)], want: &[(String, Vec<u8>)]) {
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(got), names(want));
    for (got, want) in got.iter().zip(want) {
        assert!(got.1 == want.1, "{} differs", got.0);
    }
}

#[test]
fn killed_at_any_moment_the_same_command_ends_with_the_same_bytes() {
    const STAGES: [&str; 7] = ["extract", "curate", "tokenizer", "pack", "train", "model", "judge"];
    let args = ["grow", "tiny.toml", "--quiet", "--set", "train.steps=60"];
    let (whole, killed) = (Place::new(), Place::new());
    let began = Instant::now();
    whole.elmwood(&args).succeeds();
    let duration = began.elapsed();

    // The stage that was at work when a kill fell: the first without a record.
    let at_work = || {
        let open = |stage: &&&str| !killed.path(&format!("runs/tiny/{stage}/stage.json")).exists();
        STAGES.iter().find(open).copied()
    };
    let mut random = Random::new(0x2545_f491);
    let mut hit = BTreeSet::new();
    let mut kill = |child: &mut std::process::Child| {
        let alive = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        if alive {
            hit.extend(at_work());
        }
    };
    // As soon as each stage has begun, and the next moment.
    for stage in STAGES {
        let mut child = killed.start(&args);
        wait_until(&mut child, || killed.path(&format!("runs/tiny/{stage}")).exists());
        std::thread::sleep(Duration::from_micros(random.below(3000) as u64));
        kill(&mut child);
    }
    // And at random: of the run that is left, and of one from the beginning.
    for i in 0..10 {
        if i == 5 {
            killed.remove("runs");
        }
        let mut child = killed.start(&args);
        std::thread::sleep(duration.mul_f64(random.below(1000) as f64 / 2500.0));
        kill(&mut child);
    }
    killed.elmwood(&args).succeeds();
    assert!(hit.contains("train") && hit.len() >= 3, "kills fell into {hit:?} alone");
    assert_same(&lasting(&killed), &lasting(&whole));
    assert!(killed.half_done("runs").is_empty(), "left: {:?}", killed.half_done("runs"));
    // Nothing is taken for whole that is not: reading every file again finds nothing to do.
    let said = killed.elmwood(&["grow", "tiny.toml", "--set", "train.steps=60", "--verify"]);
    assert_eq!(said.succeeds().err, "");
}

#[test]
fn interrupted_it_says_so_and_goes_on_from_the_saved_step() {
    // No checkpoint is due on the way, so that what is gone on from is the one of the interruption.
    let args = ["grow", "tiny.toml", "--set", "train.steps=1200", "--set", "train.save_every=1200"];
    let (whole, place) = (Place::new(), Place::new());
    whole.elmwood(&args).succeeds();
    let mut saved = Vec::new();
    for name in ["INT", "TERM"] {
        let mut child = place.start(&args);
        let metrics = place.path("runs/tiny/train/metrics.jsonl");
        let lines = || std::fs::read_to_string(&metrics).unwrap_or_default().lines().count();
        let before = saved.last().map_or(0, |step| *step as usize);
        assert!(wait_until(&mut child, || lines() > before + 3), "the run was over too soon");
        signal(&child, name);
        let said = end_of(child);
        said.fails(
            130,
            &["stopping at the next safe point", "was interrupted at step", "run the same command again"],
        );
        let step = *place.checkpoints("tiny").last().unwrap();
        assert!(said.err.contains(&format!("interrupted at step {step}, which was saved")), "{}", said.err);
        common::verify(&place.path(&format!("runs/tiny/train/checkpoints/step-{step:08}")));
        assert!(!place.path("runs/tiny/train/stage.json").exists());
        assert!(place.half_done("runs").is_empty());
        saved.push(step);
    }
    assert!(saved[0] < saved[1] && saved[1] < 1200, "{saved:?}");
    let said = place.elmwood(&args);
    said.succeeds();
    assert!(said.err.contains(&format!("going on after step {} of 1200", saved[1])), "{}", said.err);
    assert_eq!(place.read(MODEL), whole.read(MODEL));
}

#[test]
fn two_runs_of_one_name_do_not_mix() {
    let place = Place::new();
    let mut first = place.start(&["grow", "tiny.toml", "--quiet", "--set", "train.steps=1000000"]);
    assert!(wait_until(&mut first, || place.path("runs/tiny/train/metrics.jsonl").exists()));
    let recipe = place.read("runs/tiny/recipe.toml");
    let holder = format!("process {} is at work on this run (runs/tiny)", first.id());
    for verb in ["grow", "train"] {
        let second = place.elmwood(&[verb, "tiny.toml"]);
        second.fails(1, &[&holder, "wait until it is done", "--set name=NAME"]);
    }
    let json = place.grow(&["--json"]).json();
    assert_eq!(json["error"]["where"], "runs/tiny");
    // Another name is another run; and the first was not disturbed.
    place.grow(&["--quiet", "--set", "name=other", "--set", "train.steps=3"]).succeeds();
    assert!(first.try_wait().unwrap().is_none());
    assert_eq!(place.read("runs/tiny/recipe.toml"), recipe);
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock died with its holder.
    place.grow(&["--quiet"]).succeeds();
}

#[test]
fn a_full_disk_is_named_and_after_making_room_the_bytes_are_the_same() {
    let Some(wrapper) = may_mount() else {
        println!("skipped: this process may not mount a file system");
        return;
    };
    let place = Place::new();
    place.grow(&["--quiet"]).succeeds();
    std::fs::create_dir(place.path("disk")).unwrap();
    // In hundredths of what is there at the end, so that several stages meet the end of the disk.
    let pages: usize = place.files("runs").iter().map(|(_, bytes)| bytes.len().div_ceil(4096)).sum();
    let sizes = [0, 10, 22, 25, 28, 40, 60].map(|share| 4 * (pages * share / 100).max(1));
    // A file system of each size; what a run on it says; then the same command with room.
    let script = format!(
        "for size in {}; do\n\
           mount -t tmpfs -o size=${{size}}k none disk || exit 1\n\
           \"$elmwood\" grow tiny.toml --quiet --runs disk > out.$size 2> err.$size\n\
           echo $? > code.$size\n\
           find disk -name '*.tmp' > left.$size\n\
           mount -o remount,size=64m disk || exit 1\n\
           \"$elmwood\" grow tiny.toml --quiet --runs disk > /dev/null 2> again.$size || exit 1\n\
           cp disk/tiny/model/model.safetensors model.$size\n\
           umount disk\n\
         done",
        sizes.map(|size| size.to_string()).join(" ")
    );
    place.shell(wrapper, &script).succeeds();
    let mut stages = BTreeSet::new();
    for size in sizes {
        let err = place.text(&format!("err.{size}"));
        assert_eq!(place.text(&format!("code.{size}")), "4\n", "{size} KiB: {err}");
        assert!(err.contains("No space left on device") && err.contains("`disk/tiny"), "{size} KiB: {err}");
        assert!(
            err.contains("free some space") && err.contains("run the same command again"),
            "{size} KiB: {err}"
        );
        assert_eq!(place.text(&format!("out.{size}")), "", "{size} KiB");
        assert_eq!(place.text(&format!("left.{size}")), "", "{size} KiB: something half-written is left");
        assert!(place.read(&format!("model.{size}")) == place.read(MODEL), "{size} KiB: another model");
        stages
            .extend(err.split_once("stage `").and_then(|(_, rest)| Some(rest.split_once('`')?.0.to_owned())));
    }
    assert!(stages.len() >= 3 && stages.contains("train"), "the disk was full in {stages:?} alone");
}

#[test]
fn a_limit_on_file_sizes_is_named_and_without_it_the_run_goes_on() {
    let place = Place::new();
    // Without the trap the system ends the process, as SIGKILL does.
    let script = "trap '' XFSZ; ulimit -f 60; exec \"$elmwood\" grow tiny.toml --quiet";
    let said = place.shell(&[], script);
    said.fails(
        4,
        &["stage `pack` stopped", "runs/tiny/pack/train.safetensors", "File too large", "raise the limit"],
    );
    assert!(place.half_done("runs").is_empty());
    assert!(!place.path("runs/tiny/pack/train.safetensors").exists());
    place.shell(&[], "ulimit -f 60; \"$elmwood\" grow tiny.toml --quiet; exit 0");
    place.grow(&["--quiet"]).succeeds();
    let whole = Place::new();
    whole.grow(&["--quiet"]).succeeds();
    assert_same(&lasting(&place), &lasting(&whole));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let place = Place::new();
    place.write("file", "I am no folder");
    let said = place.grow(&["--runs", "file/runs"]);
    said.fails(4, &["cannot make the folder `file/runs/tiny`", "Not a directory", "help: ", "--runs"]);
    let Some(wrapper) = may_mount() else {
        println!("skipped: this process may not mount a file system");
        return;
    };
    std::fs::create_dir(place.path("locked")).unwrap();
    let script = "mount -t tmpfs none locked && mount -o remount,ro locked || exit 1\n\
                  exec \"$elmwood\" grow tiny.toml --runs locked";
    let said = place.shell(wrapper, script);
    said.fails(
        4,
        &["`locked/tiny`", "Read-only file system", "choose a folder on a disk that can be written"],
    );
}
