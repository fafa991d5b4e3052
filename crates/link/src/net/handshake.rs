//! The first words: `HELLO`, then `ACCEPT` or `REJECT`, in both directions.
//!
//! The sharer speaks first, so its first message leaves one round trip after the connection was
//! made. Both check; with a key both prove that they have it before a container is sent or read.
//! `ACCEPT` is u64 first credit (0 from a sharer), then the proof where there is a key.

use super::body::Fields;
use super::channel::{Channel, Patience};
use super::compat::{Compatibility, Field, Role, mismatches};
use super::error::NetError;
use super::frame::{Kind, MAX_BODY_BYTES};
use super::hello::{Hello, LEAST_FRAME_BYTES, VERSIONS};
use super::key::Seal;
use super::options::Options;

/// What the two agreed on.
pub(super) struct Agreed {
    /// The peer; none behind a file that is being written.
    pub(super) peer: Option<Hello>,
    /// Makes and checks codes, where there is a key.
    pub(super) seal: Option<Seal>,
    /// What a sharer may send at once.
    pub(super) credit_bytes: u64,
}

pub(super) fn handshake(
    channel: &mut Channel,
    role: Role,
    compatibility: &Compatibility,
    options: &Options,
) -> Result<Agreed, NetError> {
    // What cannot be said fails before anything is.
    let own = own(role, compatibility, options)?;
    let body = own.body()?;
    channel.start();
    let agreed = match (role, channel.duplex()) {
        (Role::Sharer, true) => as_sharer(channel, &own, &body, options),
        (Role::Receiver, true) => as_receiver(channel, &own, &body, options),
        (Role::Sharer, false) => to_file(channel, &body, options),
        (Role::Receiver, false) => from_file(channel, &own, options),
    };
    channel.stop();
    channel.take_frames_of(options.limits.frame_bytes);
    agreed.map_err(|error| channel.fail(error))
}

/// What this side says.
fn own(role: Role, compatibility: &Compatibility, options: &Options) -> Result<Hello, NetError> {
    let limits = &options.limits;
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| NetError::Io {
        action: "draw a nonce".into(),
        source: std::io::Error::other(error),
    })?;
    let frame_bytes = u64::from(limits.frame_bytes);
    for (field, least, most, got) in [
        ("frame_bytes", LEAST_FRAME_BYTES.into(), MAX_BODY_BYTES as u64, frame_bytes),
        ("window_bytes", 1, u64::MAX, limits.window_bytes),
    ] {
        if !(least..=most).contains(&got) {
            let expected = format!("{least} to {most}");
            return Err(NetError::Unsayable { field, expected, got: got.to_string() });
        }
    }
    Ok(Hello {
        versions: (*VERSIONS.start(), *VERSIONS.end()),
        role,
        keyed: options.key.is_some(),
        max_message_bytes: limits.message_bytes,
        max_frame_bytes: limits.frame_bytes,
        compatibility: compatibility.clone(),
        nonce,
        terms: options.terms.clone(),
    })
}

fn as_sharer(
    channel: &mut Channel,
    own: &Hello,
    body: &[u8],
    options: &Options,
) -> Result<Agreed, NetError> {
    channel.send(Kind::Hello, &[body])?;
    let (peer, peer_body) = read_hello(channel)?;
    check(own, &peer, options)?;
    let seal = options.key.as_ref().map(|key| Seal::new(key, body, &peer_body));
    accept(channel, Role::Sharer, seal.as_ref(), 0)?;
    let credit_bytes = read_accept(channel, Role::Receiver, seal.as_ref())?;
    Ok(Agreed { peer: Some(peer), seal, credit_bytes })
}

fn as_receiver(
    channel: &mut Channel,
    own: &Hello,
    body: &[u8],
    options: &Options,
) -> Result<Agreed, NetError> {
    let (peer, peer_body) = read_hello(channel)?;
    check(own, &peer, options)?;
    let seal = options.key.as_ref().map(|key| Seal::new(key, &peer_body, body));
    let credit_bytes = options.limits.window_bytes;
    channel.send(Kind::Hello, &[body])?;
    accept(channel, Role::Receiver, seal.as_ref(), credit_bytes)?;
    read_accept(channel, Role::Sharer, seal.as_ref())?;
    Ok(Agreed { peer: Some(peer), seal, credit_bytes })
}

/// As a sharer that nobody hears now.
fn to_file(channel: &mut Channel, body: &[u8], options: &Options) -> Result<Agreed, NetError> {
    channel.send(Kind::Hello, &[body])?;
    let seal = options.key.as_ref().map(|key| Seal::new(key, body, &[]));
    accept(channel, Role::Sharer, seal.as_ref(), 0)?;
    Ok(Agreed { peer: None, seal, credit_bytes: u64::MAX })
}

/// As a receiver whom nobody hears.
fn from_file(channel: &mut Channel, own: &Hello, options: &Options) -> Result<Agreed, NetError> {
    let (peer, peer_body) = read_hello(channel)?;
    check(own, &peer, options)?;
    let seal = options.key.as_ref().map(|key| Seal::new(key, &peer_body, &[]));
    read_accept(channel, Role::Sharer, seal.as_ref())?;
    Ok(Agreed { peer: Some(peer), seal, credit_bytes: u64::MAX })
}

fn read_hello(channel: &mut Channel) -> Result<(Hello, Vec<u8>), NetError> {
    let frame = channel.expect(Kind::Hello, "HELLO or REJECT", Patience::Active)?;
    Ok((Hello::read(&frame)?, frame.body.to_vec()))
}

/// Fails at the first difference that is not tolerated. Version, role and key always have to fit.
fn check(own: &Hello, peer: &Hello, options: &Options) -> Result<(), NetError> {
    for mismatch in mismatches(own, peer) {
        match &mismatch {
            NetError::Mismatch { field, .. }
                if options.tolerated.contains(field)
                    && ![Field::Version, Field::Role, Field::Key].contains(field) =>
            {
                tracing::warn!("tolerated: {mismatch}");
            }
            _ => return Err(mismatch),
        }
    }
    Ok(())
}

fn accept(
    channel: &mut Channel,
    role: Role,
    seal: Option<&Seal>,
    credit_bytes: u64,
) -> Result<(), NetError> {
    let proof = seal.map(|seal| seal.proof(role).finish());
    let proof = proof.as_ref().map_or(&[][..], |proof| proof);
    channel.send(Kind::Accept, &[&credit_bytes.to_le_bytes(), proof])?;
    Ok(())
}

/// The credit of the peer, whose proof has to be right.
fn read_accept(channel: &mut Channel, maker: Role, seal: Option<&Seal>) -> Result<u64, NetError> {
    let frame = channel.expect(Kind::Accept, "ACCEPT or REJECT", Patience::Active)?;
    let mut fields = Fields::of(&frame);
    let credit_bytes = fields.u64("credit")?;
    match seal {
        Some(seal) => seal.proof(maker).verify(fields.rest(), "ACCEPT")?,
        None => fields.end()?,
    }
    Ok(credit_bytes)
}
