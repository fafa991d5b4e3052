//! The receiver of a pair: `link recv` in a process of its own, which prints what it did with each message.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use smidgen_link::net::{Address, Discarded, KEY_VARIABLE, Stage};

use crate::exit::Fault;

/// How long it waits for a next message before it takes this process for dead.
const PATIENCE_SECONDS: u32 = 600;

/// The process; dropped before its end, it is ended.
pub(super) struct Answerer {
    child: Child,
    said: BufReader<ChildStdout>,
    pub(super) address: Address,
}

/// What it says of a message; more than is of use here.
#[derive(Debug, Deserialize)]
pub(super) struct Heard {
    pub(super) tokens: Vec<u32>,
    pub(super) container_bytes: u64,
    pub(super) discarded: Option<Discarded>,
    pub(super) stages: Vec<Stage>,
    pub(super) peak_rss_bytes: u64,
}

#[derive(Deserialize)]
struct Listening {
    listening: String,
}

impl Answerer {
    /// Starts it, for so many messages.
    ///
    /// # Errors
    /// What it says itself where it ends instead.
    pub(super) fn start(args: &[OsString], messages: u64) -> Result<Answerer> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(["link", "recv"]).args(args);
        command.args(["--listen", "tcp:127.0.0.1:0", "--json"]);
        command.args(["--count", &messages.to_string()]);
        command.args(["--patience", &PATIENCE_SECONDS.to_string()]);
        // Its messages come from nobody else.
        command.env_remove(KEY_VARIABLE);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the receiving process")?;
        let stdout = child.stdout.take().context("the receiving process has no output")?;
        let address = Address::Tcp(String::new());
        let mut answerer = Answerer { child, said: BufReader::new(stdout), address };
        let Listening { listening } = answerer.next()?;
        answerer.address = listening.parse().context("the receiving process does not listen")?;
        Ok(answerer)
    }

    /// Waits until it has answered a message.
    ///
    /// # Errors
    /// What it says itself where it ends instead.
    pub(super) fn hear(&mut self) -> Result<Heard> {
        self.next()
    }

    /// Waits for its end, behind its last message.
    ///
    /// # Errors
    /// What it says itself where it failed.
    pub(super) fn end(mut self) -> Result<()> {
        let status = self.child.wait().context("cannot wait for the receiving process")?;
        if status.success() { Ok(()) } else { Err(self.fault()) }
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.said.read_line(&mut line).context("the receiving process does not speak")?;
        if line.is_empty() {
            return Err(self.fault());
        }
        serde_json::from_str(&line).context("what the receiving process said is not readable")
    }

    /// Why it ended.
    fn fault(&mut self) -> anyhow::Error {
        let mut said = String::new();
        // Whatever it says is better than nothing.
        let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        let code = self.child.wait().ok().and_then(|status| status.code());
        anyhow::Error::from(Fault::of_process(code, &said)).context("the receiving process failed")
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        // After its end both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
