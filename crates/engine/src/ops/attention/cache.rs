//! Keys and values of earlier tokens, in the order in which attention reads them.

use crate::elementwise::convert;
use crate::matmul::{Format, Geometry, Precision, Source, pack, right_tiling};
use crate::memory::Memory;
use crate::ops::attention::forward::PackedKeys;
use crate::ops::qk_norm_rope::Heads;
use crate::tape::by_dtype;
use crate::threads::Parts;
use crate::{Arena, Cpu, Dtype, Tensor};

/// Tokens that are packed together, a multiple of the panels and groups of every instruction set.
const ALIGN: usize = 32;

/// Keys and values of one layer for one sequence. They are packed as they come, so that nothing but themselves is
/// read for the next token.
#[derive(Debug, Clone)]
pub struct AttentionCache {
    heads: Heads,
    dtype: Dtype,
    geometry: Geometry,
    capacity: usize,
    units: Memory,
    len: usize,
    /// Rows `[keys | values]` of the tokens since the last multiple of [`ALIGN`].
    tail: Tensor,
}

impl AttentionCache {
    /// Room for `capacity` tokens of `heads.kv` key and value heads.
    #[must_use]
    pub fn new(cpu: &Cpu, capacity: usize, heads: Heads, dtype: Dtype) -> Self {
        let geometry = Geometry::for_few_rows(cpu.isa, Precision::from(dtype));
        let capacity = capacity.next_multiple_of(ALIGN);
        let tail = Tensor::zeros(ALIGN, 2 * heads.kv * heads.dim, dtype);
        let mut cache = Self { heads, dtype, geometry, capacity, units: Memory::zeroed(0), len: 0, tail };
        cache.units = Memory::zeroed(4 * heads.kv * (cache.key_len() + cache.value_len()));
        cache
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

    /// Bytes of memory when it is full.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.units.len()
    }

    /// Forgets tokens from `len` on, and some before: what remains is a multiple of 32, and returned.
    pub fn truncate(&mut self, len: usize) -> usize {
        if len < self.len {
            self.len = len / ALIGN * ALIGN;
        }
        self.len
    }

    fn key_len(&self) -> usize {
        self.capacity.div_ceil(self.geometry.width) * right_tiling(self.geometry, self.heads.dim).stride
    }

    fn value_len(&self) -> usize {
        self.heads.dim.div_ceil(self.geometry.width) * right_tiling(self.geometry, self.capacity).stride
    }

    /// Adds the keys and values of rows `[queries | keys | values]`, keys turned already.
    ///
    /// # Panics
    /// If there is no room for them.
    pub(crate) fn append(&mut self, cpu: &Cpu, arena: &mut Arena, qkv: &[f32]) {
        let Heads { query, kv, dim } = self.heads;
        let (width, qkv_cols) = (2 * kv * dim, self.heads.qkv_cols());
        let new = qkv.len() / qkv_cols;
        assert!(self.len + new <= self.capacity, "the cache holds {} tokens at most", self.capacity);
        let kept = self.len % ALIGN;
        let first = self.len - kept;
        let mut rows = arena.tensor(kept + new, width, self.dtype);
        by_dtype!(self.dtype, E => {
            let rows = rows.as_mut_slice::<E>();
            rows[..kept * width].copy_from_slice(&self.tail.as_slice::<E>()[..kept * width]);
            for (to, from) in rows[kept * width..].chunks_exact_mut(width).zip(qkv.chunks_exact(qkv_cols)) {
                convert(cpu.isa, &from[query * dim..], to);
            }
            let left = (kept + new) % ALIGN;
            let tail = &rows[(kept + new - left) * width..];
            self.tail.as_mut_slice::<E>()[..left * width].copy_from_slice(tail);
        });

        let (geometry, count) = (self.geometry, kept + new);
        let (key_len, value_len) = (self.key_len(), self.value_len());
        let (key_tiling, value_tiling) = (right_tiling(geometry, dim), right_tiling(geometry, self.capacity));
        let format: Format = geometry.format;
        let key_at = first / geometry.width * key_tiling.stride;
        let value_at = format.units(first) * geometry.width;
        let units: &mut [u32] = bytemuck::cast_slice_mut(&mut self.units);
        let parts = Parts::new(units);
        cpu.threads.run(kv, |head| {
            let start = head * (key_len + value_len);
            // SAFETY: every head is packed by one task.
            let (keys, values) =
                unsafe { parts.part(start..start + key_len + value_len) }.split_at_mut(key_len);
            by_dtype!(self.dtype, E => {
                let rows = rows.as_slice::<E>();
                let source = Source::along_cols(&rows[head * dim..], width);
                pack(cpu.isa, &source, 0..count, 0..dim, key_tiling, &mut keys[key_at..]);
                let source = Source::along_rows(&rows[(kv + head) * dim..], width);
                pack(cpu.isa, &source, 0..dim, 0..count, value_tiling, &mut values[value_at..]);
            });
        });
        self.len += new;
    }

    pub(crate) fn packed(&self) -> PackedKeys<'_> {
        PackedKeys {
            geometry: self.geometry,
            units: bytemuck::cast_slice(&self.units),
            key_len: self.key_len(),
            value_len: self.value_len(),
            capacity: self.capacity,
        }
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }
}
