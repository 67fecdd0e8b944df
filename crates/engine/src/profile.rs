//! Where the time of a step goes, operator by operator.
//!
//! Off unless [`Profile::switch`] turns it on; a span costs one load of a flag then. Spans nest: the time of an inner one is
//! not counted for the outer, so that all of them together are the time of the step.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What one operator took, over all its calls.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Entry {
    /// How often it was called.
    pub calls: u64,
    /// Seconds, without those of operators inside it.
    pub seconds: f64,
    /// Multiplications and additions.
    pub flops: f64,
    /// Bytes of its operands and results, each counted once: the least that must move.
    pub bytes: f64,
}

/// The time of every operator while it was on.
#[derive(Debug, Default)]
pub struct Profile {
    on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<&'static str, Entry>,
    /// Seconds of the spans that ended inside the one that is open.
    inner: f64,
}

impl Profile {
    /// Measures from now on, or no longer.
    pub fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// What was measured, the operator that took longest first.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, Entry)> {
        let mut entries: Vec<_> = self.state().entries.iter().map(|(name, entry)| (*name, *entry)).collect();
        entries.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        entries
    }

    /// Counts the time until the span is dropped, with work of so many operations on so many bytes.
    pub fn span(&self, name: &'static str, flops: usize, bytes: usize) -> Option<Span<'_>> {
        if !self.on.load(Ordering::Relaxed) {
            return None;
        }
        let outer = std::mem::take(&mut self.state().inner);
        Some(Span { profile: self, name, flops, bytes, outer, began: Instant::now() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An operator at work.
#[derive(Debug)]
#[must_use]
pub struct Span<'a> {
    profile: &'a Profile,
    name: &'static str,
    flops: usize,
    bytes: usize,
    /// What the surrounding span had counted as inner before.
    outer: f64,
    began: Instant,
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let seconds = self.began.elapsed().as_secs_f64();
        let mut state = self.profile.state();
        let inner = std::mem::replace(&mut state.inner, self.outer + seconds);
        let entry = state.entries.entry(self.name).or_default();
        entry.calls += 1;
        entry.seconds += seconds - inner;
        entry.flops += self.flops as f64;
        entry.bytes += self.bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn inner_time_is_not_counted_twice() {
        let profile = Profile::default();
        assert!(profile.span("not measured", 0, 0).is_none());
        profile.switch(true);
        let began = Instant::now();
        let pause = || std::thread::sleep(Duration::from_millis(5));
        for _ in 0..2 {
            let _outer = profile.span("outer", 10, 1);
            pause();
            for _ in 0..3 {
                let _inner = profile.span("inner", 0, 7);
                pause();
            }
        }
        let all = began.elapsed().as_secs_f64();
        let entries = profile.entries();
        let [("inner", inner), ("outer", outer)] = entries[..] else { panic!("{entries:?}") };
        assert_eq!((inner.calls, inner.bytes, outer.calls, outer.flops), (6, 42.0, 2, 20.0));
        assert!(inner.seconds >= 0.03 && outer.seconds >= 0.01 && inner.seconds + outer.seconds <= all);
    }
}
