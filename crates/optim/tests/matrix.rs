//! Every rule and every state format through one contract.

use smidgen_codec::{CODECS, Codec, Format, Layout, Ledger, Rng, Rounding, Stream, Tag};
use smidgen_optim::{
    Assignment, Error, GroupConfig, OptimState, Optimizer, Param, ParamSpec, RULES, Role, Slot,
    StateRounding, StateTensor, StepCx, rule_by_name,
};
use smidgen_tensor::{Device, Level};

/// More than one chunk, with an odd end; a matrix of one chunk; a vector; an empty one.
const SHAPES: [[usize; 2]; 4] = [[150, 1001], [7, 33], [1, 5], [0, 4]];

/// Those of the shapes that the rule can update; the two matrices are always among them.
fn params(rule: &str) -> Vec<ParamSpec> {
    let param = |(i, shape)| ParamSpec::new(format!("p{i}"), shape, Role::MatrixHidden);
    let entry = rule_by_name(rule).unwrap();
    let rule = (entry.build)(&mut GroupConfig::default()).unwrap();
    let params = SHAPES.into_iter().enumerate().map(param);
    params.filter(|param| rule.check(param).is_ok()).collect()
}

fn wave(count: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Rng::new(seed, Stream::Init).fill_normal(0, 0, 0.1, &mut values);
    values
}

struct Run {
    device: Device,
    state: OptimState,
    values: Vec<Vec<f32>>,
    step: u64,
}

impl Run {
    fn new(rule: &str, format: &str, threads: usize) -> Self {
        Self::at(rule, format, threads, Level::detect())
    }

    fn at(rule: &str, format: &str, threads: usize, level: Level) -> Self {
        let rounding = StateRounding::Stochastic;
        let group = GroupConfig {
            rule: rule.into(),
            state: format.into(),
            state_rounding: rounding,
            ..GroupConfig::default()
        };
        let device = Device::cpu_at(Ledger::new(), threads, level);
        let params = params(rule);
        let plan = Assignment::resolve(&[group], &params).unwrap();
        let bytes = plan.state_bytes();
        let state = OptimState::allocate(plan, device.pool()).unwrap();
        assert_eq!(device.ledger().live_bytes(Tag::State), bytes);
        let values = params.iter().map(|p| wave(p.shape[0] * p.shape[1], 7)).collect();
        Self { device, state, values, step: 0 }
    }

    fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.step += 1;
            let cx = StepCx::new(&self.device, self.step, Rng::new(3, Stream::Rounding));
            let cx = StepCx { multiplier: 0.5, ..cx };
            for (index, value) in self.values.iter_mut().enumerate() {
                let grad = wave(value.len(), 100 + self.step);
                self.state.step(&cx, index, value.as_mut_slice().into(), &grad).unwrap();
            }
        }
    }

    fn saved(&self) -> Vec<(String, String, [usize; 2], Vec<u8>)> {
        let tensors = self.state.tensors();
        tensors.map(|t| (t.name, t.format, t.shape, t.bytes.to_vec())).collect()
    }
}

fn view(saved: &[(String, String, [usize; 2], Vec<u8>)]) -> Vec<StateTensor<'_>> {
    let tensor = |(name, format, shape, bytes): &'_ (String, String, [usize; 2], Vec<u8>)| {
        (name.clone(), format.clone(), *shape, bytes.len())
    };
    let views = saved.iter().map(|saved| {
        let (name, format, shape, _) = tensor(saved);
        StateTensor { name, format, shape, bytes: &saved.3 }
    });
    views.collect()
}

/// Each rule with each format of the registry that can hold its state.
fn each(test: impl Fn(&str, &str)) {
    for rule in RULES {
        for codec in CODECS {
            let (name, state) = (rule.name.into(), codec.name().into());
            let group = GroupConfig { rule: name, state, ..GroupConfig::default() };
            match Assignment::resolve(&[group], &params(rule.name)) {
                Ok(_) => test(rule.name, codec.name()),
                Err(Error::FlushedState { .. } | Error::StateFormat { .. }) => {}
                Err(other) => panic!("{} {}: {other}", rule.name, codec.name()),
            }
        }
    }
}

#[test]
fn threads_and_levels_give_the_same_bits() {
    each(|rule, format| {
        let mut reference = Run::at(rule, format, 1, Level::Portable);
        reference.steps(4);
        for level in Level::available() {
            if rule == "muon" {
                // Matrix products differ between levels by rounding.
                reference = Run::at(rule, format, 1, level);
                reference.steps(4);
            }
            for threads in [1, 2, 4] {
                let mut run = Run::at(rule, format, threads, level);
                run.steps(4);
                assert!(run.values == reference.values, "{rule} {format} {threads} {level:?}");
                assert!(run.saved() == reference.saved(), "{rule} {format} {threads} {level:?}");
            }
        }
    });
}

