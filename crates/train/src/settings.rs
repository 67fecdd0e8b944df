//! What a run is made with.

use serde::{Deserialize, Serialize};

use crate::{Error, Schedule};

/// The format that matrices are multiplied in; sums, parameters and optimiser are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Brain floating point.
    Bf16,
}

impl From<Dtype> for elmwood_engine::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// What Muon does otherwise than AdamW; schedule, decay and clipping are the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Muon {
    /// Peak learning rate of the matrices that Muon trains.
    pub lr: f64,
    /// Memory of their gradients.
    pub momentum: f64,
}

/// The optimiser, its schedule, and when to look and save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The format that matrices are multiplied in.
    pub dtype: Dtype,
    /// Rows that are computed at once.
    pub batch_rows: usize,
    /// Batches whose gradients are added up before a step.
    pub grad_accum: usize,
    /// Optimiser steps.
    pub steps: u64,
    /// Peak learning rate.
    pub lr: f64,
    /// The last learning rate, as a share of the peak.
    pub min_lr_ratio: f64,
    /// Steps in which the learning rate rises to its peak.
    pub warmup_steps: u64,
    /// Decay of matrices, per step and unit of learning rate; vectors are not decayed.
    pub weight_decay: f64,
    /// Memory of gradients.
    pub beta1: f64,
    /// Memory of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub eps: f64,
    /// Muon for the matrices within the layers; AdamW, with the settings above, for everything if absent.
    // Left out of what is hashed if absent, so that runs of AdamW go on which began before there was Muon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon: Option<Muon>,
    /// Gradients longer than this are scaled down to it; 0 turns it off.
    pub grad_clip: f64,
    /// Weight of the squared log-partition in the loss.
    pub z_loss: f64,
    /// Steps between two looks at the held-out rows; there is one at every checkpoint as well.
    pub eval_every: u64,
    /// Held-out rows that are looked at on the way; all of them at the end.
    pub eval_rows: usize,
    /// Steps between two checkpoints.
    pub save_every: u64,
    /// Checkpoints that are kept, the best one apart.
    pub keep_last: usize,
    /// The last checkpoints whose mean is tried as the final model; 1 is the last one alone.
    pub average_last: usize,
    /// Seed of the initial weights and of the order of the rows.
    pub seed: u64,
}

impl Settings {
    /// The learning rate over the run.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.lr,
            floor: self.lr * self.min_lr_ratio,
            warmup_steps: self.warmup_steps,
            steps: self.steps,
        }
    }

    /// Rows of one optimiser step.
    #[must_use]
    pub fn rows_per_step(&self) -> usize {
        self.batch_rows * self.grad_accum
    }

    /// Checks what would make a run senseless.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first setting that does.
    pub fn check(&self) -> Result<(), Error> {
        let muon = self.muon.unwrap_or(Muon { lr: self.lr, momentum: 0.0 });
        let positive: [(&'static str, f64); 11] = [
            ("batch_rows", self.batch_rows as f64),
            ("grad_accum", self.grad_accum as f64),
            ("steps", self.steps as f64),
            ("lr", self.lr),
            ("muon_lr", muon.lr),
            ("eps", self.eps),
            ("eval_every", self.eval_every as f64),
            ("eval_rows", self.eval_rows as f64),
            ("save_every", self.save_every as f64),
            ("keep_last", self.keep_last as f64),
            ("average_last", self.average_last as f64),
        ];
        let not_negative =
            [("weight_decay", self.weight_decay), ("grad_clip", self.grad_clip), ("z_loss", self.z_loss)];
        let below_one = [
            ("min_lr_ratio", self.min_lr_ratio, 1.0),
            ("beta1", self.beta1, 0.999_999),
            ("beta2", self.beta2, 0.999_999),
            ("muon_momentum", muon.momentum, 0.999_999),
        ];
        let wrong = |setting, value: f64, want: &'static str| Err(Error::Setting { setting, value, want });
        for (setting, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return wrong(setting, value, "a positive number");
            }
        }
        for (setting, value) in not_negative {
            if !(value >= 0.0 && value.is_finite()) {
                return wrong(setting, value, "zero or a positive number");
            }
        }
        for (setting, value, most) in below_one {
            if !(0.0..=most).contains(&value) {
                return wrong(setting, value, "a share between 0 and 1");
            }
        }
        Ok(())
    }
}
