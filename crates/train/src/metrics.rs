//! What happened at each step: one JSON object a line, and the same for TensorBoard.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{Error, EventWriter};

/// The file of [`StepMetrics`], one JSON object a line.
pub const METRICS: &str = "metrics.jsonl";

/// One optimiser step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The step, from 1: steps done.
    pub step: u64,
    /// Tokens predicted up to now.
    pub tokens: u64,
    /// Mean cross-entropy of the step, before its update, in nats per token.
    pub loss: f64,
    /// What the z-loss added.
    pub z_loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens per second of this step, evaluation and saving apart.
    pub tokens_per_sec: f64,
    /// Mean cross-entropy on held-out rows after the update, where it was taken.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_loss: Option<f64>,
}

/// Writes metrics as they come. What a killed run wrote after its last checkpoint is dropped.
pub(crate) struct MetricsWriter {
    path: PathBuf,
    file: File,
    events: EventWriter,
}

impl MetricsWriter {
    /// Goes on in `folder` after `step` steps.
    pub(crate) fn resume(folder: &Path, step: u64) -> Result<Self, Error> {
        let path = folder.join(METRICS);
        let former = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        // A line that was torn by a kill does not parse, and nothing after it counts.
        let kept = former.split_inclusive('\n').take_while(|line| {
            line.ends_with('\n')
                && serde_json::from_str(line).is_ok_and(|metrics: StepMetrics| metrics.step <= step)
        });
        elmwood_durable::write_file(&path, kept.collect::<String>().as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("write", &path))?;
        let events =
            EventWriter::create(&folder.join("tensorboard"), step + 1).map_err(Error::io("write", folder))?;
        Ok(Self { path, file, events })
    }

    pub(crate) fn write(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        let mut line = serde_json::to_string(metrics).expect("metrics are plain numbers");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", &self.path))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let scalars = [
            ("train/loss", Some(metrics.loss)),
            ("train/grad_norm", Some(metrics.grad_norm)),
            ("train/lr", Some(metrics.lr)),
            ("train/tokens_per_sec", Some(metrics.tokens_per_sec)),
            ("eval/loss", metrics.eval_loss),
        ];
        for (tag, value) in scalars {
            if let Some(value) = value {
                self.events
                    .scalar(tag, metrics.step, now, value as f32)
                    .map_err(Error::io("write", &self.path))?;
            }
        }
        self.events.flush().map_err(Error::io("write", &self.path))
    }
}
