//! A secret that both sides hold, and the codes that prove it: HMAC-SHA-256 (RFC 2104).
//!
//! code = HMAC(key, "smidgen-link-1" || purpose || role of the maker || u32 length and body of the
//! sharer's HELLO || u32 length and body of the receiver's HELLO || u32 frame number || bytes).
//! 32 bytes. Both hellos carry a nonce, so a code is worth nothing in another session, and with the
//! whole hellos nobody between the two can change what they said. Purpose 1 is the proof in
//! `ACCEPT` (number 0, no bytes), 2 a container (number of its `BEGIN`), 3 a request (its number).
//! A stream to a file has no receiver: its hello is empty, and the file proves who wrote it, not when.
//! A key comes from a file or the environment, never from a command line, which others can see.

use std::fmt;
use std::io::Read;
use std::path::Path;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::compat::Role;
use super::error::NetError;

/// The variable of the environment that the commands read a key from.
pub const KEY_VARIABLE: &str = "SMIDGEN_LINK_KEY";

/// Bytes of a code.
pub(super) const MAC_BYTES: usize = 32;

const LABEL: &[u8] = b"smidgen-link-1";
/// Half of SHA-256's output is the least that RFC 2104 advises.
const LEAST_KEY_BYTES: usize = 16;
const MOST_TEXT_BYTES: u64 = 4096;
const WANTED: &str = "32 to 4096 hexadecimal digits";
const HOW: &str = "make one with `openssl rand -hex 32 > FILE && chmod 600 FILE`";

/// A shared secret of at least 16 bytes, written as hexadecimal digits.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Reads a key from a file that only its owner can read.
    ///
    /// # Errors
    /// [`NetError::Io`]; [`NetError::Key`] for a file that others can read or that holds no key.
    pub fn from_file(path: &Path) -> Result<Key, NetError> {
        let place = path.display().to_string();
        let io = |source| NetError::Io { action: format!("read the key in {place}"), source };
        let file = std::fs::File::open(path).map_err(io)?;
        // Of the open file, so that no other one can take its place in between.
        refuse_readable(&file.metadata().map_err(io)?, &place)?;
        let mut text = Vec::new();
        file.take(MOST_TEXT_BYTES + 2).read_to_end(&mut text).map_err(io)?;
        Key::parse(&text, place)
    }

    /// Reads a key from a variable of the environment; `None` where it is not set.
    ///
    /// # Errors
    /// [`NetError::Key`] for a variable that holds no key.
    pub fn from_env(name: &str) -> Result<Option<Key>, NetError> {
        let Some(text) = std::env::var_os(name) else { return Ok(None) };
        Key::parse(text.as_encoded_bytes(), format!("`{name}` of the environment")).map(Some)
    }

    fn parse(text: &[u8], place: String) -> Result<Key, NetError> {
        let text = text.trim_ascii_end();
        let digit = |byte: &u8| (*byte as char).to_digit(16).map(|digit| digit as u8);
        let digits: Option<Vec<u8>> = text.iter().map(digit).collect();
        let wrong = |got: String| {
            Err(NetError::Key { place: place.clone(), expected: WANTED, got, hint: HOW.into() })
        };
        match digits {
            None => wrong("other characters".into()),
            Some(digits)
                if digits.len() < 2 * LEAST_KEY_BYTES
                    || digits.len() as u64 > MOST_TEXT_BYTES
                    || digits.len() % 2 != 0 =>
            {
                wrong(format!("{} digits", digits.len()))
            }
            Some(digits) => {
                Ok(Key(digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]).collect()))
            }
        }
    }
}

#[cfg(unix)]
fn refuse_readable(file: &std::fs::Metadata, place: &str) -> Result<(), NetError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(NetError::Key {
        place: place.into(),
        expected: "a file that only its owner can read",
        got: format!("mode {mode:03o}"),
        hint: format!("`chmod 600 {place}`, and make a new key if others could have read it"),
    })
}

#[cfg(not(unix))]
fn refuse_readable(_: &std::fs::Metadata, _: &str) -> Result<(), NetError> {
    Ok(())
}

/// What a code is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Proof = 1,
    Container = 2,
    Request = 3,
}

/// Makes and checks the codes of one session.
#[derive(Clone)]
pub(super) struct Seal {
    key: Hmac<Sha256>,
    hellos: Vec<u8>,
}

/// A code that is being made, over bytes that come in pieces.
#[derive(Clone)]
pub(super) struct Running(Hmac<Sha256>);

