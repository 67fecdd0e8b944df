//! Finding documents that occur twice, wholly or nearly: hashes, MinHash, and locality-sensitive buckets.
//!
//! Two documents are alike by the share of their 5-word shingles that they have in common (Jaccard). For
//! each of 112 random orders of all shingles, a document's signature keeps the first of its own; two
//! documents agree in a place with probability equal to their similarity. Signatures are cut into 14 bands
//! of 8 places; documents that agree in a whole band are compared, and joined if their signatures agree
//! often enough. Of a cluster, the first document stays.

use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64;

use crate::random::Random;

/// Bands of a signature: documents that agree in one are compared.
pub const BANDS: usize = 14;
/// Places of a band.
pub const ROWS: usize = 8;
/// Words of a shingle.
pub const SHINGLE_WORDS: usize = 5;

const PLACES: usize = BANDS * ROWS;

/// Lowercase, every number `0`, everything but letters and digits a single space: what duplicates and
/// n-grams are compared by, so that case, punctuation, layout and counts make no difference.
#[must_use]
pub fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_numeric() {
            if !out.ends_with('0') {
                out.push('0');
            }
        } else if c.is_ascii_alphabetic() {
            out.push(c.to_ascii_lowercase());
        } else if c.is_alphabetic() {
            out.extend(c.to_lowercase());
        } else if !out.ends_with(' ') && !out.is_empty() {
            out.push(' ');
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// One hash for each n-gram of words in a normalised text, in order; one for all words if there are fewer.
pub(crate) fn ngram_hashes(normalised: &str, n: usize) -> Vec<u64> {
    let words: Vec<u64> = normalised.split(' ').map(|w| xxh3_64(w.as_bytes())).collect();
    if words.len() < n {
        return vec![mix(words.iter().fold(0, |sum, w| sum.wrapping_mul(BASE).wrapping_add(*w)))];
    }
    // A polynomial in BASE, rolled: multiply, add the word that enters, subtract the one that left.
    let leaving = BASE.wrapping_pow(n as u32);
    let mut sum = 0u64;
    let mut hashes = Vec::with_capacity(words.len() + 1 - n);
    for (i, word) in words.iter().enumerate() {
        sum = sum.wrapping_mul(BASE).wrapping_add(*word);
        if i >= n {
            sum = sum.wrapping_sub(words[i - n].wrapping_mul(leaving));
        }
        if i + 1 >= n {
            hashes.push(mix(sum));
        }
    }
    hashes
}

/// Odd, with bits in all places.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads a polynomial's bits over the whole word (the finaliser of MurmurHash3).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// The key by which exact duplicates are found: 128 bits of BLAKE3 over the normalised text.
pub(crate) fn exact_key(normalised: &str) -> u128 {
    let hash = blake3::hash(normalised.as_bytes());
    u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("BLAKE3 gives 32 bytes"))
}

/// The MinHash signature of a document: 448 bytes.
///
/// # Source
/// Broder 1997, "On the resemblance and containment of documents"; bands and rows of FineWeb
/// (arXiv:2406.17557, section 3.4).
/// Differs: xxh3 instead of SHA-1, and orders given by `a·x + b` modulo 2⁶⁴ with odd `a`, of whose minimum
/// the upper 32 bits are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature([u32; PLACES]);

impl Signature {
    /// The signature of a text that [`normalise`] gave.
    #[must_use]
    pub fn new(normalised: &str) -> Self {
        static ORDERS: LazyLock<[(u64, u64); PLACES]> = LazyLock::new(|| {
            let mut random = Random::new(1, 0x006d_696e_6861_7368);
            std::array::from_fn(|_| (random.next() | 1, random.next()))
        });
        let mut minima = [u64::MAX; PLACES];
        for shingle in ngram_hashes(normalised, SHINGLE_WORDS) {
            for (minimum, (a, b)) in minima.iter_mut().zip(ORDERS.iter()) {
                *minimum = (*minimum).min(a.wrapping_mul(shingle).wrapping_add(*b));
            }
        }
        Self(minima.map(|m| (m >> 32) as u32))
    }

    /// The estimated Jaccard similarity of two documents, between 0 and 1; its standard error is at most
    /// `1/(2·√112)`, or 0.047.
    #[must_use]
    pub fn similarity(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count() as f64 / PLACES as f64
    }

    fn band(&self, band: usize) -> u64 {
        let places = &self.0[band * ROWS..(band + 1) * ROWS];
        places.iter().fold(0, |hash, &place| mix(hash ^ u64::from(place)).wrapping_mul(BASE))
    }
}

