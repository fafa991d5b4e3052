//! A persistent team of threads with spinning hand-over.
//!
//! A step of a small model is a few hundred products of a few hundred microseconds; waking threads
//! for each would cost as much as a product. Idle members spin for [`SPIN`] and then park.
//! Tasks are claimed in order from one counter; what a task computes may not depend on who runs it.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

const SPIN: Duration = Duration::from_micros(20);
/// Set in `gate` while a job may be entered; the rest of it counts the members inside.
const OPEN: u64 = 1 << 32;

/// One call of [`Team::run`]; lives on the caller's stack for as long as anyone is inside.
struct Job<'a> {
    tasks: usize,
    next: AtomicUsize,
    body: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

impl Job<'_> {
    fn work(&self) {
        loop {
            let task = self.next.fetch_add(1, Relaxed);
            if task >= self.tasks {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.body)(task))) {
                self.next.store(self.tasks, Relaxed);
                self.panic.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(panic);
            }
        }
    }
}

struct Shared {
    /// Counts jobs, so that a member knows whether it has seen this one.
    epoch: AtomicU64,
    gate: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

/// Threads that compute together; the caller of [`Team::run`] is one of them.
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<(Thread, Option<JoinHandle<()>>)>,
    busy: Mutex<()>,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Team {
    /// A team of `threads` in all, at least one.
    pub fn new(threads: usize) -> Self {
        let helpers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            gate: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            stop: AtomicBool::new(false),
            parked: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let members = (0..helpers)
            .filter_map(|index| {
                let shared = shared.clone();
                let name = format!("smidgen-{}", index + 1);
                // A thread the system refuses makes the team smaller, never wrong.
                let handle =
                    thread::Builder::new().name(name).spawn(move || member(&shared, index)).ok()?;
                Some((handle.thread().clone(), Some(handle)))
            })
            .collect();
        Team { shared, members, busy: Mutex::new(()) }
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Calls `body` with every index below `tasks`, over all threads, and returns when all are done.
    ///
    /// Called from inside a task, or while another thread is running a job, it runs alone. A panic
    /// in a task is passed on to the caller.
    pub fn run(&self, tasks: usize, body: impl Fn(usize) + Sync) {
        let guard = if tasks > 1 && !self.members.is_empty() && !INSIDE.get() {
            self.busy.try_lock().ok()
        } else {
            None
        };
        if guard.is_none() {
            (0..tasks).for_each(body);
            return;
        }
        let job = Job { tasks, next: AtomicUsize::new(0), body: &body, panic: Mutex::new(None) };
        self.shared.job.store((&raw const job).cast_mut().cast(), Release);
        self.shared.gate.store(OPEN, Release);
        self.shared.epoch.fetch_add(1, SeqCst);
        for ((thread, _), parked) in self.members.iter().zip(&self.shared.parked) {
            if parked.load(SeqCst) {
                thread.unpark();
            }
        }
        INSIDE.set(true);
        job.work();
        INSIDE.set(false);
        // Nobody may enter any more; then wait for those who did.
        let mut inside = self.shared.gate.fetch_and(!OPEN, AcqRel) & !OPEN;
        let mut spins = 0u32;
        while inside != 0 {
            spins += 1;
            if spins.is_multiple_of(4096) {
                thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
            inside = self.shared.gate.load(Acquire);
        }
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(|e| e.into_inner()) {
            drop(guard);
            resume_unwind(panic);
        }
    }
}

fn member(shared: &Shared, index: usize) {
    INSIDE.set(true);
    let mut seen = 0;
    loop {
        let mut idle_since = None;
        let mut spins = 0u32;
        while shared.epoch.load(Acquire) == seen {
            if shared.stop.load(Relaxed) {
                return;
            }
            spins += 1;
            std::hint::spin_loop();
            if spins.is_multiple_of(256)
                && idle_since.get_or_insert_with(Instant::now).elapsed() > SPIN
            {
                shared.parked[index].store(true, SeqCst);
                while shared.epoch.load(SeqCst) == seen && !shared.stop.load(SeqCst) {
                    thread::park();
                }
                shared.parked[index].store(false, SeqCst);
            }
        }
        seen = shared.epoch.load(Acquire);
        let entered = shared
            .gate
            .fetch_update(AcqRel, Acquire, |gate| (gate & OPEN != 0).then_some(gate + 1));
        if entered.is_ok() {
            // SAFETY: the gate was open when it was entered, so the caller still waits for this
            // member and the job on its stack is alive.
            let job = unsafe { &*shared.job.load(Acquire) };
            job.work();
            shared.gate.fetch_sub(1, AcqRel);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for (thread, handle) in &mut self.members {
            thread.unpark();
            if let Some(handle) = handle.take() {
                let _ = handle.join();
            }
        }
    }
}

/// Threads this process may use: its affinity mask, cut to a cgroup's CPU quota.
pub fn available_threads() -> usize {
    // The standard library reads both, cgroup v1 and v2.
    thread::available_parallelism().map_or(1, |n| n.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_for_any_team() {
        for threads in [1, 2, 4] {
            let team = Team::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    let hits: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    team.run(tasks, |task| {
                        hits[task].fetch_add(1, Relaxed);
                    });
                    assert!(hits.iter().all(|hit| hit.load(Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn a_parked_team_wakes_up() {
        let team = Team::new(3);
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(2));
            let sum = AtomicUsize::new(0);
            team.run(10, |task| {
                sum.fetch_add(task, Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn nested_runs_and_panics_reach_the_caller() {
        let team = Team::new(2);
        let sum = AtomicUsize::new(0);
        team.run(4, |_| {
            team.run(4, |inner| {
                sum.fetch_add(inner, Relaxed);
            })
        });
        assert_eq!(sum.into_inner(), 24);
        let caught = catch_unwind(AssertUnwindSafe(|| team.run(8, |task| assert_ne!(task, 5))));
        assert!(caught.is_err());
        team.run(8, |_| {});
    }
}
