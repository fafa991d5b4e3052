//! Parameter groups: which rule, rate and state format each parameter gets.
//!
//! Groups are tried in order and the first match wins; every parameter is in exactly one. A group
//! matches by a pattern over names, by roles, by both, or, with neither, everything.

use serde::{Deserialize, Deserializer, Serialize};
use smidgen_codec::{Format, Sign, Tag};

use crate::glob::distance;
use crate::projection::{Moments, ProjectionKind, Rank};
use crate::rule::pages;
use crate::rules::MatrixScale;
use crate::{
    Error, Optimizer, ParamSpec, Polar, Role, SlotSpec, Weights, projection, rule_by_name,
};

/// Smaller tensors keep f32 state in block formats: they hold few bytes, and norms and biases are
/// the parameters that coarse state hurts.
const SMALL_VALUES: usize = 4096;

/// How state is rounded when it is coded again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateRounding {
    /// To the nearest code: small changes of slow averages are lost.
    Nearest,
    /// Stochastically: the average moves in the mean as it should.
    #[default]
    Stochastic,
}

/// One `[[optim]]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupConfig {
    /// The name, for overrides and metrics.
    pub name: String,
    /// A pattern over parameter names: `*` is any run of characters, `?` any one.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Roles, as one name or a list; empty for any.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub role: Vec<Role>,
    /// The rule's name.
    pub rule: String,
    /// The base rate, before the schedule.
    pub lr: f64,
    /// The format of the state.
    pub state: String,
    /// The format of second moments, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<String>,
    /// How state is rounded in formats coarser than f32.
    pub state_rounding: StateRounding,
    /// Whether state lies in a file of the run that is mapped, and read ahead of each update.
    #[serde(skip_serializing_if = "is_false")]
    pub state_paged: bool,
    /// Decoupled weight decay; the rule's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Decay of the averages; the rule's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// Added to denominators; the rule's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Decay of the only average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Whether the gradient is added to its average once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// How a matrix is made orthogonal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polar: Option<Polar>,
    /// Iterations of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iterations: Option<usize>,
    /// What an orthogonal update is multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<MatrixScale>,
    /// Whether each row of an update is divided by its own running size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_norm: Option<bool>,
    /// Whether decay acts only where it points the way of the update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cautious: Option<bool>,
    /// The largest root mean square of an update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_rms: Option<f64>,
    /// Whether the rate is a share of the size of the parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_step: Option<bool>,
    /// The subspace in which matrices are updated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection: Option<ProjectionKind>,
    /// Its rank, or its share of the smaller side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub galore_rank: Option<Rank>,
    /// Updates between two refreshes of the subspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<u64>,
    /// Whether that number doubles where the subspace stands still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<bool>,
    /// What a projected update is multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub galore_scale: Option<f64>,
    /// What becomes of averages when the subspace turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moments: Option<Moments>,
    /// The format of the projector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projector: Option<String>,
    /// The share of the gradient's energy that the rank must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy: Option<f64>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            name: "all".into(),
            pattern: None,
            role: Vec::new(),
            rule: "adamw".into(),
            lr: 1e-3,
            state: "f32".into(),
            second: None,
            state_rounding: StateRounding::default(),
            state_paged: false,
            weight_decay: None,
            betas: None,
            eps: None,
            momentum: None,
            nesterov: None,
            polar: None,
            iterations: None,
            scale: None,
            row_norm: None,
            cautious: None,
            clip_rms: None,
            relative_step: None,
            projection: None,
            galore_rank: None,
            refresh: None,
            adaptive: None,
            galore_scale: None,
            moments: None,
            projector: None,
            energy: None,
        }
    }
}

impl GroupConfig {
    /// The groups of a run that names none: no decay for norms, biases, scalars and embeddings,
    /// and the default for the rest, all with the base rate `lr`.
    pub fn defaults(lr: f64) -> Vec<Self> {
        let role = vec![Role::Norm, Role::Bias, Role::Scalar, Role::Embedding];
        let name = "no_decay".into();
        vec![
            Self { name, role, lr, weight_decay: Some(0.0), ..Self::default() },
            Self { name: "rest".into(), lr, ..Self::default() },
        ]
    }

