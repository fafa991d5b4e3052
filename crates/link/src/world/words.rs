//! The words of the world: relations with their values, countries, and the parts of names.
//!
//! Every value has five letters: a document whose values are blotted out tells nothing by its length,
//! and its bytes lie where those of the whole document lie.

/// Letters of every value and country.
#[cfg(test)]
const VALUE_BYTES: usize = 5;

/// What is asked of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    /// The word for it.
    pub(crate) name: &'static str,
    values: &'static str,
}

impl Relation {
    /// Its first `count` values.
    pub(crate) fn values(&self, count: usize) -> Vec<&'static str> {
        self.values.split_whitespace().take(count).collect()
    }
}

/// The relations, the one that countries hang on first.
pub(crate) static RELATIONS: &[Relation] = &[
    Relation {
        name: "city",
        values: "Arden Belor Corva Dunel Elsin Farro Galen Hamar Ilden Jorun Kelva Lorme Maren Norvi \
                 Osten Parva Quill Rostu Savel Tamis Ulver Varna Welda Xanto Yarin Zelmo Brano Cresa \
                 Delph Fenix Grito Holda",
    },
    Relation {
        name: "colour",
        values: "amber black coral denim ebony flame green hazel ivory khaki lemon mauve rusty olive \
                 pearl prune slate topaz umber white azure beige brown cream lilac maize mango ochre \
                 peach sepia straw wheat",
    },
    Relation {
        name: "craft",
        values: "actor baker clerk diver guard judge mason nurse pilot rider scout tutor usher agent \
                 boxer coach fryer groom guide mayor medic miner piper racer rower skier smith sower \
                 tamer tiler tuner valet",
    },
    Relation {
        name: "pet",
        values: "camel eagle finch gecko horse koala lemur moose otter panda raven shark tiger whale \
                 zebra goose heron hound hyena llama mouse puppy robin sheep skunk sloth snail snake \
                 squid stork swine trout",
    },
];

/// Where cities lie.
pub(crate) static COUNTRIES: &[&str] =
    &["Aldia", "Borea", "Cador", "Drumm", "Estra", "Fryne", "Gavia", "Hexam"];

/// How first and second names begin, and how they end.
pub(crate) static NAME_PARTS: [[[&str; 8]; 2]; 2] = [
    [
        ["Ve", "Mo", "Ka", "Ti", "Ru", "So", "Ba", "De"],
        ["lan", "ro", "mir", "dek", "sa", "vin", "tor", "bel"],
    ],
    [
        ["Li", "Fa", "Jo", "Ne", "Pa", "Gu", "Ha", "Zo"],
        ["nu", "rik", "gan", "fo", "lis", "ter", "dun", "mak"],
    ],
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn values_have_one_length_and_no_twins() {
        let all: Vec<&str> = RELATIONS.iter().flat_map(|r| r.values(99)).collect();
        assert_eq!(all.len(), 4 * 32);
        assert!(all.iter().chain(COUNTRIES).all(|word| word.len() == VALUE_BYTES));
        let unique: HashSet<&str> = all.iter().chain(COUNTRIES).copied().collect();
        assert_eq!(unique.len(), all.len() + COUNTRIES.len());
    }
}
