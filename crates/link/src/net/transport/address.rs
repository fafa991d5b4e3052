//! Where peers meet: `tcp:HOST:PORT`, `unix:PATH`, `file:PATH`.
//!
//! Only this machine by default. An address that others can reach needs both a permission and a
//! key, for what is sent is a reader's whole view of a prompt. The addresses that were looked at are
//! the ones that are used: a name is asked for once.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smidgen_store::{Disk, Files};

use super::super::error::NetError;
use super::Transport;
use super::file::{FileWriter, Reading};
use super::socket::Tcp;
#[cfg(unix)]
use super::socket::Unix;

/// How soon a peer, or a stop, is noticed.
const BETWEEN: Duration = Duration::from_millis(5);

/// A place as it stands on a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host and port; port 0 listens on any free one.
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
    /// A file that holds a stream.
    File(PathBuf),
}

impl FromStr for Address {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Address, NetError> {
        let wrong = || NetError::Address { got: text.to_owned() };
        let (scheme, rest) = text.split_once(':').ok_or_else(wrong)?;
        match scheme {
            "tcp" => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(Address::Tcp(rest.to_owned()))
                }
                _ => Err(wrong()),
            },
            "unix" if !rest.is_empty() => Ok(Address::Unix(rest.into())),
            "file" if !rest.is_empty() => Ok(Address::File(rest.into())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(place) => write!(f, "tcp:{place}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Who may be on the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Other machines may, where there is a key too.
    pub remote: bool,
    /// There is a key.
    pub keyed: bool,
}

impl Exposure {
    fn check(self, place: &str, found: &[SocketAddr]) -> Result<(), NetError> {
        let address = format!("tcp:{place}");
        match found.iter().all(|address| address.ip().to_canonical().is_loopback()) {
            true => Ok(()),
            false if !self.remote => Err(NetError::NotLoopback { address }),
            false if !self.keyed => Err(NetError::NoKey { address }),
            false => Ok(()),
        }
    }

    /// The addresses of `host:port`, where all of them are allowed.
    fn resolve(self, place: &str) -> Result<Vec<SocketAddr>, NetError> {
        let found = place.to_socket_addrs().map_err(cannot(format!("find `tcp:{place}`")))?;
        let found: Vec<SocketAddr> = found.collect();
        self.check(place, &found)?;
        Ok(found)
    }
}

fn cannot(action: String) -> impl FnOnce(io::Error) -> NetError {
    move |source| NetError::Io { action, source }
}

/// A receiver's side of an address, before a sharer came.
#[derive(Debug)]
pub struct Listener {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, PathBuf),
    File(PathBuf),
}

impl Listener {
    /// Takes an address.
    ///
    /// # Errors
    /// [`NetError::NotLoopback`] and [`NetError::NoKey`] for one that other machines can reach;
    /// [`NetError::Io`] for one that is taken.
    pub fn bind(address: &Address, exposure: Exposure) -> Result<Listener, NetError> {
        let listen = || cannot(format!("listen on `{address}`"));
        let inner = match address {
            Address::Tcp(place) => {
                let found = exposure.resolve(place)?;
                let listener = TcpListener::bind(&found[..]).map_err(listen())?;
                listener.set_nonblocking(true).map_err(listen())?;
                Inner::Tcp(listener)
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                if path.exists() {
                    let source = io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "the file exists\n  hint: remove it if no other receiver is running",
                    );
                    return Err(listen()(source));
                }
                let listener = UnixListener::bind(path).map_err(listen())?;
                // From here on the file goes with the listener, also where the next steps fail.
                let inner = Listener { inner: Inner::Unix(listener, path.clone()) };
                inner.keep_to_owner().map_err(listen())?;
                return Ok(inner);
            }
            #[cfg(not(unix))]
            Address::Unix(_) => return Err(listen()(io::ErrorKind::Unsupported.into())),
            Address::File(path) => Inner::File(path.clone()),
        };
        Ok(Listener { inner })
    }

    #[cfg(unix)]
    fn keep_to_owner(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        if let Inner::Unix(listener, path) = &self.inner {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
        }
        Ok(())
    }