    /// The keys of rules and projections, and whether each is set.
    fn keys(&self) -> [(&'static str, bool); 20] {
        [
            ("weight_decay", self.weight_decay.is_some()),
            ("betas", self.betas.is_some()),
            ("eps", self.eps.is_some()),
            ("momentum", self.momentum.is_some()),
            ("nesterov", self.nesterov.is_some()),
            ("polar", self.polar.is_some()),
            ("iterations", self.iterations.is_some()),
            ("scale", self.scale.is_some()),
            ("row_norm", self.row_norm.is_some()),
            ("cautious", self.cautious.is_some()),
            ("clip_rms", self.clip_rms.is_some()),
            ("relative_step", self.relative_step.is_some()),
            ("projection", self.projection.is_some()),
            ("galore_rank", self.galore_rank.is_some()),
            ("refresh", self.refresh.is_some()),
            ("adaptive", self.adaptive.is_some()),
            ("galore_scale", self.galore_scale.is_some()),
            ("moments", self.moments.is_some()),
            ("projector", self.projector.is_some()),
            ("energy", self.energy.is_some()),
        ]
    }

    /// A key that neither the rule nor the projection reads is an error, never ignored.
    fn check_keys(&self, read: &[&[&str]]) -> Result<(), Error> {
        let unread =
            |(key, set): &(&str, bool)| *set && !read.iter().any(|keys| keys.contains(key));
        match self.keys().into_iter().find(unread) {
            None => Ok(()),
            Some((key, _)) => {
                let known = read.concat().join(", ");
                Err(Error::UnusedKey { group: self.name.clone(), key, known })
            }
        }
    }

    fn matches(&self, param: &ParamSpec) -> bool {
        let by_name = self.pattern.as_ref().is_none_or(|p| distance(p, &param.name) == 0);
        by_name && (self.role.is_empty() || self.role.contains(&param.role))
    }

    pub(crate) fn check(
        &self,
        key: &'static str,
        expected: &'static str,
        got: f64,
        good: bool,
    ) -> Result<(), Error> {
        let wrong = || Error::Value { group: self.name.clone(), key, expected, got };
        good.then_some(()).ok_or_else(wrong)
    }

    pub(crate) fn check_not_negative(&self, key: &'static str, got: f64) -> Result<(), Error> {
        self.check(key, "a number from 0", got, got.is_finite() && got >= 0.0)
    }

    /// Decays of averages: numbers from 0 and below 1.
    pub(crate) fn check_shares(&self, key: &'static str, shares: &[f64]) -> Result<(), Error> {
        let check = |got: &f64| {
            self.check(key, "numbers from 0 and below 1", *got, (0.0..1.0).contains(got))
        };
        shares.iter().try_for_each(check)
    }

    /// The pattern must name something, whoever takes it; the roles of a default need not.
    fn check_pattern(&self, params: &[ParamSpec]) -> Result<(), Error> {
        let Some(pattern) = &self.pattern else { return Ok(()) };
        let nearest = params.iter().min_by_key(|param| distance(pattern, &param.name));
        if nearest.is_some_and(|param| distance(pattern, &param.name) == 0) {
            return Ok(());
        }
        let (group, pattern) = (self.name.clone(), pattern.clone());
        Err(Error::UnmatchedPattern { group, pattern, nearest: nearest.map(|p| p.name.clone()) })
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Role>, D::Error> {
    struct Roles;

    impl<'de> serde::de::Visitor<'de> for Roles {
        type Value = Vec<Role>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a role or a list of roles")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Vec<Role>, E> {
            Role::deserialize(serde::de::value::StrDeserializer::new(name)).map(|role| vec![role])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Vec<Role>, A::Error> {
            Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))
        }
    }

    from.deserialize_any(Roles)
}

/// A group with its rule made and its format found.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) config: GroupConfig,
    pub(crate) rule: Box<dyn Optimizer>,
    pub(crate) format: Format,
    /// The format of slots that are never negative.
    pub(crate) second: Format,
}

impl Group {
    fn resolve(mut config: GroupConfig) -> Result<Self, Error> {
        config.check_not_negative("lr", config.lr)?;
        let entry = rule_by_name(&config.rule)?;
        let projected =
            if config.projection.is_some() { projection::KEYS } else { &["projection"] };
        config.check_keys(&[entry.keys, projected])?;
        let rule = (entry.build)(&mut config)?;
        let rule = projection::wrap(rule, &mut config)?;
        let format = state_format(&config.name, &config.state)?;
        let second = match &config.second {
            Some(name) => state_format(&config.name, name)?,
            None => format.clone(),
        };
        Ok(Self { config, rule, format, second: second.signed_as(Sign::Unsigned) })
    }

    /// The slots of a parameter, with their formats.
    ///
    /// The low part of weights with compensation is the last one.
    pub(crate) fn slots(
        &self,
        param: &ParamSpec,
    ) -> impl Iterator<Item = (SlotSpec, Format)> + use<> {
        let (format, second) = (self.format.signed_as(Sign::Signed), self.second.clone());
        // Rows of rare tokens have gradients of a size of their own, which coarse state loses; only a
        // group that means the table gets it.
        let named = self.config.pattern.as_ref().is_some_and(|pattern| pattern != "*");
        let spared =
            param.role == Role::Embedding && !named && !self.config.role.contains(&Role::Embedding);
        let kahan = (param.weights == Weights::Kahan)
            .then(|| SlotSpec::signed("low", param.shape).in_format(Format::BF16));
        self.rule.slots(param).into_iter().chain(kahan).map(move |spec| {
            if let Some(fixed) = spec.format.clone() {
                return (spec, fixed);
            }
            let format = if spec.sign == Sign::Unsigned { &second } else { &format };
            let layout = format.layout(spec.shape);
            let small = spared || layout.values() < SMALL_VALUES;
            let coarse = layout.block_values > 1;
            (spec, if coarse && small { Format::F32 } else { format.clone() })
        })
    }

