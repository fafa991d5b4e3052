//! Finds text that looks like a credential, so that no model learns one by heart.
//!
//! Three signs, from sure to likely: the known shape of a provider's key; a value of mixed
//! characters assigned to a name such as `password`; and a long run of base64 whose character
//! classes change as often as chance makes them. In random base64 four neighbours of ten do, a
//! capital before a small letter not counted; in `someLongIdentifierName2` one or two.
//! Plain hexadecimal hashes are no secrets by themselves and are let through.

/// What was found, and where; never the secret itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) kind: &'static str,
    /// Counted from 1.
    pub(crate) line: usize,
}

/// A provider's key: a fixed beginning, then random characters.
struct Shape {
    kind: &'static str,
    prefix: &'static str,
    /// Characters after the prefix, at least.
    least: usize,
}

const fn shape(kind: &'static str, prefix: &'static str, least: usize) -> Shape {
    Shape { kind, prefix, least }
}

const SHAPES: &[Shape] = &[
    shape("an AWS access key", "AKIA", 16),
    shape("an AWS access key", "ASIA", 16),
    shape("a GitHub token", "ghp_", 30),
    shape("a GitHub token", "gho_", 30),
    shape("a GitHub token", "ghu_", 30),
    shape("a GitHub token", "ghs_", 30),
    shape("a GitHub token", "ghr_", 30),
    shape("a GitHub token", "github_pat_", 22),
    shape("a GitLab token", "glpat-", 20),
    shape("a Slack token", "xoxb-", 20),
    shape("a Slack token", "xoxp-", 20),
    shape("a Slack token", "xapp-", 20),
    shape("an API key", "sk-", 32),
    shape("a Google API key", "AIza", 35),
    shape("a Stripe key", "sk_live_", 16),
    shape("a Stripe key", "rk_live_", 16),
    shape("a Hugging Face token", "hf_", 30),
    shape("an npm token", "npm_", 36),
    shape("a PyPI token", "pypi-AgEI", 40),
];

/// Names whose values are secrets.
const NAMES: &[&str] = &["password", "passwd", "secret", "token", "api_key", "apikey", "api-key"];

/// The first thing in `text` that looks like a credential.
pub(crate) fn find(text: &str) -> Option<Finding> {
    let mut key_block = 0;
    for (number, line) in text.lines().enumerate() {
        // The marker alone is a mention in code; a key follows within its header lines.
        if key_block > 0 && runs(line, is_base64).any(|run| run.len() >= 16) {
            return Some(Finding { kind: "a private key", line: number });
        }
        key_block = if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
            4
        } else {
            usize::saturating_sub(key_block, 1)
        };
        if let Some(kind) = in_line(line) {
            return Some(Finding { kind, line: number + 1 });
        }
    }
    None
}

fn in_line(line: &str) -> Option<&'static str> {
    if line.len() < 16 {
        return None;
    }
    runs(line, is_word)
        .find_map(provider_key)
        .or_else(|| assigned(line).then_some("a value assigned to a secret's name"))
        .or_else(|| runs(line, is_base64).any(is_random_base64).then_some("a random string"))
}

/// The maximal parts of `line` whose bytes are all `wanted`.
fn runs(line: &str, wanted: fn(u8) -> bool) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(move |&byte| !wanted(byte)).filter(|run| run.len() >= 16)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn is_base64(byte: u8) -> bool {
    is_word(byte) || byte == b'+' || byte == b'/'
}

fn provider_key(word: &[u8]) -> Option<&'static str> {
    SHAPES.iter().find(|shape| has_shape(word, shape)).map(|shape| shape.kind)
}

fn has_shape(word: &[u8], shape: &Shape) -> bool {
    let Some(rest) = word.strip_prefix(shape.prefix.as_bytes()) else { return false };
    if shape.prefix.ends_with("IA") {
        // Exactly 16 capitals and digits; a longer word is something else.
        let legal = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
        return rest.len() == shape.least && rest.iter().all(legal) && entropy(rest) >= 3.0;
    }
    rest.len() >= shape.least && digits(rest) >= 2 && entropy(rest) >= 3.2
}

/// `api_key = "0c5a..."`: a name of [`NAMES`], then `=` or `:`, then a value of mixed characters.
fn assigned(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    NAMES.iter().any(|name| {
        lower.match_indices(name).any(|(at, _)| {
            let rest = &line.as_bytes()[at + name.len()..];
            let sign = rest.iter().take(20).position(|&byte| byte == b'=' || byte == b':');
            sign.is_some_and(|sign| is_mixed_value(&rest[sign + 1..]))
        })
    })
}

/// Whether the text begins (behind blanks and a quote) with 16 to 200 characters of no language.
fn is_mixed_value(text: &[u8]) -> bool {
    let start = text.iter().position(|byte| !b" \t\"'`=:".contains(byte)).unwrap_or(text.len());
    let value = &text[start..];
    let end = value.iter().position(|&byte| !is_base64(byte)).unwrap_or(value.len());
    let value = &value[..end];
    (16..=200).contains(&value.len())
        && digits(value) >= 3
        && value.len() - digits(value) >= 3
        && entropy(value) >= 3.0
        && class_changes(value) >= 0.3
}

