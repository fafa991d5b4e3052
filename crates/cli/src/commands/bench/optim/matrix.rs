//! Which configurations are compared: the product of three axes, or a list of named ones.

use std::fmt::Write;
use std::path::Path;

use clap::ValueEnum;
use smidgen_optim::RULES;

/// How large the comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scale {
    /// Every rule in every state format in every projection, on a model of about a million values
    Matrix,
    /// The comparisons of the documentation, on a model of ten millions
    Named,
}

/// Formats of state that every rule is tried in; a second one is that of second moments.
const STATES: [(&str, Option<&str>); 5] = [
    ("f32", None),
    ("bf16", None),
    ("int8/2048", Some("int8-dynamic")),
    ("int8-dynamic", None),
    ("nf4", Some("int8-dynamic")),
];

const PROJECTIONS: [Option<&str>; 3] = [None, Some("galore"), Some("galore2")];

/// What the 10M model is trained with: rule, state, projection.
const NAMED: [(&str, &str, Option<&str>); 9] = [
    ("adamw", "f32", None),
    ("adamw", "int8-dynamic", None),
    ("lion", "f32", None),
    ("lion", "int8-dynamic", None),
    ("muon", "f32", None),
    ("muon", "int8/2048", None),
    ("adamw", "f32", Some("galore")),
    ("adamw", "int8-dynamic", Some("galore2")),
    ("muon", "int8/2048", Some("galore2")),
];

/// A configuration: the rule of hidden matrices; the rest is AdamW in f32.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) rule: &'static str,
    pub(super) state: &'static str,
    pub(super) second: Option<&'static str>,
    pub(super) projection: Option<&'static str>,
    /// Not every combination of the product exists.
    pub(super) may_be_refused: bool,
}

impl Entry {
    fn new(
        rule: &'static str,
        (state, second): (&'static str, Option<&'static str>),
        projection: Option<&'static str>,
    ) -> Self {
        let short = state.replace('/', "-");
        let name = match projection {
            None => format!("{rule}-{short}"),
            Some(projection) => format!("{rule}-{short}-{projection}"),
        };
        Self { name, rule, state, second, projection, may_be_refused: false }
    }

    /// The configuration of a run: the same for all but the group of the matrices.
    pub(super) fn config(&self, path: &Path, scale: Scale, steps: Option<u64>) -> String {
        let (vocab, model, context, batch, default_steps, lr) = match scale {
            Scale::Matrix => {
                (512, "width = 128\nlayers = 4\nheads = 2\nffn = 352", 128, 2, 300, 3e-3)
            }
            Scale::Named => {
                (4096, "width = 256\nlayers = 10\nheads = 4\nffn = 688", 256, 1, 1000, 1e-3)
            }
        };
        let steps = steps.unwrap_or(default_steps);
        let (path, warm_up) = (path.display().to_string(), steps / 20);
        let mut text = format!(
            "[data]\npath = {path:?}\nvocab = {vocab}\nval_tokens = 8192\n\n[model]\n{model}\ncontext = {context}\n\n\
             [train]\nsteps = {steps}\nbatch = {batch}\nval_every = {}\nckpt_every = {steps}\n\n\
             [schedule]\nkind = \"cosine\"\nwarmup_steps = {warm_up}\nmin_ratio = 0.1\n\n\
             [[optim]]\nname = \"matrices\"\nrole = \"matrix_hidden\"\nrule = {:?}\nlr = {}\nstate = {:?}\n",
            (steps / 10).max(1),
            self.rule,
            lr * rate_of(self.rule) * if self.projection.is_some() { 4.0 } else { 1.0 },
            self.state,
        );
        for (key, value) in [("second", self.second), ("projection", self.projection)] {
            if let Some(value) = value {
                writeln!(text, "{key} = {value:?}").expect("a string takes everything");
            }
        }
        if self.projection.is_some() {
            text += "refresh = 100\n";
        }
        let plain = "role = [\"norm\", \"bias\", \"scalar\", \"embedding\"]";
        text += &format!(
            "\n[[optim]]\nname = \"plain\"\n{plain}\nlr = {lr}\nweight_decay = 0.0\n\n\
             [[optim]]\nname = \"rest\"\nlr = {lr}\n"
        );
        text
    }
}

/// The base rate of a rule as a multiple of AdamW's: the size of its updates differs.
fn rate_of(rule: &str) -> f64 {
    match rule {
        "lion" => 0.2,
        "sgd" => 30.0,
        _ => 1.0,
    }
}

/// Every configuration of a scale.
pub(super) fn entries(scale: Scale) -> Vec<Entry> {
    if scale == Scale::Named {
        let named = |(rule, state, projection)| Entry::new(rule, (state, None), projection);
        return NAMED.into_iter().map(named).collect();
    }
    let mut entries = Vec::new();
    for projection in PROJECTIONS {
        for rule in RULES {
            for state in STATES {
                let entry = Entry::new(rule.name, state, projection);
                entries.push(Entry { may_be_refused: true, ..entry });
            }
        }
    }
    entries
}
