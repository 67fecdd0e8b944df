//! What this machine has, and what each thing means for Elmwood.

use std::path::Path;
use std::process::Command;

use elmwood_engine::{Isa, IsaError};
use serde::Serialize;

use crate::progress::{bytes, short};

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, with a limit that the meaning names.
    Fair,
    /// Something will fail.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was looked at; stable, for programs.
    pub name: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub value: String,
    /// What that means for Elmwood.
    pub meaning: String,
}

/// Everything that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Examination {
    /// In the order of the table.
    pub findings: Vec<Finding>,
    /// The worst of the verdicts.
    pub verdict: Verdict,
    /// Cores that may be used.
    pub cores: usize,
    /// The SIMD extensions found, by their names in `/proc/cpuinfo`.
    pub simd: Vec<&'static str>,
    /// Memory that may be used, in bytes.
    pub memory_bytes: u64,
    /// Free space on the disk of the runs, in bytes.
    pub disk_free_bytes: Option<u64>,
}

/// Memory that the quickstart stays under.
const QUICKSTART_MEMORY: u64 = 2 << 30;
/// Disk that a few runs of the quickstart need.
const QUICKSTART_DISK: u64 = 1 << 30;

/// Looks at the machine; `runs` is the folder that runs are written to.
#[must_use]
pub fn examine(runs: &Path) -> Examination {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let simd = simd();
    let (total, available) = memory();
    let disk_free_bytes = disk_free(runs);
    let findings = vec![
        processor(cores),
        judge_simd(&simd, Isa::detect()),
        judge_memory(total, available),
        judge_disk(runs, disk_free_bytes),
        documentation(),
        gpu(),
    ];
    let verdict = match () {
        () if findings.iter().any(|finding| finding.verdict == Verdict::Bad) => Verdict::Bad,
        () if findings.iter().any(|finding| finding.verdict == Verdict::Fair) => Verdict::Fair,
        () => Verdict::Good,
    };
    Examination { findings, verdict, cores, simd, memory_bytes: total, disk_free_bytes }
}

impl Examination {
    /// Names and values without what they mean: for the record of a run.
    #[must_use]
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        self.findings.iter().map(|finding| (finding.name, finding.value.clone())).collect()
    }

    /// A table for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let widest = |column: fn(&Finding) -> &str| {
            self.findings.iter().map(|finding| column(finding).chars().count()).max().unwrap_or(0)
        };
        let (name, value) = (widest(|finding| finding.name), widest(|finding| &finding.value));
        let mut text = String::new();
        for finding in &self.findings {
            let mark = match finding.verdict {
                Verdict::Good => "ok  ",
                Verdict::Fair => "note",
                Verdict::Bad => "bad ",
            };
            let line =
                format!("{mark}  {:name$}  {:value$}  {}", finding.name, finding.value, finding.meaning);
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

fn processor(cores: usize) -> Finding {
    let brand = sysinfo::System::new().ok().and_then(|mut system| {
        system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
        system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).filter(|brand| !brand.is_empty())
    });
    let brand = brand.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let (verdict, meaning) = match cores {
        1 => (Verdict::Fair, "the quickstart takes about twice the five minutes that it takes on two"),
        _ => (Verdict::Good, "all are used unless `train.threads` says otherwise"),
    };
    let plural = if cores == 1 { "" } else { "s" };
    Finding {
        name: "cores",
        verdict,
        value: format!("{cores} core{plural}, {brand}"),
        meaning: meaning.into(),
    }
}

/// The extensions that Elmwood's kernels can use, or will.
fn simd() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let mut found: Vec<&'static str> = [
            ("avx2", has!("avx2")),
            ("fma", has!("fma")),
            ("avx512f", has!("avx512f")),
            ("avx512bf16", has!("avx512bf16")),
            ("avx512vnni", has!("avx512vnni")),
        ]
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        found.extend(
            ["amx_tile", "amx_bf16"].into_iter().filter(|name| flags.split(' ').any(|flag| flag == *name)),
        );
        found
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("neon").then_some("neon").into_iter().collect()
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}

fn judge_simd(simd: &[&str], isa: Result<Isa, IsaError>) -> Finding {
    let listed = if simd.is_empty() { "none".into() } else { simd.join(" ") };
    let (verdict, kernels, meaning) = match isa {
        Ok(isa) => {
            let (verdict, meaning) = match isa {
                Isa::Amx => (Verdict::Good, "bf16 is multiplied on matrix tiles: the fastest kernels"),
                Isa::Avx512 => (Verdict::Good, "bf16 is multiplied in hardware, 16 lanes at a time"),
                Isa::Avx2 => {
                    (Verdict::Good, "8 lanes; bf16 is widened to f32, so `train.dtype = \"f32\"` is faster")
                }
                _ => (Verdict::Fair, "plain kernels: everything works, and slowly"),
            };
            (verdict, isa.to_string(), meaning.to_owned())
        }
        Err(error) => (Verdict::Bad, "none".into(), error.to_string()),
    };
    Finding { name: "simd", verdict, value: format!("{kernels} kernels, of {listed}"), meaning }
}

