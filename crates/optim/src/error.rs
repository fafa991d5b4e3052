//! What can be wrong with groups, rules, policies and saved state.

use smidgen_codec::nearest;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No rule has this name.
    #[error("unknown rule `{name}`, expected one of: {}{}", .known.join(", "), near(name, .known))]
    UnknownRule {
        /// The name as written.
        name: String,
        /// Every name in the registry.
        known: Vec<&'static str>,
    },
    /// A number is outside what it can be.
    #[error("`{key}`{}: expected {expected}, got {got}", of_group(group))]
    Value {
        /// The group it stands in, or nothing.
        group: String,
        /// The key in the configuration.
        key: &'static str,
        /// What it can be.
        expected: &'static str,
        /// The number as written.
        got: f64,
    },
    /// Two groups share a name, so an override of one would be unclear.
    #[error("two groups are named `{name}`\n  hint: give each `[[optim]]` its own name")]
    DuplicateGroup {
        /// The name.
        name: String,
    },
    /// A parameter that no group matches.
    #[error(
        "parameter `{param}` (role `{role}`) is in no group\n  hint: end with a group without `match` and `role`"
    )]
    NoGroup {
        /// The parameter's name.
        param: String,
        /// Its role.
        role: &'static str,
    },
    /// A pattern that matches no parameter.
    #[error("group `{group}`: pattern `{pattern}` matches no parameter{}", near_param(nearest))]
    UnmatchedPattern {
        /// The group's name.
        group: String,
        /// The pattern as written.
        pattern: String,
        /// The parameter it is nearest to, if there is any parameter.
        nearest: Option<String>,
    },
    /// A group whose parameters all went to earlier groups.
    #[error(
        "group `{group}` gets no parameter: all that it matches are in earlier groups\n  hint: first match wins, so move it up"
    )]
    ShadowedGroup {
        /// The group's name.
        group: String,
    },
    /// A format that cannot be updated a chunk at a time.
    #[error(
        "group `{group}`: format `{format}` cannot hold state, it needs all values at once for its header"
    )]
    StateFormat {
        /// The group's name.
        group: String,
        /// The format's full name.
        format: String,
    },
    /// A format in which a small second moment becomes zero, and the update divides by it.
    #[error(
        "group `{group}`: format `{format}` cannot hold `{slot}`, small values of it would become zero\n  hint: `second = \"int8-dynamic\"` or `\"bf16\"` gives second moments a format of their own"
    )]
    FlushedState {
        /// The group's name.
        group: String,
        /// The format's full name.
        format: String,
        /// The slot's name.
        slot: &'static str,
    },
    /// A key that the rule and the projection of the group do not read.
    #[error("group `{group}`: rule and projection do not read `{key}`, expected of: {known}")]
    UnusedKey {
        /// The group's name.
        group: String,
        /// The key.
        key: &'static str,
        /// What they read.
        known: String,
    },
    /// A parameter that a rule cannot update.
    #[error("group `{group}`: rule `{rule}` cannot update `{param}`: {why}\n  hint: {hint}")]
    Unfit {
        /// The group's name.
        group: String,
        /// The rule's name.
        rule: &'static str,
        /// The parameter's name.
        param: String,
        /// The reason.
        why: String,
        /// The cure.
        hint: &'static str,
    },
    /// Two settings of the gradient policy exclude each other.
    #[error("`grad = \"streamed\"` excludes {setting}\n  hint: {hint}")]
    Policy {
        /// The other setting, as written.
        setting: String,
        /// The cure.
        hint: &'static str,
    },
    /// A buffer does not have the length of its parameter.
    #[error("`{what}`: expected {expected} values, got {got}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// The length that fits.
        expected: usize,
        /// The length found.
        got: usize,
    },
    /// A rule was given other slots than it asked for.
    #[error("rule takes {expected} slots, got {got}")]
    Slots {
        /// How many it takes.
        expected: usize,
        /// How many it got.
        got: usize,
    },
    /// A gradient was not finite, and the update has gone through: the parameter and its state are
    /// spoiled and must be restored.
    #[error("gradient of parameter number {param} is not finite, the update spoiled its state")]
    NotFinite {
        /// The parameter's number.
        param: usize,
    },
    /// There is no parameter of this number.
    #[error("no parameter number {index}, there are {count}")]
    NoParam {
        /// The number.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A parameter was to be updated a second time in one step.
    #[error("`{param}` was already updated in step {step}")]
    Twice {
        /// The parameter's name.
        param: String,
        /// The step.
        step: u64,
    },
    /// A pattern that matches no matrix.
    #[error("`{pattern}` matches no matrix{}", near_param(nearest))]
    NoMatrix {
        /// The pattern.
        pattern: String,
        /// The matrix it is nearest to, if there is any.
        nearest: Option<String>,
    },
    /// Weights that have no singular values worth the name.
    #[error("`{param}`: expected finite weights that are not all zero")]
    BadWeights {
        /// The parameter's name.
        param: String,
    },
    /// Gradients of a parameter cannot be, or were not, summed in a subspace.
    #[error("no gradient of `{param}` was summed in a subspace")]
    Unsummed {
        /// The parameter's name.
        param: String,
    },
    /// A saved state lacks a tensor.
    #[error("saved state has no tensor `{tensor}`")]
    MissingState {
        /// The tensor's name.
        tensor: String,
    },
    /// A saved state has a tensor that no parameter uses.
    #[error("saved state has a tensor `{tensor}` that no parameter uses")]
    UnknownState {
        /// The tensor's name.
        tensor: String,
    },
    /// A saved tensor has another format than the run.
    #[error("`{tensor}` in saved state: expected format `{expected}`, got `{got}`")]
    SavedFormat {
        /// The tensor's name.
        tensor: String,
        /// The format of the run.
        expected: String,
        /// The format found.
        got: String,
    },
    /// A saved tensor has another shape than the parameter.
    #[error("`{tensor}` in saved state: expected shape {expected:?}, got {got:?}")]
    SavedShape {
        /// The tensor's name.
        tensor: String,
        /// The shape of the run.
        expected: [usize; 2],
        /// The shape found.
        got: [usize; 2],
    },
    /// A saved tensor is cut short or too long.
    #[error("`{tensor}` in saved state: expected {expected} bytes, got {got}")]
    SavedBytes {
        /// The tensor's name.
        tensor: String,
        /// The length of the run.
        expected: usize,
        /// The length found.
        got: usize,
    },
    /// A format's name or bytes are wrong.
    #[error(transparent)]
    Codec(#[from] smidgen_codec::Error),
    /// The engine gave no memory.
    #[error(transparent)]
    Tensor(#[from] smidgen_tensor::Error),
}

fn near(name: &str, known: &[&'static str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("\n  hint: did you mean `{near}`?"),
        None => String::new(),
    }
}

fn near_param(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("\n  hint: the nearest name is `{name}`"),
        None => String::new(),
    }
}

impl Error {
    /// The same error with the group in which it arose, where it names one.
    pub(crate) fn in_group(mut self, name: &str) -> Self {
        if let Error::Unfit { group, .. } = &mut self {
            *group = name.into();
        }
        self
    }
}

fn of_group(group: &str) -> String {
    if group.is_empty() { String::new() } else { format!(" of group `{group}`") }
}