    /// Where a sharer finds it: with the port that port 0 became.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn address(&self) -> Result<Address, NetError> {
        Ok(match &self.inner {
            Inner::Tcp(listener) => {
                let address = listener.local_addr().map_err(cannot("tell the port".into()))?;
                Address::Tcp(address.to_string())
            }
            #[cfg(unix)]
            Inner::Unix(_, path) => Address::Unix(path.clone()),
            Inner::File(path) => Address::File(path.clone()),
        })
    }

    /// Waits for a peer; `None` where `stop` said so before one came.
    ///
    /// # Errors
    /// [`NetError::Stalled`] where none came within `wait`; [`NetError::Io`].
    pub fn accept(
        &self,
        wait: Duration,
        stop: impl Fn() -> bool,
    ) -> Result<Option<Box<dyn Transport>>, NetError> {
        let started = Instant::now();
        while !stop() {
            match self.try_accept() {
                Ok(transport) => return Ok(Some(transport)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that left before it was looked at.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(cannot("accept a peer".into())(error)),
            }
            if started.elapsed() >= wait {
                return Err(NetError::Stalled { doing: "waiting for a peer", waited: wait });
            }
            std::thread::sleep(BETWEEN);
        }
        Ok(None)
    }

    fn try_accept(&self) -> io::Result<Box<dyn Transport>> {
        Ok(match &self.inner {
            Inner::Tcp(listener) => Box::new(Tcp::new(listener.accept()?.0)?),
            #[cfg(unix)]
            Inner::Unix(listener, _) => Box::new(Unix::new(listener.accept()?.0)?),
            Inner::File(path) => Box::new(Reading(File::open(path)?)),
        })
    }
}

#[cfg(unix)]
impl Drop for Listener {
    fn drop(&mut self) {
        if let Inner::Unix(_, path) = &self.inner {
            // The next receiver is told of a file that stays.
            let _ = Disk.remove_file(path);
        }
    }
}

/// A sharer's side of an address: the connection, or the file that will be written.
///
/// # Errors
/// [`NetError::NotLoopback`] and [`NetError::NoKey`] for an address of another machine;
/// [`NetError::Io`] where nobody listens.
pub fn connect(
    address: &Address,
    exposure: Exposure,
    wait: Duration,
) -> Result<Box<dyn Transport>, NetError> {
    let connect = || cannot(format!("connect to `{address}`"));
    Ok(match address {
        Address::Tcp(place) => {
            let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
            for address in exposure.resolve(place)? {
                outcome = TcpStream::connect_timeout(&address, wait);
                if outcome.is_ok() {
                    break;
                }
            }
            Box::new(outcome.and_then(Tcp::new).map_err(connect())?)
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            Box::new(UnixStream::connect(path).and_then(Unix::new).map_err(connect())?)
        }
        #[cfg(not(unix))]
        Address::Unix(_) => return Err(connect()(io::ErrorKind::Unsupported.into())),
        Address::File(path) => Box::new(FileWriter::new(Arc::new(Disk), path.clone())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in
            ["tcp:127.0.0.1:7000", "tcp:[::1]:0", "tcp:localhost:1", "unix:/a b", "file:x:y"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "tcp:", "tcp:7000", "tcp::7000", "tcp:a:70000", "udp:a:1", "unix:", "file:", "/x"]
        {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("got `{text}`")), "{error}");
        }
    }

    #[test]
    fn other_machines_need_a_permission_and_a_key() {
        let exposure = |remote, keyed| Exposure { remote, keyed };
        for place in ["0.0.0.0:0", "[::]:0", "192.0.2.7:1", "[::ffff:192.0.2.7]:1"] {
            let checked = |exposure: Exposure| exposure.resolve(place);
            assert!(matches!(checked(exposure(false, false)), Err(NetError::NotLoopback { .. })));
            assert!(matches!(checked(exposure(false, true)), Err(NetError::NotLoopback { .. })));
            assert!(matches!(checked(exposure(true, false)), Err(NetError::NoKey { .. })));
            assert!(checked(exposure(true, true)).is_ok());
        }
        for place in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:0", "[::ffff:127.0.0.1]:1"] {
            exposure(false, false).resolve(place).unwrap();
        }
    }
}
