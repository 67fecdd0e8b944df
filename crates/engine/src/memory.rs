//! Memory in huge pages.
//!
//! What is read from end to end for every token comes a third faster from pages of 2 MiB than of 4 KiB: a core
//! walks its page tables less, and its prefetcher stops less often.

use std::fmt;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Bytes of a huge page on x86-64 and most others.
const HUGE_PAGE: usize = 2 << 20;
/// Less memory than this lies in ordinary pages.
const LEAST: usize = 2 * HUGE_PAGE;

/// Bytes, zero at first, aligned to a cache line; to a huge page if there are many.
pub(crate) struct Memory {
    map: MmapMut,
    start: usize,
    len: usize,
}

impl Memory {
    /// Zeros, which take up memory as they are written to.
    ///
    /// # Panics
    /// If the system has no room for them.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self::aligned(len, if len < LEAST { 1 } else { HUGE_PAGE })
    }

    /// The same in ordinary pages: for what is written a little here and there, since the system clears whole pages.
    ///
    /// # Panics
    /// If the system has no room for them.
    pub(crate) fn in_small_pages(len: usize) -> Self {
        Self::aligned(len, 1)
    }

    fn aligned(len: usize, align: usize) -> Self {
        // Up to a whole number of pages: else the last one is made of small ones.
        let mapped = len.next_multiple_of(align);
        let map = MmapMut::map_anon((mapped + align).max(1));
        let map = map.unwrap_or_else(|error| panic!("no room for {len} bytes: {error}"));
        let start = (map.as_ptr() as usize).next_multiple_of(align) - map.as_ptr() as usize;
        #[cfg(target_os = "linux")]
        if align == HUGE_PAGE {
            // Advice that is not taken costs nothing but time.
            let _ = map.advise_range(memmap2::Advice::HugePage, start, mapped);
        }
        Self { map, start, len }
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_memory_is_zero_and_aligned() {
        for len in [0, 1, 100, LEAST - 1, LEAST, 5 * HUGE_PAGE + 3] {
            let mut memory = Memory::zeroed(len);
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|byte| *byte == 0));
            assert!((memory.as_ptr() as usize).is_multiple_of(if len < LEAST { 64 } else { HUGE_PAGE }));
            memory.fill(7);
            let copy = memory.clone();
            memory.fill(8);
            assert!(copy.iter().all(|byte| *byte == 7));
        }
    }
}
