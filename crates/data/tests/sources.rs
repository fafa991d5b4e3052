//! What becomes a document, what does not, and what each bad source says.

mod common;

use std::fs::File;
use std::path::Path;

use common::{folder, put};
use smidgen_data::{CollectOptions, Corpus, Error, Reason, collect, collect_all};

fn names(corpus: &Corpus) -> Vec<&str> {
    corpus.documents.iter().map(|document| document.name.as_str()).collect()
}

fn reason<'a>(corpus: &'a Corpus, name: &str) -> &'a Reason {
    let skipped = corpus.skipped.iter().find(|skipped| skipped.name == name);
    &skipped.unwrap_or_else(|| panic!("{name} was not skipped: {:?}", corpus.skipped)).reason
}

fn all(source: &Path) -> Corpus {
    collect(source, &CollectOptions::default()).unwrap()
}

fn including(globs: &[&str]) -> CollectOptions {
    let include = globs.iter().map(|glob| (*glob).to_owned()).collect();
    CollectOptions { include, ..CollectOptions::default() }
}

fn refusal(source: &Path) -> String {
    collect(source, &CollectOptions::default()).unwrap_err().to_string()
}

/// A key in the shape of a provider's, put together here so that this file shows none.
fn secret() -> String {
    ["const KEY: &str = \"AKIA", "IOSFODNN7EXAMPLE\";\n"].concat()
}

#[test]
fn a_folder_gives_its_text_in_the_order_of_names() {
    let dir = folder(&[("b.rs", "fn b() {}"), ("a/z.md", "# z"), ("a.txt", "a"), ("B.txt", "B")]);
    let corpus = all(dir.path());
    assert_eq!(names(&corpus), ["B.txt", "a.txt", "a/z.md", "b.rs"]);
    assert!(corpus.documents.iter().all(|document| document.group == document.name));
    assert_eq!((corpus.bytes, corpus.skipped.len()), (14, 0));
}

#[test]
fn ignore_files_are_honoured_without_git_too() {
    let dir = folder(&[
        (".gitignore", "*.log\n/target\n"),
        ("sub/.ignore", "private.txt\n"),
        ("a.txt", "a"),
        ("a.log", "log"),
        ("target/out.txt", "out"),
        ("sub/private.txt", "private"),
        ("sub/open.txt", "open"),
    ]);
    assert_eq!(names(&all(dir.path())), ["a.txt", "sub/open.txt"]);
}

#[test]
fn what_is_never_input_is_named_with_its_reason() {
    let (binary, generated) = ("a\0b", format!("// @{}\nx();\n", "generated"));
    let long = "x".repeat(20_000);
    let secret = secret();
    let dir = folder(&[
        ("ok.txt", "ok"),
        ("copy.txt", "same"),
        ("same.txt", "same"),
        ("Cargo.lock", "[[package]]"),
        (".env.local", "A=1"),
        (".hidden", "x"),
        ("keys/server.pem", "x"),
        ("leak.rs", &secret),
        ("picture.txt", binary),
        ("generated.js", &generated),
        ("bundle.js", &long),
        ("blank.txt", " \n"),
        ("rows.jsonl", "{\"text\":\"a row\"}\nnonsense\n"),
    ]);
    std::fs::write(dir.path().join("latin1.txt"), b"gr\xfc\xdfe").unwrap();
    let corpus = all(dir.path());
    assert_eq!(names(&corpus), ["copy.txt", "ok.txt"]);
    let expected = [
        ("same.txt", "duplicate of copy.txt"),
        ("Cargo.lock", "lock file"),
        (".env.local", "key or .env file"),
        (".hidden", "hidden"),
        ("keys/server.pem", "key or .env file"),
        ("leak.rs", "looks like a secret: an AWS access key in line 1"),
        ("picture.txt", "binary"),
        ("latin1.txt", "not UTF-8 at byte 2"),
        ("generated.js", "generated"),
        ("bundle.js", "minified"),
        ("blank.txt", "empty"),
    ];
    for (name, why) in expected {
        assert_eq!(reason(&corpus, name).to_string(), why, "{name}");
    }
    let rows = reason(&corpus, "rows.jsonl").to_string();
    assert!(rows.starts_with("broken rows: rows.jsonl:2: expected an object"), "{rows}");
    assert_eq!(corpus.skipped.len(), expected.len() + 1);
    assert!(!format!("{:?}", corpus.skipped).contains("IOSFODNN"), "a secret is never repeated");
}

