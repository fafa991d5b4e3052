//! Two small models in run directories and a fuser between them.

use smidgen_codec::{Ledger, Rng};
use smidgen_data::Tokenizer;
use smidgen_link::Side;
use smidgen_link::fuse::{FuserConfig, FuserFacts, LoadedFuser, PairShape};
use smidgen_link::remote::tokenizer_sha256;
use smidgen_model::KeySpace;
use smidgen_store::Disk;
use smidgen_tensor::{Device, Role};
use smidgen_train::Opening;

use crate::common::{Place, stdout};

/// Two models and a fuser between them that changes much.
pub(crate) struct Pair {
    pub(crate) place: Place,
    pub(crate) sharer: (Side, Tokenizer),
    pub(crate) receiver: (Side, Tokenizer),
}

fn open(place: &Place, run: &str) -> (Side, Tokenizer) {
    let device = Device::cpu(Ledger::new(), 1);
    let model = smidgen_train::open(&place.path(run), &Opening::default(), &device).unwrap();
    let tokenizer = model.tokenizer.clone();
    (Side::of(model, &device), tokenizer)
}

impl Pair {
    pub(crate) fn new() -> Pair {
        let place = Place::new();
        for (run, vocab, steps) in [("sharer", 300, 5), ("receiver", 270, 40)] {
            let vocab = format!("data.vocab={vocab}");
            let mut train = place.smidgen(&["train", "text", "--out", run, "--threads", "1"]);
            train.args(["--set", "model.preset=tiny", "--set", &vocab, "--set", "train.batch=2"]);
            train.args(["--set", "train.context=32"]);
            train.args(["--set", &format!("train.steps={steps}")]);
            stdout(train);
        }
        let (sharer, receiver) = (open(&place, "sharer"), open(&place, "receiver"));
        let pair = Pair { place, sharer, receiver };
        pair.save("fuser.safetensors", 3, pair.facts());
        pair
    }

    pub(crate) fn facts(&self) -> FuserFacts {
        FuserFacts {
            sharer: self.sharer.0.fingerprint(),
            receiver: self.receiver.0.fingerprint(),
            tokenizer: tokenizer_sha256(&self.sharer.1),
            steps: 0,
        }
    }

    /// A fuser with random weights and all gates open.
    pub(crate) fn save(&self, name: &str, seed: u64, facts: FuserFacts) {
        self.save_open(name, seed, facts, |_| true);
    }

    /// A fuser with random weights and these gates open: keys and values of the receiver's first layer,
    /// then of the next.
    pub(crate) fn save_open(
        &self,
        name: &str,
        seed: u64,
        facts: FuserFacts,
        is_open: fn(usize) -> bool,
    ) {
        let shape = PairShape::new(self.sharer.0.kv_shape(), self.receiver.0.kv_shape());
        let config = FuserConfig {
            hidden: 16,
            inner: 16,
            zero_init: false,
            k_space: KeySpace::PreRope,
            ..FuserConfig::default()
        };
        let device = &self.receiver.0.device;
        let mut fuser = LoadedFuser::fresh(device, config, shape, facts.clone(), seed).unwrap();
        let rng = Rng::named(seed, "open");
        let mut gates = 0;
        for (id, param) in fuser.params.iter_mut() {
            match param.role {
                Role::Gate => {
                    let gate = if is_open(gates) { 0.5 } else { -0.5 };
                    param.fill(|_, values| values.fill(gate));
                    gates += 1;
                }
                _ => param.fill(|at, values| {
                    rng.fill_normal(id.index() as u64, at as u64, 0.5, values);
                }),
            }
        }
        let path = self.place.path(name);
        fuser.fuser.save(&Disk, &path, &fuser.params, &facts).unwrap();
    }

    pub(crate) fn fuser(&self, name: &str) -> LoadedFuser {
        LoadedFuser::open(&self.place.path(name), &self.receiver.0.device).unwrap()
    }
}
