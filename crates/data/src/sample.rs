//! Choosing some of many documents by seed alone: the same on every machine, in any order of files.
//!
//! Files in folders are chosen as water is poured into vessels: a folder shares its quota among its
//! subfolders (the files directly in it count as one more) equally, but none gets more than it holds, and
//! what it cannot hold goes to the others. So every kind of page appears, small folders wholly, and one
//! folder of 25,000 generated pages does not drown 200 chapters of a book beside it. Within a folder the
//! files with the lowest keyed hash of their path are taken.

use std::collections::{BTreeMap, HashSet};

use crate::random::rank;

/// The indices, ascending, of at most `limit` of the `names`, which are paths with `/`.
pub(crate) fn choose_files(names: &[&str], limit: usize, seed: u64) -> Vec<usize> {
    let all: Vec<(usize, &str)> = names.iter().copied().enumerate().collect();
    let mut chosen = Vec::with_capacity(limit.min(names.len()));
    pour(names, &all, limit, seed, &mut chosen);
    chosen.sort_unstable();
    chosen
}

/// At most `limit` of the numbers below `count`.
pub(crate) fn choose_indices(count: u64, limit: u64, seed: u64) -> HashSet<u64> {
    let mut ranked: Vec<_> = (0..count).map(|i| (rank(seed, &i.to_le_bytes()), i)).collect();
    if limit < count {
        ranked.select_nth_unstable(limit as usize);
        ranked.truncate(limit as usize);
    }
    ranked.into_iter().map(|(_, i)| i).collect()
}

/// `files` are pairs of an index and what is left of its path below the present folder.
fn pour(names: &[&str], files: &[(usize, &str)], quota: usize, seed: u64, chosen: &mut Vec<usize>) {
    if files.len() <= quota {
        chosen.extend(files.iter().map(|&(i, _)| i));
        return;
    }
    let mut vessels: BTreeMap<Option<&str>, Vec<(usize, &str)>> = BTreeMap::new();
    for &(i, rest) in files {
        match rest.split_once('/') {
            Some((folder, rest)) => vessels.entry(Some(folder)).or_default().push((i, rest)),
            None => vessels.entry(None).or_default().push((i, rest)),
        }
    }
    if vessels.len() == 1 && vessels.contains_key(&None) {
        let mut ranked: Vec<_> = files.iter().map(|&(i, _)| (rank(seed, names[i].as_bytes()), i)).collect();
        ranked.sort_unstable();
        chosen.extend(ranked[..quota].iter().map(|&(_, i)| i));
        return;
    }
    let sizes: Vec<usize> = vessels.values().map(Vec::len).collect();
    let keys = vessels.values().map(|files| rank(seed, names[files[0].0].as_bytes())).collect::<Vec<_>>();
    for (files, share) in vessels.values().zip(shares(&sizes, &keys, quota)) {
        pour(names, files, share, seed, chosen);
    }
}

/// How much of `quota`, which is below the sum of `sizes`, each vessel gets. Drops that remain at the end
/// go to the vessels with the lowest keys.
fn shares(sizes: &[usize], keys: &[u64], quota: usize) -> Vec<usize> {
    let mut by_size: Vec<usize> = (0..sizes.len()).collect();
    by_size.sort_by_key(|&v| (sizes[v], keys[v]));
    let (mut left, mut level) = (quota, 0);
    for (nth, &v) in by_size.iter().enumerate() {
        level = left / (sizes.len() - nth);
        if sizes[v] > level {
            break;
        }
        left -= sizes[v];
    }
    let mut result: Vec<usize> = sizes.iter().map(|&s| s.min(level)).collect();
    let mut drops = quota - result.iter().sum::<usize>();
    let mut open: Vec<usize> = (0..sizes.len()).filter(|&v| sizes[v] > level).collect();
    open.sort_by_key(|&v| keys[v]);
    for v in open {
        if drops == 0 {
            break;
        }
        result[v] += 1;
        drops -= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_folders_come_whole_and_large_ones_share() {
        let mut names = Vec::new();
        for (folder, n) in [("arch/x86", 3000), ("arch/arm", 2000), ("book", 20), ("std", 500)] {
            names.extend((0..n).map(|i| format!("{folder}/{i}.html")));
        }
        names.push("index.html".into());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let chosen = choose_files(&names, 321, 7);
        let count = |prefix| chosen.iter().filter(|&&i| names[i].starts_with(prefix)).count();
        assert_eq!(chosen.len(), 321);
        assert_eq!((count("book"), count("index"), count("std"), count("arch")), (20, 1, 150, 150));
        assert_eq!((count("arch/x86"), count("arch/arm")), (75, 75));
    }

    #[test]
    fn the_order_of_the_files_does_not_matter_but_the_seed_does() {
        let names: Vec<String> = (0..400).map(|i| format!("{}/{}/{i}", i % 3, i % 7)).collect();
        let forward: Vec<&str> = names.iter().map(String::as_str).collect();
        let backward: Vec<&str> = forward.iter().rev().copied().collect();
        let pick = |names: &[&str], seed| -> HashSet<String> {
            choose_files(names, 100, seed).into_iter().map(|i| names[i].to_owned()).collect()
        };
        assert_eq!(pick(&forward, 1).len(), 100);
        assert_ne!(pick(&forward, 1), pick(&forward, 2));
        // Keys of folders are those of their first file, hence the listing is sorted before.
        let mut sorted = backward.clone();
        sorted.sort_unstable();
        let mut forward_sorted = forward.clone();
        forward_sorted.sort_unstable();
        assert_eq!(pick(&forward_sorted, 1), pick(&sorted, 1));
    }

    #[test]
    fn indices_are_as_many_as_asked() {
        assert_eq!(choose_indices(1000, 10, 3).len(), 10);
        assert_eq!(choose_indices(5, 10, 3).len(), 5);
    }
}
