//! The state of a run on disk: whole or absent, and verified before it is trusted.
//!
//! `checkpoints/step-00000100/` holds the model as a Hugging Face folder, `optimizer.safetensors` with the
//! moments of every parameter (two of those that AdamW trains, one of Muon's), `state.json`, and the manifest that
//! seals them.

use std::fs;
use std::path::{Path, PathBuf};

use elmwood_durable::{FolderWriter, verify_folder};
use elmwood_engine::Moments;
use elmwood_model::{FloatType, Model, SafetensorsFile, SafetensorsWriter, TensorSpec, Weights};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The folder of checkpoints within the folder of a run.
pub const CHECKPOINTS: &str = "checkpoints";

const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";

/// How far a run has come; with the weights and moments, all that it needs to go on. Random choices are
/// functions of the seed and these counts, so there is no other random state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// A hash of settings, model and corpus: a run goes on only with the same.
    pub fingerprint: String,
    /// Optimiser steps done; gives the learning rate of the next.
    pub step: u64,
    /// Rows seen, over all passes; gives the next row.
    pub rows: u64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Held-out loss at this step, in nats per token.
    pub eval_loss: f64,
    /// The step with the lowest held-out loss of all checkpoints up to now, and that loss.
    pub best: (u64, f64),
}

/// The folder of the checkpoint after `step` steps.
pub(crate) fn folder_of(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("step-{step:08}"))
}

/// Writes a checkpoint.
pub(crate) fn save(
    checkpoints: &Path,
    progress: &Progress,
    model: &Model,
    moments: &Moments,
) -> Result<PathBuf, Error> {
    let target = folder_of(checkpoints, progress.step);
    let folder = FolderWriter::create(&target)?;
    let weights = model.to_weights();
    weights.save(folder.path(), model.config(), FloatType::F32)?;
    let specs = || weights.tensors().iter().map(|tensor| &tensor.spec);
    let means = specs().zip(&moments.mean).map(|(spec, tensor)| ("mean", spec, tensor));
    let squares = specs().zip(&moments.square);
    let squares = squares.filter_map(|(spec, tensor)| Some(("square", spec, tensor.as_ref()?)));
    let all: Vec<_> =
        means.chain(squares).map(|(moment, spec, tensor)| (named(moment, spec), spec, tensor)).collect();
    let listed = all.iter().map(|(name, spec, _)| (name.as_str(), &spec.shape[..]));
    let mut writer = SafetensorsWriter::create(folder.path().join(OPTIMIZER), listed, FloatType::F32)?;
    for (.., tensor) in &all {
        writer.tensor(tensor.f32())?;
    }
    writer.finish()?;
    let json = serde_json::to_vec_pretty(progress).expect("progress is plain data");
    elmwood_durable::write_file(folder.path().join(STATE), &json)?;
    folder.commit()?;
    Ok(target)
}

/// What a checkpoint holds.
pub(crate) struct Restored {
    pub(crate) progress: Progress,
    pub(crate) model: Model,
    pub(crate) moments: Moments,
}

/// Reads a verified checkpoint into the moments that `zero` makes.
pub(crate) fn load(folder: &Path, zero: impl Fn(&Model) -> Moments) -> Result<Restored, Error> {
    let progress = load_progress(folder)?;
    let (config, weights) = Weights::load(folder)?;
    let model = Model::new(config, &weights);
    let mut moments = zero(&model);
    let path = folder.join(OPTIMIZER);
    let file = SafetensorsFile::open(&path)?;
    let specs = || weights.tensors().iter().map(|tensor| &tensor.spec);
    let means = specs().zip(&mut moments.mean).map(|(spec, tensor)| ("mean", spec, tensor));
    let squares = specs().zip(&mut moments.square);
    let squares = squares.filter_map(|(spec, tensor)| Some(("square", spec, tensor.as_mut()?)));
    for (moment, spec, tensor) in means.chain(squares) {
        let name = named(moment, spec);
        let wrong = |reason: &str| Error::State { path: path.clone(), reason: format!("`{name}` {reason}") };
        let stored = file.tensor(&name).ok_or_else(|| wrong("is missing"))?;
        if stored.shape != spec.shape || !stored.read_f32(tensor.f32_mut()) {
            return Err(wrong("has another shape or type"));
        }
    }
    Ok(Restored { progress, model, moments })
}

/// The name of a moment of a parameter.
fn named(moment: &str, spec: &TensorSpec) -> String {
    format!("{moment}.{}", spec.name)
}

/// How far the run of a verified checkpoint had come.
pub(crate) fn load_progress(folder: &Path) -> Result<Progress, Error> {
    let path = folder.join(STATE);
    let json = fs::read(&path).map_err(Error::io("read", &path))?;
    serde_json::from_slice(&json).map_err(|e| Error::State { path, reason: e.to_string() })
}

/// The checkpoints of a run by step, whole or not.
pub(crate) fn list(checkpoints: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(checkpoints).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries
        .filter_map(|path| {
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    found.sort();
    found
}

/// The newest checkpoint under `run` that verifies, and what is wrong with newer ones. `None` without any
/// checkpoint.
///
/// # Errors
/// [`Error::NoUsableCheckpoint`] if there are some and none of them verifies.
pub fn newest_checkpoint(run: &Path) -> Result<Option<(PathBuf, Vec<String>)>, Error> {
    let folder = run.join(CHECKPOINTS);
    let mut reasons = Vec::new();
    for (_, path) in list(&folder).into_iter().rev() {
        match verify_folder(&path) {
            Ok(_) => return Ok(Some((path, reasons))),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    if reasons.is_empty() { Ok(None) } else { Err(Error::NoUsableCheckpoint { folder, reasons }) }
}

/// Removes all checkpoints but the last `keep` on the grid of `every` steps, the newest, and `best`.
pub(crate) fn prune(checkpoints: &Path, keep: usize, every: u64, steps: u64, best: u64) -> Result<(), Error> {
    let found = list(checkpoints);
    let newest = found.last().map_or(0, |(step, _)| *step);
    let on_grid = |step: u64| step.is_multiple_of(every) || step == steps;
    let kept: Vec<u64> =
        found.iter().rev().map(|(step, _)| *step).filter(|step| on_grid(*step)).take(keep).collect();
    for (step, path) in found {
        if step != newest && step != best && !kept.contains(&step) {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// The mean of the last `count` checkpoints on the grid of `every` steps; `None` if fewer are there.
///
/// # Errors
/// If one of them is damaged: the mean of others would be another model than that of an undisturbed run.
pub(crate) fn average(
    checkpoints: &Path,
    count: usize,
    every: u64,
    steps: u64,
) -> Result<Option<Weights>, Error> {
    let on_grid = |step: u64| step.is_multiple_of(every) || step == steps;
    let mut found = list(checkpoints);
    found.retain(|(step, _)| on_grid(*step));
    if count < 2 || found.len() < count {
        return Ok(None);
    }
    let mut sum: Option<Weights> = None;
    for (_, path) in &found[found.len() - count..] {
        verify_folder(path)?;
        let (_, weights) = Weights::load(path)?;
        match &mut sum {
            None => sum = Some(weights),
            Some(sum) => {
                for ((_, sum), tensor) in sum.tensors_mut().zip(weights.tensors()) {
                    sum.iter_mut().zip(&tensor.values).for_each(|(sum, x)| *sum += x);
                }
            }
        }
    }
    if let Some(sum) = &mut sum {
        for (_, values) in sum.tensors_mut() {
            values.iter_mut().for_each(|x| *x /= count as f32);
        }
    }
    Ok(sum)
}
