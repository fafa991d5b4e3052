//! What people write: wrong keys, impossible sizes, automatic values, the examples in `configs/`.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use smidgen_optim::{Clip, GradMode};
use smidgen_store::{Bytes, Disk, config};
use smidgen_tensor::Level;
use smidgen_train::{
    Config, Error, Facts, Machine, Plan, Precision, Relax, Silent, dry_run, resolve,
};

use crate::common::{Place, Watch};

fn facts(train_bytes: u64, level: Level) -> Facts {
    let machine = Machine { threads: 2, memory_bytes: 8 << 30, available_bytes: 8 << 30, level };
    Facts { train_bytes, val_bytes: train_bytes / 10, tokens: None, machine }
}

fn error(place: &Place, sets: &[&str]) -> String {
    let run = place.run("refused");
    let outcome = match place.try_config(sets) {
        Ok(config) => Watch::new().train(&config, &run, Arc::new(Disk)),
        Err(error) => Err(error),
    };
    assert!(outcome.is_err(), "{sets:?} was accepted");
    assert!(!run.exists(), "{sets:?} left something behind");
    outcome.unwrap_err().to_string()
}

#[test]
fn wrong_settings_are_named() {
    let place = Place::new();
    for (set, words) in [
        ("train.stpes=3", "did you mean `train.steps`?"),
        ("modle.width=3", "did you mean `model`?"),
        ("train.steps=many", "`train.steps`: expected"),
        ("train.steps=0", "`train.steps`: expected 1 to"),
        ("train.grad=flowing", "held"),
        ("train.compute=fp64", "bf16"),
        ("threads=0", "`threads`: expected 1 to 1024, got 0"),
        ("threads=100000", "`threads`: expected 1 to 1024"),
        ("model.heads=5", "`model.heads`: expected a divisor of `model.width` = 32, got 5"),
        ("model.heads=0", "`model.heads`"),
        ("model.kv_heads=3", "`kv_heads`: expected a divisor"),
        ("model.head_dim=7", "`head_dim`: expected an even number"),
        ("model.width=0", "`width`: expected 1 to"),
        ("model.layers=0", "`layers`: expected 1 to"),
        ("model.ffn=100000000", "expected"),
        ("model.preset=tinny", "did you mean `tiny`?"),
        ("model.context=100000", "`model.context`: expected fewer than the"),
        ("train.context=64", "`train.context`: expected at most `model.context` = 32"),
        ("train.batch=0", "`train.batch`: expected 1 to"),
        ("train.grad_accum=0", "`train.grad_accum`"),
        ("train.max_norm=-1", "`max_norm`: expected a positive number, got -1"),
        ("train.max_minutes=0", "`train.max_minutes`: expected a positive number"),
        ("data.vocab=10", "`data.vocab`: expected 257 to"),
        ("data.val_ratio=1.5", "`val_ratio`: expected a share between 0 and 1, got 1.5"),
        ("data.path=no/such/folder", "does not exist"),
        ("memory=1KiB", "which the smallest plan needs, got 1 KiB"),
        ("memory=lots", "`memory`"),
        ("schedule.kind=zigzag", "zigzag"),
        ("optim=[{name='a', rule='adamv'}]", "did you mean `adamw`?"),
        ("optim=[{name='a', match='layers.9.*'}]", "matches no parameter"),
        ("optim=[{name='a', lr=-1.0}]", "`lr`"),
    ] {
        let message = error(&place, &[set]);
        assert!(message.contains(words), "{set}: {message}");
    }
    let message = error(&place, &["train.grad=streamed", "train.clip=global"]);
    assert!(message.contains("excludes `clip = \"global\"`"), "{message}");
    let message = error(&place, &["train.grad=streamed", "train.grad_accum=2"]);
    assert!(message.contains("excludes `grad_accum = 2`"), "{message}");
    let message = error(&place, &["optim=[{name='a'}]", "train.lr=1.0"]);
    assert!(message.contains("`train.lr`"), "{message}");
}

