//! A run as a row of stages, each done once: what was finished is not done again, what was killed goes on.
//!
//! A stage's [`Key`] is a hash of its name, its settings, the version of its code, and the keys of what it
//! reads. A finished stage leaves `runs/NAME/STAGE/stage.json` with that key and a list of its files, written
//! last. The next run skips the stage if the key is the same and the files are still there; a changed setting
//! therefore reruns that stage and those that read from it, and nothing else.
//!
//! ```
//! use elmwood_cli::{progress::Progress, stages::{Run, Stage}};
//! use serde_json::json;
//!
//! # fn main() -> anyhow::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! let run = Run::open(folder.path(), "demo", "name = \"demo\"", Progress::silent())?;
//! let greet = Stage { name: "greet", version: 1, settings: json!({"to": "you"}), inputs: vec![], resumable: false };
//! let work = |folder: &std::path::Path, _: &Progress| {
//!     std::fs::write(folder.join("hello.txt"), "hello, you")?;
//!     Ok(json!({"words": 2}))
//! };
//! assert!(!run.stage(&greet, work)?.skipped);
//! assert!(run.stage(&greet, work)?.skipped);
//! # Ok(())
//! # }
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use elmwood_durable::{FileEntry, write_file};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Exit, Fault};
use crate::interrupt;
use crate::progress::Progress;

/// The file that makes a stage's folder a finished one.
pub const RECORD: &str = "stage.json";
/// The file that says which state a resumable stage's folder belongs to, until it is finished.
const STARTED: &str = "started.json";
/// Held by the run that works in a folder.
const LOCK: &str = ".lock";

/// What a stage, or a file it reads, is identified by: BLAKE3 in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// The key of some bytes.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }

    /// The key of a file or folder that a stage reads: names, sizes and times of change.
    ///
    /// Contents are not read: a source may be larger than the time that the whole run has.
    ///
    /// # Errors
    /// If something in it cannot be looked at.
    pub fn of_path(path: &Path) -> anyhow::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        for file in files_below(path)? {
            let metadata = file.metadata().with_context(|| format!("cannot look at `{}`", file.display()))?;
            let changed =
                metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            let name = file.strip_prefix(path).unwrap_or(&file).to_string_lossy();
            let fields = (name, metadata.len(), changed.map(|time| time.as_nanos().to_string()));
            hasher.update(&serde_json::to_vec(&fields)?);
        }
        Ok(Self(hasher.finalize().to_hex().to_string()))
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What decides whether a stage has to be done.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Its name, and that of its folder.
    pub name: &'static str,
    /// Raised whenever the code makes something else of the same settings and inputs.
    pub version: u32,
    /// Everything in the recipe that it depends on. The order of keys does not matter.
    pub settings: Value,
    /// The keys of the stages and files it reads.
    pub inputs: Vec<Key>,
    /// Whether the stage itself finds and continues what a killed predecessor left in the folder.
    pub resumable: bool,
}

impl Stage {
    /// The hash over all that decides what the stage makes.
    #[must_use]
    pub fn key(&self) -> Key {
        let mut all = serde_json::json!([self.name, self.version, self.settings, self.inputs]);
        // Equal settings give equal text, in whatever order they were written.
        all.sort_all_objects();
        Key::of_bytes(all.to_string().as_bytes())
    }
}

/// What a finished stage says of itself; the content of [`RECORD`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The key under which it was done.
    pub key: Key,
    /// Its files, by their names within its folder.
    pub outputs: Vec<FileEntry>,
    /// How long it took, the runs before an interruption included.
    pub seconds: f64,
    /// What the stage counted: for the report, the end of the run, and the stages after it.
    pub summary: Value,
}

/// A stage that is done, now or earlier.
#[derive(Debug, Clone)]
pub struct Finished {
    /// For the `inputs` of the stages that read from it.
    pub key: Key,
    /// Where its files are.
    pub folder: PathBuf,
    /// Whether an earlier run had done it.
    pub skipped: bool,
    /// What it left.
    pub record: Record,
}

/// The folder of one run, locked while this value lives.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    progress: Progress,
    verify: bool,
    _lock: File,
}

/// How long a resumable stage has been at work, and on what.
#[derive(Serialize, Deserialize)]
struct Started {
    key: Key,
    seconds: f64,
}

