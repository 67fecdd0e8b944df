//! Keys and values of earlier tokens, in the order in which attention reads them.

use crate::matmul::{Geometry, Precision, right_tiling};
use crate::memory::Memory;
use crate::ops::attention::append::{Columns, HeadSlots, Order, Role, STRETCH};
use crate::ops::attention::forward::{BLOCK_KEYS, Elements, PackedKeys, elements_of_unit};
use crate::ops::qk_norm_rope::Heads;
use crate::tape::by_dtype;
use crate::threads::Parts;
use crate::{Cpu, Dtype};

/// Fewer elements are written sooner than other threads are called.
const SHARED: usize = 1 << 11;

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheFormat {
    /// Single precision.
    F32,
    /// The upper half of an f32.
    #[default]
    Bf16,
    /// Integers of 8 bits, with a scale for each token's key and for its value in every head.
    Int8,
}

impl From<Dtype> for CacheFormat {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

impl CacheFormat {
    /// In what products with keys and values are computed.
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 | Self::Int8 => Dtype::Bf16,
        }
    }
}

/// Keys and values of one layer for one sequence. They are packed as they come, so that nothing but themselves is
/// read for the next token. Where tokens see no further than a window, later ones take the place of those that have
/// gone out of sight.
#[derive(Debug, Clone)]
pub struct AttentionCache {
    heads: Heads,
    format: CacheFormat,
    geometry: Geometry,
    capacity: usize,
    /// Tokens that are seen at a time.
    window: usize,
    /// Token `t` is at slot `t mod slots`.
    slots: usize,
    /// `[head][keys | values]`, packed; bytes in the place of elements, for integers.
    elements: Memory,
    /// `[head][keys | values][slot]`, for integers.
    scales: Vec<f32>,
    len: usize,
    /// Tokens from this one on are held: others have taken the place of those before.
    held_from: usize,
}

impl AttentionCache {
    /// Room for `capacity` tokens of `heads.kv` key and value heads, of which only the last `window` are seen.
    #[must_use]
    pub fn new(cpu: &Cpu, capacity: usize, window: Option<usize>, heads: Heads, format: CacheFormat) -> Self {
        let geometry = Geometry::for_few_rows(cpu.isa, Precision::from(format.dtype()));
        let window = window.unwrap_or(capacity).min(capacity);
        // Whole blocks, so that each lies in one piece, and one more than is seen, which new tokens are written to.
        let rounds = (window + 1).next_multiple_of(BLOCK_KEYS) + BLOCK_KEYS;
        let slots = capacity.next_multiple_of(STRETCH).min(rounds);
        let scales = if format == CacheFormat::Int8 { 2 * heads.kv * slots } else { 0 };
        let mut cache = Self {
            heads,
            format,
            geometry,
            capacity,
            window,
            slots,
            elements: Memory::zeroed(0),
            scales: vec![1.0; scales],
            len: 0,
            held_from: 0,
        };
        let units = heads.kv * (cache.key_len() + cache.value_len());
        // The first token writes to every head's part.
        cache.elements =
            Memory::in_small_pages(units * elements_of_unit(geometry.format) * cache.element_bytes());
        cache
    }

    /// Tokens held, or gone out of sight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory when it is full.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.elements.len() + size_of_val(&*self.scales)
    }

    /// How many tokens may be added at once without taking the place of one that the first of them sees.
    #[must_use]
    pub fn room(&self) -> usize {
        let left = self.capacity - self.len;
        if self.capacity <= self.slots { left } else { left.min(self.slots + 1 - self.window) }
    }

    /// Forgets tokens from `len` on, and all where what is seen from there is no longer held. What remains is returned.
    pub fn truncate(&mut self, len: usize) -> usize {
        if len < self.len {
            self.len = if (len + 1).saturating_sub(self.window) < self.held_from { 0 } else { len };
            self.held_from = self.held_from.min(self.len);
        }
        self.len
    }

    fn element_bytes(&self) -> usize {
        match self.format {
            CacheFormat::F32 => 4,
            CacheFormat::Bf16 => 2,
            CacheFormat::Int8 => 1,
        }
    }

    fn key_len(&self) -> usize {
        self.slots.div_ceil(self.geometry.width) * right_tiling(self.geometry, self.heads.dim).stride
    }

    fn value_len(&self) -> usize {
        self.heads.dim.div_ceil(self.geometry.width) * right_tiling(self.geometry, self.slots).stride
    }

    /// Adds the keys and values of rows `[queries | keys | values]`, keys turned already.
    ///
    /// # Panics
    /// If they are more than there is [`AttentionCache::room`] for.
    pub(crate) fn append(&mut self, cpu: &Cpu, qkv: &[f32]) {
        let _span = cpu.profile.span("cache: append", 0, 2 * size_of_val(qkv));
        let Heads { query, kv, dim } = self.heads;
        let stride = self.heads.qkv_cols();
        let new = qkv.len() / stride;
        assert!(new <= self.room(), "the cache has room for {} tokens of {new}", self.room());
        let (geometry, slots, first) = (self.geometry, self.slots, self.len % self.slots.max(1));
        let unit_bytes = elements_of_unit(geometry.format) * self.element_bytes();
        let (key_bytes, value_bytes) = (self.key_len() * unit_bytes, self.value_len() * unit_bytes);
        let slot_scales = if self.format == CacheFormat::Int8 { slots } else { 0 };
        let (elements, scales) = (Parts::new(&mut self.elements), Parts::new(&mut self.scales));
        let grain = if 2 * new * kv * dim < SHARED { kv } else { 1 };
        cpu.threads.run_ranges(kv, grain, |heads| {
            for head in heads {
                let start = head * (key_bytes + value_bytes);
                let parts = [
                    (Role::Key, start..start + key_bytes),
                    (Role::Value, start + key_bytes..start + key_bytes + value_bytes),
                ];
                for (part, (role, elements_at)) in parts.into_iter().enumerate() {
                    let first_scale = (2 * head + part) * slot_scales;
                    // SAFETY: every head is written by one task.
                    let (elements, scales) = unsafe {
                        (elements.part(elements_at), scales.part(first_scale..first_scale + slot_scales))
                    };
                    let mut to = HeadSlots { order: Order { geometry, role, dim, slots }, elements, scales };
                    let tokens = Columns { rows: qkv, stride, first: (query + part * kv + head) * dim };
                    by_dtype!(self.format.dtype(), E => to.write::<E>(cpu.isa, tokens, new, first));
                }
            }
        });
        self.len += new;
        self.held_from = self.held_from.max(self.len.saturating_sub(slots));
    }

    pub(crate) fn packed(&self) -> PackedKeys<'_> {
        let elements = if self.format == CacheFormat::Int8 {
            Elements::Bytes(bytemuck::cast_slice(&self.elements), &self.scales)
        } else {
            Elements::Units(bytemuck::cast_slice(&self.elements))
        };
        PackedKeys {
            geometry: self.geometry,
            elements,
            key_len: self.key_len(),
            value_len: self.value_len(),
            slots: self.slots,
        }
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.format.dtype()
    }
}
