//! Batches made ahead of their use, in order, on one thread.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Batch, Error};

/// A bounded queue of batches with its worker; dropping it ends the worker.
#[derive(Debug)]
pub struct Feed {
    /// `None` once the worker is to end.
    queue: Option<Receiver<Batch>>,
    worker: Option<JoinHandle<()>>,
    stall: Duration,
}

impl Feed {
    pub(crate) fn spawn(
        prefetch: usize,
        batches: impl Iterator<Item = Batch> + Send + 'static,
    ) -> Result<Self, Error> {
        let (sender, queue) = sync_channel(prefetch);
        let work = move || {
            for batch in batches {
                if sender.send(batch).is_err() {
                    return; // The feed was dropped.
                }
            }
        };
        let worker = thread::Builder::new()
            .name("data-feed".to_owned())
            .spawn(work)
            .map_err(|error| Error::Worker { what: error.to_string() })?;
        Ok(Self { queue: Some(queue), worker: Some(worker), stall: Duration::ZERO })
    }

    /// The next micro-batch, in the order of steps and of micro-batches within a step.
    ///
    /// # Errors
    /// `Worker` if the thread died; every later call fails too.
    pub fn next_batch(&mut self) -> Result<Batch, Error> {
        let Some(queue) = &self.queue else {
            return Err(Error::Worker { what: "it died before".to_owned() });
        };
        let received = match queue.try_recv() {
            Err(TryRecvError::Empty) => {
                let since = Instant::now();
                let received = queue.recv();
                self.stall += since.elapsed();
                received.ok()
            }
            other => other.ok(),
        };
        received.ok_or_else(|| Error::Worker { what: self.autopsy() })
    }

    /// How long [`Feed::next_batch`] has waited in all.
    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// Ends the worker and gives its last words.
    fn autopsy(&mut self) -> String {
        self.queue = None;
        let Some(Err(panic)) = self.worker.take().map(JoinHandle::join) else {
            return "it ended without a word".to_owned();
        };
        let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
        words
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic".to_owned())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // The queue first: a worker that waits for room in it would never end.
        self.queue = None;
        if let Some(Err(panic)) = self.worker.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            tracing::warn!("the data worker had died: {:?}", panic.downcast_ref::<&str>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn numbered(number: usize) -> Batch {
        Batch { rows: number, ..Batch::default() }
    }

    #[test]
    fn keeps_the_order_and_the_bound() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let batches = (0..).map(move |i| {
            count.fetch_add(1, Ordering::SeqCst);
            numbered(i)
        });
        let mut feed = Feed::spawn(3, batches).unwrap();
        for i in 0..50 {
            assert_eq!(feed.next_batch().unwrap().rows, i);
            // Taken, queued, and one in the hand of the worker.
            assert!(made.load(Ordering::SeqCst) <= i + 1 + 3 + 1);
        }
    }

    #[test]
    fn a_dead_worker_is_a_typed_error_that_stays() {
        let batches = (0..).map(|i| if i < 2 { numbered(i) } else { panic!("out of paper") });
        let mut feed = Feed::spawn(1, batches).unwrap();
        assert!(feed.next_batch().is_ok() && feed.next_batch().is_ok());
        let message = feed.next_batch().unwrap_err().to_string();
        assert_eq!(message, "a data worker failed: out of paper");
        assert!(matches!(feed.next_batch(), Err(Error::Worker { .. })));
    }

    #[test]
    fn dropping_a_full_feed_does_not_hang() {
        drop(Feed::spawn(1, (0..).map(numbered)).unwrap());
    }
}
