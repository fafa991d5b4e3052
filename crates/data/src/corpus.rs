//! What a source became: documents, and the names of everything left out, with the reason.

use std::collections::BTreeMap;
use std::fmt;

/// One text, whole and in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Path below the source with `/` between parts; `rows.jsonl:7` for the seventh line of a file.
    pub name: String,
    /// Documents of one group never stand on both sides of the split.
    pub group: String,
    /// The text, valid UTF-8 without a byte order mark.
    pub text: String,
}

/// A file, folder or row that did not become a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Named as a document would be.
    pub name: String,
    /// Why.
    pub reason: Reason,
    /// Its size; 0 for a folder that was not entered.
    pub bytes: u64,
}

/// Why something is not training text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A run directory of this program: training on its own samples would feed back.
    RunDirectory,
    /// A symbolic link whose target lies outside the folder, or nowhere.
    LinkOutside,
    /// A symbolic link whose target is inside the folder and is read there.
    LinkInside,
    /// Its name begins with a dot.
    Hidden,
    /// A lock file of a package manager: machine-made, and full of hashes.
    LockFile,
    /// A file that by its name holds credentials.
    KeyFile,
    /// Something in it looks like a credential.
    Secret {
        /// What it looks like; never the secret itself.
        kind: &'static str,
        /// The line, counted from 1.
        line: usize,
    },
    /// Holds a NUL byte.
    Binary,
    /// Not UTF-8 from this byte on.
    NotUtf8 {
        /// Bytes before the first bad one.
        offset: usize,
    },
    /// Over the size limit for a file of a folder.
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Says of itself that a program wrote it.
    Generated,
    /// Lines so long that no person wrote them.
    Minified,
    /// No text but white space.
    Empty,
    /// The same bytes as an earlier document.
    Duplicate {
        /// That document's name.
        of: String,
    },
    /// As good as the text of a held-out document, see [`drop_near_duplicates`](crate::drop_near_duplicates).
    NearDuplicate {
        /// That document's name.
        of: String,
    },
    /// Shares a passage with a text it will be judged by, see [`drop_contaminated`](crate::drop_contaminated).
    Contaminated {
        /// The file with that text.
        by: String,
    },
    /// Neither a file nor a folder.
    Special,
    /// The system refused to read it.
    Unreadable {
        /// What the system said.
        what: String,
    },
    /// A `.jsonl` file of a folder that begins as rows of text and does not stay so.
    BadRows {
        /// Which line, and what is wrong there.
        what: String,
    },
}

impl Reason {
    /// The short name under which skipped things are counted.
    pub fn label(&self) -> &'static str {
        match self {
            Self::RunDirectory => "run directory",
            Self::LinkOutside => "link that leaves the folder",
            Self::LinkInside => "link within the folder",
            Self::Hidden => "hidden",
            Self::LockFile => "lock file",
            Self::KeyFile => "key or .env file",
            Self::Secret { .. } => "looks like a secret",
            Self::Binary => "binary",
            Self::NotUtf8 { .. } => "not UTF-8",
            Self::TooLarge { .. } => "too large",
            Self::Generated => "generated",
            Self::Minified => "minified",
            Self::Empty => "empty",
            Self::Duplicate { .. } => "duplicate",
            Self::NearDuplicate { .. } => "near-duplicate of held-out text",
            Self::Contaminated { .. } => "shares 13 words with a test",
            Self::Special => "not a plain file",
            Self::Unreadable { .. } => "unreadable",
            Self::BadRows { .. } => "broken rows",
        }
    }

    /// Whether an `include` pattern may take the file all the same.
    /// The others are facts: no pattern turns a picture into text.
    pub fn bends_to_include(&self) -> bool {
        matches!(
            self,
            Self::RunDirectory
                | Self::Hidden
                | Self::LockFile
                | Self::KeyFile
                | Self::Secret { .. }
                | Self::TooLarge { .. }
                | Self::Generated
                | Self::Minified
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = self.label();
        match self {
            Self::Secret { kind, line } => write!(f, "{label}: {kind} in line {line}"),
            Self::NotUtf8 { offset } => write!(f, "{label} at byte {offset}"),
            Self::TooLarge { limit_bytes } => write!(f, "{label}: over {limit_bytes} bytes"),
            Self::Duplicate { of } => write!(f, "{label} of {of}"),
            Self::NearDuplicate { of } => write!(f, "near-duplicate of held-out {of}"),
            Self::Contaminated { by } => write!(f, "shares 13 words in a row with {by}"),
            Self::Unreadable { what } | Self::BadRows { what } => write!(f, "{label}: {what}"),
            _ => f.write_str(label),
        }
    }
}

