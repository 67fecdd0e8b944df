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

#[cfg(test)]
mod tests {
    use super::*;
    use elmwood_model::{Scaling, TensorRole};

    #[test]
    fn matrices_are_taken_apart_and_tables_and_vectors_left_out() {
        let config = OpenElmConfig::new(&Scaling {
            model_dim: 192,
            num_transformer_layers: 6,
            head_dim: 32,
            num_gqa_groups: 2,
            qkv_multipliers: [0.5, 1.0],
            ffn_multipliers: [0.5, 4.0],
            ffn_dim_divisor: 64,
            vocab_size: 4096,
            max_context_length: 512,
        })
        .unwrap();
        let specs = layout(&config);
        let of = |role, layer| {
            let spec = specs.iter().find(|spec| spec.role == role && spec.layer == layer).unwrap();
            matrices(&config, spec)
        };
        assert_eq!(of(TensorRole::QkvProj, 5), [6 * 32, 3 * 32, 3 * 32]);
        assert_eq!(of(TensorRole::OutProj, 0), [192]);
        assert_eq!(of(TensorRole::Proj1, 5), [768, 768]);
        assert_eq!(of(TensorRole::Proj2, 5), [192]);
        for role in
            [TensorRole::TokenEmbeddings, TensorRole::FinalNorm, TensorRole::KNorm, TensorRole::FfnNorm]
        {
            assert!(of(role, 0).is_empty(), "{role:?}");
        }
        // The quickstart: what is not the embedding is nearly all Muon's.
        let values = |spec: &&TensorSpec| !matrices(&config, spec).is_empty();
        let share = specs.iter().filter(values).map(TensorSpec::n_values).sum::<usize>();
        assert_eq!(share, 2_101_248);
    }
}
