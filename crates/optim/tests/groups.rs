//! Groups as a person writes them: first match wins, and every mistake has a name.

use serde::Deserialize;
use smidgen_optim::{Assignment, Error, GroupConfig, ParamSpec, Role, Schedule};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    optim: Vec<GroupConfig>,
    schedule: Option<Schedule>,
}

fn groups(text: &str) -> Vec<GroupConfig> {
    toml::from_str::<File>(text).unwrap().optim
}

fn params() -> Vec<ParamSpec> {
    vec![
        ParamSpec::new("embed.weight", [100, 64], Role::Embedding),
        ParamSpec::new("layers.0.norm.weight", [1, 64], Role::Norm),
        ParamSpec::new("layers.0.attn.q.weight", [64, 64], Role::MatrixHidden),
        ParamSpec::new("layers.1.attn.q.weight", [64, 64], Role::MatrixHidden),
        ParamSpec::new("head.weight", [100, 64], Role::Head),
    ]
}

fn names(plan: &Assignment) -> Vec<&str> {
    plan.params().map(|(_, group)| group.name.as_str()).collect()
}

fn error(text: &str) -> Error {
    Assignment::resolve(&groups(text), &params()).unwrap_err()
}

#[test]
fn the_first_match_wins_and_groups_come_out_complete() {
    let plan = Assignment::resolve(
        &groups(
            r#"
            [[optim]]
            name = "late"
            match = "layers.1.*"
            lr = 1e-4
            [[optim]]
            name = "plain"
            role = ["norm", "embedding"]
            weight_decay = 0
            betas = [0.8, 0.99]
            [[optim]]
            name = "hidden"
            role = "matrix_hidden"
            match = "*.attn.*"
            state = "bf16"
            [[optim]]
            name = "rest"
            "#,
        ),
        &params(),
    )
    .unwrap();
    assert_eq!(names(&plan), ["plain", "plain", "hidden", "late", "rest"]);
    let complete: Vec<_> = plan.groups().map(|g| (g.lr, g.weight_decay, g.betas, g.eps)).collect();
    assert_eq!(complete[0], (1e-4, Some(0.1), Some([0.9, 0.95]), Some(1e-8)));
    assert_eq!(complete[1], (1e-3, Some(0.0), Some([0.8, 0.99]), Some(1e-8)));
    let f32_state = 8 * (6400 + 64 + 4096 + 6400);
    assert_eq!(plan.state_bytes(), f32_state + 4 * 4096);
}

#[test]
fn the_default_groups_decay_matrices_only() {
    let plan = Assignment::resolve(&GroupConfig::defaults(3e-4), &params()).unwrap();
    assert_eq!(names(&plan), ["no_decay", "no_decay", "rest", "rest", "rest"]);
    let decay: Vec<_> = plan.groups().map(|group| group.weight_decay).collect();
    assert_eq!(decay, [Some(0.0), Some(0.1)]);
    // A model without any of the roles is no mistake.
    Assignment::resolve(&GroupConfig::defaults(3e-4), &params()[2..4]).unwrap();
}

#[test]
fn a_resolved_group_reads_back_as_itself() {
    #[derive(serde::Serialize)]
    struct Out<'a> {
        optim: Vec<&'a GroupConfig>,
    }
    let plan = Assignment::resolve(&GroupConfig::defaults(3e-4), &params()).unwrap();
    let text = toml::to_string(&Out { optim: plan.groups().collect() }).unwrap();
    assert!(groups(&text).iter().eq(plan.groups()), "{text}");
}

#[test]
fn a_parameter_without_a_group_is_named() {
    let error = error("[[optim]]\nrole = \"norm\"");
    assert!(error.to_string().starts_with("parameter `embed.weight` (role `embedding`) is in no"));
    assert!(matches!(error, Error::NoGroup { .. }));
    assert!(matches!(Assignment::resolve(&[], &params()), Err(Error::NoGroup { .. })));
}