#[test]
fn sources_that_hold_no_text_leave_nothing_behind() {
    let place = Place::new();
    let text = place.run("text");
    for entry in std::fs::read_dir(&text).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(error(&place, &[]).contains("no text to train on"));
    std::fs::write(text.join("a.txt"), "short").unwrap();
    assert!(error(&place, &[]).contains("too little text"));
    std::fs::write(text.join("a.txt"), [0xff; 5000]).unwrap();
    assert!(error(&place, &[]).contains("not UTF-8"));
}

#[test]
fn occupied_and_unwritable_folders_are_refused() {
    let place = Place::new();
    let config = place.config(&[]);
    let occupied = place.run("thesis");
    std::fs::create_dir(&occupied).unwrap();
    std::fs::write(occupied.join("chapter.txt"), "years of work").unwrap();
    let train = |dir: &Path| Watch::new().train(&config, dir, Arc::new(Disk)).unwrap_err();
    assert!(train(&occupied).to_string().contains("chapter.txt"));
    assert_eq!(std::fs::read(occupied.join("chapter.txt")).unwrap(), b"years of work");
    let under_a_file = occupied.join("chapter.txt").join("run");
    assert!(train(&under_a_file).to_string().contains("chapter.txt"));
    place.train("run", &[]);
    assert!(train(&place.run("run")).to_string().contains("--resume"));
}

#[test]
fn a_dry_run_writes_nothing_and_plans_what_a_run_does() {
    let place = Place::new();
    let before = std::fs::read_dir(place.dir.path()).unwrap().count();
    let config = place.config(&[]);
    let plan = dry_run(&config, Machine::detect(), &mut Silent).unwrap().plan;
    assert_eq!(std::fs::read_dir(place.dir.path()).unwrap().count(), before);
    assert!(!plan.encoded && plan.minutes > 0.0);
    place.train("run", &[]);
    let text = std::fs::read_to_string(place.run("run").join("run.toml")).unwrap();
    let mut ran: Config = config::parse(&text, "run.toml".as_ref()).unwrap();
    ran.data.path = config.data.path.clone();
    assert_eq!(ran, plan.config);
}

#[test]
fn the_examples_are_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let config = Config::read(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
            let facts = facts(50_000_000, Level::Avx2);
            resolve(&config, &facts).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            found += 1;
        }
    }
    assert!(found >= 3, "{found} examples");
}

#[test]
fn automatic_sizes_follow_their_means() {
    let params = |bytes, level, minutes| {
        let mut config = Config::default();
        config.train.max_minutes = Some(minutes);
        resolve(&config, &facts(bytes, level)).unwrap().params
    };
    let best = Level::Avx512Bf16;
    assert!(params(100_000_000, best, 3.0) < params(100_000_000, best, 300.0));
    // More time does not make little text more.
    assert_eq!(params(1_000_000, best, 30.0), params(1_000_000, best, 3000.0));
    assert!(params(100_000_000, Level::Portable, 30.0) < params(100_000_000, best, 30.0));
    assert!(params(10_000, best, 300.0) < params(100_000_000, best, 300.0));
    let small = Config { memory: Some(Bytes(100 << 20)), ..Config::default() };
    let plan = resolve(&small, &facts(500_000_000, best)).unwrap();
    assert!(plan.total_bytes <= 100 << 20);
    let compute =
        |level| resolve(&Config::default(), &facts(1_000_000, level)).unwrap().config.train.compute;
    assert_eq!(compute(Level::Avx512Bf16), Precision::Bf16);
    assert_eq!(compute(Level::Avx512), Precision::F32);
}

#[test]
fn presets_give_their_shape_and_bend_to_what_is_written() {
    let config = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        let config: Config = config::load("", "x".as_ref(), &sets).unwrap();
        resolve(&config, &facts(50_000_000, Level::Avx512Bf16)).unwrap()
    };
    let spec = config(&["model.preset=bench"]).spec;
    assert_eq!(spec, smidgen_model::Spec::preset("bench").unwrap());
    let spec = config(&["model.preset=bench", "model.layers=2", "model.tied=true"]).spec;
    assert_eq!((spec.layers, spec.tied, spec.width), (2, true, 384));
    let spec = config(&["model.preset=bench", "model.width=128"]).spec;
    assert_eq!((spec.width, spec.heads * spec.head_dim), (128, 128));
}

