//! Gradients reach their receiver once, complete, on the last use of the parameter.

use std::collections::BTreeMap;

use smidgen_codec::Tag;
use smidgen_tensor::{Compute, Error, GradSink, HeldGrads, Keep, Level, Param, ParamId, Tensor};

use crate::small::{Sizes, Small};

const TIED: Sizes = Sizes { tied: true, looped: true, ..Sizes::SMALL };
const KEEPS: [Keep; 2] = [Keep::Values, Keep::Inputs];

/// Writes down what comes, and updates the parameter at once with a step nobody could overlook.
#[derive(Default)]
struct Recorder {
    order: Vec<ParamId>,
    grads: BTreeMap<ParamId, Vec<f32>>,
    step: f32,
    fail_after: Option<usize>,
}

impl GradSink for Recorder {
    fn take(&mut self, id: ParamId, param: &mut Param, grad: Tensor) -> Result<(), Error> {
        if self.fail_after == Some(self.order.len()) {
            return Err(Error::Sink("the disk is full".into()));
        }
        assert_eq!(grad.shape(), param.value.shape());
        let values = grad.to_vec();
        for (p, g) in param.value.slice_mut::<f32>().iter_mut().zip(&values) {
            *p -= self.step * g;
        }
        self.order.push(id);
        assert!(self.grads.insert(id, values).is_none(), "{} came twice", param.name);
        Ok(())
    }
}

fn record(sizes: Sizes, compute: Compute, keep: Keep, step: f32) -> Recorder {
    let mut sink = Recorder { step, ..Recorder::default() };
    Small::new(sizes, Level::detect(), 2).step(compute, keep, &mut sink).expect("a step");
    sink
}

#[test]
fn every_parameter_comes_exactly_once() {
    for sizes in [Sizes::SMALL, TIED] {
        for keep in KEEPS {
            let sink = record(sizes, Compute::F32, keep, 0.0);
            assert_eq!(sink.order.len(), sizes.given().len());
        }
    }
}

/// The table is read first on the way forward, so it is complete last; layers come from the back.
#[test]
fn parameters_come_on_their_last_use() {
    for keep in KEEPS {
        let index = |sink: &Recorder| sink.order.iter().map(|id| id.index()).collect::<Vec<_>>();
        let order = index(&record(Sizes::SMALL, Compute::F32, keep, 0.0));
        assert_eq!(order[..2], [2, 1], "head, then the last norm");
        assert!(order[2..11].iter().all(|i| *i >= 12), "then the second layer");
        assert_eq!(order.last(), Some(&0), "the table of embeddings last");
        let order = index(&record(TIED, Compute::F32, keep, 0.0));
        assert_eq!(order[0], 1, "the tied head is not complete when it is differentiated");
        assert_eq!(order.last(), Some(&0));
    }
}

/// With a parameter changed before its last use, an earlier layer would see other weights.
#[test]
fn an_update_at_once_changes_no_gradient() {
    for sizes in [Sizes::SMALL, TIED] {
        for compute in [Compute::F32, Compute::Bf16] {
            let held = record(sizes, compute, Keep::Values, 0.0);
            for keep in KEEPS {
                let updated = record(sizes, compute, keep, 1e3);
                assert!(held.grads == updated.grads, "{compute:?} {keep:?} {sizes:?}");
            }
        }
    }
}

#[test]
fn an_error_of_the_sink_ends_the_way_back() {
    for fail_after in [0, 1, 10] {
        let mut small = Small::new(Sizes::SMALL, Level::detect(), 2);
        let mut sink = Recorder { fail_after: Some(fail_after), ..Recorder::default() };
        let ended = small.step(Compute::F32, Keep::Inputs, &mut sink);
        let error = ended.err().expect("the sink failed");
        assert_eq!(error.to_string(), "the disk is full");
        assert_eq!(sink.order.len(), fail_after);
        drop(sink);
        assert_eq!(small.live(Tag::Grads) + small.live(Tag::Activations), 0);
    }
}

/// Two micro-batches into one `HeldGrads` are the sum of both.
#[test]
fn held_gradients_add_up() {
    for sizes in [Sizes::SMALL, TIED] {
        let mut small = Small::new(sizes, Level::detect(), 2);
        let mut held = HeldGrads::new();
        small.step(Compute::F32, Keep::Values, &mut held).expect("a step");
        let once: Vec<Vec<f32>> = small.ids.iter().map(|id| grad(&held, *id)).collect();
        small.step(Compute::F32, Keep::Values, &mut held).expect("a step");
        for (id, once) in small.ids.iter().zip(once) {
            let most = once.iter().fold(0f32, |m, g| m.max(g.abs()));
            for (twice, once) in grad(&held, *id).iter().zip(once) {
                assert!((twice - 2.0 * once).abs() <= 1e-5 * most, "{twice} is not twice {once}");
            }
        }
    }
}

fn grad(held: &HeldGrads, id: ParamId) -> Vec<f32> {
    held.get(id).expect("every parameter has a gradient").to_vec()
}

#[test]
fn a_frozen_parameter_is_never_handed_over() {
    for keep in KEEPS {
        let mut small = Small::new(TIED, Level::detect(), 2);
        let frozen = [small.ids[0], small.ids[3], small.ids[7]];
        frozen.iter().for_each(|id| small.params.get_mut(*id).trainable = false);
        let mut sink = Recorder::default();
        small.step(Compute::F32, keep, &mut sink).expect("a step");
        assert!(frozen.iter().all(|id| !sink.grads.contains_key(id)));
        assert_eq!(sink.order.len(), small.ids.len() - frozen.len());
        // What is left has the gradients it always had.
        let all = record(TIED, Compute::F32, keep, 0.0);
        assert!(sink.grads.iter().all(|(id, grad)| all.grads[id] == *grad));
    }
}

/// A sink that starts a gradient from memory of another shape must not be written through.
#[test]
fn a_started_gradient_of_another_shape_is_refused() {
    struct Wrong(Option<Tensor>);
    impl GradSink for Wrong {
        fn start(&mut self, _id: ParamId) -> Option<Tensor> {
            self.0.take()
        }
        fn take(&mut self, _: ParamId, _: &mut Param, _: Tensor) -> Result<(), Error> {
            Ok(())
        }
    }
    let mut small = Small::new(Sizes::SMALL, Level::detect(), 2);
    for format in [smidgen_tensor::Format::F32, smidgen_tensor::Format::Bf16] {
        let tiny = Tensor::zeros(small.device.pool(), Tag::Grads, [1, 1], format);
        let mut sink = Wrong(Some(tiny.expect("memory")));
        let ended = small.step(Compute::F32, Keep::Values, &mut sink);
        assert!(matches!(ended, Err(Error::Shape { .. } | Error::Value { .. })));
    }
}