#[test]
fn run_directories_and_excluded_folders_are_not_entered() {
    let dir = folder(&[
        ("a.txt", "a"),
        ("configs/run.toml", "steps = 1"),
        ("runs/one/run.toml", "steps = 2"),
        ("runs/one/metrics.jsonl", "{}"),
        ("runs/one/sample.txt", "what the model said"),
        ("out/run.toml", "steps = 3"),
    ]);
    let exclude = vec![dir.path().join("out"), dir.path().join("not there")];
    let options = CollectOptions { exclude, ..CollectOptions::default() };
    let corpus = collect(dir.path(), &options).unwrap();
    assert_eq!(names(&corpus), ["a.txt", "configs/run.toml"]);
    assert_eq!(reason(&corpus, "runs/one"), &Reason::RunDirectory);
    assert_eq!(reason(&corpus, "out"), &Reason::RunDirectory);
    let run = refusal(&dir.path().join("runs/one"));
    assert!(run.contains("cannot be training text: run directory\n  hint: "), "{run}");
}

#[cfg(unix)]
#[test]
fn links_are_never_followed() {
    use std::os::unix::fs::symlink;
    let outside = folder(&[("secret.txt", "outside"), ("more/x.txt", "x")]);
    let dir = folder(&[("a.txt", "a")]);
    symlink(outside.path().join("secret.txt"), dir.path().join("file.txt")).unwrap();
    symlink(outside.path().join("more"), dir.path().join("folder")).unwrap();
    symlink(dir.path().join("a.txt"), dir.path().join("again.txt")).unwrap();
    symlink("nowhere", dir.path().join("broken.txt")).unwrap();
    symlink(dir.path(), dir.path().join("loop")).unwrap();
    for options in [CollectOptions::default(), including(&["*"])] {
        let corpus = collect(dir.path(), &options).unwrap();
        assert_eq!(names(&corpus), ["a.txt"]);
        for (name, expected) in [
            ("file.txt", Reason::LinkOutside),
            ("folder", Reason::LinkOutside),
            ("broken.txt", Reason::LinkOutside),
            ("again.txt", Reason::LinkInside),
            ("loop", Reason::LinkInside),
        ] {
            assert_eq!(reason(&corpus, name), &expected, "{name}");
        }
    }
}

#[test]
fn include_bends_the_rules_but_not_the_facts() {
    let secret = secret();
    let dir = folder(&[
        (".gitignore", "notes\n"),
        ("notes/deep/a.txt", "ignored"),
        ("leak.rs", &secret),
        (".config", "hidden"),
        ("Cargo.lock", "lock"),
        ("other.lock", "left"),
        ("binary.txt", "a\0"),
    ]);
    let globs = ["notes/", "leak.rs", ".config", "Cargo.lock", "binary.txt"];
    let corpus = collect(dir.path(), &including(&globs)).unwrap();
    assert_eq!(names(&corpus), [".config", "Cargo.lock", "leak.rs", "notes/deep/a.txt"]);
    assert_eq!(reason(&corpus, "binary.txt"), &Reason::Binary);
    assert_eq!(reason(&corpus, "other.lock"), &Reason::LockFile);
    let bad = collect(dir.path(), &including(&["a{b"])).unwrap_err();
    assert!(matches!(&bad, Error::Glob { glob, .. } if glob == "a{b"), "{bad}");
}

#[test]
fn empty_missing_and_textless_folders_say_so() {
    let empty = folder(&[]);
    let message = refusal(empty.path());
    assert!(message.contains("no text to train on in `") && message.contains("it holds no files"));
    let missing = collect(Path::new("no/such/folder"), &CollectOptions::default()).unwrap_err();
    assert!(matches!(missing, Error::Missing { .. }));
    assert!(missing.to_string().starts_with("`no/such/folder` does not exist"));
    let pictures = folder(&[("a.png", "\0\0"), ("b.png", "\0\x01")]);
    assert!(refusal(pictures.path()).contains("skipped 2 binary"));
}

#[test]
fn a_huge_file_is_skipped_in_a_folder_and_refused_by_name() {
    let dir = folder(&[("a.txt", "a")]);
    let huge = dir.path().join("huge.txt");
    File::create(&huge).unwrap().set_len(2 << 30).unwrap();
    let corpus = all(dir.path());
    assert_eq!(names(&corpus), ["a.txt"]);
    assert_eq!(reason(&corpus, "huge.txt").to_string(), "too large: over 1048576 bytes");
    let message = refusal(&huge);
    let expected = "2147483648 bytes of text, expected at most `max_total_bytes` = 536870912";
    assert!(message.contains(expected), "{message}");
    let rows = dir.path().join("huge.jsonl");
    std::fs::rename(&huge, &rows).unwrap();
    assert!(refusal(&rows).contains(expected));
}