/// A plan of the text of `sets` under so much memory.
fn plan_under(memory: u64, sets: &[&str]) -> Result<Plan, Error> {
    let memory = format!("memory={memory}");
    let sets: Vec<String> = sets.iter().chain([&&*memory]).map(|s| s.to_string()).collect();
    let config: Config = config::load("", "x".as_ref(), &sets).unwrap();
    resolve(&config, &facts(50_000_000, Level::Avx512Bf16))
}

/// Each plan that is taken as the memory shrinks to what the one before did not need, and the error
/// behind the last.
fn descent(sets: &[&str]) -> (Vec<Plan>, Error) {
    let mut plans = vec![plan_under(64 << 30, sets).unwrap()];
    loop {
        match plan_under(plans[plans.len() - 1].choice.needed_bytes - 1, sets) {
            Ok(plan) => plans.push(plan),
            Err(error) => return (plans, error),
        }
    }
}

#[test]
fn levers_are_pulled_in_their_order_and_keep_the_rows_of_a_step() {
    // A wide table makes the loss the highest point, many blocks the way back through them.
    let table = ["model.width=128", "model.layers=2", "model.context=256", "data.vocab=32768"];
    let (first, _) = descent(&[&table[..], &["train.batch=8"]].concat());
    let (second, error) = descent(&["model.preset=bench", "train.batch=8"]);
    let levers = |plans: &[Plan]| -> Vec<String> {
        plans.iter().map(|plan| plan.choice.levers.join(" + ")).collect()
    };
    let (chunks, splits) = (levers(&first), levers(&second));
    assert_eq!(chunks[..2], ["".to_string(), "loss chunk 8 MiB -> 2 MiB".into()]);
    assert!(chunks.contains(&"blocks computed again".to_string()), "{chunks:?}");
    assert_eq!(splits[..2], ["".to_string(), "blocks computed again".into()]);
    assert!(splits[2].starts_with("batch 8 x 1 -> 4 x 2"), "{splits:?}");
    // A global clip needs all gradients.
    assert!(splits.iter().all(|text| !text.contains("streamed")), "{splits:?}");
    for plan in first.iter().chain(&second) {
        assert_eq!(plan.batch() as u32 * plan.config.train.grad_accum, 8);
        assert!(plan.choice.fits && plan.choice.needed_bytes <= plan.choice.memory_bytes);
        let over = plan.choice.rejected.as_ref().map(|rejected| rejected.over_bytes);
        assert_eq!(over.is_some_and(|over| over > 0), !plan.choice.levers.is_empty());
    }
    let last = second.last().unwrap().choice.needed_bytes;
    let Error::OverBudget { needed_bytes, hint, .. } = error else { panic!("{error}") };
    assert_eq!(needed_bytes, last, "the smallest that works");
    assert!(hint.starts_with("`--allow state`"), "{hint}");
}

#[test]
fn what_is_written_stays_and_what_is_allowed_is_taken() {
    let sets = ["model.preset=bench", "train.batch=1", "train.recompute=false"];
    let written = [&sets[..], &["train.loss_chunk=1MiB", "train.clip=tensor"]].concat();
    let (plans, _) = descent(&written);
    let train = |plan: &Plan| (plan.config.train.recompute, plan.config.train.loss_chunk);
    assert!(plans.iter().all(|plan| train(plan) == (Some(false), Some(Bytes(1 << 20)))));
    let last = plans.last().unwrap();
    assert!(last.choice.levers.contains(&"gradients streamed".to_string()), "{:?}", last.choice);
    let allowed =
        [&written[..], &["allow=[\"context\", \"precision\", \"state\", \"weights\"]"]].concat();
    let (plans, error) = descent(&[&allowed[..], &["train.compute=f32"]].concat());
    let texts: Vec<String> = plans.iter().map(|plan| plan.choice.levers.join(" + ")).collect();
    for text in ["operands in bf16", "state in bf16", "weights in bf16", "context 256 -> 128"] {
        assert!(texts.iter().any(|levers| levers.contains(text)), "{text}: {texts:?}");
    }
    assert!(plans.last().unwrap().config.optim.iter().all(|group| group.state == "bf16"));
    assert!(matches!(error, Error::OverBudget { hint, .. } if !hint.contains("--allow")));
}

