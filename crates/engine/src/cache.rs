//! Keys and values of earlier tokens, so that each new token is computed alone.

use crate::ops::qk_norm_rope::Heads;
use crate::{Dtype, Element, Tensor};

/// Normalised, rotated keys and values of one layer; the width differs from layer to layer.
#[derive(Debug)]
pub struct LayerCache {
    keys: Tensor,
    values: Tensor,
    len: usize,
}

impl LayerCache {
    /// Room for `capacity` tokens of `heads.kv` key and value heads.
    #[must_use]
    pub fn new(capacity: usize, heads: Heads, dtype: Dtype) -> Self {
        let tensor = || Tensor::zeros(capacity, heads.kv * heads.dim, dtype);
        Self { keys: tensor(), values: tensor(), len: 0 }
    }

    /// Tokens held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.keys.rows()
    }

    /// Forgets all tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(crate) fn keys(&self) -> &Tensor {
        &self.keys
    }

    pub(crate) fn values(&self) -> &Tensor {
        &self.values
    }

    /// Adds the tokens of `qk[tokens, (query + kv) · dim]` and `qkv[tokens, (query + 2 kv) · dim]`.
    pub(crate) fn append<E: Element>(&mut self, heads: Heads, qk: &[E], qkv: &[E]) {
        let width = heads.kv * heads.dim;
        let tokens = qk.len() / heads.qk_cols();
        assert!(self.len + tokens <= self.capacity(), "the cache holds {} tokens at most", self.capacity());
        let first = self.len * width;
        let keys = self.keys.as_mut_slice::<E>()[first..].chunks_exact_mut(width);
        for (to, from) in keys.zip(qk.chunks_exact(heads.qk_cols())) {
            to.copy_from_slice(&from[heads.query * heads.dim..]);
        }
        let values = self.values.as_mut_slice::<E>()[first..].chunks_exact_mut(width);
        for (to, from) in values.zip(qkv.chunks_exact(heads.qkv_cols())) {
            to.copy_from_slice(&from[heads.qk_cols()..]);
        }
        self.len += tokens;
    }
}
