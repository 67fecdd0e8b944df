//! Attention and its gradients against the definition in f64.

use half::bf16;

use super::forward::Elements;
use super::*;
use crate::arena::Arena;
use crate::matmul::Values;
use crate::ops::attention;
use crate::testing::random;
use crate::{Cpu, Element, Isa};

struct Case {
    heads: Heads,
    rows: usize,
    seq: usize,
    starts: Vec<u32>,
    qkv: Vec<f32>,
    dout: Vec<f32>,
}

impl Case {
    fn new(heads: Heads, rows: usize, seq: usize) -> Self {
        // Documents of growing length in each row.
        let starts = (0..rows * seq).map(|i| {
            let (position, mut start, mut len) = (i % seq, 0, 3 + i / seq);
            while position >= start + len {
                start += len;
                len *= 2;
            }
            start as u32
        });
        let round = |x: Vec<f32>| x.into_iter().map(|x| bf16::from_f32(2.0 * x).to_f32()).collect::<Vec<_>>();
        Self {
            heads,
            rows,
            seq,
            starts: starts.collect(),
            qkv: round(random(rows * seq * heads.qkv_cols(), 7)),
            dout: round(random(rows * seq * heads.query * heads.dim, 8)),
        }
    }

    /// Output, and gradient of queries, keys and values, as the equations say.
    fn reference(&self) -> (Vec<f64>, Vec<f64>) {
        let Heads { query, kv, dim } = self.heads;
        let cols = self.heads.qkv_cols();
        let mut out = vec![0.0; self.rows * self.seq * query * dim];
        let mut dqkv = vec![0.0; self.qkv.len()];
        for token in 0..self.rows * self.seq {
            let row_start = token / self.seq * self.seq;
            let first = row_start + self.starts[token] as usize;
            for head in 0..query {
                let q = token * cols + head * dim;
                let k = |j: usize| j * cols + (query + head / (query / kv)) * dim;
                let v = |j: usize| k(j) + kv * dim;
                let at = |i: usize| f64::from(self.qkv[i]);
                let scale = (dim as f64).sqrt().recip();
                let scores: Vec<f64> = (first..=token)
                    .map(|j| scale * (0..dim).map(|c| at(q + c) * at(k(j) + c)).sum::<f64>())
                    .collect();
                let largest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                let total: f64 = scores.iter().map(|x| (x - largest).exp()).sum();
                let p: Vec<f64> = scores.iter().map(|x| (x - largest).exp() / total).collect();
                let o = (token * query + head) * dim;
                for c in 0..dim {
                    out[o + c] = p.iter().zip(first..).map(|(p, j)| p * at(v(j) + c)).sum();
                }
                let dout = &self.dout[o..o + dim];
                let dp: Vec<f64> = (first..=token)
                    .map(|j| (0..dim).map(|c| f64::from(dout[c]) * at(v(j) + c)).sum())
                    .collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for (i, j) in (first..=token).enumerate() {
                    let ds = p[i] * (dp[i] - delta) * scale;
                    for c in 0..dim {
                        dqkv[v(j) + c] += p[i] * f64::from(dout[c]);
                        dqkv[q + c] += ds * at(k(j) + c);
                        dqkv[k(j) + c] += ds * at(q + c);
                    }
                }
            }
        }
        (out, dqkv)
    }

    fn run<E: Element>(&self, isa: Isa, threads: usize) -> (Vec<E>, Vec<E>)
    where
        for<'a> &'a [E]: Into<Values<'a>>,
    {
        let cpu = Cpu::with(isa, threads);
        let mut arena = Arena::default();
        let qkv: Vec<E> = self.qkv.iter().map(|x| E::from_f32(*x)).collect();
        let dout: Vec<E> = self.dout.iter().map(|x| E::from_f32(*x)).collect();
        let operands = self.operands(&qkv);
        let mut out = vec![E::from_f32(f32::NAN); dout.len()];
        let mut log_sums = vec![f32::NAN; self.rows * self.seq * self.heads.query];
        attention::forward(&cpu, &mut arena, &operands, &mut out, &mut log_sums);
        let mut dqk = vec![E::ZERO; self.rows * self.seq * self.heads.qk_cols()];
        let mut dqkv = vec![E::from_f32(f32::NAN); qkv.len()];
        let gradients = Gradients { dqk: &mut dqk, dqkv: &mut dqkv };
        attention::backward(&cpu, &operands, &out, &dout, &log_sums, gradients);
        for (token, dqk) in dqk.chunks_exact(self.heads.qk_cols()).enumerate() {
            dqkv[token * self.heads.qkv_cols()..][..dqk.len()].copy_from_slice(dqk);
        }
        (out, dqkv)
    }