impl Seal {
    pub(super) fn new(key: &Key, sharer: &[u8], receiver: &[u8]) -> Seal {
        let hellos =
            [sharer, receiver].map(|hello| [&(hello.len() as u32).to_le_bytes(), hello].concat());
        let key = Hmac::new_from_slice(&key.0).expect("HMAC takes keys of any length");
        Seal { key, hellos: hellos.concat() }
    }

    pub(super) fn begin(&self, purpose: Purpose, maker: Role, seq: u32) -> Running {
        let mut mac = self.key.clone();
        mac.update(LABEL);
        mac.update(&[purpose as u8, maker as u8]);
        mac.update(&self.hellos);
        mac.update(&seq.to_le_bytes());
        Running(mac)
    }

    pub(super) fn proof(&self, maker: Role) -> Running {
        self.begin(Purpose::Proof, maker, 0)
    }
}

impl Running {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> [u8; MAC_BYTES] {
        self.0.finalize().into_bytes().into()
    }

    /// Compares in a time that does not depend on where the codes differ.
    pub(super) fn verify(self, got: &[u8], what: &'static str) -> Result<(), NetError> {
        self.0.verify_slice(got).map_err(|_| NetError::Mac { what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<Key, NetError> {
        Key::parse(text.as_bytes(), "here".into())
    }

    #[test]
    fn a_key_is_hexadecimal_and_never_shown() {
        let good = "00112233445566778899aabbCCDDEEFF\n";
        assert_eq!(key(good).unwrap().0[..3], [0, 0x11, 0x22]);
        assert_eq!(key(good).unwrap().0[15], 0xff);
        assert_eq!(format!("{:?}", key(good).unwrap()), "Key(..)");
        for (text, got) in [
            ("", "0 digits"),
            ("ab", "2 digits"),
            (&"a".repeat(33), "33 digits"),
            ("secret words", "other characters"),
        ] {
            let error = key(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("key in here: expected {WANTED}, got {got}\n")),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "ab".repeat(32)).unwrap();
        for (mode, taken) in
            [(0o600, true), (0o400, true), (0o644, false), (0o640, false), (0o602, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = Key::from_file(&path);
            assert_eq!(read.is_ok(), taken, "{mode:o}");
            if let Err(error) = read {
                let error = error.to_string();
                assert!(error.contains(&format!("got mode {mode:o}")), "{error}");
                assert!(error.contains("chmod 600"), "{error}");
            }
        }
        let error = Key::from_file(&folder.path().join("none")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the key in "), "{error}");
    }

    /// The golden code is `hmac.new(key, the documented bytes, "sha256")` of Python.
    #[test]
    fn a_code_covers_what_is_documented() {
        let seal = Seal::new(&key(&"0b".repeat(20)).unwrap(), b"sharer", b"rec");
        let mut running = seal.begin(Purpose::Container, Role::Sharer, 5);
        running.update(b"con");
        running.update(b"tainer");
        let code = running.clone().finish();
        assert_eq!(
            crate::wire::hex(&code),
            "8460c06df63ad1b6ea36500b61097e4362d78c154a1eac7e257d2a6f3007852f"
        );
        running.clone().verify(&code, "x").unwrap();
        let mut other = code;
        other[31] ^= 1;
        assert!(running.clone().verify(&other, "x").is_err());
        assert!(running.clone().verify(&code[..31], "x").is_err());
        assert!(running.verify(&[], "x").is_err());
    }

    #[test]
    fn another_key_hello_purpose_maker_or_number_is_another_code() {
        let (a, b) = (key(&"0b".repeat(20)).unwrap(), key(&"0c".repeat(20)).unwrap());
        let made = |key: &Key, sharer: &[u8], receiver: &[u8], purpose, maker, seq| {
            Seal::new(key, sharer, receiver).begin(purpose, maker, seq).finish()
        };
        let all = [
            made(&a, b"s", b"r", Purpose::Request, Role::Receiver, 1),
            made(&b, b"s", b"r", Purpose::Request, Role::Receiver, 1),
            made(&a, b"sr", b"", Purpose::Request, Role::Receiver, 1),
            made(&a, b"", b"sr", Purpose::Request, Role::Receiver, 1),
            made(&a, b"s", b"r", Purpose::Container, Role::Receiver, 1),
            made(&a, b"s", b"r", Purpose::Request, Role::Sharer, 1),
            made(&a, b"s", b"r", Purpose::Request, Role::Receiver, 2),
        ];
        for (index, code) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == code), Some(index));
        }
    }
}
