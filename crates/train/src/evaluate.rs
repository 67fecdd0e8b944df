//! The loss on rows that were held out.

use elmwood_data::PackedTokens;
use elmwood_engine::{Arena, Batch, Cpu, Dtype, Tape};
use elmwood_model::Model;

use crate::batches::fill;

/// Rows that are computed at once; changes nothing but the memory.
const ROWS: usize = 8;

/// The loss over some rows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HeldOutLoss {
    /// Sum of −log p over all targets, in nats.
    pub nats: f64,
    /// Tokens predicted.
    pub targets: u64,
}

impl HeldOutLoss {
    /// Nats per token.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.nats / self.targets.max(1) as f64
    }

    /// Bits per byte of the text that the tokens stand for.
    #[must_use]
    pub fn bits_per_byte(&self, text_bytes: u64) -> f64 {
        self.nats / std::f64::consts::LN_2 / text_bytes.max(1) as f64
    }
}

/// The loss of the first `rows` rows of `data`, or of all if there are fewer.
pub fn evaluate(
    model: &Model,
    cpu: &Cpu,
    arena: &mut Arena,
    dtype: Dtype,
    data: &PackedTokens,
    rows: usize,
) -> HeldOutLoss {
    let mut batch = Batch::new(data.seq_len());
    let mut per_token = Vec::new();
    let mut loss = HeldOutLoss::default();
    let rows: Vec<usize> = (0..rows.min(data.rows())).collect();
    for rows in rows.chunks(ROWS) {
        fill(&mut batch, data, rows);
        per_token.resize(batch.tokens().len(), 0.0);
        let mut tape = Tape::forgetting(cpu, arena, model.parameters(), &batch, dtype);
        let hidden = model.forward(&mut tape);
        let part = tape.cross_entropy(hidden, model.head(), &mut per_token, None);
        loss.nats += part.cross_entropy;
        loss.targets += part.targets as u64;
    }
    loss
}
