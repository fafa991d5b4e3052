//! A folder of event files as TensorBoard shows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Content, Event, EventFile, PREFIX, Shown};
use crate::Error;
use crate::run::names;

/// Values by tag, each with its step, in the order in which they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// Numbers.
    pub scalars: BTreeMap<String, Vec<(u64, f32)>>,
    /// Texts.
    pub texts: BTreeMap<String, Vec<(u64, String)>>,
}

impl Curves {
    /// Reads the files of a folder in the order of their names. A file counts up to its first damaged
    /// record, for a killed process leaves a torn one; a START takes back its step and later ones.
    ///
    /// Fails with [`Error::Io`].
    pub fn read(folder: &Path) -> Result<Curves, Error> {
        let names = names(folder)?.into_iter().filter(|name| name.starts_with(PREFIX));
        let mut paths: Vec<PathBuf> = names.map(|name| folder.join(name)).collect();
        paths.sort();
        let mut curves = Curves::default();
        for path in paths {
            let file = EventFile::open(&path)?;
            file.events().map_while(Result::ok).for_each(|event| curves.add(event));
        }
        Ok(curves)
    }

    fn add(&mut self, event: Event<'_>) {
        if event.content == Content::Start {
            self.scalars
                .values_mut()
                .for_each(|curve| curve.retain(|(step, _)| *step < event.step));
            self.texts.values_mut().for_each(|texts| texts.retain(|(step, _)| *step < event.step));
        }
        for value in event.values() {
            let tag = value.tag.to_string();
            match value.shown {
                Shown::Scalar(number) => {
                    self.scalars.entry(tag).or_default().push((event.step, number));
                }
                Shown::Text(text) => {
                    self.texts.entry(tag).or_default().push((event.step, text.to_string()));
                }
                Shown::Other => {}
            }
        }
    }
}
