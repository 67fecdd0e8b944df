//! How far a long step has come, told to whoever asked.

/// One report of progress. Reports come in order, at most a few per record, from one thread at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which pass is running, as a verb: "extract", "measure".
    pub stage: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// How much there is; `None` while that is unknown.
    pub total: Option<u64>,
    /// What is counted: "pages", "documents".
    pub unit: &'static str,
}

/// A listener that ignores every report.
pub fn silent(_: Progress) {}
