//! `report --follow`: a page on the loopback address that keeps up with a run.

#![cfg(unix)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use common::{Place, fails, program};

/// The program while it serves; ended with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(place: &Place) -> Server {
        let run = place.path("run");
        fs::create_dir(&run).unwrap();
        fs::write(run.join("run.toml"), "seed = 1\n").unwrap();
        let mut child = Command::new(program())
            .args(["report", "run", "--follow"])
            .current_dir(place.path("."))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, port) = line.split_once("http://127.0.0.1:").unwrap_or_else(|| panic!("{line}"));
        let port = port.split('/').next().unwrap().parse().unwrap();
        Server { child, port }
    }

    /// What comes back for these bytes.
    fn send(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str, field: &str) -> String {
        let host = format!("127.0.0.1:{}", self.port);
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{field}\r\n").as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tag(answer: &str) -> String {
    let line = answer.lines().find_map(|line| line.strip_prefix("ETag: "));
    line.unwrap_or_else(|| panic!("no tag in {answer}")).to_string()
}

#[test]
fn the_page_keeps_up_with_its_run() {
    let place = Place::new();
    let server = Server::start(&place);
    let page = server.get("/", "");
    assert!(
        page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("Content-Type: text/html"),
        "{page}"
    );
    assert!(page.contains("No step was done yet") && page.contains("src=\"live.js\""));
    assert!(page.contains("script-src &#x27;self&#x27;") || page.contains("script-src 'self'"));
    assert!(server.get("/live.js", "").contains("fetch(\"main\""));
    let first = tag(&server.get("/main", ""));
    let unchanged = server.get("/main", &format!("If-None-Match: {first}\r\n"));
    assert!(unchanged.starts_with("HTTP/1.1 304 "), "{unchanged}");

    let metrics = place.path("run/metrics.jsonl");
    fs::write(&metrics, "{\"step\":1,\"loss\":4.25}\n{\"step\":2,\"loss\":4.125}\n").unwrap();
    let asked = format!("If-None-Match: {first}\r\n");
    let changed = std::iter::repeat_with(|| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        server.get("/main", &asked)
    });
    let changed =
        changed.take(600).find(|answer| answer.starts_with("HTTP/1.1 200 ")).expect("an update");
    assert!(changed.contains("data-chart=\"loss\"") && changed.contains("4.125"), "{changed}");
    assert_ne!(tag(&changed), first);
}

#[test]
fn foreign_and_broken_requests_are_refused_and_do_no_harm() {
    let place = Place::new();
    let server = Server::start(&place);
    let host = format!("Host: localhost:{}\r\n", server.port);
    let long = format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "a".repeat(20_000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_string(), "403"),
        (format!("GET / HTTP/1.1\r\nHost: evil.example:{}\r\n\r\n", server.port), "403"),
        ("GET / HTTP/1.1\r\n\r\n".into(), "400"),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 3\r\n\r\nabc"), "405"),
        (format!("GET /../../etc/passwd HTTP/1.1\r\n{host}\r\n"), "404"),
        (format!("GET /run.toml HTTP/1.1\r\n{host}\r\n"), "404"),
        ("\u{0}\u{1}\u{2}\r\n\r\n".into(), "400"),
        (long, "431"),
    ] {
        let answer = server.send(request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.80?}: {answer}");
        assert!(!answer.contains("<html"), "{answer}");
    }
    // Somebody who says nothing keeps nobody waiting.
    let silent: Vec<TcpStream> =
        (0..5).map(|_| TcpStream::connect(("127.0.0.1", server.port)).unwrap()).collect();
    assert!(server.get("/", "").starts_with("HTTP/1.1 200 "));
    drop(silent);
}

#[test]
fn it_ends_well_and_says_when_a_port_is_taken() {
    let place = Place::new();
    let mut server = Server::start(&place);
    let port = server.port.to_string();
    fails(place.smidgen(&["report", "run", "--follow", "--port", &port]), 2, "`--port`");
    let killed =
        Command::new("kill").args(["-INT", &server.child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}