    /// Whether the group's rule and formats fit a parameter.
    fn check_param(&self, param: &ParamSpec) -> Result<(), Error> {
        self.rule.check(param).map_err(|error| error.in_group(&self.config.name))?;
        let flushes = |(spec, format): &(SlotSpec, Format)| {
            spec.sign == Sign::Unsigned && !format.keeps_positive()
        };
        match self.slots(param).find(flushes) {
            None => Ok(()),
            Some((spec, format)) => Err(Error::FlushedState {
                group: self.config.name.clone(),
                format: format.full_name(),
                slot: spec.name,
            }),
        }
    }
}

/// A format that can hold state: all but those that need every value at once for a header.
pub(crate) fn state_format(group: &str, name: &str) -> Result<Format, Error> {
    let format = Format::by_name(name)?;
    if format.layout([1, SMALL_VALUES]).header_bytes > 0 {
        return Err(Error::StateFormat { group: group.into(), format: format.full_name() });
    }
    Ok(format)
}

/// Every parameter in its group, validated; nothing is allocated yet.
#[derive(Debug)]
pub struct Assignment {
    pub(crate) groups: Vec<Group>,
    /// Each parameter with the index of its group.
    pub(crate) params: Vec<(ParamSpec, usize)>,
}

impl Assignment {
    /// Puts each parameter into the first group that matches it.
    ///
    /// # Errors
    /// A parameter in no group, a pattern that matches nothing, a group whose parameters are all
    /// taken by earlier ones, two groups of one name, an unknown rule or format, a number out of
    /// range.
    pub fn resolve(groups: &[GroupConfig], params: &[ParamSpec]) -> Result<Self, Error> {
        for (at, group) in groups.iter().enumerate() {
            if groups[..at].iter().any(|other| other.name == group.name) {
                return Err(Error::DuplicateGroup { name: group.name.clone() });
            }
            group.check_pattern(params)?;
        }
        let assigned = params.iter().map(|param| {
            let group = groups.iter().position(|group| group.matches(param));
            let none = || Error::NoGroup { param: param.name.clone(), role: param.role.name() };
            Ok((param.clone(), group.ok_or_else(none)?))
        });
        let params = assigned.collect::<Result<Vec<_>, Error>>()?;
        for (at, group) in groups.iter().enumerate() {
            let named = group.pattern.as_ref().is_some_and(|pattern| pattern != "*");
            if named && params.iter().all(|(_, group)| *group != at) {
                return Err(Error::ShadowedGroup { group: group.name.clone() });
            }
        }
        let groups = groups.iter().cloned().map(Group::resolve).collect::<Result<Vec<_>, _>>()?;
        for (param, group) in &params {
            groups[*group].check_param(param)?;
        }
        Ok(Self { groups, params })
    }

    /// The groups in order, with the hyper-parameters that were left open filled in.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &GroupConfig> {
        self.groups.iter().map(|group| &group.config)
    }

    /// The parameters in order, each with its group.
    pub fn params(&self) -> impl ExactSizeIterator<Item = (&ParamSpec, &GroupConfig)> {
        self.params.iter().map(|(param, group)| (param, &self.groups[*group].config))
    }

    /// Bytes of state that this will allocate, paged ones included.
    pub fn state_bytes(&self) -> usize {
        self.slot_bytes().map(|(_, bytes, _)| bytes).sum()
    }

    /// For each parameter in order the bytes of workspace in its update, at most.
    pub fn workspace_bytes(&self) -> impl Iterator<Item = (&ParamSpec, usize)> {
        let bytes = |(param, group): &'_ (ParamSpec, usize)| {
            self.groups[*group].rule.workspace_bytes(param)
        };
        self.params.iter().map(move |entry| (&entry.0, bytes(entry)))
    }

    /// Every slot that this will allocate: its tag, its bytes, and whether it lies in a file.
    pub fn slot_bytes(&self) -> impl Iterator<Item = (Tag, usize, bool)> + '_ {
        self.params.iter().flat_map(|(param, group)| {
            let group = &self.groups[*group];
            group.slots(param).map(|(spec, format)| {
                let bytes = format.layout(spec.shape).code_bytes();
                (spec.tag, bytes, group.config.state_paged && pages(bytes))
            })
        })
    }
}