#[test]
fn the_total_is_bounded_too() {
    let dir = folder(&[("a.txt", "aaaa"), ("b.txt", "bbbb")]);
    let options = CollectOptions { max_total_bytes: 7, ..CollectOptions::default() };
    let error = collect(dir.path(), &options).unwrap_err();
    assert!(matches!(error, Error::TooLarge { found_bytes: 8, limit_bytes: 7, .. }), "{error}");
}

#[test]
fn named_files_are_taken_or_refused_with_a_reason() {
    let long = format!("{}\n", "word ".repeat(500_000));
    let secret = secret();
    let dir = folder(&[
        ("book.dat", &long),
        ("bundle.min.js", "short"),
        ("Cargo.lock", "x"),
        ("leak.rs", &secret),
        ("binary", "a\0"),
        ("blank", " "),
    ]);
    let named = |name: &str| dir.path().join(name);
    assert_eq!(all(&named("book.dat")).documents[0].text, long);
    assert_eq!(names(&all(&named("bundle.min.js"))), ["bundle.min.js"]);
    std::fs::write(named("latin1"), b"gr\xfc\xdfe").unwrap();
    for (name, why) in [
        ("Cargo.lock", "lock file\n  hint: `--include GLOB`"),
        ("leak.rs", "looks like a secret: an AWS access key in line 1\n  hint: "),
        ("binary", "binary"),
        ("blank", "empty"),
        ("latin1", "not UTF-8 at byte 2"),
    ] {
        let message = refusal(&named(name));
        assert!(message.contains(&format!("cannot be training text: {why}")), "{message}");
    }
    let taken = collect(&named("leak.rs"), &including(&["leak.rs"])).unwrap();
    assert_eq!(taken.documents[0].text, secret);
}

#[test]
fn rows_are_documents_and_keep_their_groups() {
    let secret = serde_json::json!({ "text": secret() }).to_string();
    let rows = [
        r#"{"text": "one", "repo": "r"}"#,
        r#"{"text": "two", "repo": "r"}"#,
        r#"{"text": "three"}"#,
        r#"{"text": "one"}"#,
        r#"{"text": ""}"#,
        &secret,
    ]
    .join("\n");
    let dir = folder(&[("rows.jsonl", &rows)]);
    for source in [dir.path().to_owned(), dir.path().join("rows.jsonl")] {
        let corpus = all(&source);
        assert_eq!(names(&corpus), ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]);
        let groups: Vec<_> = corpus.documents.iter().map(|row| row.group.as_str()).collect();
        assert_eq!(groups[..2], ["r", "r"]);
        assert!(groups[2].starts_with("row "), "{}", groups[2]);
        let one = Reason::Duplicate { of: "rows.jsonl:1".to_owned() };
        assert_eq!(reason(&corpus, "rows.jsonl:4"), &one);
        assert_eq!(reason(&corpus, "rows.jsonl:5"), &Reason::Empty);
        assert_eq!(reason(&corpus, "rows.jsonl:6").label(), "looks like a secret");
    }
    put(dir.path(), "rows.jsonl", "{\"text\":\"a\"}\n{\"text\":1}\n");
    let message = refusal(&dir.path().join("rows.jsonl"));
    assert!(message.contains("rows.jsonl:2: expected an object with a string `text`"), "{message}");
}

#[test]
fn jsonl_without_text_is_plain_text_in_a_folder() {
    let dir = folder(&[("log.jsonl", "{\"step\": 1}\n{\"step\": 2}\n")]);
    assert_eq!(names(&all(dir.path())), ["log.jsonl"]);
}

#[test]
fn several_sources_keep_their_names_apart() {
    let (a, b) = (folder(&[("x.txt", "a")]), folder(&[("x.txt", "b")]));
    let corpus = collect_all(&[a.path(), b.path()], &CollectOptions::default()).unwrap();
    assert_eq!(corpus.documents.len(), 2);
    assert_ne!(corpus.documents[0].name, corpus.documents[1].name);
    assert!(names(&corpus).iter().all(|name| name.ends_with("/x.txt")));
}

#[test]
fn this_repository_has_no_false_alarm() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let corpus = all(&root);
    assert!(corpus.skipped.is_empty(), "{:?}", corpus.skipped);
}