    fn operands<'a, E>(&'a self, qkv: &'a [E]) -> Operands<'a>
    where
        E: Element,
        &'a [E]: Into<Values<'a>>,
    {
        let heads = self.heads;
        let at = |column: usize| Strided {
            values: qkv.into(),
            stride: heads.qkv_cols(),
            offset: column * heads.dim,
        };
        Operands {
            heads,
            precision: E::DTYPE.into(),
            query: at(0),
            key: at(heads.query),
            value: at(heads.query + heads.kv),
            mask: Mask { rows: self.rows, queries: self.seq, keys: self.seq, starts: &self.starts },
        }
    }
}

/// |got − want|₂ / |want|₂.
fn relative_error<E: Element>(got: &[E], want: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(g.to_f32()) - w).powi(2)).sum();
    (error / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

const SHAPES: [(usize, usize, usize, usize, usize); 6] = [
    (1, 1, 8, 1, 1),
    (4, 2, 16, 2, 37),
    (3, 1, 64, 1, 130),
    (2, 2, 10, 3, 5),
    (5, 5, 40, 1, 300),
    (4, 1, 96, 2, 97),
];

fn cases() -> impl Iterator<Item = Case> {
    SHAPES.iter().map(|&(query, kv, dim, rows, seq)| Case::new(Heads { query, kv, dim }, rows, seq))
}

#[test]
fn f32_agrees_with_the_definition() {
    for case in cases() {
        let (out, dqkv) = case.reference();
        for isa in Isa::available() {
            let (got, dgot) = case.run::<f32>(isa, 2);
            // Rounding errors of independent sign: well under 100 units of 2^-24.
            assert!(
                relative_error(&got, &out) < 6e-6,
                "{isa} {:?} {}",
                case.heads,
                relative_error(&got, &out)
            );
            assert!(
                relative_error(&dgot, &dqkv) < 6e-6,
                "{isa} {:?} {}",
                case.heads,
                relative_error(&dgot, &dqkv)
            );
        }
    }
}

#[test]
fn bf16_agrees_within_its_rounding() {
    for case in cases() {
        let (out, dqkv) = case.reference();
        for isa in Isa::available() {
            let (got, dgot) = case.run::<bf16>(isa, 2);
            // The result, and probabilities and gradients on the way, are each rounded by up to 2^-9.
            assert!(
                relative_error(&got, &out) < 4e-3,
                "{isa} {:?} {}",
                case.heads,
                relative_error(&got, &out)
            );
            assert!(
                relative_error(&dgot, &dqkv) < 8e-3,
                "{isa} {:?} {}",
                case.heads,
                relative_error(&dgot, &dqkv)
            );
        }
    }
}

#[test]
fn threads_change_nothing() {
    for case in cases() {
        for isa in Isa::available() {
            let one = case.run::<bf16>(isa, 1);
            assert!(
                one == case.run::<bf16>(isa, 2) && one == case.run::<bf16>(isa, 5),
                "{isa} {:?}",
                case.heads
            );
        }
    }
}

#[test]
fn new_tokens_over_a_cache_are_the_last_rows_of_the_whole() {
    let case = Case::new(Heads { query: 4, kv: 2, dim: 32 }, 1, 300);
    let stride = case.heads.query * case.heads.dim;
    for isa in Isa::available() {
        let cpu = Cpu::with(isa, 2);
        let mut arena = Arena::default();
        let mut run = |new: usize| {
            let mut operands = case.operands(&case.qkv);
            operands.query.offset += (case.seq - new) * operands.query.stride;
            operands.mask.queries = new;
            operands.mask.starts = &case.starts[case.seq - new..];
            let mut out = vec![0.0_f32; new * stride];
            attention::forward(&cpu, &mut arena, &operands, &mut out, &mut vec![0.0; new * case.heads.query]);
            out
        };
        let whole = run(case.seq);
        for new in [1, 2, 45] {
            assert!(whole[(case.seq - new) * stride..] == run(new), "{isa} {new} new tokens");
        }
    }
}

const CACHED: Heads = Heads { query: 4, kv: 2, dim: 40 };

/// Attention of rows `[queries | keys | values]` over `cache`, at most `chunk` of them at a time.
fn over_cache(cpu: &Cpu, cache: &mut AttentionCache, qkv: &[f32], window: usize, chunk: usize) -> Vec<f32> {
    let mut all = Vec::new();
    let mut rest = qkv;
    while !rest.is_empty() {
        let past = cache.len();
        let n = chunk.min(cache.room()).min(rest.len() / CACHED.qkv_cols());
        let (rows, after) = rest.split_at(n * CACHED.qkv_cols());
        rest = after;
        cache.append(cpu, rows);
        let starts: Vec<u32> = (0..n).map(|i| (past + i + 1).saturating_sub(window) as u32).collect();
        let queries = Queries {
            heads: CACHED,
            precision: Precision::from(cache.dtype()),
            query: Strided { values: Values::F32(rows), stride: CACHED.qkv_cols(), offset: 0 },
            mask: Mask { rows: 1, queries: n, keys: past + n, starts: &starts },
            blocks: None,
            scale: 0.2,
        };
        let mut out = vec![0.0; n * CACHED.query * CACHED.dim];
        attend::<f32>(cpu, &queries, cache.packed(), &mut out, None);
        all.extend(out);
    }
    all
}

fn cached_rows(tokens: usize) -> Vec<f32> {
    let case = Case::new(CACHED, 1, tokens);
    case.qkv.clone()
}

const FORMATS: [CacheFormat; 3] = [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Int8];

#[test]
fn a_ring_of_the_window_gives_what_room_for_all_tokens_gives() {
    let (tokens, window) = (1300, 100);
    let qkv = cached_rows(tokens);
    for (isa, format) in Isa::available().into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
        let cpu = Cpu::with(isa, 2);
        let mut whole = AttentionCache::new(&cpu, tokens, None, CACHED, format);
        let mut ring = AttentionCache::new(&cpu, tokens, Some(window), CACHED, format);
        assert!(2 * ring.bytes() < whole.bytes(), "{} of {} bytes", ring.bytes(), whole.bytes());
        let expected = over_cache(&cpu, &mut whole, &qkv, window, tokens);
        assert!(over_cache(&cpu, &mut ring, &qkv, window, 300) == expected, "{isa}, {format:?}");
        // One by one, when heads that share keys go together.
        ring.truncate(0);
        assert!(over_cache(&cpu, &mut ring, &qkv, window, 1) == expected, "{isa}, {format:?}, one by one");
    }
}

