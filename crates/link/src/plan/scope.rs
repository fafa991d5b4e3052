//! Which tokens may be chosen at all.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The tokens that compete, written `prompt`, `instruction_only`, `all_context`, `tail(16)` or
/// `custom`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// All positions that are fused.
    #[default]
    Prompt,
    /// Those of them that are content of a message, not template.
    InstructionOnly,
    /// Every position of the cache, fused or not.
    AllContext,
    /// The last so many of those that are fused.
    Tail(usize),
    /// Those that a mask of the caller's says.
    Custom,
}

/// What is known about the positions of one example.
#[derive(Clone, Copy, Debug)]
pub struct Marks<'a> {
    /// T.
    pub tokens: usize,
    /// `[T]`: fused at the receiver; none where every position is.
    pub fused: Option<&'a [bool]>,
    /// `[T]`: content of a message.
    pub message: Option<&'a [bool]>,
    /// `[T]`: the mask of [`Scope::Custom`].
    pub custom: Option<&'a [bool]>,
}

impl Marks<'_> {
    /// A prompt of which every position is fused, and no more is known.
    pub fn of(tokens: usize) -> Marks<'static> {
        Marks { tokens, fused: None, message: None, custom: None }
    }
}

impl Scope {
    /// The tokens of the scope, ascending.
    ///
    /// # Errors
    /// [`Error::Value`] where the marks it goes by are missing, [`Error::Length`] where they are
    /// not one per token.
    pub fn tokens(self, marks: &Marks<'_>) -> Result<Vec<u32>, Error> {
        let fused = picked(marks, marks.fused, None)?;
        match self {
            Scope::Prompt => Ok(fused),
            Scope::AllContext => Ok((0..marks.tokens as u32).collect()),
            Scope::Tail(count) => Ok(fused[fused.len().saturating_sub(count)..].to_vec()),
            Scope::InstructionOnly => {
                let message = picked(marks, marks.message, Some("marks of the messages' content"))?;
                Ok(message.into_iter().filter(|token| fused.binary_search(token).is_ok()).collect())
            }
            Scope::Custom => picked(marks, marks.custom, Some("a mask for the scope `custom`")),
        }
    }
}

/// The tokens that a mask marks; all of them without one, unless it is `needed`.
fn picked(
    marks: &Marks<'_>,
    mask: Option<&[bool]>,
    needed: Option<&'static str>,
) -> Result<Vec<u32>, Error> {
    let all = 0..marks.tokens as u32;
    match (mask, needed) {
        (Some(mask), _) if mask.len() != marks.tokens => {
            let (expected, got) = (marks.tokens, mask.len());
            Err(Error::Length { what: "marks of the scope", expected, got })
        }
        (Some(mask), _) => Ok(all.filter(|token| mask[*token as usize]).collect()),
        (None, Some(needed)) => Err(Error::value("token_select_scope", needed, "none")),
        (None, None) => Ok(all.collect()),
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Prompt => f.write_str("prompt"),
            Scope::InstructionOnly => f.write_str("instruction_only"),
            Scope::AllContext => f.write_str("all_context"),
            Scope::Tail(count) => write!(f, "tail({count})"),
            Scope::Custom => f.write_str("custom"),
        }
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Scope, Error> {
        let plain = [Scope::Prompt, Scope::InstructionOnly, Scope::AllContext, Scope::Custom];
        if let Some(scope) = plain.into_iter().find(|scope| scope.to_string() == text) {
            return Ok(scope);
        }
        let count = text.strip_prefix("tail(").and_then(|rest| rest.strip_suffix(')'));
        count.and_then(|count| count.parse().ok()).map(Scope::Tail).ok_or_else(|| {
            let expected = "one of: prompt, instruction_only, all_context, tail(n), custom";
            Error::value("token_select_scope", expected, format!("`{text}`"))
        })
    }
}

impl TryFrom<String> for Scope {
    type Error = Error;

    fn try_from(text: String) -> Result<Scope, Error> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scopes_are_distinct() {
        let fused = [true, true, false, true, true, true];
        let message = [false, true, true, true, false, false];
        let custom = [true, false, false, false, false, true];
        let marks = Marks {
            tokens: 6,
            fused: Some(&fused),
            message: Some(&message),
            custom: Some(&custom),
        };
        for (text, expected) in [
            ("prompt", &[0, 1, 3, 4, 5][..]),
            ("instruction_only", &[1, 3]),
            ("all_context", &[0, 1, 2, 3, 4, 5]),
            ("tail(2)", &[4, 5]),
            ("tail(9)", &[0, 1, 3, 4, 5]),
            ("custom", &[0, 5]),
        ] {
            let scope: Scope = text.parse().unwrap();
            assert_eq!(scope.tokens(&marks).unwrap(), expected, "{text}");
            assert_eq!(scope.to_string(), text);
        }
    }

    #[test]
    fn a_scope_without_its_marks_is_an_error() {
        for scope in [Scope::InstructionOnly, Scope::Custom] {
            let error = scope.tokens(&Marks::of(3)).unwrap_err().to_string();
            assert!(error.ends_with("got none"), "{error}");
        }
        let short = Marks { fused: Some(&[true]), ..Marks::of(3) };
        assert!(matches!(Scope::Prompt.tokens(&short), Err(Error::Length { got: 1, .. })));
        assert!("tail(x)".parse::<Scope>().is_err());
    }
}
