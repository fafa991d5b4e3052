//! Two sides of a link, sound and unsound, over every transport.

mod deadlines;
mod handshake;
mod hostile;
mod keys;
mod random;
mod sessions;
mod support;