/// Joins documents whose estimated similarity is at least `threshold` and which share a band; gives the
/// index of each one's cluster, which is that of its first document.
///
/// A pair of similarity `s` shares a band with probability `1 − (1 − s⁸)¹⁴`: 0.57 at 0.7, 0.92 at 0.8,
/// 0.999 at 0.9.
#[must_use]
pub fn cluster(signatures: &[Signature], threshold: f64) -> Vec<usize> {
    let mut parents: Vec<usize> = (0..signatures.len()).collect();
    let mut bucketed: Vec<(u64, usize)> = Vec::with_capacity(signatures.len());
    for band in 0..BANDS {
        bucketed.clear();
        bucketed.extend(signatures.iter().enumerate().map(|(i, s)| (s.band(band), i)));
        bucketed.sort_unstable();
        for bucket in bucketed.chunk_by(|a, b| a.0 == b.0) {
            // Each document is compared with the first of every group found in the bucket so far, which
            // are few, since all of them agree in 8 places: linear where all pairs would be quadratic.
            let mut firsts: Vec<usize> = Vec::new();
            for &(_, i) in bucket {
                let like = |&first: &usize| {
                    root(&parents, first) == root(&parents, i)
                        || signatures[first].similarity(&signatures[i]) >= threshold
                };
                match firsts.iter().copied().find(|first| like(first)) {
                    Some(first) => join(&mut parents, first, i),
                    None => firsts.push(i),
                }
            }
        }
    }
    (0..parents.len()).map(|i| root(&parents, i)).collect()
}

fn root(parents: &[usize], mut i: usize) -> usize {
    while parents[i] != i {
        i = parents[i];
    }
    i
}

/// Union by the smaller index, so that a root is the first of its cluster; then the two paths are shortened.
fn join(parents: &mut [usize], a: usize, b: usize) {
    let (root_a, root_b) = (root(parents, a), root(parents, b));
    let first = root_a.min(root_b);
    for mut i in [a, b] {
        while parents[i] != first {
            let next = parents[i];
            parents[i] = first;
            if next == i {
                break;
            }
            i = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn words(seed: u64, n: usize) -> Vec<String> {
        let mut random = Random::new(seed, 0);
        (0..n)
            .map(|_| format!("w{}", char::from(b'a' + random.below(26) as u8)) + &letters(&mut random))
            .collect()
    }

    fn letters(random: &mut Random) -> String {
        (0..4).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
    }

    fn jaccard(a: &str, b: &str) -> f64 {
        let [a, b] = [a, b].map(|t| ngram_hashes(t, SHINGLE_WORDS).into_iter().collect::<HashSet<_>>());
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    #[test]
    fn normalising_forgets_case_numbers_and_layout() {
        assert_eq!(normalise("  The 42nd\n`Vec<T>` — ÉTÉ!  "), "the 0nd vec t été");
        assert_eq!(normalise("…"), "");
    }

    #[test]
    fn rolled_hashes_equal_those_of_each_window() {
        let text = words(3, 40).join(" ");
        let words: Vec<&str> = text.split(' ').collect();
        let each: Vec<u64> = words.windows(13).flat_map(|w| ngram_hashes(&w.join(" "), 13)).collect();
        assert_eq!(ngram_hashes(&text, 13), each);
    }

    #[test]
    fn estimates_follow_the_true_similarity() {
        let mut total_error = 0.0;
        for seed in 0..20 {
            let mut changed = words(seed, 1000);
            let original = changed.join(" ");
            for i in (0..changed.len()).step_by(20 + 10 * seed as usize) {
                changed[i] = "changed".into();
            }
            let changed = changed.join(" ");
            let (truth, estimate) = (
                jaccard(&original, &changed),
                Signature::new(&original).similarity(&Signature::new(&changed)),
            );
            assert!((truth - estimate).abs() < 0.2, "{truth} is estimated as {estimate}");
            total_error += estimate - truth;
        }
        assert!((total_error / 20.0).abs() < 0.03, "biased by {}", total_error / 20.0);
    }

    #[test]
    fn the_first_of_a_cluster_stands_for_it() {
        let mut texts: Vec<String> = (0..50).map(|i| words(i, 300).join(" ")).collect();
        for (copy, of) in [(60, 7), (61, 7), (62, 60), (63, 20)] {
            let mut words: Vec<String> = texts[of].split(' ').map(str::to_owned).collect();
            words[copy * 3] = "changed".into();
            while texts.len() < copy {
                texts.push(super::tests::words(1000 + texts.len() as u64, 300).join(" "));
            }
            texts.push(words.join(" "));
        }
        let signatures: Vec<Signature> = texts.iter().map(|t| Signature::new(t)).collect();
        let clusters = cluster(&signatures, 0.7);
        for (i, &first) in clusters.iter().enumerate() {
            let expected = match i {
                60..=62 => 7,
                63 => 20,
                _ => i,
            };
            assert_eq!(first, expected, "document {i}");
        }
    }
}
