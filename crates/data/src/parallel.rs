//! A map over a stream on several threads: results come in order, and few are held at a time.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, mpsc};
use std::thread;

use crate::Error;

/// Items in flight for each thread: enough to cover a slow one, few enough to bound the memory.
const WINDOW: usize = 8;

/// The number of threads for a setting of `threads`, where 0 means one per core.
pub(crate) fn thread_count(threads: usize) -> usize {
    match threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Gives `map` of every item to `sink`, in the order of the items, for any number of threads.
///
/// Items are taken, and results given, on the calling thread; at most `WINDOW` per thread are alive.
/// The first error, of an item or of `sink`, ends the run. A panic in `map` is passed on.
pub(crate) fn ordered_map<T: Send, R: Send>(
    threads: usize,
    items: impl Iterator<Item = Result<T, Error>>,
    map: impl Fn(T) -> R + Sync,
    mut sink: impl FnMut(R) -> Result<(), Error>,
) -> Result<(), Error> {
    let threads = thread_count(threads);
    if threads == 1 {
        for item in items {
            sink(map(item?))?;
        }
        return Ok(());
    }
    let (job_sender, jobs) = mpsc::channel::<(usize, T)>();
    let (result_sender, results) = mpsc::channel();
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (jobs, map, result_sender) = (&jobs, &map, result_sender.clone());
            scope.spawn(move || {
                loop {
                    let job = jobs.lock().expect("no thread panics while it waits").recv();
                    let Ok((index, item)) = job else { break };
                    let result = catch_unwind(AssertUnwindSafe(|| map(item)));
                    if result_sender.send((index, result)).is_err() {
                        break;
                    }
                }
            });
        }
        // Moved in, so that every way out of this closure closes the channel and ends the threads.
        let job_sender = job_sender;
        let mut items = items.enumerate().fuse();
        let mut early = BTreeMap::new();
        let (mut sent, mut emitted) = (0, 0);
        loop {
            while sent < emitted + WINDOW * threads {
                let Some((index, item)) = items.next() else { break };
                job_sender.send((index, item?)).expect("the threads live as long as the channel");
                sent += 1;
            }
            if emitted == sent {
                return Ok(());
            }
            let (index, result) = results.recv().expect("a job that was sent is answered");
            early.insert(index, result);
            while let Some(result) = early.remove(&emitted) {
                sink(result.unwrap_or_else(|panic| resume_unwind(panic)))?;
                emitted += 1;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(threads: usize, n: usize) -> Vec<usize> {
        let mut out = Vec::new();
        let slow_square = |i: usize| {
            thread::sleep(std::time::Duration::from_micros((i as u64 * 7919) % 50));
            i * i
        };
        ordered_map(threads, (0..n).map(Ok), slow_square, |r| {
            out.push(r);
            Ok(())
        })
        .unwrap();
        out
    }

    #[test]
    fn order_is_that_of_the_items_for_any_number_of_threads() {
        let expected: Vec<_> = (0..500).map(|i| i * i).collect();
        for threads in [1, 2, 3, 8] {
            assert_eq!(run(threads, 500), expected);
            assert!(run(threads, 0).is_empty());
        }
    }

    #[test]
    fn an_error_or_a_panic_ends_the_run() {
        let failing = |_| Err(Error::Setting { name: "x", got: "1".into(), expected: "2" });
        assert!(ordered_map(2, (0..1000).map(Ok), |i: usize| i, failing).is_err());
        let panicking = || {
            ordered_map(2, (0..1000).map(Ok), |i: usize| assert!(i < 100, "the hundredth item"), |()| Ok(()))
        };
        assert!(catch_unwind(panicking).is_err());
    }
}
