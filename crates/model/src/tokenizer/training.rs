//! Learning a vocabulary: count the pieces of the texts, then merge the most frequent pair of neighbours
//! again and again.
//!
//! Every step has one outcome whatever the number of threads: counts are sums, words are sorted, and of
//! equally frequent pairs the one with the smaller ids wins.

use std::collections::{BinaryHeap, HashMap};
use std::num::NonZero;
use std::sync::{Mutex, mpsc};
use std::thread;

use super::byte_pairs::{BytePairs, Merge, Whole};
use super::merges::{Pair, PairMap};
use super::pieces::pieces;
use super::{Progress, byte_level};

/// Longer pieces are no words but noise (rows of dashes, encoded pictures) and teach nothing.
const MAX_WORD_BYTES: usize = 128;

/// A pair must occur this often to become a token.
const MIN_COUNT: i64 = 2;

/// Texts are handed to the counting threads in parcels of about this size.
const PARCEL_BYTES: usize = 1 << 20;

type WordCounts = HashMap<Box<[u8]>, u64>;

/// Learns up to `vocab_size` tokens: first `n_special` empty ones, then the bytes, then merges.
pub(super) fn train(
    texts: impl Iterator<Item = String>,
    vocab_size: usize,
    n_special: usize,
    mut progress: impl FnMut(Progress),
) -> BytePairs {
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get);
    let words = count_words(texts, n_threads, &mut progress);
    let mut tokens = vec![Box::default(); n_special];
    tokens.extend(byte_level::bytes_in_order().map(|byte| Box::from([byte])));
    let merges = learn_merges(words, &mut tokens, vocab_size, &mut progress);
    BytePairs::new(tokens, |_| true, merges, Whole::Reached).expect("what was just learned fits together")
}

/// How often each piece occurs, in the order of the pieces.
fn count_words(
    texts: impl Iterator<Item = String>,
    n_threads: usize,
    progress: &mut impl FnMut(Progress),
) -> Vec<(Box<[u8]>, u64)> {
    let (sender, receiver) = mpsc::sync_channel::<Vec<String>>(n_threads);
    let receiver = Mutex::new(receiver);
    let count = || {
        let mut counts = WordCounts::new();
        loop {
            let parcel = receiver.lock().expect("no thread panics while it waits").recv();
            let Ok(parcel) = parcel else { return counts };
            for piece in parcel.iter().flat_map(|text| pieces(text)) {
                match counts.get_mut(piece.as_bytes()) {
                    Some(count) => *count += 1,
                    None if piece.len() > MAX_WORD_BYTES => {}
                    None => _ = counts.insert(piece.as_bytes().into(), 1),
                }
            }
        }
    };
    let counts = thread::scope(|scope| {
        let workers: Vec<_> = (0..n_threads).map(|_| scope.spawn(count)).collect();
        let (mut parcel, mut parcel_bytes, mut bytes) = (Vec::new(), 0, 0);
        for text in texts {
            parcel_bytes += text.len();
            bytes += text.len() as u64;
            parcel.push(text);
            if parcel_bytes >= PARCEL_BYTES {
                parcel_bytes = 0;
                sender.send(std::mem::take(&mut parcel)).expect("the counting threads wait for more");
                progress(Progress::Counted { bytes });
            }
        }
        sender.send(parcel).expect("the counting threads wait for more");
        progress(Progress::Counted { bytes });
        drop(sender);
        let results = workers.into_iter().map(|worker| worker.join().expect("counting does not panic"));
        results.reduce(|mut all, part| {
            part.into_iter().for_each(|(word, count)| *all.entry(word).or_default() += count);
            all
        })
    });
    let mut words: Vec<_> = counts.unwrap_or_default().into_iter().collect();
    words.sort_unstable();
    words
}

