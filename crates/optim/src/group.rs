//! Parameter groups: which rule, rate and state format each parameter gets.
//!
//! Groups are tried in order and the first match wins; every parameter is in exactly one. A group
//! matches by a pattern over names, by roles, by both, or, with neither, everything.

use serde::{Deserialize, Deserializer, Serialize};
use smidgen_codec::Format;

use crate::glob::distance;
use crate::{Error, Optimizer, ParamSpec, Role, rule_by_name};

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
    /// How state is rounded in formats coarser than f32.
    pub state_rounding: StateRounding,
    /// Decoupled weight decay; the rule's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Decay of the averages; the rule's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// Added to denominators; the rule's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
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
            state_rounding: StateRounding::default(),
            weight_decay: None,
            betas: None,
            eps: None,
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
}

impl Group {
    fn resolve(mut config: GroupConfig) -> Result<Self, Error> {
        config.check_not_negative("lr", config.lr)?;
        let rule = (rule_by_name(&config.rule)?.build)(&mut config)?;
        let format = Format::by_name(&config.state)?;
        if format.layout([1, SMALL_VALUES]).header_bytes > 0 {
            let (group, format) = (config.name, format.full_name());
            return Err(Error::StateFormat { group, format });
        }
        Ok(Self { config, rule, format })
    }

    /// The slots of a parameter, with their formats.
    pub(crate) fn slots(
        &self,
        param: &ParamSpec,
    ) -> impl Iterator<Item = (crate::SlotSpec, Format)> + use<> {
        let format = self.format.clone();
        self.rule.slots(param.shape).into_iter().map(move |spec| {
            let format = format.signed_as(spec.sign);
            let layout = format.layout(spec.shape);
            let small = layout.block_values > 1 && layout.values() < SMALL_VALUES;
            (spec, if small { Format::F32 } else { format })
        })
    }
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
        let groups = groups.iter().cloned().map(Group::resolve).collect::<Result<_, _>>()?;
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

    /// Bytes of state that this will allocate.
    pub fn state_bytes(&self) -> usize {
        let slots = self.params.iter().flat_map(|(param, group)| self.groups[*group].slots(param));
        slots.map(|(spec, format)| format.layout(spec.shape).bytes()).sum()
    }
}