#[test]
fn a_pattern_that_matches_nothing_names_the_nearest() {
    let error = error("[[optim]]\nname = \"n\"\nmatch = \"*.nrom.*\"\n[[optim]]");
    assert_eq!(
        error.to_string(),
        "group `n`: pattern `*.nrom.*` matches no parameter\n  hint: the nearest name is \
         `layers.0.norm.weight`"
    );
}

#[test]
fn a_shadowed_group_is_found() {
    let shadowed = "[[optim]]\n[[optim]]\nname = \"late\"\nmatch = \"layers.1.*\"";
    assert!(matches!(error(shadowed), Error::ShadowedGroup { group } if group == "late"));
    let twice = "[[optim]]\nrole = \"norm\"\n[[optim]]";
    assert!(matches!(error(twice), Error::DuplicateGroup { name } if name == "all"));
}

#[test]
fn unknown_names_say_what_is_known() {
    let rule = error("[[optim]]\nrule = \"adam\"").to_string();
    assert!(rule.starts_with("unknown rule `adam`, expected one of: adamw, lion"), "{rule}");
    assert!(rule.ends_with("\n  hint: did you mean `adamw`?"), "{rule}");
    let state = error("[[optim]]\nstate = \"bf-16\"").to_string();
    assert!(state.starts_with("unknown format `bf-16`, expected one of: f32, bf16"), "{state}");
}

#[test]
fn numbers_out_of_range_name_their_key() {
    for (text, message) in [
        (
            "betas = [0.9, 1.0]",
            "`betas` of group `all`: expected numbers from 0 and below 1, got 1",
        ),
        ("lr = -1.0", "`lr` of group `all`: expected a number from 0, got -1"),
        ("eps = nan", "`eps` of group `all`: expected a number from 0, got NaN"),
        ("weight_decay = inf", "`weight_decay` of group `all`: expected a number from 0, got inf"),
    ] {
        assert_eq!(error(&format!("[[optim]]\n{text}")).to_string(), message);
    }
}

#[test]
fn unknown_keys_and_types_are_refused() {
    for text in [
        "[[optim]]\nlearning_rate = 1",
        "[[optim]]\nrole = 3",
        "[[optim]]\nrole = \"matrix\"",
        "[schedule]\nkind = \"constant\"\nmin_ratio = 0.1",
        "[schedule]\nkind = \"cosin\"",
    ] {
        assert!(toml::from_str::<File>(text).is_err(), "{text}");
    }
    let text = "[schedule]\nkind = \"cosine\"\nwarmup_steps = 7";
    let schedule = toml::from_str::<File>(text).unwrap().schedule;
    assert_eq!(schedule, Some(Schedule::Cosine { warmup_steps: 7, min_ratio: 0.1 }));
}

/// A table of embeddings keeps f32 state in block formats, unless its group means it.
#[test]
fn embeddings_keep_f32_state_unless_a_group_names_them() {
    let params = [ParamSpec::new("embed.weight", [64, 64], Role::Embedding)];
    let bytes = |group: GroupConfig| {
        let group = GroupConfig { rule: "lion".into(), ..group };
        Assignment::resolve(&[group], &params).unwrap().state_bytes()
    };
    let int8 = || GroupConfig { state: "int8/256".into(), ..GroupConfig::default() };
    assert_eq!(bytes(int8()), 4 * 4096);
    assert_eq!(bytes(GroupConfig { pattern: Some("*".into()), ..int8() }), 4 * 4096);
    assert_eq!(bytes(GroupConfig { role: vec![Role::Embedding], ..int8() }), 4096 + 4 * 16);
    assert_eq!(bytes(GroupConfig { pattern: Some("embed.*".into()), ..int8() }), 4096 + 4 * 16);
    assert_eq!(bytes(GroupConfig { state: "bf16".into(), ..GroupConfig::default() }), 2 * 4096);
}