impl Run {
    /// Opens `runs/name`, made if need be, locks it, and leaves a copy of what is run there.
    ///
    /// # Errors
    /// If another process works in it, or the folder cannot be written to.
    pub fn open(runs: &Path, name: &str, recipe: &str, progress: Progress) -> anyhow::Result<Self> {
        let folder = runs.join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        let lock = lock(&folder)?;
        sweep(&folder);
        write_file(folder.join("recipe.toml"), recipe.as_bytes())?;
        Ok(Self { folder, progress, verify: false, _lock: lock })
    }

    /// With `verify`, finished stages are skipped only if the content of their files is unchanged too.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Where the run's files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the stages show how far they are.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Does a stage, unless it is done.
    ///
    /// `work` gets an empty folder, or for a resumable stage the one that a killed run with the same key left,
    /// and returns its summary. All files it leaves there are its outputs.
    ///
    /// # Errors
    /// What `work` returns, with the stage's name; [`interrupt::Interrupted`] between stages; I/O errors.
    pub fn stage(
        &self,
        stage: &Stage,
        work: impl FnOnce(&Path, &Progress) -> anyhow::Result<Value>,
    ) -> anyhow::Result<Finished> {
        interrupt::check()?;
        let folder = self.folder.join(stage.name);
        let key = stage.key();
        if let Some(record) = read_json::<Record>(&folder.join(RECORD)).filter(|record| record.key == key) {
            let damaged = self.damaged(&folder, &record);
            if damaged.is_empty() {
                return Ok(Finished { key, folder, skipped: true, record });
            }
            if stage.resumable {
                reopen(&folder, &record, &damaged)?;
            }
        }

        let started = read_json::<Started>(&folder.join(STARTED)).filter(|started| started.key == key);
        let goes_on = stage.resumable && started.is_some();
        let earlier = started.filter(|_| goes_on).map_or(0.0, |started| started.seconds);
        if !goes_on {
            clear(&folder)?;
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        let note = |seconds| write_json(&folder.join(STARTED), &Started { key: key.clone(), seconds });
        if stage.resumable {
            note(earlier)?;
        }

        let clock = Instant::now();
        let result = work(&folder, &self.progress);
        let seconds = earlier + clock.elapsed().as_secs_f64();
        let summary = match result {
            Ok(summary) => summary,
            Err(error) => {
                // Neither may hide the error itself, which is what matters.
                if stage.resumable {
                    let _ = note(seconds);
                } else {
                    // Half of it is of no use, and the disk may be full.
                    let _ = clear(&folder);
                }
                return Err(error.context(format!("stage `{}` stopped", stage.name)));
            }
        };
        let outputs = outputs_of(&folder)?;
        let record = Record { key: key.clone(), outputs, seconds, summary };
        write_json(&folder.join(RECORD), &record)?;
        let _ = fs::remove_file(folder.join(STARTED));
        Ok(Finished { key, folder, skipped: false, record })
    }

    /// The outputs that are gone or changed.
    fn damaged(&self, folder: &Path, record: &Record) -> Vec<String> {
        let whole = |entry: &FileEntry| {
            let path = folder.join(&entry.name);
            let size =
                path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == entry.bytes);
            size && (!self.verify || hash(&path).is_ok_and(|hash| hash == entry.blake3))
        };
        record.outputs.iter().filter(|entry| !whole(entry)).map(|entry| entry.name.clone()).collect()
    }
}

/// Makes a finished, resumable stage an unfinished one that lacks its damaged files.
fn reopen(folder: &Path, record: &Record, damaged: &[String]) -> anyhow::Result<()> {
    for path in damaged.iter().map(|name| folder.join(name)).filter(|path| path.exists()) {
        fs::remove_file(&path).with_context(|| format!("cannot remove the damaged `{}`", path.display()))?;
    }
    write_json(&folder.join(STARTED), &Started { key: record.key.clone(), seconds: record.seconds })?;
    fs::remove_file(folder.join(RECORD)).context("cannot reopen a stage")
}

/// Empties a stage's folder; its record goes first, so that half a folder is never taken for a whole one.
fn clear(folder: &Path) -> anyhow::Result<()> {
    let removed = match fs::remove_file(folder.join(RECORD)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ if folder.exists() => fs::remove_dir_all(folder),
        _ => Ok(()),
    };
    removed.with_context(|| format!("cannot replace the folder `{}`", folder.display()))
}

