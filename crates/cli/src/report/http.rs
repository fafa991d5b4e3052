//! As much of HTTP as one page on one's own machine needs: `GET`, small heads, short patience.
//!
//! Whatever web page a person has open may send requests here, so the `Host` has to be this
//! machine's own name for itself: a foreign name that resolves to the loopback address is refused.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of a request's head at most.
const HEAD_BYTES: usize = 8 << 10;
/// Header fields at most.
const FIELDS: usize = 64;
/// How long a whole request may take, and how long an answer may be under way.
const PATIENCE: Duration = Duration::from_secs(5);
/// What comes after a request is read for so long at most, lest closing cut off the answer.
const LINGER: Duration = Duration::from_millis(200);

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Without its query.
    pub(super) path: String,
    /// The tag of what the asker has already.
    pub(super) has: Option<String>,
    /// Whether only the head of the answer is wanted.
    head_only: bool,
}

/// A status, and a line that says why.
pub(super) type Refusal = (u16, &'static str);

/// What is given.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: String,
    pub(super) tag: Option<String>,
}

impl Answer {
    /// A text of a kind, such as `text/html`.
    pub(super) fn of(kind: &'static str, body: impl Into<String>) -> Answer {
        Answer { status: 200, kind, body: body.into(), tag: None }
    }

    /// A refusal as a line of text.
    pub(super) fn refusing((status, why): Refusal) -> Answer {
        Answer { status, ..Answer::of("text/plain", format!("{why}\n")) }
    }
}

/// Answers one request, whatever it is; a peer that went away is nobody's loss.
pub(super) fn exchange(stream: TcpStream, port: u16, answer: impl FnOnce(&Request) -> Answer) {
    // The listener does not block, and on some systems its streams would not either.
    let _ = stream.set_nonblocking(false);
    let (answer, head_only) = match read(&stream, port) {
        Ok(request) => (answer(&request), request.head_only),
        Err(refusal) => (Answer::refusing(refusal), false),
    };
    if write(&stream, &answer, head_only).is_ok() {
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_read_timeout(Some(LINGER));
        let _ = io::copy(&mut (&stream).take(HEAD_BYTES as u64), &mut io::sink());
    }
}

/// A request's head; a body is of no use here.
fn read(mut stream: &TcpStream, port: u16) -> Result<Request, Refusal> {
    let slow = (408, "the request took too long");
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return Err(slow);
        }
        let count = stream.read(&mut piece).map_err(|_| slow)?;
        if count == 0 {
            return Err((400, "the request ended early"));
        }
        head.extend_from_slice(&piece[..count]);
        if let Some(request) = parse(&head, port)? {
            return Ok(request);
        }
        if head.len() > HEAD_BYTES {
            return Err((431, "the request is too long"));
        }
    }
}

/// The request in `head`; `None` where it is not whole yet.
fn parse(head: &[u8], port: u16) -> Result<Option<Request>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err((431, "too many fields")),
        Err(_) => return Err((400, "this is no request")),
    }
    let fields = &request.headers;
    let values = |name: &str| -> Vec<&[u8]> {
        fields.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value).collect()
    };
    let own = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{port}"));
    match values("host")[..] {
        [host] if own.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(host)) => {}
        [_] => return Err((403, "this page is served to this machine alone")),
        _ => return Err((400, "one host is to be named")),
    }
    let method = request.method.unwrap_or_default();
    if !["GET", "HEAD"].contains(&method) {
        return Err((405, "only GET is answered"));
    }
    let path = request.path.unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default().to_string();
    let has = values("if-none-match").first().map(|tag| String::from_utf8_lossy(tag).into_owned());
    Ok(Some(Request { path, has, head_only: method == "HEAD" }))
}

fn write(mut stream: &TcpStream, answer: &Answer, head_only: bool) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let reason = match answer.status {
        200 => "OK",
        304 => "Not Modified",
        _ => "Refused",
    };
    let tag = answer.tag.as_ref().map_or(String::new(), |tag| format!("ETag: {tag}\r\n"));
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}; charset=utf-8\r\nContent-Length: {}\r\n{tag}\
         Cache-Control: no-store\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n\
         X-Frame-Options: DENY\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Referrer-Policy: no-referrer\r\n\r\n",
        answer.status,
        answer.kind,
        answer.body.len()
    );
    stream.write_all(head.as_bytes())?;
    if !head_only && answer.status != 304 {
        stream.write_all(answer.body.as_bytes())?;
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<Option<Request>, u16> {
        parse(text.as_bytes(), 80).map_err(|refusal| refusal.0)
    }

    #[test]
    fn a_request_is_its_path() {
        let request =
            asked("GET /main?x=1 HTTP/1.1\r\nHost: localhost:80\r\nIf-None-Match: \"3\"\r\n\r\n");
        let expected =
            Request { path: "/main".into(), has: Some("\"3\"".into()), head_only: false };
        assert_eq!(request, Ok(Some(expected)));
        assert_eq!(asked("GET / HTTP/1.1\r\nHost: local"), Ok(None));
    }

    #[test]
    fn foreign_hosts_and_other_methods_are_refused() {
        for (text, status) in [
            ("GET / HTTP/1.1\r\nHost: evil.example:80\r\n\r\n", 403),
            ("GET / HTTP/1.1\r\nHost: localhost:81\r\n\r\n", 403),
            ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 403),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: localhost:80\r\nHost: evil:80\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: localhost:80\r\n\r\n", 405),
            ("\u{1}\u{2}\r\n\r\n", 400),
        ] {
            assert_eq!(asked(text), Err(status), "{text:?}");
        }
        let many: String = (0..FIELDS + 1).map(|n| format!("a{n}: b\r\n")).collect();
        assert_eq!(asked(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(431));
    }
}