/// All documents of one or more sources, in an order that depends on their names alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// What was taken.
    pub documents: Vec<Document>,
    /// What was left, and why.
    pub skipped: Vec<Skipped>,
    /// Bytes of all texts.
    pub bytes: u64,
}

/// How many things, and how many bytes they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Documents, files, rows or folders.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// The few lines a person reads before a run starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All documents.
    pub taken: Tally,
    /// Documents by file extension (`(none)` where there is none).
    pub by_extension: BTreeMap<String, Tally>,
    /// Skipped things by the label of their reason.
    pub by_reason: BTreeMap<&'static str, Tally>,
}

impl Corpus {
    /// Counts and bytes by extension and by reason.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for document in &self.documents {
            let bytes = document.text.len() as u64;
            summary.taken.add(bytes);
            summary.by_extension.entry(extension(&document.name)).or_default().add(bytes);
        }
        for skipped in &self.skipped {
            summary.by_reason.entry(skipped.reason.label()).or_default().add(skipped.bytes);
        }
        summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "took {} documents, {} bytes", self.taken.count, self.taken.bytes)?;
        let mut kinds: Vec<_> = self.by_extension.iter().collect();
        kinds.sort_by_key(|(name, tally)| (std::cmp::Reverse(tally.bytes), *name));
        for (i, (name, tally)) in kinds.iter().take(6).enumerate() {
            write!(f, "{} {name} {}", if i == 0 { ":" } else { "," }, tally.count)?;
        }
        if kinds.len() > 6 {
            write!(f, ", {} other kinds", kinds.len() - 6)?;
        }
        if self.by_reason.is_empty() {
            return write!(f, "; skipped nothing");
        }
        for (i, (label, tally)) in self.by_reason.iter().enumerate() {
            write!(f, "{} {} {label}", if i == 0 { "; skipped" } else { "," }, tally.count)?;
        }
        Ok(())
    }
}

/// `rows.jsonl:7` -> `jsonl`; `Makefile` -> `(none)`.
fn extension(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    let file = match file.rsplit_once(':') {
        Some((file, row)) if row.bytes().all(|b| b.is_ascii_digit()) => file,
        _ => file,
    };
    match file.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => extension.to_lowercase(),
        _ => "(none)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str, text: &str) -> Document {
        Document { name: name.into(), group: name.into(), text: text.into() }
    }

    #[test]
    fn extensions_of_files_and_rows() {
        assert_eq!(extension("src/lib.rs"), "rs");
        assert_eq!(extension("a.b/Makefile"), "(none)");
        assert_eq!(extension(".bashrc"), "(none)");
        assert_eq!(extension("rows.jsonl:12"), "jsonl");
    }

    #[test]
    fn summary_counts_both_sides() {
        let corpus = Corpus {
            documents: vec![document("a.rs", "ab"), document("b.rs", "c"), document("r.md", "d")],
            skipped: vec![Skipped { name: "x".into(), reason: Reason::Binary, bytes: 9 }],
            bytes: 4,
        };
        let text = corpus.summary().to_string();
        assert_eq!(text, "took 3 documents, 4 bytes: rs 2, md 1; skipped 1 binary");
    }
}
