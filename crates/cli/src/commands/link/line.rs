//! Options of the line between two programs, for both of its ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use smidgen_data::Tokenizer;
use smidgen_link::fuse::LoadedFuser;
use smidgen_link::net::{
    Address, Deadlines, Exposure, KEY_VARIABLE, Key, LinkBytes, Options, Role,
};
use smidgen_link::{Error, Side};

use crate::commands::model::ModelArgs;
use crate::exit::Fault;
use crate::out::Table;

/// Who may be on the other end, and how long it is waited for.
#[derive(Debug, clap::Args)]
pub(super) struct LineArgs {
    /// A file with the secret that both ends hold: 32 to 4096 hexadecimal digits that only its owner
    /// can read [default: the variable SMIDGEN_LINK_KEY, else none]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Let the other end be on another machine; needs a key
    #[arg(long)]
    allow_remote: bool,
    /// Longest wait for the other end, and longest message [default: 30 s for bytes, 120 s for a whole
    /// message or handshake, 600 s for what the other end computes first]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: Option<u32>,
}

impl LineArgs {
    /// Both as the library takes them.
    pub(super) fn read(&self) -> Result<(Options, Exposure)> {
        let key = match &self.key_file {
            Some(path) => Some(Key::from_file(path)),
            None => Key::from_env(KEY_VARIABLE).transpose(),
        };
        let key = key.transpose().map_err(Error::from)?;
        let exposure = Exposure { remote: self.allow_remote, keyed: key.is_some() };
        let deadlines = self.timeout.map_or_else(Deadlines::default, |seconds| {
            let wait = Duration::from_secs(seconds.into());
            Deadlines { read: wait, message: wait, idle: wait }
        });
        Ok((Options { key, deadlines, ..Options::default() }, exposure))
    }
}

/// An address; one without a scheme is host and port.
pub(super) fn address(text: &str) -> Result<Address, String> {
    let bare = || format!("tcp:{text}").parse::<Address>().ok();
    text.parse::<Address>().or_else(|error| bare().ok_or(error)).map_err(|error| error.to_string())
}

/// A model as an end of a link, and its tokenizer.
pub(super) fn open(from: &ModelArgs) -> Result<(Side, Tokenizer)> {
    let (device, model) = from.open()?;
    let tokenizer = model.tokenizer.clone();
    Ok((Side::of(model, &device), tokenizer))
}

/// The fuser of a file or folder, which belongs to one checkpoint of this side.
pub(super) fn fuser(path: &Path, side: &Side, role: Role) -> Result<LoadedFuser> {
    let fuser = LoadedFuser::open(path, &side.device)?;
    let own = side.fingerprint();
    let checked = match role {
        Role::Sharer => fuser.check(&own, &fuser.facts.receiver),
        Role::Receiver => fuser.check(&fuser.facts.sharer, &own),
    };
    checked.map_err(|error| {
        let other = format!("the fuser was made for another {}", role.name());
        let hint = format!("{other}, or another checkpoint of it: `--ckpt`");
        anyhow::Error::from(error).context(Fault::unreadable(hint))
    })?;
    Ok(fuser)
}

/// Adds the parts of a direction that carried anything.
pub(super) fn bytes(table: &mut Table, direction: &str, bytes: &LinkBytes) {
    for (part, count) in [
        ("container", bytes.container),
        ("framing", bytes.framing),
        ("codes", bytes.mac),
        ("requests", bytes.request),
        ("schemas", bytes.schema),
        ("handshake", bytes.handshake),
        ("control", bytes.control),
        ("broken", bytes.broken),
    ] {
        if count > 0 {
            table.row([format!("{direction} {part}"), crate::out::count(count)]);
        }
    }
}

/// Adds what took how long.
pub(super) fn stages(table: &mut Table, end: &str, stages: &[smidgen_link::net::Stage]) {
    for stage in stages {
        let ms = stage.nanos as f64 / 1e6;
        // A peer's names may hold anything.
        table.row([format!("{end} {}", stage.name.escape_debug()), format!("{ms:.3} ms")]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_may_be_left_out() {
        for (text, read) in [
            ("127.0.0.1:7000", "tcp:127.0.0.1:7000"),
            ("localhost:0", "tcp:localhost:0"),
            ("[::1]:5", "tcp:[::1]:5"),
            ("unix:/a", "unix:/a"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), read);
        }
        for text in ["", "7000", "/a", "host", "host:x"] {
            let error = address(text).unwrap_err();
            assert!(error.ends_with(&format!("got `{text}`")), "{error}");
        }
    }
}
