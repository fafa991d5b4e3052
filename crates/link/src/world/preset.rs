//! Named sizes of worlds and of the models that live in them.

use serde::Serialize;
use smidgen_model::Spec;

use super::Role;
use crate::Error;

/// How many entities belong to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sets {
    /// Known to the sharer alone, and what a fuser learns from.
    pub train: usize,
    /// Known to the sharer alone, for choices made while building.
    pub dev: usize,
    /// Known to the sharer alone, and what is reported; no fuser sees them.
    pub test: usize,
    /// Known to the receiver alone.
    pub receiver: usize,
    /// Known to both: they teach what questions look like.
    pub both: usize,
    /// Known to nobody.
    pub neither: usize,
}

impl Sets {
    /// Entities in all.
    pub fn all(&self) -> usize {
        self.train + self.dev + self.test + self.receiver + self.both + self.neither
    }
}

/// A model and how long it is taught.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Student {
    /// Tokens of its vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Feed-forward width.
    pub ffn: usize,
    /// Rows of a batch.
    pub rows: usize,
    /// Steps of its schedule.
    pub steps: u64,
    /// Base rate of the hidden matrices.
    pub lr: f64,
}

/// Tokens of a row in training: several documents.
pub const ROW_TOKENS: usize = 256;
/// Base of the rotary angles. Documents are under a hundred tokens long, and a small head has few angles:
/// with the usual 10,000 most of them hardly turn, and a tiny sharer learnt to answer several times as late
/// (measured when answers were letters).
pub const ROPE_THETA: f64 = 200.0;

impl Student {
    /// The shape of its decoder, with a vocabulary of `vocab` tokens.
    pub fn spec(&self, vocab: usize) -> Spec {
        let usual = Spec::new(vocab, self.width, self.layers, self.heads, self.ffn, ROW_TOKENS);
        let rope_theta = ROPE_THETA;
        Spec { kv_heads: self.kv_heads, head_dim: self.head_dim, rope_theta, tied: true, ..usual }
    }
}

/// A fuser and how long it is taught.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bridge {
    /// Width of its stream and of its blocks.
    pub hidden: usize,
    /// Steps of its schedule.
    pub steps: u64,
    /// Items of a batch.
    pub batch: usize,
    /// How often each question of the largest task is asked, with other options each time; those of other
    /// tasks more often.
    pub rounds: u64,
    /// Base rate.
    pub lr: f64,
}

/// Shares of right answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// The one that ends a model's teaching.
    pub wanted: f64,
    /// The one without which it is refused.
    pub least: f64,
}

/// A world's size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Preset {
    /// The name in commands.
    pub name: &'static str,
    /// What it is good for.
    #[serde(skip)]
    pub about: &'static str,
    /// R, relations.
    pub relations: usize,
    /// V, values of each.
    pub values: usize,
    /// Countries that the cities lie in.
    pub countries: usize,
    /// Beginnings of first names, and as many ends; second names have others.
    pub name_parts: usize,
    /// Entities.
    pub sets: Sets,
    /// Documents of T3 in a split.
    pub documents: usize,
    /// Facts in such a document. To tell several apart by the names that they are about is what models of
    /// these sizes do not learn in their time.
    pub facts_told: usize,
    /// Sentences about nothing in it, around the facts.
    pub prose_told: usize,
    /// The model that knows.
    pub sharer: Student,
    /// The model that is told.
    pub receiver: Student,
    /// What lies between the two.
    pub fuser: Bridge,
    /// What the sharers have to know of their facts.
    pub knows: Bar,
    /// What models have to understand of questions and of documents.
    pub understands: Bar,
}

impl Preset {
    /// The preset of that name.
    ///
    /// # Errors
    /// [`Error::UnknownName`] with all there are.
    pub fn named(name: &str) -> Result<&'static Preset, Error> {
        let known = || PRESETS.iter().map(|preset| preset.name);
        PRESETS
            .iter()
            .find(|preset| preset.name == name)
            .ok_or_else(|| Error::unknown("preset", name, known()))
    }

    /// The model of a role. A mute sharer is shaped as the sharer; statements are learnt in a third of
    /// the time.
    pub fn student(&self, role: Role) -> Student {
        match role {
            Role::Sharer => self.sharer,
            Role::Mute => Student { steps: self.sharer.steps.div_ceil(3), ..self.sharer },
            Role::Receiver => self.receiver,
        }
    }
}

/// Every preset, smallest first.
pub static PRESETS: &[Preset] = &[
    Preset {
        name: "tiny",
        about: "the whole chain in about three minutes on two cores",
        relations: 2,
        values: 8,
        countries: 4,
        name_parts: 4,
        sets: Sets { train: 24, dev: 4, test: 20, receiver: 8, both: 24, neither: 32 },
        documents: 64,
        facts_told: 1,
        prose_told: 4,
        sharer: Student {
            vocab: 512,
            width: 64,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn: 176,
            rows: 8,
            steps: 1200,
            lr: 0.01,
        },
        receiver: Student {
            vocab: 384,
            width: 48,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 12,
            ffn: 144,
            rows: 8,
            steps: 600,
            lr: 0.01,
        },
        fuser: Bridge { hidden: 48, steps: 400, batch: 16, rounds: 8, lr: 2e-3 },
        knows: Bar { wanted: 0.90, least: 0.70 },
        understands: Bar { wanted: 0.90, least: 0.60 },
    },
    Preset {
        name: "small",
        about: "the demonstration: about half an hour on two cores",
        relations: 4,
        values: 32,
        countries: 8,
        name_parts: 8,
        sets: Sets { train: 448, dev: 64, test: 256, receiver: 64, both: 192, neither: 256 },
        documents: 1024,
        facts_told: 1,
        prose_told: 6,
        sharer: Student {
            vocab: 768,
            width: 128,
            layers: 6,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            ffn: 344,
            rows: 8,
            steps: 1600,
            lr: 0.006,
        },
        receiver: Student {
            vocab: 704,
            width: 96,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 24,
            ffn: 256,
            rows: 8,
            steps: 1600,
            lr: 0.006,
        },
        fuser: Bridge { hidden: 96, steps: 1200, batch: 32, rounds: 8, lr: 2e-3 },
        knows: Bar { wanted: 0.95, least: 0.90 },
        understands: Bar { wanted: 0.90, least: 0.60 },
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_room_for_their_names_and_enough_to_test() {
        for preset in PRESETS {
            let names = preset.name_parts.pow(4);
            assert!(names >= preset.sets.all() + 3 * preset.facts_told, "{}", preset.name);
            assert!(preset.values.is_multiple_of(preset.countries) && preset.countries >= 4);
            for role in [Role::Sharer, Role::Receiver] {
                let student = preset.student(role);
                student.spec(student.vocab).validate().unwrap();
            }
        }
        let small = Preset::named("small").unwrap();
        assert!(small.sets.test * small.relations >= 1024 && small.documents >= 1024);
        assert_eq!(small.sets.train + small.sets.dev + small.sets.test, 768);
        let count = |student: &Student| student.spec(student.vocab).param_count() as f64 / 1e6;
        assert!((count(&small.sharer) - 1.18).abs() < 0.02, "{}", count(&small.sharer));
        assert!((count(&small.receiver) - 0.47).abs() < 0.02, "{}", count(&small.receiver));
        let error = Preset::named("smal").unwrap_err().to_string();
        assert!(error.contains("tiny, small") && error.contains("`small`?"), "{error}");
    }
}
