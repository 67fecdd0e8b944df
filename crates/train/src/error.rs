//! Everything that can end a run, always with what to do about it.

use std::path::PathBuf;

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting makes no sense.
    #[error("`{setting}` is {value}, but must be {want}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        want: &'static str,
    },
    /// The corpus does not fill one step.
    #[error(
        "the corpus is too small: {rows} rows of {seq_len} tokens, but one step takes {needed}; use more text, or \
         lower `batch_rows`, `grad_accum` or `seq_len`"
    )]
    TooFewRows {
        /// Rows there are.
        rows: usize,
        /// Rows of one step.
        needed: usize,
        /// Tokens in a row.
        seq_len: usize,
    },
    /// Tokens were made with another vocabulary, or rows are longer than the model's context.
    #[error("the tokens do not fit the model: {what}")]
    Mismatch {
        /// How they differ.
        what: String,
    },
    /// The loss or a gradient is infinite or not a number. Nothing of that step was kept.
    #[error(
        "the {what} is {value} at step {} (rows {rows:?} of the corpus); {kept}; lower `lr` (in this step {lr:.1e}) or \
         `grad_clip`, lengthen `warmup_steps`, or try `dtype = \"f32\"`", step + 1
    )]
    NotFinite {
        /// The loss or the gradient's norm.
        what: &'static str,
        /// What it was.
        value: f64,
        /// Steps done before it; the message counts from 1, as the metrics do.
        step: u64,
        /// The corpus rows of the step.
        rows: Vec<usize>,
        /// The learning rate of the step.
        lr: f64,
        /// Which checkpoint remains.
        kept: String,
    },
    /// There are checkpoints, but they were made with other settings or another corpus.
    #[error(
        "the checkpoints in `{}` were made with other settings or another corpus; remove the folder, or train \
         into another one", folder.display()
    )]
    OtherRun {
        /// The folder of checkpoints.
        folder: PathBuf,
    },
    /// There are checkpoints, but none of them is whole.
    #[error("no checkpoint in `{}` can be used: {}; remove the folder to start anew", folder.display(), reasons.join("; "))]
    NoUsableCheckpoint {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// What is wrong with each.
        reasons: Vec<String>,
    },
    /// The run was asked to stop; its state was saved.
    #[error("interrupted at step {step}; run the same command again to go on from there")]
    Interrupted {
        /// Steps done.
        step: u64,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] elmwood_durable::Error),
    /// A file of the run cannot be read.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A model file is wrong.
    #[error(transparent)]
    Model(#[from] elmwood_model::Error),
    /// The state of a checkpoint is wrong.
    #[error("`{}` is no state of a run: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `ELMWOOD_ISA` names an instruction set that is not there.
    #[error(transparent)]
    Isa(#[from] elmwood_engine::IsaError),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