#[test]
fn saved_and_loaded_state_goes_on_to_the_same_bits() {
    each(|rule, format| {
        let mut whole = Run::new(rule, format, 2);
        whole.steps(6);
        let mut first = Run::new(rule, format, 2);
        first.steps(3);
        let saved = first.saved();
        let mut second = Run::new(rule, format, 1);
        second.state.load(view(&saved)).unwrap();
        (second.values, second.step) = (first.values, 3);
        second.steps(3);
        assert!(second.values == whole.values, "{rule} {format}");
        assert!(second.saved() == whole.saved(), "{rule} {format}");
    });
}

#[test]
fn coarser_state_trains_and_differs() {
    for rule in RULES {
        let mut full = Run::new(rule.name, "f32", 2);
        let mut half = Run::new(rule.name, "bf16", 2);
        let bytes = |run: &Run| run.device.ledger().live_bytes(Tag::State);
        if rule.name == "adafactor" {
            // Its moments are few and always in f32.
            assert_eq!(bytes(&full), bytes(&half));
            continue;
        }
        assert_eq!(bytes(&full), 2 * bytes(&half));
        full.steps(10);
        half.steps(10);
        assert_ne!(full.values, half.values);
        let start = wave(full.values[0].len(), 7);
        let distance = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
        };
        let moved = distance(&full.values[0], &start);
        assert!(distance(&full.values[0], &half.values[0]) < 0.05 * moved);
    }
}

/// A slow average in bf16 stands still under nearest rounding and follows in the mean under
/// stochastic rounding.
#[test]
fn stochastic_rounding_keeps_slow_averages_moving() {
    let average = |state_rounding| {
        let group = GroupConfig {
            state: "bf16".into(),
            betas: Some([0.9, 0.999]),
            state_rounding,
            ..GroupConfig::default()
        };
        let device = Device::cpu(Ledger::new(), 1);
        let params = [ParamSpec::new("w", [1, 4096], Role::MatrixHidden)];
        let plan = Assignment::resolve(&[group], &params).unwrap();
        let mut state = OptimState::allocate(plan, device.pool()).unwrap();
        let mut value = vec![0.0f32; 4096];
        for step in 1..=1000 {
            let cx = StepCx::new(&device, step, Rng::new(3, Stream::Rounding));
            state.step(&cx, 0, value.as_mut_slice().into(), &vec![1.0; 4096]).unwrap();
        }
        let mut averages = vec![0.0; 4096];
        state.slots(0)[1].data().decode_into(&mut averages).unwrap();
        averages.iter().map(|x| f64::from(*x)).sum::<f64>() / 4096.0
    };
    let exact = 1.0 - 0.999f64.powi(1000);
    let stochastic = average(StateRounding::Stochastic);
    assert!((stochastic / exact - 1.0).abs() < 0.01, "{stochastic} {exact}");
    assert!(average(StateRounding::Nearest) < 0.7 * exact);
}

#[test]
fn each_parameter_is_updated_once_per_step() {
    each(|rule, format| {
        let mut run = Run::new(rule, format, 1);
        run.steps(2);
        let cx = StepCx::new(&run.device, 2, Rng::new(3, Stream::Rounding));
        let before = run.values[1].clone();
        let grad = wave(before.len(), 1);
        let twice = run.state.step(&cx, 1, run.values[1].as_mut_slice().into(), &grad);
        assert!(matches!(twice, Err(Error::Twice { step: 2, .. })));
        assert_eq!(run.values[1], before);
        assert!(matches!(
            run.state.step(&cx, 9, (&mut [][..]).into(), &[]),
            Err(Error::NoParam { .. })
        ));
    });
}

#[test]
fn wrong_lengths_are_errors_and_change_nothing() {
    each(|rule, format| {
        let mut run = Run::new(rule, format, 1);
        let saved = run.saved();
        let cx = StepCx::new(&run.device, 1, Rng::new(3, Stream::Rounding));
        let (mut value, grad) = (vec![1.0; 7 * 33], vec![1.0; 7 * 33]);
        let short_grad = run.state.step(&cx, 1, value.as_mut_slice().into(), &grad[1..]);
        assert!(matches!(short_grad, Err(Error::Length { what: "gradient", .. })));
        let short_value = run.state.step(&cx, 1, (&mut value[1..]).into(), &grad);
        assert!(matches!(short_value, Err(Error::Length { what: "value", .. })));
        assert!(value.iter().all(|x| *x == 1.0));
        assert!(run.saved() == saved);
    });
}

#[test]
fn a_bad_gradient_is_found_and_loading_undoes_it() {
    each(|rule, format| {
        let mut run = Run::new(rule, format, 2);
        run.steps(1);
        let (saved, values) = (run.saved(), run.values.clone());
        for bad in [f32::NAN, f32::INFINITY, -f32::INFINITY] {
            {
                let mut grad = wave(run.values[0].len(), 9);
                *grad.last_mut().unwrap() = bad;
                let cx = StepCx::new(&run.device, 2, Rng::new(3, Stream::Rounding));
                let result = run.state.step(&cx, 0, run.values[0].as_mut_slice().into(), &grad);
                assert!(matches!(result, Err(Error::NotFinite { param: 0 })), "{bad}");
                run.state.load(view(&saved)).unwrap();
                run.values.clone_from(&values);
                assert!(run.saved() == saved);
            }
        }
        let mut clean = Run::new(rule, format, 2);
        clean.steps(3);
        run.steps(2);
        assert!(run.values == clean.values && run.saved() == clean.saved());
    });
}

