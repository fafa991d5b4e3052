//! Named shapes, from a toy to a few billion parameters.

use crate::Spec;

/// A named shape.
#[derive(Debug)]
pub struct Preset {
    /// The name in configurations.
    pub name: &'static str,
    /// What it is good for.
    pub about: &'static str,
    make: fn() -> Spec,
}

/// Every preset, smallest first.
pub static PRESETS: &[Preset] = &[
    Preset {
        name: "tiny",
        about: "tests: trains in seconds",
        make: || tied(Spec::new(512, 64, 2, 4, 176, 128)),
    },
    Preset {
        name: "small",
        about: "a few minutes on two cores",
        make: || tied(Spec::new(4096, 256, 4, 4, 704, 256)),
    },
    Preset {
        name: "bench",
        about: "the shape of the training-step benchmark",
        make: || Spec::new(4096, 384, 6, 6, 1024, 256),
    },
    Preset {
        name: "125m",
        about: "12 layers, width 768",
        make: || tied(Spec::new(32_768, 768, 12, 12, 2048, 1024)),
    },
    Preset {
        name: "560m",
        about: "26 layers, width 1280, grouped heads",
        make: || grouped(Spec::new(32_768, 1280, 26, 20, 4096, 2048), 5),
    },
    Preset {
        name: "3b",
        about: "28 layers, width 3072, grouped heads",
        make: || grouped(Spec::new(32_768, 3072, 28, 24, 8192, 4096), 8),
    },
];

fn tied(spec: Spec) -> Spec {
    Spec { tied: true, ..spec }
}

fn grouped(spec: Spec, kv_heads: usize) -> Spec {
    Spec { kv_heads, ..tied(spec) }
}

impl Spec {
    /// The shape of that name.
    pub fn preset(name: &str) -> Option<Spec> {
        PRESETS.iter().find(|preset| preset.name == name).map(|preset| (preset.make)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_have_the_size_of_their_name() {
        for preset in PRESETS {
            Spec::preset(preset.name).unwrap().validate().unwrap();
        }
        let millions = |name| Spec::preset(name).unwrap().param_count() as f64 / 1e6;
        assert!((millions("125m") - 110.0).abs() < 15.0, "{}", millions("125m"));
        assert!((millions("560m") - 560.0).abs() < 60.0, "{}", millions("560m"));
        assert!((millions("3b") - 3000.0).abs() < 300.0, "{}", millions("3b"));
        assert!(Spec::preset("none").is_none());
    }
}
