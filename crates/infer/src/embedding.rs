//! One vector for a text: what a model makes of its tokens, before it turns that into logits.

use elmwood_engine::{CacheFormat, Cpu};
use elmwood_model::LocalModel;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::generator::check;

/// How the vectors of tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    /// Their mean.
    Mean,
    /// That of the last token, which has seen all others.
    Last,
}

/// The vector of a text, `[model_dim]`: rows after the model's final norm, pooled. Keys and values are held in the form `cache`.
///
/// # Errors
/// [`Error`] for a text without tokens, with unknown ones, or longer than `context` or the model's own context.
pub fn embed(
    model: &LocalModel,
    cpu: &Cpu,
    tokens: &[u32],
    context: usize,
    pool: Pool,
    cache: CacheFormat,
) -> Result<Vec<f32>, Error> {
    let context = context.min(model.architecture().context_length);
    if tokens.len() > context {
        return Err(Error::PromptTooLong { tokens: tokens.len(), context });
    }
    // Unlike a prompt, a text may fill the context: nothing comes after it.
    check(model.architecture(), tokens, usize::MAX)?;
    let mut sum = vec![0.0_f64; model.architecture().model_dim];
    model.hidden(cpu, tokens, cache, |row| match pool {
        Pool::Mean => sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x)),
        Pool::Last => sum.iter_mut().zip(row).for_each(|(sum, x)| *sum = f64::from(*x)),
    });
    let count = if pool == Pool::Mean { tokens.len() as f64 } else { 1.0 };
    Ok(sum.into_iter().map(|x| (x / count) as f32).collect())
}

/// Scales a vector to length 1; zeros stay.
pub fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
