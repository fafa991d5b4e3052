//! Turns a folder, a text file or a JSONL file into documents.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::walk::{Found, Include, name_of, walk};
use crate::{Corpus, Document, Error, Reason, Skipped, jsonl, rules};

/// What may become training text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectOptions {
    /// Files of a folder over this size are skipped; a file that the user names is not held to it.
    pub max_file_bytes: u64,
    /// More text than this in all is an error: everything is held in memory once.
    pub max_total_bytes: u64,
    /// Globs as in an ignore file (`*.rs`, `notes/**`): what they name is taken in spite of ignore
    /// files and of every rule that [`Reason::bends_to_include`].
    pub include: Vec<String>,
    /// Folders that are never entered, such as the one this run writes to.
    pub exclude: Vec<PathBuf>,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            max_file_bytes: 1 << 20,
            max_total_bytes: 512 << 20,
            include: Vec::new(),
            exclude: Vec::new(),
        }
    }
}

/// Reads one folder, text file or `.jsonl` file.
///
/// The order of the documents depends on their names alone.
///
/// # Errors
/// `Missing`, `NotAFile`, `Read`; `NoText` where nothing is left; `Refused` for a named file that
/// cannot be text or must not be; `TooLarge`; `Jsonl` with the line of a named file; `Glob`.
pub fn collect(source: &Path, options: &CollectOptions) -> Result<Corpus, Error> {
    collect_all(&[source], options)
}

/// Reads several sources into one corpus; with more than one, names begin with the source's own.
///
/// # Errors
/// As [`collect`].
pub fn collect_all<P: AsRef<Path>>(
    sources: &[P],
    options: &CollectOptions,
) -> Result<Corpus, Error> {
    let mut collector = Collector::new(options);
    for source in sources {
        let source = source.as_ref();
        let prefix = match source.file_name() {
            Some(name) if sources.len() > 1 => format!("{}/", name.to_string_lossy()),
            _ => String::new(),
        };
        collector.source(source, &prefix)?;
    }
    if collector.corpus.documents.is_empty() {
        let path = sources.first().map(|path| path.as_ref().to_owned()).unwrap_or_default();
        let left = &collector.corpus.skipped;
        let skipped = if left.is_empty() {
            "it holds no files".to_owned()
        } else {
            collector.corpus.summary().to_string()
        };
        return Err(Error::NoText { path, skipped });
    }
    Ok(collector.corpus)
}

struct Collector<'a> {
    options: &'a CollectOptions,
    corpus: Corpus,
    /// Digest of each text -> its index.
    seen: HashMap<[u8; 32], usize>,
}

impl<'a> Collector<'a> {
    fn new(options: &'a CollectOptions) -> Self {
        Self { options, corpus: Corpus::default(), seen: HashMap::new() }
    }