/// Merges pairs of neighbours within the words, most frequent first, and adds a token for each.
fn learn_merges(
    words: Vec<(Box<[u8]>, u64)>,
    tokens: &mut Vec<Box<[u8]>>,
    vocab_size: usize,
    progress: &mut impl FnMut(Progress),
) -> Vec<Merge> {
    let mut ids: HashMap<Box<[u8]>, u32> =
        (0..).zip(tokens.iter()).map(|(id, token)| (token.clone(), id)).collect();
    let counts: Vec<i64> = words.iter().map(|&(_, count)| i64::try_from(count).unwrap_or(i64::MAX)).collect();
    let mut words: Vec<Vec<u32>> = words
        .into_iter()
        .map(|(word, _)| word.iter().map(|byte| ids[std::slice::from_ref(byte)]).collect())
        .collect();

    let mut pairs: PairMap<Occurrences> = PairMap::default();
    for (word_idx, word) in (0..).zip(&words) {
        for pair in word.windows(2) {
            pairs.entry((pair[0], pair[1])).or_default().add(counts[word_idx as usize], word_idx);
        }
    }
    // Of equal counts the smaller pair comes first. Counts in the queue may be outdated, the map's are not.
    let mut queue: BinaryHeap<(i64, std::cmp::Reverse<Pair>)> =
        pairs.iter().map(|(&pair, found)| (found.count, std::cmp::Reverse(pair))).collect();
    let mut merges: Vec<Merge> = Vec::new();
    let mut learned: PairMap<()> = PairMap::default();
    let n_wanted = vocab_size.saturating_sub(tokens.len());
    let n_before = tokens.len();
    while tokens.len() < vocab_size
        && let Some((count, std::cmp::Reverse(pair))) = queue.pop()
    {
        let found = pairs.get_mut(&pair).expect("a queued pair is in the map");
        if found.count != count {
            if found.count >= MIN_COUNT {
                queue.push((found.count, std::cmp::Reverse(pair)));
            }
            continue;
        }
        if count < MIN_COUNT {
            break;
        }
        let places = std::mem::take(&mut found.words);
        let bytes: Box<[u8]> = [&*tokens[pair.0 as usize], &*tokens[pair.1 as usize]].concat().into();
        let made = *ids.entry(bytes).or_insert_with_key(|bytes| {
            tokens.push(bytes.clone());
            tokens.len() as u32 - 1
        });
        if learned.insert(pair, ()).is_none() {
            merges.push((pair, made));
        }
        let mut risen: Vec<Pair> = Vec::new();
        for word_idx in places {
            let times = counts[word_idx as usize];
            merge_in_word(&mut words[word_idx as usize], pair, made, |changed, sign| {
                let found = pairs.entry(changed).or_default();
                if sign > 0 {
                    found.add(times, word_idx);
                    risen.push(changed);
                } else {
                    found.count -= times;
                }
            });
        }
        risen.sort_unstable();
        risen.dedup();
        queue.extend(risen.into_iter().map(|pair| (pairs[&pair].count, std::cmp::Reverse(pair))));
        if merges.len().is_multiple_of(256) {
            progress(Progress::Merged { done: tokens.len() - n_before, wanted: n_wanted });
        }
    }
    progress(Progress::Merged { done: tokens.len() - n_before, wanted: n_wanted });
    merges
}

/// How often a pair occurs, and in which words; a word may be listed that has lost it since.
#[derive(Debug, Default)]
struct Occurrences {
    count: i64,
    words: Vec<u32>,
}

impl Occurrences {
    fn add(&mut self, times: i64, word_idx: u32) {
        self.count = self.count.saturating_add(times);
        if self.words.last() != Some(&word_idx) {
            self.words.push(word_idx);
        }
    }
}

/// Replaces `pair` by `made` from left to right, and reports every pair of neighbours that goes (-1) or
/// comes (+1).
fn merge_in_word(word: &mut Vec<u32>, pair: Pair, made: u32, mut change: impl FnMut(Pair, i64)) {
    let mut idx = 0;
    while idx + 1 < word.len() {
        if (word[idx], word[idx + 1]) != pair {
            idx += 1;
            continue;
        }
        change(pair, -1);
        if idx > 0 {
            change((word[idx - 1], pair.0), -1);
            change((word[idx - 1], made), 1);
        }
        if let Some(&right) = word.get(idx + 2) {
            change((pair.1, right), -1);
            change((made, right), 1);
        }
        word[idx] = made;
        word.remove(idx + 1);
        idx += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_keep_the_counts_right() {
        let mut word = vec![1, 1, 2, 1, 2, 3];
        let mut net: HashMap<Pair, i64> = HashMap::new();
        let pairs = |word: &[u32], sign: i64, net: &mut HashMap<Pair, i64>| {
            word.windows(2).for_each(|pair| *net.entry((pair[0], pair[1])).or_default() += sign);
        };
        pairs(&word, 1, &mut net);
        merge_in_word(&mut word, (1, 2), 9, |pair, sign| *net.entry(pair).or_default() += sign);
        assert_eq!(word, [1, 9, 9, 3]);
        pairs(&word, -1, &mut net);
        assert!(net.values().all(|&count| count == 0), "{net:?}");
    }

    #[test]
    fn counts_do_not_depend_on_threads() {
        let texts = || (0..3000).map(|i| format!("text number {i} of many, {} times", i * i).repeat(20));
        let one = count_words(texts(), 1, &mut |_| {});
        assert_eq!(one, count_words(texts(), 7, &mut |_| {}));
    }
}
