//! What all tests of the built command share: a place of its own for each, a recipe that takes a second, a
//! few made-up pages, and what a command said and made.

#![allow(dead_code, reason = "every file of tests takes what it needs from here")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The command under test.
pub(crate) const ELMWOOD: &str = env!("CARGO_BIN_EXE_elmwood");

/// The name of the run of [`TINY`].
pub(crate) const MODEL: &str = "runs/tiny/model/model.safetensors";

/// A recipe with everything small: 60 generated pages, 24 thousand parameters, 20 steps.
pub(crate) const TINY: &str = r#"name = "tiny"

[source]
kind = "site"
pages = 60

[curate]
held_out_share = 0.15

[tokenizer]
vocab_size = 320

[model]
model_dim = 32
num_transformer_layers = 2
head_dim = 16
num_gqa_groups = 2
qkv_multipliers = [0.5, 1.0]
ffn_multipliers = [0.5, 2.0]
ffn_dim_divisor = 16
max_context_length = 64

[train]
dtype = "f32"
seq_len = 64
batch_rows = 2
steps = 20
warmup_steps = 2
eval_every = 4
save_every = 4

[judge]
temperatures = [0.0, 1.0]
sample_tokens = 8
"#;

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Checks the exit code, and that stderr has every one of `words`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.err.contains("error: "), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {}", self.err);
        }
        self
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Stdout, which must be exactly one JSON object on one line.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:#?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A folder to work in, gone with this value; it holds `tiny.toml`, which is [`TINY`].
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("tiny.toml", TINY);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    #[track_caller]
    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// The command, in this folder, with nothing of the environment that changes what it does.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(ELMWOOD);
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_remove("NO_COLOR").env_remove("ELMWOOD_ISA");
        command
    }

    pub(crate) fn elmwood(&self, args: &[&str]) -> Said {
        said(&mut self.command(args))
    }

    /// `elmwood grow tiny.toml` with more arguments.
    pub(crate) fn grow(&self, args: &[&str]) -> Said {
        self.elmwood(&[&["grow", "tiny.toml"], args].concat())
    }

    pub(crate) fn elmwood_reads(&self, stdin: &str, args: &[&str]) -> Said {
        let mut command = self.command(args);
        let mut child = piped(command.stdin(Stdio::piped()));
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        end_of(child)
    }

    /// Starts a command that is watched while it runs.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        piped(&mut self.command(args))
    }

    /// Runs a script of the shell here, with the command under test as `$elmwood`.
    pub(crate) fn shell(&self, wrapper: &[&str], script: &str) -> Said {
        let all = [wrapper, &["sh", "-c", script]].concat();
        let mut command = Command::new(all[0]);
        said(command.args(&all[1..]).current_dir(self.0.path()).env("elmwood", ELMWOOD).stdin(Stdio::null()))
    }

    /// Every file below `name`, with its path from there, sorted.
    pub(crate) fn files(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let root = self.path(name);
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&root).unwrap().display().to_string();
                    found.push((name, fs::read(path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    /// What writers left half done below `name`; empty folders count too.
    pub(crate) fn half_done(&self, name: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path(name)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|ending| ending == "tmp") {
                    found.push(path.clone());
                }
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }

    /// The steps of the checkpoints of `runs/NAME`.
    pub(crate) fn checkpoints(&self, name: &str) -> Vec<u64> {
        let folder = self.path("runs").join(name).join("train/checkpoints");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let step = |name: String| name.strip_prefix("step-").and_then(|digits| digits.parse().ok());
        let mut steps: Vec<u64> =
            entries.filter_map(|entry| step(entry.file_name().to_string_lossy().into_owned())).collect();
        steps.sort_unstable();
        steps
    }

    /// Turns one bit of a file, `share` of the way through it.
    pub(crate) fn flip(&self, name: &str, share: f64) {
        let mut bytes = self.read(name);
        let at = ((bytes.len() - 1) as f64 * share) as usize;
        bytes[at] ^= 0x10;
        self.write(name, bytes);
    }

    /// Takes away the second half of a file.
    pub(crate) fn halve(&self, name: &str) {
        let bytes = self.read(name);
        self.write(name, &bytes[..bytes.len() / 2]);
    }

    #[track_caller]
    pub(crate) fn remove(&self, name: &str) {
        let path = self.path(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// Runs a command to its end.
pub(crate) fn said(command: &mut Command) -> Said {
    end_of(piped(command))
}

/// Waits for the end of a command that [`Place::start`] started.
pub(crate) fn end_of(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `happened`; false if the process ended before.
#[track_caller]
pub(crate) fn wait_until(child: &mut Child, happened: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !happened() {
        if child.try_wait().unwrap().is_some() {
            return happened();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "waited for a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Sends a signal, as `INT`.
pub(crate) fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Random numbers that are the same every time.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A text of some 150 words that every rule of curation accepts, another one for each number.
pub(crate) fn article(i: usize) -> String {
    const NOUNS: [&str; 24] = [
        "river", "garden", "letter", "window", "harbour", "engine", "teacher", "forest", "bridge", "market",
        "winter", "story", "doctor", "candle", "island", "village", "painter", "mirror", "journey",
        "stranger", "kitchen", "mountain", "evening", "captain",
    ];
    const VERBS: [&str; 12] = [
        "follows",
        "forgets",
        "remembers",
        "crosses",
        "paints",
        "measures",
        "leaves",
        "finds",
        "keeps",
        "watches",
        "carries",
        "opens",
    ];
    const ENDS: [&str; 8] = [
        "before the night",
        "with great care",
        "and says nothing of it",
        "to be alone",
        "for that reason",
        "as they have always done",
        "of all things",
        "and the bell rings",
    ];
    let mut random = Random::new(i as u64 + 1);
    let mut of = |words: &[&'static str]| words[random.below(words.len())];
    let sentence = |_| format!("The {} {} a {} {}", of(&NOUNS), of(&VERBS), of(&NOUNS), of(&ENDS));
    let sentences: Vec<String> = (0..16).map(sentence).collect();
    sentences.chunks(4).map(|chunk| chunk.join(". ") + ".").collect::<Vec<_>>().join("\n\n")
}

/// [`article`] as a page with navigation around it.
pub(crate) fn page(i: usize) -> String {
    let paragraphs: String = article(i).split("\n\n").map(|text| format!("<p>{text}</p>\n")).collect();
    format!(
        "<!doctype html><html><head><title>Story {i}</title></head><body><nav><a href=\"/\">Home</a></nav>\
         <main><h1>Story {i}</h1>\n{paragraphs}</main><script>var hidden = 1;</script></body></html>"
    )
}

/// A WARC record of an HTTP response, compressed by itself as crawlers do.
pub(crate) fn warc_record(url: &str, html: &str) -> Vec<u8> {
    let http = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{html}");
    let record = format!(
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nContent-Type: application/http; \
         msgtype=response\r\nContent-Length: {}\r\n\r\n{http}\r\n\r\n",
        http.len()
    );
    gzip(record.as_bytes())
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// How a process may mount a file system of its own: the start of a command, or `None`.
pub(crate) fn may_mount() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["unshare", "-rm"], &["unshare", "-m"]];
    ways.into_iter().find(|way| {
        let probe = "mount -t tmpfs -o size=64k none /tmp && mount -o remount,size=128k /tmp";
        Command::new(way[0])
            .args(&way[1..])
            .args(["sh", "-c", probe])
            .output()
            .is_ok_and(|output| output.status.success())
    })
}

/// A checkpoint's folder whose manifest must fit its files.
#[track_caller]
pub(crate) fn verify(folder: &Path) {
    elmwood_durable::verify_folder(folder).unwrap();
}
