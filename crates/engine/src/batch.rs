//! Tokens in rows, and which of them belong together.

use std::ops::Range;

use crate::NO_TARGET;

/// Rows of equal length, each holding one or more documents; a token sees its own document only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) rows: usize,
    pub(crate) seq: usize,
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) starts: Vec<u32>,
    pub(crate) targets: Vec<u32>,
}

impl Batch {
    /// No rows yet; rows will hold `seq` tokens.
    #[must_use]
    pub fn new(seq: usize) -> Self {
        Self { seq, ..Self::default() }
    }

    /// Forgets the rows, keeps their memory.
    pub fn clear(&mut self) {
        self.rows = 0;
        for part in [&mut self.tokens, &mut self.positions, &mut self.starts, &mut self.targets] {
            part.clear();
        }
    }

    /// Adds a row with the documents at `segments`, ascending ranges within it. A token's target is the
    /// next token of its document; the last one has none, and neither has what lies between documents.
    ///
    /// # Panics
    /// If `tokens` are not `seq`, or segments overlap, descend or leave the row.
    pub fn push_row(
        &mut self,
        tokens: impl ExactSizeIterator<Item = u32>,
        segments: impl Iterator<Item = Range<usize>>,
    ) {
        assert_eq!(tokens.len(), self.seq, "a row of another length");
        let first = self.tokens.len();
        self.tokens.extend(tokens);
        self.rows += 1;
        let mut next = 0;
        for segment in segments {
            assert!(next <= segment.start && segment.start <= segment.end, "segments in order");
            self.fill_gap(next..segment.start);
            for i in segment.clone() {
                self.positions.push((i - segment.start) as u32);
                self.starts.push(segment.start as u32);
                let next = (i + 1 < segment.end).then(|| self.tokens[first + i + 1]);
                self.targets.push(next.unwrap_or(NO_TARGET));
            }
            next = segment.end;
        }
        assert!(next <= self.seq, "segments within the row");
        self.fill_gap(next..self.seq);
    }

    /// A row of `seq` tokens of one running text, the one after them as the target of the last: `tokens` are
    /// one more than `seq`.
    ///
    /// # Panics
    /// If `tokens` are not `seq + 1`.
    pub fn push_window(&mut self, tokens: &[u32]) {
        let (last, window) = tokens.split_last().expect("a window has tokens");
        self.push_document(window);
        if let Some(target) = self.targets.last_mut() {
            *target = *last;
        }
    }

    /// A row that is one document.
    pub fn push_document(&mut self, tokens: &[u32]) {
        self.push_row(tokens.iter().copied(), std::iter::once(0..tokens.len()));
    }

    /// Tokens of no document see themselves alone.
    fn fill_gap(&mut self, gap: Range<usize>) {
        for i in gap {
            self.positions.push(0);
            self.starts.push(i as u32);
            self.targets.push(NO_TARGET);
        }
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Tokens in a row.
    #[must_use]
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// All tokens, row by row.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The target of every token, or [`NO_TARGET`].
    #[must_use]
    pub fn targets(&self) -> &[u32] {
        &self.targets
    }

    /// Tokens that have a target.
    #[must_use]
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|target| **target != NO_TARGET).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_their_own_positions_and_targets() {
        let mut batch = Batch::new(7);
        batch.push_row([5, 6, 7, 8, 9, 10, 11].into_iter(), [0..3, 4..6].into_iter());
        assert_eq!(batch.positions, [0, 1, 2, 0, 0, 1, 0]);
        assert_eq!(batch.starts, [0, 0, 0, 3, 4, 4, 6]);
        assert_eq!(batch.targets, [6, 7, NO_TARGET, NO_TARGET, 10, NO_TARGET, NO_TARGET]);
        assert_eq!(batch.target_count(), 3);
    }
}
