//! The name of an evaluation: every choice that could change its figures, in one line.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::config_hash;
use crate::Error;
use crate::plan::{LayerSchedule, SelectionConfig};

/// What stands for a choice that does not apply.
const NONE: &str = "-";
/// Digits of a hash inside a key; the whole hash of the configuration stands beside it.
const HASH_DIGITS: usize = 12;

/// The parts of a key, in their order. `-` where one does not apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)] // The names say it.
pub struct RunKey {
    pub milestone: String,
    pub pair: String,
    pub task: String,
    pub context: String,
    pub method: String,
    pub precision: String,
    /// [`RunKey::schedule_hash`].
    pub schedule: String,
    /// [`RunKey::selection_part`].
    pub selection: String,
    pub sparse: String,
    pub fill: String,
    pub alignment: String,
    pub k_space: String,
    pub budget: String,
    pub wire_format: String,
    pub wire_version: String,
    pub wire_quant: String,
    pub scale_granularity: String,
    pub scale_dtype: String,
    pub index_policy: String,
    pub compression: String,
    pub profile: String,
    pub exec_mode: String,
    pub seed: String,
}

impl Default for RunKey {
    fn default() -> Self {
        let none = || NONE.to_owned();
        RunKey {
            milestone: none(),
            pair: none(),
            task: none(),
            context: none(),
            method: none(),
            precision: none(),
            schedule: none(),
            selection: none(),
            sparse: none(),
            fill: none(),
            alignment: none(),
            k_space: none(),
            budget: none(),
            wire_format: none(),
            wire_version: none(),
            wire_quant: none(),
            scale_granularity: none(),
            scale_dtype: none(),
            index_policy: none(),
            compression: none(),
            profile: none(),
            exec_mode: none(),
            seed: none(),
        }
    }
}

impl RunKey {
    /// The part of a schedule of layers.
    ///
    /// # Errors
    /// As [`config_hash`].
    pub fn schedule_hash(schedule: &LayerSchedule) -> Result<String, Error> {
        let mut hash = config_hash(schedule)?;
        hash.truncate(HASH_DIGITS);
        Ok(hash)
    }

    /// The part of a selection: mode, p, scope, least tokens, who shares a list, part of the cache.
    ///
    /// # Errors
    /// As [`config_hash`], in whose canonical form numbers are written.
    pub fn selection_part(selection: &SelectionConfig) -> Result<String, Error> {
        let text = |value: serde_json::Value| super::canonical_json(&value);
        let value = serde_json::to_value(selection)
            .map_err(|e| Error::record("run key", "a selection with a JSON form", e))?;
        let keys = ["mode", "proportion", "scope", "min_tokens", "index_scope", "kv_cache"];
        let parts = keys.iter().map(|key| text(value[*key].clone()));
        let parts = parts.collect::<Result<Vec<String>, Error>>()?;
        Ok(parts.join(",").replace('"', ""))
    }

    fn parts(&self) -> [&str; 23] {
        [
            &self.milestone,
            &self.pair,
            &self.task,
            &self.context,
            &self.method,
            &self.precision,
            &self.schedule,
            &self.selection,
            &self.sparse,
            &self.fill,
            &self.alignment,
            &self.k_space,
            &self.budget,
            &self.wire_format,
            &self.wire_version,
            &self.wire_quant,
            &self.scale_granularity,
            &self.scale_dtype,
            &self.index_policy,
            &self.compression,
            &self.profile,
            &self.exec_mode,
            &self.seed,
        ]
    }

    /// The line.
    ///
    /// # Errors
    /// [`Error::Value`] where a part is empty or holds the separator or an end of line: two keys
    /// could be one line.
    pub fn line(&self) -> Result<String, Error> {
        let wrong = |part: &&&str| part.is_empty() || part.contains(['|', '\n']);
        match self.parts().iter().find(wrong) {
            Some(part) => Err(Error::value("run key", "parts without `|`", format!("`{part}`"))),
            None => Ok(self.to_string()),
        }
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts().join("|"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line_with_every_choice() {
        let selection = SelectionConfig { proportion: 0.25, ..SelectionConfig::default() };
        let key = RunKey {
            pair: "small".into(),
            task: "T1".into(),
            method: "kv".into(),
            schedule: RunKey::schedule_hash(&LayerSchedule::uniform("int4")).unwrap(),
            selection: RunKey::selection_part(&selection).unwrap(),
            seed: "1".into(),
            ..RunKey::default()
        };
        let line = key.line().unwrap();
        assert_eq!(
            line,
            "-|small|T1|-|kv|-|6e98fa2f6ed4|back,0.25,prompt,1,shared,null|-|-|-|-|-|-|-|-|-|-|-|-|-|-|1"
        );
        let other = RunKey { task: "T|2".into(), ..key.clone() };
        assert!(other.line().is_err());
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<RunKey>(&json).unwrap(), key);
    }
}
