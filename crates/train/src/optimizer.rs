//! Which optimiser trains what.
//!
//! Muon is for matrices that turn one vector into another: those of attention and of the feed-forward networks.
//! The embedding is a table of vectors (and, being tied, the output matrix), norms are vectors; AdamW trains
//! them in either case, as Jordan et al. 2024 and Liu et al. 2025 (arXiv:2502.16982) have it.

use elmwood_engine::{Moments, Parameters};
use elmwood_model::{LayerShape, OpenElmConfig, TensorRole, TensorSpec, layout};

/// Zero moments of a model of which Muon trains the matrices within the layers and AdamW the rest.
///
/// `parameters` are those of a `Model` of `config`, in the order of [`layout`].
///
/// # Panics
/// If they are those of another configuration.
#[must_use]
pub fn muon_moments(config: &OpenElmConfig, parameters: &Parameters) -> Moments {
    Moments::with_muon(parameters, layout(config).iter().map(|spec| matrices(config, spec)).collect())
}

/// The rows of each matrix that is stored in a tensor; none for what AdamW trains.
///
/// Queries, keys and values are three matrices that happen to be stored as one, gate and value two: each is made
/// orthogonal by itself.
fn matrices(config: &OpenElmConfig, spec: &TensorSpec) -> Vec<usize> {
    let rows = spec.shape[0];
    match spec.role {
        TensorRole::QkvProj => {
            let LayerShape { query_heads, kv_heads, .. } = config.layer(spec.layer);
            [query_heads, kv_heads, kv_heads].map(|heads| heads * config.head_dim()).to_vec()
        }
        TensorRole::Proj1 => vec![rows / 2; 2],
        TensorRole::OutProj | TensorRole::Proj2 => vec![rows],
        _ => Vec::new(),
    }
}
