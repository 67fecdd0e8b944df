//! A trigram model over token ids: interpolated modified Kneser-Ney, the strongest model made by counting alone.
//!
//! The probability of a token is a discounted relative frequency plus what the discounts set aside, spent
//! as the next shorter context says, down to the uniform distribution over the vocabulary:
//!
//! ```text
//! P(c | a b) = (n(abc) - D(n(abc))) / n(ab·) + γ(ab) · P(c | b)
//! P(c | b)   = (n(bc)  - D(n(bc)))  / n(b·)  + γ(b)  · P(c)
//! P(c)       = (n(c)   - D(n(c)))   / n(·)   + γ     / vocab_size
//! ```
//!
//! `n` counts occurrences only for trigrams. For shorter runs it counts the different tokens seen before
//! them: "Francisco" is frequent, but after one word only, so it should not be expected elsewhere. Each order
//! has its own three discounts for counts 1, 2 and 3 or more, estimated from counts of counts.
//!
//! The start of a sequence is a context of its own, and never predicted. Counts are kept as a trie in flat
//! arrays, made by sorting; training needs no hash table.

use std::ops::Range;

/// An interpolated modified Kneser-Ney trigram model over the ids `0..vocab_size`.
///
/// ```
/// let text: Vec<u32> = (0..1000).map(|i| i % 7).collect();
/// let model = elmwood_eval::Trigram::train([text.as_slice()].into_iter(), 32);
/// // What repeats is foreseen; a token never seen costs much, but not everything.
/// assert!(model.bits(&[0, 1, 2, 3, 4, 5, 6]) / 7.0 < 0.5);
/// assert!((4.0..20.0).contains(&model.bits(&[31])));
/// ```
///
/// # Source
/// Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3;
/// counts at the start of a sequence as in Heafield et al. 2013, "Scalable modified Kneser-Ney language
/// model estimation".
#[derive(Debug, Clone)]
pub struct Trigram {
    /// P(c) for each id of the vocabulary.
    unigrams: Vec<f64>,
    /// Contexts are tokens; the last one is the start of a sequence.
    bigrams: Level,
    /// Contexts are the entries of `bigrams`.
    trigrams: Level,
}

impl Trigram {
    /// Counts `sequences` and estimates the discounts; each sequence begins anew.
    ///
    /// # Panics
    /// If an id is not below `vocab_size`, or `vocab_size` is 0 or not below 2³².
    pub fn train<'a>(sequences: impl Iterator<Item = &'a [u32]>, vocab_size: usize) -> Trigram {
        let start = u32::try_from(vocab_size).expect("`vocab_size` is below 2^32");
        assert!(start > 0, "`vocab_size` is above 0");

        let mut first_tokens: Vec<u32> = Vec::new();
        let mut trigrams = Vec::new();
        for sequence in sequences {
            check(sequence, start);
            first_tokens.extend(sequence.first());
            let mut context = [start, sequence.first().copied().unwrap_or(0)];
            for &token in sequence.iter().skip(1) {
                trigrams.push(pack([context[0], context[1], token]));
                context = [context[1], token];
            }
        }
        let trigrams = count_sorted(trigrams);

        // A bigram counts once for each different token before it; at the start of a sequence there is none,
        // and it counts as often as it occurs.
        let mut bigrams = count_sorted(trigrams.iter().map(|&(key, _)| key as u64).collect());
        let at_start =
            first_tokens.into_iter().map(|token| u64::from(start) << 32 | u64::from(token)).collect();
        bigrams.extend(count_sorted(at_start));

        let mut n_before = vec![0_u32; vocab_size];
        for &(key, _) in &bigrams {
            n_before[key as u32 as usize] += 1;
        }

        let bigram_children = bigrams.iter().map(|&(key, count)| ((key >> 32) as usize, key as u32, count));
        // Both lists are sorted by the same two tokens, so the context's place is found by walking along.
        let mut context = 0;
        let trigram_children = trigrams.iter().map(|&(key, count)| {
            while u128::from(bigrams[context].0) != key >> 32 {
                context += 1;
            }
            (context, key as u32, count)
        });
        Trigram {
            unigrams: unigram_probabilities(&n_before),
            bigrams: Level::new(vocab_size + 1, bigram_children),
            trigrams: Level::new(bigrams.len(), trigram_children),
        }
    }

    /// Bits that the model needs for a whole sequence: `-Σ log2 P(token | the two before it)`.
    ///
    /// # Panics
    /// If an id is not below the vocabulary size.
    pub fn bits(&self, sequence: &[u32]) -> f64 {
        (0..sequence.len()).map(|i| -self.probability(&sequence[..i], sequence[i]).log2()).sum()
    }

    /// Probability of `token` in a sequence that began with `history`; above 0, and of sum 1 over the vocabulary.
    ///
    /// # Panics
    /// If `token` or one of the last two ids of `history` is not below the vocabulary size.
    pub fn probability(&self, history: &[u32], token: u32) -> f64 {
        let start = self.unigrams.len() as u32;
        let history = &history[history.len().saturating_sub(2)..];
        check(history, start);
        check(&[token], start);
        let (before, last) = match *history {
            [] => (None, start),
            [last] => (Some(start), last),
            [before, last, ..] => (Some(before), last),
        };
        let short = self.bigrams.interpolate(last as usize, token, self.unigrams[token as usize]);
        match before.and_then(|before| self.bigrams.find(before as usize, last)) {
            Some(context) => self.trigrams.interpolate(context, token, short),
            None => short,
        }
    }
}