/// Total and available memory in bytes, within what a container may use.
fn memory() -> (u64, u64) {
    let Ok(mut system) = sysinfo::System::new() else { return (0, 0) };
    system.refresh_memory();
    let limits = system.cgroup_limits();
    let total = limits.as_ref().map_or(u64::MAX, |limits| limits.total_memory);
    let free = limits.as_ref().map_or(u64::MAX, |limits| limits.free_memory);
    let total = system.total_memory().min(if total == 0 { u64::MAX } else { total });
    (total, system.available_memory().min(free).min(total))
}

fn judge_memory(total: u64, available: u64) -> Finding {
    let value = format!("{}, {} available", bytes(total as f64), bytes(available as f64));
    let (verdict, meaning) = if available < QUICKSTART_MEMORY {
        (
            Verdict::Bad,
            "less than the 2 GiB that the quickstart may need: close something, or use --quick".to_owned(),
        )
    } else {
        // Training holds weights, gradient and two moments in f32; half of the memory is left for the rest.
        (Verdict::Good, format!("enough to train about {} parameters", short(available as f64 / 32.0)))
    };
    Finding { name: "memory", verdict, value, meaning }
}

/// Free space on the disk that holds `runs`, or will.
fn disk_free(runs: &Path) -> Option<u64> {
    let path = std::path::absolute(runs).ok()?;
    let there = path.ancestors().find(|path| path.exists())?.canonicalize().ok()?;
    let disks = sysinfo::Disks::new_with_refreshed_list().ok()?;
    let holds = |disk: &&sysinfo::Disk| there.starts_with(disk.mount_point());
    let disk = disks.iter().filter(holds).max_by_key(|disk| disk.mount_point().components().count())?;
    Some(disk.available_space())
}

fn judge_disk(runs: &Path, free: Option<u64>) -> Finding {
    let (verdict, value, meaning) = match free {
        None => (Verdict::Fair, "unknown".to_owned(), "the disk could not be looked at"),
        Some(free) if free < QUICKSTART_DISK => {
            (Verdict::Bad, format!("{} free", bytes(free as f64)), "a run of the quickstart may fill it up")
        }
        Some(free) => (
            Verdict::Good,
            format!("{} free", bytes(free as f64)),
            "a run of the quickstart takes some 100 MB",
        ),
    };
    Finding { name: "disk", verdict, value, meaning: format!("{meaning} (`{}`)", runs.display()) }
}

fn documentation() -> Finding {
    let (verdict, value, meaning) = match elmwood_data::rust_docs() {
        Some(folder) => (Verdict::Good, "installed", format!("the quickstart reads `{}`", folder.display())),
        None => {
            let meaning = "the quickstart writes a small site instead (or: rustup component add rust-docs)";
            (Verdict::Fair, "not found", meaning.to_owned())
        }
    };
    Finding { name: "rust-docs", verdict, value: value.into(), meaning }
}

fn gpu() -> Finding {
    let (value, meaning) = match nvidia() {
        Some(name) => (name, "not used by this version, which trains on the CPU"),
        None => ("none".to_owned(), "not needed: this version trains on the CPU"),
    };
    Finding { name: "gpu", verdict: Verdict::Good, value, meaning: meaning.into() }
}

/// The NVIDIA GPU's name, or at least that its driver is there.
fn nvidia() -> Option<String> {
    let cards = std::fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    for card in cards {
        let information = std::fs::read_to_string(card.path().join("information")).unwrap_or_default();
        if let Some(model) = information.lines().find_map(|line| line.strip_prefix("Model:")) {
            return Some(model.trim().to_owned());
        }
    }
    if Path::new("/proc/driver/nvidia/version").exists() {
        return Some("NVIDIA, model unknown".into());
    }
    let libraries = Command::new("ldconfig").arg("-p").output().ok()?;
    let found = String::from_utf8_lossy(&libraries.stdout).contains("libcuda.so.1");
    found.then(|| "libcuda without a visible GPU".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_looked_at_and_said_in_both_forms() {
        let examination = examine(Path::new("no/such/folder/yet"));
        assert!(examination.cores >= 1 && examination.memory_bytes > 0);
        let text = examination.to_text();
        let json = serde_json::to_value(&examination).unwrap();
        assert_eq!(text.lines().count(), 6);
        for (i, name) in ["cores", "simd", "memory", "disk", "rust-docs", "gpu"].into_iter().enumerate() {
            assert!(text.lines().nth(i).unwrap().contains(name));
            assert_eq!(json["findings"][i]["name"], name);
        }
    }

    #[test]
    fn verdicts_follow_from_what_is_there() {
        assert_eq!(judge_memory(4 << 30, 1 << 30).verdict, Verdict::Bad);
        assert_eq!(judge_memory(4 << 30, 3 << 30).verdict, Verdict::Good);
        assert_eq!(judge_disk(Path::new("runs"), Some(1)).verdict, Verdict::Bad);
        assert_eq!(judge_disk(Path::new("runs"), None).verdict, Verdict::Fair);
        assert_eq!(judge_simd(&[], "scalar".parse()).verdict, Verdict::Fair);
        assert_eq!(judge_simd(&[], "sse9".parse()).verdict, Verdict::Bad);
    }
}