/// Removes what writers of a killed run left half done below `folder`: `.NAME.tmp`, files and folders. Nobody
/// writes there now, because the folder is locked.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_left = name.starts_with('.') && name.ends_with(".tmp");
        // What cannot be removed is in nobody's way.
        match (is_left, is_folder) {
            (true, true) => drop(fs::remove_dir_all(&path)),
            (true, false) => drop(fs::remove_file(&path)),
            (false, true) => sweep(&path),
            (false, false) => {}
        }
    }
}

fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(LOCK);
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.with_context(|| format!("cannot open `{}`", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
            let what = format!("{holder} is at work on this run");
            return Err(Fault::new(Exit::Failure, what)
                .at(folder.display())
                .help("wait until it is done, or give this run a name of its own with --set name=NAME")
                .into());
        }
        // Some network file systems know no locks; a run there is as safe as its user is careful.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
        Err(TryLockError::Error(error)) => {
            return Err(anyhow::Error::from(error).context(format!("cannot lock `{}`", path.display())));
        }
    }
    // For the message above, in the other process; the lock itself does not depend on it.
    let _ = file.set_len(0).and_then(|()| file.rewind());
    let _ = write!(file, "process {}", std::process::id());
    Ok(file)
}

/// Every file of a stage's folder but its own bookkeeping and what a writer left half done, by name.
fn outputs_of(folder: &Path) -> anyhow::Result<Vec<FileEntry>> {
    let mut outputs = Vec::new();
    for path in files_below(folder)? {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        if [RECORD, STARTED].contains(&name.as_str())
            || name.split(['/', '\\']).any(|part| part.starts_with('.'))
        {
            continue;
        }
        let bytes = path.metadata().with_context(|| format!("cannot look at `{}`", path.display()))?.len();
        let blake3 = hash(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        outputs.push(FileEntry { name, bytes, blake3 });
    }
    Ok(outputs)
}

/// The files at or below `path`, sorted. Links to folders are not followed, so there is always an end.
fn files_below(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if open.is_empty() && files.is_empty() && path.is_file() {
            files.push(path);
            continue;
        }
        let listing = fs::read_dir(&path).with_context(|| format!("cannot list `{}`", path.display()))?;
        for entry in listing {
            let entry = entry.with_context(|| format!("cannot list `{}`", path.display()))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder { open.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.sort();
    Ok(files)
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    Ok(write_file(path, &serde_json::to_vec_pretty(value)?)?)
}

/// Bookkeeping that cannot be read is as good as none: the stage is done again.
fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::cell::RefCell;

    /// A run of three stages, `b` resumable and `c` reading from it, that notes which were done.
    struct Three {
        runs: tempfile::TempDir,
        settings: [Value; 3],
        verify: bool,
    }

    impl Three {
        fn new() -> Self {
            Self {
                runs: tempfile::tempdir().unwrap(),
                settings: [json!(1), json!(1), json!(1)],
                verify: false,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.runs.path().join("r").join(name)
        }

        /// Runs all; `fault` names a stage that fails after writing half of its output.
        fn go(&self, fault: &str) -> (Vec<String>, anyhow::Result<()>) {
            let done = RefCell::new(Vec::new());
            let result = self.try_go(fault, &done);
            (done.into_inner(), result)
        }

        fn try_go(&self, fault: &str, done: &RefCell<Vec<String>>) -> anyhow::Result<()> {
            let run = Run::open(self.runs.path(), "r", "", Progress::silent())?.verify(self.verify);
            let mut inputs = Vec::new();
            for (name, settings) in ["a", "b", "c"].into_iter().zip(&self.settings) {
                let stage =
                    Stage { name, version: 1, settings: settings.clone(), inputs, resumable: name == "b" };
                let finished = run.stage(&stage, |folder, _| {
                    let half = folder.join("half.bin");
                    done.borrow_mut().push(format!("{name}{}", if half.exists() { " goes on" } else { "" }));
                    fs::write(&half, b"12345")?;
                    match fault {
                        "panic" if name == "b" => panic!("killed"),
                        fault if fault == name => anyhow::bail!("disk on fire"),
                        _ => {}
                    }
                    fs::create_dir_all(folder.join("sub"))?;
                    fs::write(folder.join("sub/rest.bin"), b"67890")?;
                    Ok(json!({ "files": 2 }))
                })?;
                assert_eq!(finished.record.outputs.len(), 2);
                assert_eq!(finished.record.summary["files"], 2);
                inputs = vec![finished.key];
            }
            Ok(())
        }

        fn does(&self, expected: &[&str]) {
            let (done, result) = self.go("");
            result.unwrap();
            assert_eq!(done, expected);
        }
    }

    #[test]
    fn nothing_is_done_twice() {
        let three = Three::new();
        three.does(&["a", "b", "c"]);
        three.does(&[]);
        assert!(!three.path("b").join(STARTED).exists());
    }

    #[test]
    fn a_changed_setting_reruns_its_stage_and_those_after_it() {
        let mut three = Three::new();
        three.does(&["a", "b", "c"]);
        three.settings[1] = json!({ "x": 1, "y": 2 });
        three.does(&["b", "c"]);
        three.settings[1] = serde_json::from_str(r#"{ "y": 2, "x": 1 }"#).unwrap();
        three.does(&[]);
        three.settings[2] = json!(2);
        three.does(&["c"]);
        three.settings[0] = json!(2);
        three.does(&["a", "b", "c"]);
    }

    #[test]
    fn what_failed_is_done_again_and_what_can_go_on_goes_on() {
        let mut three = Three::new();
        let (done, result) = three.go("a");
        let error = result.unwrap_err();
        assert_eq!(
            (done, format!("{error:#}")),
            (vec!["a".into()], "stage `a` stopped: disk on fire".into())
        );
        let (done, _) = three.go("b");
        assert_eq!(done, ["a", "b"], "a starts anew, in an empty folder");
        let (done, _) = three.go("b");
        assert_eq!(done, ["b goes on"]);
        three.settings[1] = json!(2);
        three.does(&["b", "c"]); // A changed setting starts anew.
    }

    #[test]
    fn a_panic_is_like_a_kill() {
        let three = Three::new();
        let crash = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| three.go("panic")));
        assert!(crash.is_err());
        assert!(!three.path("b").join(RECORD).exists());
        three.does(&["b goes on", "c"]);
    }

    #[test]
    fn missing_and_changed_outputs_are_noticed() {
        let mut three = Three::new();
        three.does(&["a", "b", "c"]);
        fs::remove_file(three.path("a/half.bin")).unwrap();
        three.does(&["a"]);
        fs::write(three.path("c/sub/rest.bin"), b"short").unwrap();
        three.does(&[]); // The same size, and nobody asked for more.
        three.verify = true;
        three.does(&["c"]);
        fs::write(three.path("c/sub/rest.bin"), b"longer than it was").unwrap();
        three.does(&["c"]);
        fs::write(three.path("b/sub/rest.bin"), b"short").unwrap();
        three.does(&["b goes on"]); // Without the damaged file, and with the others.
        fs::write(three.path("b").join(RECORD), b"{ torn").unwrap();
        three.does(&["b"]);
        three.does(&[]);
    }

    #[test]
    fn two_runs_of_one_name_do_not_mix() {
        let runs = tempfile::tempdir().unwrap();
        let first = Run::open(runs.path(), "r", "", Progress::silent()).unwrap();
        let error = Run::open(runs.path(), "r", "", Progress::silent()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("process {} is at work", std::process::id())), "{error}");
        Run::open(runs.path(), "other", "", Progress::silent()).unwrap();
        drop(first);
        Run::open(runs.path(), "r", "", Progress::silent()).unwrap();
    }

    #[test]
    fn a_source_has_another_key_when_a_file_in_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.txt"), "1").unwrap();
        let first = Key::of_path(folder.path()).unwrap();
        assert_eq!(Key::of_path(folder.path()).unwrap(), first);
        fs::write(folder.path().join("a.txt"), "22").unwrap();
        assert_ne!(Key::of_path(folder.path()).unwrap(), first);
        assert!(Key::of_path(&folder.path().join("a.txt")).is_ok());
        assert!(Key::of_path(Path::new("/no/such/path")).is_err());
    }

    #[test]
    fn numbers_of_a_record_are_read_as_they_were_written() {
        for i in 1..5_000_u32 {
            let number = f64::from(i.wrapping_mul(2_654_435_761)) / 1e7;
            let read: f64 = serde_json::from_str(&serde_json::to_string(&number).unwrap()).unwrap();
            assert_eq!(read, number);
        }
    }
}