/// The tokens seen after each context of one length, with their counts.
#[derive(Debug, Clone)]
struct Level {
    /// Context i owns the entries `starts[i]..starts[i + 1]`, sorted by token.
    starts: Vec<usize>,
    tokens: Vec<u32>,
    counts: Vec<u32>,
    contexts: Vec<Context>,
    discounts: Discounts,
}

/// What all probabilities after one context share.
#[derive(Debug, Clone, Copy, Default)]
struct Context {
    /// Sum of the counts; 0 if nothing was seen after the context.
    total: f64,
    /// Share that the discounts set aside for the shorter context.
    gamma: f64,
}

impl Level {
    /// `children` are (context, token, count), sorted.
    fn new(n_contexts: usize, children: impl Iterator<Item = (usize, u32, u32)>) -> Level {
        let mut starts = vec![0; n_contexts + 1];
        let (mut tokens, mut counts) = (Vec::new(), Vec::new());
        for (context, token, count) in children {
            starts[context + 1] += 1;
            tokens.push(token);
            counts.push(count);
        }
        for i in 0..n_contexts {
            starts[i + 1] += starts[i];
        }
        let discounts = Discounts::estimate(&counts);
        let contexts =
            starts.windows(2).map(|range| discounts.context(&counts[range[0]..range[1]])).collect();
        Level { starts, tokens, counts, contexts, discounts }
    }

    /// The entry of `token` after `context`.
    fn find(&self, context: usize, token: u32) -> Option<usize> {
        let range: Range<usize> = self.starts[context]..self.starts[context + 1];
        self.tokens[range.clone()].binary_search(&token).ok().map(|i| range.start + i)
    }

    /// Probability of `token` after `context`, given its probability after the next shorter one.
    fn interpolate(&self, context: usize, token: u32, shorter: f64) -> f64 {
        let Context { total, gamma } = self.contexts[context];
        if total == 0.0 {
            return shorter;
        }
        let seen = self.find(context, token).map_or(0.0, |i| self.discounts.apply(self.counts[i]));
        seen / total + gamma * shorter
    }
}

/// What is taken off a count of 1, of 2, and of 3 or more.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Discounts([f64; 3]);

impl Discounts {
    /// For counts too few or too odd to estimate from.
    const FALLBACK: Discounts = Discounts([0.5, 1.0, 1.5]);

    /// `D(k) = k - (k + 1) · t1 / (t1 + 2 t2) · t(k+1) / tk`, where tk is how many entries have count k.
    fn estimate(counts: &[u32]) -> Discounts {
        let mut t = [0.0; 5];
        for &count in counts.iter().filter(|&&count| count <= 4) {
            t[count as usize] += 1.0;
        }
        if t[1..=3].contains(&0.0) {
            return Discounts::FALLBACK;
        }
        let y = t[1] / (t[1] + 2.0 * t[2]);
        let discounts = [1, 2, 3].map(|k| k as f64 - (k + 1) as f64 * y * t[k + 1] / t[k]);
        let sound = discounts.iter().zip([1.0, 2.0, 3.0]).all(|(d, k)| (0.0..=k).contains(d));
        if sound { Discounts(discounts) } else { Discounts::FALLBACK }
    }

    fn of(&self, count: u32) -> f64 {
        self.0[count.clamp(1, 3) as usize - 1]
    }

    fn apply(&self, count: u32) -> f64 {
        f64::from(count) - self.of(count)
    }

    fn context(&self, counts: &[u32]) -> Context {
        if counts.is_empty() {
            return Context::default();
        }
        let total = counts.iter().map(|&count| f64::from(count)).sum();
        let set_aside: f64 = counts.iter().map(|&count| self.of(count)).sum();
        Context { total, gamma: set_aside / total }
    }
}

