//! Threads that stay alive between operators.
//!
//! An operator splits its work into numbered tasks, each of which writes its own part of the output; who
//! does which does not change a bit of the result. A fork and join costs well under a microsecond while
//! the workers spin, which they do for a short while after each job before they sleep.
//!
//! Nobody is waited for who has not begun: when the caller runs out of tasks it closes the job, and a worker
//! that the system has put aside meanwhile finds the door shut. On a busy machine that is the difference
//! between a little slower and a hundred times slower.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a worker spins for the next job before it sleeps. Operators of one step follow each other
/// within this; a process that waits for input must not burn a core.
const SPIN: Duration = Duration::from_micros(200);

/// A fixed set of threads, the caller's own among them.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs: jobs of several callers come one after the other.
    turn: Mutex<()>,
}

struct Shared {
    /// Raised by one for every job; its change is what the workers wait for.
    epoch: AtomicUsize,
    /// The job of the current epoch.
    job: UnsafeCell<Option<Job>>,
    /// The next task of the job.
    next: AtomicUsize,
    /// [`OPEN`] while workers may enter the job, plus the number of those inside.
    gate: AtomicUsize,
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

/// The flag of [`Shared::gate`]; the bits below count.
const OPEN: usize = 1 << (usize::BITS - 1);

#[derive(Clone, Copy)]
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: `job` is written only by the caller that holds `turn`, while the gate is closed and nobody is inside,
// and read by workers only from inside, which they enter through the open gate (release/acquire).
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` leads to a `Sync` closure that outlives the job, see `run`.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("workers", &self.asleep.len()).finish_non_exhaustive()
    }
}

impl Threads {
    /// `count` threads in all, at least one; `count - 1` are started.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let workers = count.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let spawn = |index| {
            let shared = Arc::clone(&shared);
            let name = format!("elmwood-{}", index + 1);
            thread::Builder::new()
                .name(name)
                .spawn(move || worker(&shared, index))
                .expect("a thread can start")
        };
        let workers = (0..workers).map(spawn).collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// How many threads work on a job.
    #[must_use]
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)` to `task(tasks - 1)`, each once, on any thread, and returns when all are done.
    ///
    /// # Panics
    /// With the panic of a task, after the others have ended.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(task);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let task: &(dyn Fn(usize) + Sync) = &task;
        // SAFETY: only the lifetime changes. The closure outlives every use: this function returns only
        // after the gate is closed and all workers have left.
        let run =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(task) };
        let shared = &*self.shared;
        // SAFETY: we hold `turn`, the gate is closed and nobody is inside, so nobody else looks at `job`.
        unsafe { *shared.job.get() = Some(Job { run, tasks }) };
        shared.next.store(0, Ordering::Relaxed);
        shared.gate.fetch_or(OPEN, Ordering::Release);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.work(Job { run, tasks });
        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0_u32;
        while shared.gate.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins.is_multiple_of(4096) {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        // Taken out first: unwinding with the lock held would poison it.
        let panic = shared.panic.lock().expect("nobody panics with this lock").take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Splits `0..len` into ranges of `grain` (the last one shorter) and calls `task` with each.
    pub fn run_ranges(&self, len: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
        let grain = grain.max(1);
        self.run(len.div_ceil(grain), |i| task(i * grain..((i + 1) * grain).min(len)));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Takes tasks until none is left.
    fn work(&self, job: Job) {
        // SAFETY: see `Threads::run`, which waits for us.
        let run = unsafe { &*job.run };
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(task))) {
                self.panic.lock().expect("nobody panics with this lock").get_or_insert(panic);
                self.next.store(job.tasks, Ordering::Relaxed);
            }
        }
    }
}

fn worker(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut idle_since = Instant::now();
        let mut spins = 0_u32;
        while shared.epoch.load(Ordering::Acquire) == seen {
            spins += 1;
            std::hint::spin_loop();
            if spins.is_multiple_of(64) && idle_since.elapsed() > SPIN {
                shared.asleep[index].store(true, Ordering::SeqCst);
                // Looked at once more after saying so: a job that came in between is not slept through.
                if shared.epoch.load(Ordering::SeqCst) == seen {
                    thread::park();
                }
                shared.asleep[index].store(false, Ordering::SeqCst);
                idle_since = Instant::now();
            }
        }
        seen = shared.epoch.load(Ordering::Acquire);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        if shared.gate.fetch_add(1, Ordering::AcqRel) & OPEN != 0 {
            // No new job begins while we are inside, so this is its epoch.
            seen = shared.epoch.load(Ordering::Acquire);
            // SAFETY: we are inside, so the job stays until we leave.
            if let Some(job) = unsafe { *shared.job.get() } {
                shared.work(job);
            }
        }
        shared.gate.fetch_sub(1, Ordering::Release);
    }
}

/// A slice whose parts several tasks write at once, each its own.
#[derive(Debug)]
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: tasks only get at disjoint parts, by the promise that `Parts::part` asks for.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements of `range`, to write.
    ///
    /// # Safety
    /// No other part that overlaps `range` may be alive.
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {}", self.len);
        // SAFETY: inside the slice by the check above, not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// A pointer to element `index`, for kernels that write strided blocks.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        assert!(index <= self.len, "element {index} of {}", self.len);
        self.start.wrapping_add(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_for_any_number_of_threads() {
        for count in [1, 2, 3, 8] {
            let threads = Threads::new(count);
            for tasks in [0, 1, 2, 7, 1000] {
                let done: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                threads.run(tasks, |i| {
                    done[i].fetch_add(1, Ordering::SeqCst);
                });
                assert!(done.iter().all(|n| n.load(Ordering::SeqCst) == 1), "{count} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let threads = Threads::new(2);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(1));
            let sum = AtomicUsize::new(0);
            threads.run_ranges(1000, 10, |range| {
                sum.fetch_add(range.sum(), Ordering::SeqCst);
            });
            assert_eq!(sum.into_inner(), 499_500);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_live_on() {
        let threads = Threads::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| threads.run(100, |i| assert!(i != 50, "task fifty"))));
        assert!(caught.is_err());
        let sum = AtomicUsize::new(0);
        threads.run(10, |i| {
            sum.fetch_add(i, Ordering::SeqCst);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
