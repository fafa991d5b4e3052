//! The page of runs that are still going, served on the loopback address.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::http::{Answer, Request, exchange};
use super::page::{inside, page};
use super::subject::Subject;
use crate::exit::Fault;

const SCRIPT: &str = include_str!("live.js");
/// Askers at once; a person has a few tabs.
const ASKERS: usize = 16;
/// Files are looked at no more often than this, however many ask.
const FRESH: Duration = Duration::from_secs(1);
/// How soon a stop is noticed.
const BETWEEN: Duration = Duration::from_millis(50);

/// A page waiting to be asked for.
pub(crate) struct Follow {
    listener: TcpListener,
    port: u16,
    live: Arc<Mutex<Live>>,
}

/// What is served.
struct Live {
    subjects: Vec<Subject>,
    inside: String,
    /// Counts the insides there were.
    version: u64,
    looked: Instant,
}

impl Follow {
    /// Takes the port, or any free one for 0.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) fn bind(subjects: Vec<Subject>, port: u16) -> Result<Follow> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
            let hint = "another one may be free; without `--port` one is found";
            Fault::usage(format!("`--port`: cannot listen on {port}: {error}\n  hint: {hint}"))
        })?;
        listener.set_nonblocking(true).context("cannot wait for connections")?;
        let port = listener.local_addr().context("cannot tell the port")?.port();
        let inside = inside(&subjects)?;
        let live = Live { subjects, inside, version: 1, looked: Instant::now() };
        Ok(Follow { listener, port, live: Arc::new(Mutex::new(live)) })
    }

    /// Where a browser finds it.
    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Answers until `stop` is set. Whoever is being answered then is left.
    pub(crate) fn serve(&self, stop: &AtomicBool) {
        let askers = Arc::new(AtomicUsize::new(0));
        while !stop.load(Relaxed) {
            let Ok((stream, _)) = self.listener.accept() else {
                // Nobody there, or a connection that was given up.
                std::thread::sleep(BETWEEN);
                continue;
            };
            if askers.load(Relaxed) >= ASKERS {
                // Closed without a word: to say why would take as long as to answer.
                continue;
            }
            askers.fetch_add(1, Relaxed);
            let (live, askers, port) = (self.live.clone(), askers.clone(), self.port);
            std::thread::spawn(move || {
                exchange(stream, port, |request| answer(&live, request));
                askers.fetch_sub(1, Relaxed);
            });
        }
    }
}

fn answer(live: &Mutex<Live>, request: &Request) -> Answer {
    let made = match request.path.as_str() {
        "/" => {
            fresh(live).and_then(|live| Ok(Answer::of("text/html", page(&live.subjects, true)?)))
        }
        "/main" => fresh(live).map(|live| {
            let tag = format!("\"{}\"", live.version);
            if request.has.as_ref() == Some(&tag) {
                return Answer { status: 304, ..Answer::of("text/html", "") };
            }
            Answer { tag: Some(tag), ..Answer::of("text/html", live.inside.clone()) }
        }),
        "/live.js" => Ok(Answer::of("text/javascript", SCRIPT)),
        _ => Ok(Answer::refusing((404, "there is one page, at /"))),
    };
    made.unwrap_or_else(|error| {
        tracing::warn!("cannot make the page: {error:#}");
        Answer::refusing((500, "the page cannot be made; its server said why"))
    })
}

/// What the files say now, or said a moment ago.
fn fresh(live: &Mutex<Live>) -> Result<MutexGuard<'_, Live>> {
    // A panic elsewhere left the runs as they were read; the next look reads on.
    let mut live = live.lock().unwrap_or_else(PoisonError::into_inner);
    if live.looked.elapsed() < FRESH {
        return Ok(live);
    }
    for subject in &mut live.subjects {
        if let Err(error) = subject.refresh() {
            tracing::warn!("{}: {error}", subject.name);
        }
    }
    let inside = inside(&live.subjects)?;
    if inside != live.inside {
        (live.inside, live.version) = (inside, live.version + 1);
    }
    live.looked = Instant::now();
    Ok(live)
}