/// 32 to 200 characters with all three classes, high entropy and frequent changes of class.
/// Longer runs are data (pictures, fonts), not credentials.
fn is_random_base64(run: &[u8]) -> bool {
    const CHECKSUMS: [&[u8]; 3] = [b"sha256-", b"sha384-", b"sha512-"];
    (32..=200).contains(&run.len())
        && digits(run) >= 2
        && run.iter().any(u8::is_ascii_uppercase)
        && run.iter().any(u8::is_ascii_lowercase)
        && entropy(run) >= 4.2
        && class_changes(run) >= 0.32
        && !CHECKSUMS.iter().any(|prefix| run.starts_with(prefix))
        && !run.split(|&byte| byte == b'/').any(is_hex_hash) // an address of a commit
}

fn is_hex_hash(part: &[u8]) -> bool {
    part.len() >= 32 && part.iter().all(u8::is_ascii_hexdigit)
}

fn digits(run: &[u8]) -> usize {
    run.iter().filter(|byte| byte.is_ascii_digit()).count()
}

/// Shannon entropy of the byte histogram, in bits per byte.
fn entropy(run: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for &byte in run {
        counts[usize::from(byte)] += 1;
    }
    let total = run.len() as f64;
    let share = |&count: &u32| f64::from(count) / total;
    counts.iter().filter(|&&count| count > 0).map(share).map(|p| -p * p.log2()).sum()
}

/// The share of neighbouring letters and digits that differ in class (lower, upper, digit); a
/// capital before a small letter begins a word and does not count.
fn class_changes(run: &[u8]) -> f64 {
    let classes: Vec<u8> = run
        .iter()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .map(|byte| u8::from(byte.is_ascii_uppercase()) + 2 * u8::from(byte.is_ascii_digit()))
        .collect();
    let changes = classes.windows(2).filter(|pair| pair[0] != pair[1] && *pair != [1, 0]).count();
    changes as f64 / classes.len().max(2) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Put together at run time, so that this file is not taken for a leak itself.
    fn join(parts: &[&str]) -> String {
        parts.concat()
    }

    #[test]
    fn finds_provider_keys() {
        let cases = [
            (join(&["AKIA", "IOSFODNN7EXAMPLE"]), "an AWS access key"),
            (join(&["ghp_", "16C7e42F292c6912E7", "710c838347Ae178B4a"]), "a GitHub token"),
            (join(&["sk-proj-", "a8Fz3kQ9wLm2Xc7Vb5Nn", "1Yt6Ru4Ei0Op"]), "an API key"),
            (join(&["hf_", "aBcD3fGhIjKlMn0pQr", "StUvWxYz12345678"]), "a Hugging Face token"),
        ];
        for (key, kind) in cases {
            let text = format!("let a = 1;\nlet key = \"{key}\";\n");
            assert_eq!(find(&text), Some(Finding { kind, line: 2 }), "{key}");
        }
    }

    #[test]
    fn finds_private_keys_but_not_their_mention() {
        let marker = join(&["-----BEGIN RSA PRIVATE", " KEY-----"]);
        let key = format!("x\n{marker}\nMIIEpAIBAAKCAQEAxyz0\n");
        assert_eq!(find(&key), Some(Finding { kind: "a private key", line: 2 }));
        assert_eq!(find(&format!("if line == \"{marker}\" {{\n    return;\n}}\n")), None);
    }

    #[test]
    fn finds_assigned_and_random_values() {
        let hex = join(&["9f86d081884c7d65", "9a2feaa0c55ad015"]);
        assert!(find(&format!("API_KEY={hex}")).is_some());
        assert!(find(&format!("  \"password\": \"{hex}\",")).is_some());
        let random = join(&["wJalrXUtnFEMI/K7MDENG", "/bPxRfiCYz8Q3kT2a5"]);
        assert!(find(&format!("aws = {random}")).is_some());
    }

    #[test]
    fn leaves_ordinary_source_alone() {
        for line in [
            "checksum = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"",
            "pub fn decodeAllTheThingsInOneGoWithAvx512AndVnni(tokenId: u32) -> Option<Token>;",
            "const ALPHABET: &str = \"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789\";",
            "let token = tokenizer.token_to_id(\"<|endoftext|>\").expect(\"it is special\");",
            "// see https://github.com/rwf2/Rocket/commit/c74bcfd40a47b35330db6cafb88e4f3da83e0d17",
            "_ZN4core3fmt9Formatter9write_str17h0123456789abcdefE",
            "integrity=\"sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8KuxuaFkAo4Ct9VMgmHvGzWJqLxB\"",
            "password = std::env::var(\"DATABASE_PASSWORD_OF_THE_2ND_REPLICA\")?",
            "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ] {
            assert_eq!(find(line), None, "{line}");
        }
    }
}