proptest! {
    /// The first in one order that fits: the nearer to what was asked, the more memory there is.
    #[test]
    fn a_larger_budget_never_chooses_less(
        (width, layers, batch, context) in (1usize..9, 1usize..4, 1usize..33, 4usize..9),
        small in 26.0_f64..31.0,
        more in 0.0_f64..2.0,
        (clip, allow) in any::<(bool, bool)>(),
    ) {
        let mut config = Config::default();
        config.model.width = Some(64 * width);
        config.model.layers = Some(layers);
        config.train.batch = Some(batch);
        config.model.context = Some(1 << context);
        config.train.clip = Some(if clip { Clip::Global } else { Clip::Off });
        if allow {
            config.allow = Relax::ALL.to_vec();
        }
        let mut rank = |bits: f64| {
            config.memory = Some(Bytes(bits.exp2() as u64));
            let plan = resolve(&config, &facts(50_000_000, Level::Avx512)).ok()?;
            let train = &plan.config.train;
            let coarse = plan.config.optim.iter().any(|group| group.state == "bf16");
            let exact = (train.grad == GradMode::Held, plan.batch(), train.recompute == Some(false));
            Some((plan.context(), !coarse, train.compute == Precision::F32, exact, train.loss_chunk))
        };
        let (less, more) = (rank(small), rank(small + more));
        prop_assert!(less <= more, "{less:?} {more:?}");
    }

    #[test]
    fn resolved_configurations_resolve_to_themselves(
        train_bytes in 2_000_u64..2_000_000_000,
        level in 0_usize..4,
        threads in 1_usize..64,
        memory in 26_u32..40,
        minutes in proptest::option::of(0.1_f64..1000.0),
        max_steps in proptest::option::of(1_u64..10_000),
        streamed in any::<bool>(),
    ) {
        let (memory_bytes, level) = (1 << memory, Level::ALL[level]);
        let machine = Machine { threads, memory_bytes, available_bytes: memory_bytes, level };
        let facts = Facts { train_bytes, val_bytes: train_bytes / 9, tokens: None, machine };
        let mut config = Config::default();
        config.train.max_minutes = minutes;
        config.train.max_steps = max_steps;
        if streamed {
            config.train.grad = smidgen_optim::GradMode::Streamed;
        }
        match resolve(&config, &facts) {
            Ok(plan) => {
                prop_assert_eq!(&plan, &resolve(&config, &facts).unwrap());
                let text = config::to_text(&plan.config).unwrap();
                let again: Config = config::parse(&text, "run.toml".as_ref()).unwrap();
                prop_assert_eq!(&again, &plan.config);
                let again = resolve(&again, &facts).unwrap();
                prop_assert_eq!(again.choice.levers, Vec::<String>::new());
                let choice = plan.choice.clone();
                prop_assert_eq!(Plan { choice, ..again }, plan);
            }
            Err(error) => prop_assert!(matches!(error, Error::OverBudget { .. }), "{}", error),
        }
    }

    #[test]
    fn no_numbers_panic(
        width in any::<u32>(), layers in any::<u32>(), heads in any::<u32>(),
        ffn in any::<u32>(), context in any::<u32>(), batch in any::<u32>(),
        accum in any::<u32>(), shift in 0_u32..32,
    ) {
        let mut config = Config::default();
        let small = |n: u32| Some((n >> shift) as usize);
        config.model.width = small(width);
        config.model.layers = small(layers);
        config.model.heads = small(heads);
        config.model.ffn = small(ffn);
        config.model.context = small(context);
        config.train.batch = small(batch);
        config.train.grad_accum = accum >> shift;
        let _ = resolve(&config, &facts(1 << 30, Level::Avx2));
    }
}