#[test]
fn state_that_does_not_fit_is_refused_whole() {
    each(|rule, format| {
        let mut donor = Run::new(rule, format, 1);
        donor.steps(1);
        let saved = donor.saved();
        let mut run = Run::new(rule, format, 1);
        let untouched = run.saved();
        let mut load = |change: &dyn Fn(&mut Vec<StateTensor<'_>>)| {
            let mut tensors = view(&saved);
            change(&mut tensors);
            run.state.load(tensors).unwrap_err()
        };
        let missing = load(&|tensors| drop(tensors.remove(1)));
        assert!(matches!(missing, Error::MissingState { .. }));
        let extra = load(&|tensors| {
            tensors.push(StateTensor { name: "exp_avg.other".into(), ..tensors[0].clone() });
        });
        assert!(matches!(extra, Error::UnknownState { tensor } if tensor == "exp_avg.other"));
        let other = load(&|tensors| tensors[1].format = "int3".into());
        assert!(matches!(other, Error::SavedFormat { got, .. } if got == "int3"));
        let turned = load(&|tensors| tensors[0].shape.reverse());
        let is_turned = |expected: [usize; 2], got: [usize; 2]| got == [expected[1], expected[0]];
        assert!(
            matches!(turned, Error::SavedShape { expected, got, .. } if is_turned(expected, got))
        );
        let cut = load(&|tensors| tensors[1].bytes = &tensors[1].bytes[1..]);
        assert!(matches!(cut, Error::SavedBytes { .. }));
        assert!(run.saved() == untouched);
    });
}

/// f32 in blocks that start at each row, coded with every bit turned: nothing is lost, nothing can
/// be used in place.
#[derive(Debug)]
struct Turned {
    block: usize,
    row_aligned: bool,
}

impl Codec for Turned {
    fn name(&self) -> &'static str {
        "turned"
    }

    fn id(&self) -> u16 {
        u16::MAX
    }

    fn layout(&self, shape: [usize; 2]) -> Layout {
        let layout = Layout::blocks(shape, self.block, 4 * self.block);
        if self.row_aligned { layout.row_aligned() } else { layout }
    }

    fn encode(&self, src: &[f32], _header: &[u8], dst: &mut [u8], _rounding: Rounding) {
        dst.fill(0);
        for (x, code) in src.iter().zip(dst.as_chunks_mut().0) {
            *code = (!x.to_bits()).to_le_bytes();
        }
    }

    fn decode(&self, src: &[u8], _header: &[u8], dst: &mut [f32]) {
        for (code, x) in src.as_chunks().0.iter().zip(dst) {
            *x = f32::from_bits(!u32::from_le_bytes(*code));
        }
    }
}

/// Blocks, rows and tiles of any size must give what f32 in place gives, also where the slots of
/// one parameter differ.
#[test]
fn tiles_cover_every_value_of_block_formats() {
    let turned = |block, row_aligned| Format::new(Turned { block, row_aligned });
    let pairs = [
        [turned(64, false), turned(256, false)],
        [turned(64, true), turned(1, false)],
        [turned(2048, true), Format::F32],
        [Format::F32, turned(48, false)],
    ];
    for shape in SHAPES {
        let expected = two_steps(&[Format::F32, Format::F32], shape);
        for formats in &pairs {
            assert!(two_steps(formats, shape) == expected, "{formats:?} {shape:?}");
        }
    }
}

fn two_steps(formats: &[Format; 2], shape: [usize; 2]) -> (Vec<f32>, Vec<Vec<f32>>) {
    let rule = smidgen_optim::rules::AdamW::default();
    let device = Device::cpu(Ledger::new(), 2);
    let param = ParamSpec::new("w", shape, Role::MatrixHidden);
    let slot = |(spec, format)| {
        Slot::zeroed(spec, format, StateRounding::Nearest, false, device.pool()).unwrap()
    };
    let mut slots: Vec<Slot> = rule.slots(&param).into_iter().zip(formats).map(slot).collect();
    let mut value = wave(shape[0] * shape[1], 1);
    for step in 1..=2 {
        let cx = StepCx { lr: 0.01, ..StepCx::new(&device, step, Rng::new(0, Stream::Rounding)) };
        let grad = wave(value.len(), 10 + step);
        let param = Param { index: 0, shape, value: value.as_mut_slice().into(), grad: &grad };
        rule.step(&cx, param, &mut slots).unwrap();
    }
    let decode = |slot: &Slot| {
        let mut values = vec![0.0; value.len()];
        slot.data().decode_into(&mut values).unwrap();
        values
    };
    let state = slots.iter().map(decode).collect();
    (value, state)
}
