//! The words of the world: relations, the cities that are all their values, countries, and the parts of names.
//!
//! Every relation has the same values: so few words are one token each in a small vocabulary.
//!
//! Every value has five letters: a document whose values are blotted out tells nothing by its length,
//! and its bytes lie where those of the whole document lie.

/// Letters of every value and country.
#[cfg(test)]
const VALUE_BYTES: usize = 5;

/// What is asked of an entity, the relation that countries hang on first.
pub(crate) static RELATIONS: [&str; 4] = ["home", "school", "office", "club"];

/// The values of every relation: sixteen, then sixteen more with the same initials. Options never begin alike,
/// and with as many words to each initial none is likelier to be the right one.
pub(crate) static CITIES: [&str; 32] = [
    "Arden", "Belor", "Corva", "Dunel", "Elsin", "Farro", "Galen", "Hamar", "Ilden", "Jorun",
    "Kelva", "Lorme", "Maren", "Norvi", "Osten", "Parva", "Astor", "Brano", "Cresa", "Delph",
    "Ervan", "Fenix", "Grito", "Holda", "Istra", "Janno", "Kirun", "Lusta", "Milso", "Nelva",
    "Orvel", "Pinto",
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
        let all = || CITIES.iter().chain(COUNTRIES);
        assert!(all().all(|word| word.len() == VALUE_BYTES));
        assert_eq!(all().collect::<HashSet<_>>().len(), all().count());
        let initials = |words: &[&str]| words.iter().map(|word| word[..1].to_string()).collect();
        let [first, second]: [HashSet<String>; 2] =
            [initials(&CITIES[..16]), initials(&CITIES[16..])];
        assert_eq!((first.len(), &first), (16, &second));
        assert_eq!(initials(COUNTRIES).len(), COUNTRIES.len());
    }
}