/// P(c) from how many different tokens stand before each c, with the uniform distribution as floor.
fn unigram_probabilities(n_before: &[u32]) -> Vec<f64> {
    let uniform = 1.0 / n_before.len() as f64;
    let seen: Vec<u32> = n_before.iter().copied().filter(|&count| count > 0).collect();
    let discounts = Discounts::estimate(&seen);
    let Context { total, gamma } = discounts.context(&seen);
    let probability = |&count: &u32| match (seen.is_empty(), count) {
        (true, _) => uniform,
        (false, 0) => gamma * uniform,
        (false, count) => discounts.apply(count) / total + gamma * uniform,
    };
    n_before.iter().map(probability).collect()
}

/// Three ids in one number that sorts as they do.
fn pack([a, b, c]: [u32; 3]) -> u128 {
    u128::from(a) << 64 | u128::from(b) << 32 | u128::from(c)
}

/// The different keys, sorted, each with how often it occurs.
fn count_sorted<K: Ord + Copy>(mut keys: Vec<K>) -> Vec<(K, u32)> {
    keys.sort_unstable();
    keys.chunk_by(K::eq).map(|run| (run[0], u32::try_from(run.len()).unwrap_or(u32::MAX))).collect()
}

fn check(tokens: &[u32], vocab_size: u32) {
    if let Some(token) = tokens.iter().find(|&&token| token >= vocab_size) {
        panic!("token {token} is outside the vocabulary of {vocab_size}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Discounts, Trigram};

    /// Zipf-like ids below `limit` with some order in them; the same for the same seed.
    fn text(seed: u64, length: usize, limit: u32) -> Vec<u32> {
        let mut state = seed;
        let mut last = 0;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1_u64 << 31) as f64
        };
        (0..length)
            .map(|_| {
                let fresh = (f64::from(limit).powf(draw()) - 1.0) as u32;
                last = if draw() < 0.5 { (last * 7 + fresh % 3) % limit } else { fresh };
                last
            })
            .collect()
    }

    fn train(sequences: &[Vec<u32>], vocab_size: usize) -> Trigram {
        Trigram::train(sequences.iter().map(Vec::as_slice), vocab_size)
    }

    fn assert_close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * a.abs().max(b.abs()), "{a} is not {b}");
    }

    /// 0 1 0 2 over three ids. Every count is 1, but that two tokens (the start and 1) stand before 0; so the
    /// fallback discounts hold: 1/2 off a 1, 1 off a 2.
    #[test]
    fn agrees_with_a_case_worked_by_hand() {
        let model = train(&[vec![0, 1, 0, 2]], 3);
        // P(0) = (2 - 1) / 4 + 1/2 · 1/3;  P(1) = P(2) = 1/2 / 4 + 1/2 · 1/3
        assert_close(model.unigrams[0], 5.0 / 12.0);
        assert_close(model.unigrams[1], 7.0 / 24.0);
        assert_close(model.unigrams[2], 7.0 / 24.0);
        // P(0 | start) = 1/2 + 1/2 · 5/12;  P(1 | start) = 1/2 · 7/24
        assert_close(model.probability(&[], 0), 17.0 / 24.0);
        assert_close(model.probability(&[], 1), 7.0 / 48.0);
        // P(1 | 0) = 1/2 / 2 + 1/2 · 7/24 = 19/48;  P(1 | start 0) = 1/2 + 1/2 · 19/48
        assert_close(model.probability(&[0], 1), 67.0 / 96.0);
        // P(0 | 1) = 1/2 + 1/2 · 5/12 = 17/24;  P(0 | 0 1) = 1/2 + 1/2 · 17/24
        assert_close(model.probability(&[0, 1], 0), 41.0 / 48.0);
        assert_close(model.probability(&[1, 0], 2), 67.0 / 96.0);
        // 2 2 and 2 were never followed by anything: P(1). 2 0 was never seen, 0 was: P(1 | 0).
        assert_close(model.probability(&[2, 2], 1), 7.0 / 24.0);
        assert_close(model.probability(&[2, 0], 1), 19.0 / 48.0);

        let product: f64 = [17.0 / 24.0, 67.0 / 96.0, 41.0 / 48.0, 67.0 / 96.0].iter().product();
        assert_close(model.bits(&[0, 1, 0, 2]), -product.log2());
    }

    #[test]
    fn discounts_follow_the_formula() {
        // t = 8, 4, 2, 1: Y = 8 / 16; D = 1 - 2·Y·4/8, 2 - 3·Y·2/4, 3 - 4·Y·1/2
        let counts = [vec![1; 8], vec![2; 4], vec![3; 2], vec![4], vec![9; 3]].concat();
        assert_eq!(Discounts::estimate(&counts), Discounts([0.5, 1.25, 2.0]));
        assert_eq!(Discounts::estimate(&[1, 1, 2]), Discounts::FALLBACK);
        // Many fours make D(3) negative.
        assert_eq!(Discounts::estimate(&[1, 2, 3, 4, 4, 4, 4]), Discounts::FALLBACK);
    }

    #[test]
    fn probabilities_sum_to_one() {
        let vocab_size = 60;
        let sequences = [text(1, 3_000, 50), vec![], vec![7], vec![7, 49], text(2, 500, 50)];
        let model = train(&sequences, vocab_size);
        assert_ne!(model.trigrams.discounts, Discounts::FALLBACK, "the text is meant to have all counts");
        let seen = [sequences[0][10], sequences[0][11]];
        // The start, seen, unseen bigrams of seen tokens, tokens never seen, and a token seen only at an end.
        let histories: [&[u32]; 8] =
            [&[], &[7], &[59], &seen, &[49, 48], &[59, seen[1]], &[seen[0], 59], &[7, 49]];
        for history in histories {
            let all = (0..vocab_size as u32).map(|token| model.probability(history, token));
            let (sum, least) = all.fold((0.0, 1.0_f64), |(sum, least), p| (sum + p, least.min(p)));
            assert!((sum - 1.0_f64).abs() < 1e-12 && least > 0.0, "{history:?}: {sum}, least {least}");
        }
    }

    #[test]
    fn without_training_everything_is_equally_likely() {
        let model = train(&[], 1024);
        assert_close(model.bits(&[0, 5, 1023]), 30.0);
    }

    #[test]
    #[should_panic(expected = "token 3 is outside the vocabulary of 3")]
    fn refuses_ids_outside_the_vocabulary() {
        train(&[vec![3]], 3);
    }

    /// The definition, by maps and sets: slow, and written to be checked by eye.
    struct Plain {
        vocab_size: u32,
        /// n-gram to its count, one map for each order.
        counts: [BTreeMap<Vec<u32>, u32>; 3],
    }

    impl Plain {
        fn train(sequences: &[Vec<u32>], vocab_size: u32) -> Plain {
            let start = vocab_size;
            let mut before: [BTreeMap<Vec<u32>, BTreeSet<u32>>; 2] = Default::default();
            let mut counts: [BTreeMap<Vec<u32>, u32>; 3] = Default::default();
            for sequence in sequences {
                let padded: Vec<u32> = std::iter::once(start).chain(sequence.iter().copied()).collect();
                for gram in padded.windows(3) {
                    *counts[2].entry(gram.to_vec()).or_default() += 1;
                    before[1].entry(gram[1..].to_vec()).or_default().insert(gram[0]);
                }
                for gram in padded.windows(2) {
                    before[0].entry(gram[1..].to_vec()).or_default().insert(gram[0]);
                }
                if let [first, second, ..] = padded[..] {
                    *counts[1].entry(vec![first, second]).or_default() += 1;
                }
            }
            for order in 0..2 {
                for (gram, tokens) in &before[order] {
                    counts[order].insert(gram.clone(), tokens.len() as u32);
                }
            }
            Plain { vocab_size, counts }
        }

        fn probability(&self, context: &[u32], token: u32) -> f64 {
            let shorter = match context {
                [] => 1.0 / f64::from(self.vocab_size),
                [_, rest @ ..] => self.probability(rest, token),
            };
            let counts = &self.counts[context.len()];
            let discounts = Discounts::estimate(&counts.values().copied().collect::<Vec<_>>());
            let (mut total, mut set_aside, mut seen) = (0.0, 0.0, 0.0);
            for (gram, &count) in counts.iter().filter(|(gram, _)| gram.starts_with(context)) {
                total += f64::from(count);
                set_aside += discounts.of(count);
                if gram[context.len()] == token {
                    seen = discounts.apply(count);
                }
            }
            if total == 0.0 { shorter } else { (seen + set_aside * shorter) / total }
        }
    }

    #[test]
    fn agrees_with_the_plain_definition() {
        let sequences = [text(3, 400, 9), text(4, 5, 9), text(5, 1, 9), text(6, 300, 9)];
        let (fast, plain) = (train(&sequences, 10), Plain::train(&sequences, 10));
        assert_ne!(fast.bigrams.discounts, Discounts::FALLBACK, "the text is meant to have all counts");
        for token in 0..10 {
            assert_close(fast.probability(&[], token), plain.probability(&[10], token));
            for a in 0..10 {
                assert_close(fast.probability(&[a], token), plain.probability(&[10, a], token));
                for b in 0..10 {
                    assert_close(fast.probability(&[4, a, b], token), plain.probability(&[a, b], token));
                }
            }
        }
    }
}
