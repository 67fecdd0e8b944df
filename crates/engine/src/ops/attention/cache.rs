//! Keys and values of earlier tokens, in the order in which attention reads them.

use half::bf16;

use crate::elementwise::{convert, whole_numbers};
use crate::matmul::{Geometry, Precision, right_tiling};
use crate::memory::Memory;
use crate::ops::attention::forward::{BLOCK_KEYS, Elements, PackedKeys, elements_of_unit};
use crate::ops::qk_norm_rope::Heads;
use crate::tape::by_dtype;
use crate::threads::Parts;
use crate::{Arena, Cpu, Dtype, Element};

/// Whole panels and groups of every instruction set.
const ALIGN: usize = 32;

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
        let slots = capacity.next_multiple_of(ALIGN).min(rounds);
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
        cache.elements = Memory::zeroed(units * elements_of_unit(geometry.format) * cache.element_bytes());
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
    pub(crate) fn append(&mut self, cpu: &Cpu, arena: &mut Arena, qkv: &[f32]) {
        let _span = cpu.profile.span("cache: append", 0, 2 * size_of_val(qkv));
        let Heads { query, kv, dim } = self.heads;
        let (width, slots) = (2 * kv * dim, self.slots);
        let new = qkv.len() / self.heads.qkv_cols();
        assert!(new <= self.room(), "the cache has room for {} tokens of {new}", self.room());
        let mut rows = arena.tensor(new, width, self.format.dtype());
        by_dtype!(self.format.dtype(), E => {
            let to = rows.as_mut_slice::<E>().chunks_exact_mut(width);
            for (i, (qkv, to)) in qkv.chunks_exact(self.heads.qkv_cols()).zip(to).enumerate() {
                let from = &qkv[query * dim..];
                if self.format != CacheFormat::Int8 {
                    convert(cpu.isa, from, to);
                    continue;
                }
                for (part, (from, to)) in from.chunks_exact(dim).zip(to.chunks_exact_mut(dim)).enumerate() {
                    // Keys of all heads come first, then values; scales are those of one head after the other.
                    let scales = 2 * (part % kv) + part / kv;
                    self.scales[scales * slots + (self.len + i) % slots] = whole_numbers(cpu.isa, from, to);
                }
            }
        });
        match self.format {
            CacheFormat::F32 => self.scatter::<f32, f32>(cpu, rows.as_slice(), |x| x),
            CacheFormat::Bf16 => self.scatter::<bf16, bf16>(cpu, rows.as_slice(), |x| x),
            CacheFormat::Int8 => self.scatter::<bf16, i8>(cpu, rows.as_slice(), |x| x.to_f32() as i8),
        }
        self.len += new;
        self.held_from = self.held_from.max(self.len.saturating_sub(self.slots));
    }

    /// Writes rows `[keys | values]` to where products look for their elements: see [`crate::matmul::Layout::Panels`].
    fn scatter<E: Element, T: bytemuck::Pod + Send>(
        &mut self,
        cpu: &Cpu,
        rows: &[E],
        element: impl Fn(E) -> T + Sync,
    ) {
        let Heads { kv, dim, .. } = self.heads;
        let (len, slots) = (self.len, self.slots);
        let (each, panel) = (elements_of_unit(self.geometry.format), self.geometry.width);
        let key_stride = right_tiling(self.geometry, dim).stride * each;
        let value_stride = right_tiling(self.geometry, slots).stride * each;
        let (key_len, value_len) = (self.key_len() * each, self.value_len() * each);
        let parts: Parts<'_, T> = Parts::new(bytemuck::cast_slice_mut(&mut self.elements));
        cpu.threads.run(kv, |head| {
            let start = head * (key_len + value_len);
            // SAFETY: every head is written by one task.
            let (keys, values) =
                unsafe { parts.part(start..start + key_len + value_len) }.split_at_mut(key_len);
            for (i, row) in rows.chunks_exact(2 * kv * dim).enumerate() {
                let slot = (len + i) % slots;
                // A token is a column of the first product, where coordinates are summed over.
                let column = &mut keys[slot / panel * key_stride + slot % panel * each..];
                let key = row[head * dim..(head + 1) * dim].chunks(each);
                for (key, unit) in key.zip(column.chunks_mut(panel * each)) {
                    for (to, from) in unit.iter_mut().zip(key) {
                        *to = element(*from);
                    }
                }
                // And of the second product's sums one term, in columns of coordinates.
                let value = row[(kv + head) * dim..(kv + head + 1) * dim].chunks(panel);
                let at = slot / each * panel * each + slot % each;
                for (value, panel) in value.zip(values.chunks_mut(value_stride)) {
                    for (to, from) in panel[at..].iter_mut().step_by(each).zip(value) {
                        *to = element(*from);
                    }
                }
            }
        });
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
