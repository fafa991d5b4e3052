//! Update rules, schedules, parameter groups and gradient policies.
//!
//! A rule is arithmetic: it owns hyper-parameters and asks for state by name; [`OptimState`]
//! allocates that state in any number format, counts it, saves it and hands it to the rule. Nothing
//! here computes gradients, reads files or knows models.
//!
//! Read first: [`Optimizer`] (what a rule is), [`GroupConfig`] (which parameters it updates, and
//! how), [`OptimState`] (the state of a run). A new rule is one file in `rules/` and one entry in
//! [`RULES`].
//!
//! ```
//! use smidgen_codec::{Ledger, Rng, Stream, Tag};
//! use smidgen_optim::{Assignment, GroupConfig, OptimState, ParamSpec, Role, StepCx};
//! use smidgen_tensor::Device;
//!
//! let params = [ParamSpec::new("head.weight", [2, 3], Role::Head)];
//! let plan = Assignment::resolve(&[GroupConfig::default()], &params)?;
//! assert_eq!(plan.state_bytes(), 2 * 6 * 4);
//!
//! let device = Device::cpu(Ledger::new(), 1);
//! let mut state = OptimState::allocate(plan, device.pool())?;
//! let mut value = [1.0f32; 6];
//! let cx = StepCx::new(&device, 1, Rng::new(0, Stream::Rounding));
//! state.step(&cx, 0, value.as_mut_slice().into(), &[0.5; 6])?;
//! assert!(value[0] < 1.0);
//! assert_eq!(device.ledger().live_bytes(Tag::State), 48);
//! # Ok::<(), smidgen_optim::Error>(())
//! ```

mod clip;
mod elementwise;
mod error;
mod factor;
mod fire;
mod glob;
mod group;
mod linalg;
mod param_spec;
mod plasticity;
mod polar;
mod policy;
mod projection;
mod rule;
pub mod rules;
mod schedule;
mod state;
mod values;

pub use clip::{all_finite, clip_scale, global_norm, scale};
pub use elementwise::{Updates, apply, elementwise};
pub use error::Error;
pub use fire::{FireOptions, FireReport, fire, fire_targets};
pub use group::{Assignment, GroupConfig, StateRounding};
pub use param_spec::{ParamSpec, Role, Weights};
pub use plasticity::{Plasticity, plasticity};
pub use polar::Polar;
pub use policy::{Clip, GradMode, GradPolicy, Guard, Verdict};
pub use projection::{Moments, ProjectionKind, Rank};
pub use rule::{Optimizer, Param, Part, Slot, SlotSpec, StepCx, Subspace};
pub use rules::{MatrixScale, RULES, RuleEntry, rule_by_name};
pub use schedule::{Decay, FinalRatioOf, OneCycle, Schedule};
pub use state::{GroupCost, OptimState, StateTensor};
pub use values::Values;
