//! A run that is killed with SIGKILL at any moment and started again ends with the same bytes as one that was
//! left alone.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use elmwood_data::PackedTokens;
use elmwood_train::{METRICS, Machine, Settings, StepMetrics, newest_checkpoint, train};

/// Names the folder in which the child of this test trains.
const VARIABLE: &str = "ELMWOOD_TEST_RUN_FOLDER";
/// Set where the child trains with Muon.
const MUON: &str = "ELMWOOD_TEST_MUON";

/// Kills of the loop.
const KILLS: usize = 24;

/// Not a test by itself: the process that is killed.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(VARIABLE) else { return };
    let folder = Path::new(&folder);
    let data = PackedTokens::open(folder.join("../train.safetensors")).unwrap();
    let held_out = PackedTokens::open(folder.join("../held_out.safetensors")).unwrap();
    let config = common::config(64);
    let muon = std::env::var_os(MUON).map(|_| common::MUON);
    let settings = Settings { steps: 300, muon, ..common::settings() };
    train(&settings, &config, &data, &held_out, folder, &Machine::new(2).unwrap(), &|| false, &mut |_| {})
        .unwrap();
}

fn start(folder: &Path, muon: bool) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if muon {
        command.env(MUON, "1");
    }
    command.args(["child", "--exact"]).env(VARIABLE, folder).stdout(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// Every file under `folder` but the logs, which hold times.
fn bytes_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if !name.contains(METRICS) && !name.starts_with("tensorboard") && !name.contains(".tmp") {
                found.push((name, fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// What the metrics say, times apart.
fn losses_of(folder: &Path) -> Vec<(u64, u64, f64, f64, Option<f64>)> {
    let text = fs::read_to_string(folder.join(METRICS)).unwrap();
    let line = |line: &str| {
        let m: StepMetrics = serde_json::from_str(line).unwrap();
        (m.step, m.tokens, m.loss, m.grad_norm, m.eval_loss)
    };
    text.lines().map(line).collect()
}

#[test]
fn killed_at_any_moment_it_ends_with_the_same_bytes() {
    // One after the other: each judges by its own pace when to kill.
    for muon in [false, true] {
        check(muon);
    }
}

fn check(muon: bool) {
    let parent = tempfile::tempdir().unwrap();
    let (whole, killed) = (parent.path().join("whole"), parent.path().join("killed"));
    for (name, documents) in [("train.safetensors", 40), ("held_out.safetensors", 12)] {
        common::corpus(&parent.path().join(name), documents, 64);
    }
    for folder in [&whole, &killed] {
        fs::create_dir(folder).unwrap();
    }
    let began = Instant::now();
    assert!(start(&whole, muon).status().unwrap().success());
    let mut duration = began.elapsed();

    // Each life is long enough to come some way, and short enough that all kills find the run alive; the
    // moments go through the whole of a step, an evaluation and a checkpoint.
    let (mut kills, mut places) = (0, BTreeSet::new());
    let mut state = 0x2545_f491_u32;
    while kills < KILLS {
        let mut child = start(&killed, muon).spawn().unwrap();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // A sixtieth of the run on average: 24 such lives do not finish it even if the machine, busy while the
        // whole run was timed, is twice as fast now.
        let random = f64::from(state >> 8) / f64::from(1 << 24);
        thread::sleep(duration.mul_f64(random * random / 20.0) + Duration::from_millis(1));
        if child.try_wait().unwrap().is_some() {
            // The machine was busier still while the whole run was timed: once more, with shorter lives.
            duration /= 2;
            (kills, places) = (0, BTreeSet::new());
            fs::remove_dir_all(&killed).unwrap();
            fs::create_dir(&killed).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        if let Some((checkpoint, _)) = newest_checkpoint(&killed).unwrap() {
            places.insert(checkpoint);
        }
    }
    assert!(start(&killed, muon).status().unwrap().success());
    assert!(places.len() >= 3, "all lives ended at the same places: {places:?}");

    let (want, got) = (bytes_of(&whole), bytes_of(&killed));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&want), names(&got));
    for ((name, want), (_, got)) in want.iter().zip(&got) {
        assert!(want == got, "`{name}` differs after {kills} kills");
    }
    assert_eq!(losses_of(&whole), losses_of(&killed));
}