    fn source(&mut self, source: &Path, prefix: &str) -> Result<(), Error> {
        let path = source.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::Missing { path: source.to_owned() },
            _ => Error::Read { path: source.to_owned(), source: error },
        })?;
        let meta = fs::metadata(&path)
            .map_err(|error| Error::Read { path: source.to_owned(), source: error })?;
        if meta.is_dir() {
            self.folder(&path, prefix)
        } else if meta.is_file() {
            self.named_file(source, &path, meta.len())
        } else {
            Err(Error::NotAFile { path: source.to_owned() })
        }
    }

    fn folder(&mut self, root: &Path, prefix: &str) -> Result<(), Error> {
        if rules::is_run_directory(root) && self.options.include.is_empty() {
            return Err(Error::Refused { path: root.to_owned(), reason: Reason::RunDirectory });
        }
        let found = walk(root, self.options)?;
        for skipped in found.skipped {
            self.skip(format!("{prefix}{}", skipped.name), skipped.reason, skipped.bytes);
        }
        for (name, file) in found.files {
            let name = format!("{prefix}{name}");
            if let Err(reason) = self.found_file(&name, &file)? {
                self.skip(name, reason, file.bytes);
            }
        }
        Ok(())
    }

    /// A file met in a folder: the outer error ends the collection, the inner one the file.
    fn found_file(&mut self, name: &str, file: &Found) -> Result<Result<(), Reason>, Error> {
        let text = match self.text_of(name, file) {
            Ok(text) => text,
            Err(reason) => return Ok(Err(reason)),
        };
        if name.ends_with(".jsonl") && jsonl::is_jsonl(text.as_bytes()) {
            return self.rows_of(name, file, &text);
        }
        if !file.included
            && let Some(reason) = rules::machine_made(name, &text).or_else(|| rules::secret(&text))
        {
            return Ok(Err(reason));
        }
        self.take(name.to_owned(), name.to_owned(), text, &file.path).map(Ok)
    }

    fn text_of(&self, name: &str, file: &Found) -> Result<String, Reason> {
        let last = name.rsplit('/').next().unwrap_or(name);
        if let Some(reason) = rules::by_name(last).filter(|_| !file.included) {
            return Err(reason);
        }
        let limit =
            if file.included { self.options.max_total_bytes } else { self.options.max_file_bytes };
        let too_large = Reason::TooLarge { limit_bytes: limit };
        if file.bytes > limit {
            return Err(too_large);
        }
        let bytes = read_bounded(&file.path, limit)
            .map_err(|error| Reason::Unreadable { what: error.to_string() })?;
        if bytes.len() as u64 > limit { Err(too_large) } else { rules::as_text(bytes) }
    }

    /// Rows of a file in a folder. All are parsed first: half a broken file is no input.
    fn rows_of(
        &mut self,
        name: &str,
        file: &Found,
        text: &str,
    ) -> Result<Result<(), Reason>, Error> {
        let mut rows = Vec::new();
        let parsed = jsonl::read(text.as_bytes(), Path::new(name), |row| {
            rows.push(row);
            Ok(())
        });
        if let Err(error) = parsed {
            return Ok(Err(Reason::BadRows { what: error.to_string() }));
        }
        for row in rows {
            self.row(name, row, file.included, &file.path)?;
        }
        Ok(Ok(()))
    }

    fn named_file(&mut self, source: &Path, path: &Path, bytes: u64) -> Result<(), Error> {
        let limit_bytes = self.options.max_total_bytes;
        if bytes > limit_bytes {
            let path = source.to_owned();
            return Err(Error::TooLarge { path, found_bytes: bytes, limit_bytes });
        }
        let last = source.file_name().or(path.file_name()).map(Path::new).unwrap_or(path);
        let root = path.parent().unwrap_or(path);
        let included = Include::new(root, &self.options.include)?.takes(last);
        let (name, refused) =
            (name_of(last), |reason| Error::Refused { path: source.to_owned(), reason });
        if let Some(reason) = rules::by_name(&name).filter(|_| !included) {
            return Err(refused(reason));
        }
        if name.ends_with(".jsonl") {
            return jsonl::read_file(path, |row| self.row(&name, row, included, source));
        }
        let bytes = read_bounded(path, limit_bytes)
            .map_err(|error| Error::Read { path: source.to_owned(), source: error })?;
        let text = rules::as_text(bytes).map_err(refused)?;
        if let Some(reason) = rules::secret(&text).filter(|_| !included) {
            return Err(refused(reason));
        }
        self.take(name.clone(), name, text, source)
    }

    fn row(
        &mut self,
        file: &str,
        row: jsonl::Row,
        included: bool,
        path: &Path,
    ) -> Result<(), Error> {
        let (name, bytes) = (format!("{file}:{}", row.line), row.text.len() as u64);
        if row.text.trim().is_empty() {
            self.skip(name, Reason::Empty, bytes);
            return Ok(());
        }
        if let Some(reason) = rules::secret(&row.text).filter(|_| !included) {
            self.skip(name, reason, bytes);
            return Ok(());
        }
        // The text names the group: rows that are added or moved leave the others where they are.
        let group = row.group.unwrap_or_else(|| format!("row {:x}", Sha256::digest(&row.text)));
        self.take(name, group, row.text, path)
    }

    /// Files a text as a document unless its bytes were seen before.
    fn take(
        &mut self,
        name: String,
        group: String,
        text: String,
        path: &Path,
    ) -> Result<(), Error> {
        let bytes = text.len() as u64;
        let digest: [u8; 32] = Sha256::digest(&text).into();
        if let Some(&first) = self.seen.get(&digest) {
            let of = self.corpus.documents[first].name.clone();
            self.skip(name, Reason::Duplicate { of }, bytes);
            return Ok(());
        }
        let (found_bytes, limit_bytes) = (self.corpus.bytes + bytes, self.options.max_total_bytes);
        if found_bytes > limit_bytes {
            return Err(Error::TooLarge { path: path.to_owned(), found_bytes, limit_bytes });
        }
        self.seen.insert(digest, self.corpus.documents.len());
        self.corpus.documents.push(Document { name, group, text });
        self.corpus.bytes = found_bytes;
        Ok(())
    }

    fn skip(&mut self, name: String, reason: Reason, bytes: u64) {
        tracing::debug!(%name, %reason, "skipped");
        self.corpus.skipped.push(Skipped { name, reason, bytes });
    }
}

/// At most one byte more than `limit`, also when the file grows meanwhile.
fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