#[test]
fn chunks_and_forgotten_tokens_change_nothing() {
    let (tokens, window) = (900, 100);
    let qkv = cached_rows(tokens);
    let (row, out) = (CACHED.qkv_cols(), CACHED.query * CACHED.dim);
    for (isa, format) in Isa::available().into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
        let cpu = Cpu::with(isa, 2);
        for window in [window, tokens] {
            let new = || AttentionCache::new(&cpu, tokens, Some(window), CACHED, format);
            let expected = over_cache(&cpu, &mut new(), &qkv, window, 77);
            let mut cache = new();
            let mut at = 0;
            // Where to go on to, and where to go back to from there.
            for (to, back) in [(50, 45), (100, 70), (101, 40), (640, 639), (700, 668), (710, 300), (900, 640)]
            {
                let got = over_cache(&cpu, &mut cache, &qkv[at * row..to * row], window, 7 + to % 60);
                assert!(got == expected[at * out..to * out], "{isa}, {format:?}, {at}..{to}");
                at = cache.truncate(back);
                assert!(at == back || at == 0, "{at} of {back}");
                assert!(to - back > 256 || at == back, "the latest tokens are forgotten one by one");
            }
        }
    }
}

/// What a cache holds after rows `[queries | keys | values]`, element by element: the bytes and the scales.
fn placed(isa: Isa, slots: usize, heads: Heads, format: CacheFormat, qkv: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let Heads { query, kv, dim } = heads;
    let precision = if format == CacheFormat::F32 { Precision::F32 } else { Precision::Bf16 };
    let width = Geometry::for_few_rows(isa, precision).width;
    // Elements of a unit and of a group, and bytes of an element.
    let (each, group, size) = match format {
        CacheFormat::F32 => (1, 16, 4),
        CacheFormat::Bf16 => (2, 32, 2),
        CacheFormat::Int8 => (2, 32, 1),
    };
    let key_stride = dim.next_multiple_of(group) * width;
    let value_stride = slots.next_multiple_of(group) * width;
    let key_len = slots / width * key_stride;
    let head_len = key_len + dim.div_ceil(width) * value_stride;
    let mut bytes = vec![0; kv * head_len * size];
    let mut scales = vec![1.0; if size == 1 { 2 * kv * slots } else { 0 }];
    for (token, row) in qkv.chunks_exact(heads.qkv_cols()).enumerate() {
        let slot = token % slots;
        for (part, row) in row[query * dim..].chunks_exact(dim).enumerate() {
            let (head, is_value) = (part % kv, part / kv);
            let largest = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            if size == 1 {
                scales[(2 * head + is_value) * slots + slot] = largest / 127.0;
            }
            for (c, x) in row.iter().enumerate() {
                let at = if is_value == 0 {
                    slot / width * key_stride + (c / each * width + slot % width) * each + c % each
                } else {
                    let at = c / width * value_stride + (slot / each * width + c % width) * each;
                    key_len + at + slot % each
                };
                let at = (head * head_len + at) * size;
                match format {
                    CacheFormat::F32 => bytes[at..at + 4].copy_from_slice(&x.to_ne_bytes()),
                    CacheFormat::Bf16 => {
                        bytes[at..at + 2].copy_from_slice(&bf16::from_f32(*x).to_ne_bytes());
                    }
                    CacheFormat::Int8 => {
                        bytes[at] = (x * (127.0 / largest)).round_ties_even() as i8 as u8;
                    }
                }
            }
        }
    }
    (bytes, scales)
}

