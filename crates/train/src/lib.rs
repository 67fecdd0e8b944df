//! Pre-training of a model on packed tokens.
//!
//! [`train`] runs the loop: batches in a fixed order ([`RowOrder`]), the loss and its gradients, a step of
//! AdamW or Muon under a [`Schedule`], evaluation and checkpoints on the way. It can be killed at any moment: called
//! again, it goes on from the newest checkpoint that verifies, and ends with the same bytes as a run that was
//! never interrupted, with any number of threads.

mod batches;
mod checkpoint;
mod error;
mod evaluate;
mod machine;
mod metrics;
mod optimizer;
mod schedule;
mod settings;
mod tensorboard;
mod trainer;

pub use batches::RowOrder;
pub use checkpoint::{CHECKPOINTS, Progress, newest_checkpoint};
pub use error::Error;
pub use evaluate::{HeldOutLoss, evaluate};
pub use machine::Machine;
pub use metrics::{METRICS, StepMetrics};
pub use optimizer::muon_moments;
pub use schedule::Schedule;
pub use settings::{Dtype, Muon, Settings};
pub use tensorboard::EventWriter;
pub use trainer::{Event, Outcome, train};
