//! Where byte-level tokenizers cut a text into words.
//!
//! Each vocabulary was made with one regular expression, and its ids are right with no other. All of
//! them end in `\s+(?!\S)|\s+`: a run of white space gives its last character to the word behind it,
//! if that word did not take it by itself. This look-ahead is done in Rust, so that the rest runs in
//! linear time.

use std::sync::OnceLock;

use regex::Regex;

/// A known way of cutting.
#[derive(Debug)]
pub(crate) struct Pattern {
    /// `tokenizer.ggml.pre`, the name we write first; others that mean the same behind it.
    pub(crate) names: &'static [&'static str],
    /// The expression of `tokenizer.json`, without the tail that all have.
    body: &'static str,
    pub(crate) traits: Traits,
    compiled: OnceLock<Regex>,
}

/// What goes with a pattern.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    /// Every digit is a word of its own, found before the expression is asked.
    pub(crate) digits: bool,
    /// Text is brought to its composed form (NFC) first.
    pub(crate) composed: bool,
    /// A word that is a token is that token, whatever the merges say.
    pub(crate) whole_words: bool,
}

const PLAIN: Traits = Traits { digits: false, composed: false, whole_words: false };

/// The end of every expression.
const TAIL: &str = r"|\s+(?!\S)|\s+";

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";

/// Every pattern there is.
static PATTERNS: [Pattern; 4] = [
    Pattern::new(&["gpt-2", "phi-2", "mpt", "olmo"], GPT2, PLAIN),
    Pattern::new(
        &["llama-bpe", "llama3", "llama-v3"],
        LLAMA3,
        Traits { whole_words: true, ..PLAIN },
    ),
    Pattern::new(&["qwen2"], QWEN2, Traits { composed: true, ..PLAIN }),
    Pattern::new(&["smollm"], GPT2, Traits { digits: true, ..PLAIN }),
];

impl Pattern {
    const fn new(names: &'static [&'static str], body: &'static str, traits: Traits) -> Self {
        Self { names, body, traits, compiled: OnceLock::new() }
    }

    /// GPT-2's, which is also that of the tokenizers made here.
    pub(crate) fn gpt2() -> &'static Self {
        &PATTERNS[0]
    }

    /// GPT-2's with digits apart.
    pub(crate) fn gpt2_digits() -> &'static Self {
        &PATTERNS[3]
    }

    /// The pattern of a GGUF name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        PATTERNS.iter().find(|pattern| pattern.names.contains(&name))
    }

    /// The pattern of an expression as `tokenizer.json` has it.
    pub(crate) fn of_regex(regex: &str) -> Option<&'static Self> {
        let body = regex.strip_suffix(TAIL)?;
        PATTERNS.iter().find(|pattern| pattern.body == body && !pattern.traits.digits)
    }

    /// The expression as `tokenizer.json` has it.
    pub(crate) fn regex(&self) -> String {
        format!("{}{TAIL}", self.body)
    }

    /// The first name of every pattern, for messages.
    pub(crate) fn known() -> String {
        PATTERNS.iter().map(|pattern| pattern.names[0]).collect::<Vec<_>>().join(", ")
    }

    /// Calls `word` for every word of a text, in order; joined they are the text.
    pub(crate) fn words<'a>(&self, text: &'a str, mut word: impl FnMut(&'a str)) {
        if !self.traits.digits {
            return self.parts(text, &mut word);
        }
        let mut from = 0;
        for (at, digit) in text.match_indices(char::is_numeric) {
            self.parts(&text[from..at], &mut word);
            word(digit);
            from = at + digit.len();
        }
        self.parts(&text[from..], &mut word);
    }

    fn parts<'a>(&self, text: &'a str, word: &mut impl FnMut(&'a str)) {
        let regex = self.compiled.get_or_init(|| {
            Regex::new(self.body).expect("the expressions of the table compile, as a test shows")
        });
        let mut from = 0;
        for found in regex.find_iter(text) {
            let ours = found.as_str().starts_with(char::is_whitespace);
            gap(&text[from..found.start()], !ours, word);
            word(found.as_str());
            from = found.end();
        }
        gap(&text[from..], false, word);
    }
}

/// White space that no alternative took: one word, but its last character is a second one where a
/// visible character follows.
fn gap<'a>(blank: &'a str, visible_follows: bool, word: &mut impl FnMut(&'a str)) {
    let last = blank.chars().next_back().map_or(0, char::len_utf8);
    let (rest, last) = blank.split_at(blank.len() - if visible_follows { last } else { 0 });
    [rest, last].into_iter().filter(|part| !part.is_empty()).for_each(word);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::pre_tokenizers::digits::Digits;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
    };

    /// What the library's engine makes of the whole expression.
    fn reference(pattern: &Pattern, text: &str) -> Vec<String> {
        let mut split = PreTokenizedString::from(text);
        if pattern.traits.digits {
            Digits::new(true).pre_tokenize(&mut split).unwrap();
        }
        let regex = SplitPattern::Regex(pattern.regex());
        Split::new(regex, SplitDelimiterBehavior::Isolated, false)
            .unwrap()
            .pre_tokenize(&mut split)
            .unwrap();
        let parts = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        parts.into_iter().map(|(word, _, _)| word.to_owned()).collect()
    }

    fn words<'a>(pattern: &Pattern, text: &'a str) -> Vec<&'a str> {
        let mut words = Vec::new();
        pattern.words(text, |word| words.push(word));
        words
    }

    #[test]
    fn white_space_goes_to_the_word_behind_it() {
        let gpt2 = |text| words(Pattern::gpt2(), text);
        assert_eq!(
            gpt2("a  b\n\nc\t\td  "),
            ["a", " ", " b", "\n", "\n", "c", "\t", "\t", "d", "  "]
        );
        let qwen = |text| words(Pattern::named("qwen2").unwrap(), text);
        assert_eq!(
            qwen("a  b\n\nc\t\td!\n 12"),
            ["a", " ", " b", "\n\n", "c", "\t", "\td", "!\n", " ", "1", "2"]
        );
        assert_eq!(gpt2(""), Vec::<&str>::new());
    }

    #[test]
    fn gpt2_is_the_byte_level_pattern() {
        let text = "It's 12  o'clock,\n\n isn't it?\u{3000} ö";
        let mut split = PreTokenizedString::from(text);
        ByteLevel::new(false, true, true).pre_tokenize(&mut split).unwrap();
        let parts = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let theirs = parts.into_iter().map(|(_, (start, end), _)| &text[start..end]);
        assert_eq!(words(Pattern::gpt2(), text), theirs.collect::<Vec<_>>());
        assert!(std::ptr::eq(
            Pattern::of_regex(&Pattern::gpt2().regex()).unwrap(),
            Pattern::gpt2()
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn words_are_those_of_the_expression(
            text in "([a-zäſéK0-9٣ '\\n\\r\\t\u{3000}\u{85}.,!sSTll]|\\PC){0,60}|[ \\n\\r\\tab1!']{0,40}",
        ) {
            for pattern in &PATTERNS {
                prop_assert_eq!(words(pattern, &text), reference(pattern, &text), "{}", pattern.names[0]);
            }
        }
    }
}