#[test]
fn tokens_are_placed_alike_however_they_come() {
    // More than the ring of 512 slots that a window of 31 tokens has.
    let tokens = 700;
    for heads in [Heads { query: 4, kv: 2, dim: 40 }, Heads { query: 1, kv: 1, dim: 7 }] {
        let row = heads.qkv_cols();
        let qkv = random(tokens * row, 9);
        for (isa, format) in Isa::available().into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format)))
        {
            let cpu = Cpu::with(isa, 2);
            for capacity in [90, 700] {
                let qkv = &qkv[..capacity * row];
                for chunk in [1, 2, 3, 31, 32, 33, 45, 64, 100, 257] {
                    let mut cache = AttentionCache::new(&cpu, capacity, Some(31), heads, format);
                    let mut rest = qkv;
                    while !rest.is_empty() {
                        let now;
                        (now, rest) = rest.split_at(rest.len().min(chunk * row));
                        cache.append(&cpu, now);
                    }
                    let (bytes, scales) = placed(isa, cache.packed().slots, heads, format, qkv);
                    let case = format!("{isa}, {format:?}, {heads:?}, {capacity} tokens, {chunk} at a time");
                    let (held, held_scales): (&[u8], _) = match cache.packed().elements {
                        Elements::Units(units) => (bytemuck::cast_slice(units), &[][..]),
                        Elements::Bytes(held, scales) => (bytemuck::cast_slice(held), scales),
                    };
                    assert!(held == bytes, "{case}");
                    assert!(held_scales == scales, "the scales of {case}");
                }
            }
        }
    }
}

#[test]
fn whole_numbers_are_as_good_as_their_scales() {
    let qkv = cached_rows(500);
    let cpu = Cpu::new(2).unwrap();
    let [exact, rounded, whole] = FORMATS.map(|format| {
        let mut cache = AttentionCache::new(&cpu, 500, None, CACHED, format);
        over_cache(&cpu, &mut cache, &qkv, 500, 500)
    });
    let square = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>();
    let error = |got: &[f32]| {
        let difference: Vec<f32> = exact.iter().zip(got).map(|(a, b)| a - b).collect();
        (square(&difference) / square(&exact)).sqrt()
    };
    // An element of a key or value is off by up to 1/254 of the largest in its row: by 0.4 % of the root mean square of
    // evenly spread values. Values and probabilities each bring one such error; bf16 is eight times finer.
    assert!(error(&rounded) < 0.002 && error(&whole) < 0.01, "{} and {}", error(&rounded), error(&whole));
}
