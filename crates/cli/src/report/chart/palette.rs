//! Colours of charts, for light paper and for dark screens.
//!
//! A chart is drawn once, in the light colours; the page turns each of them into its dark partner
//! by a rule on the attribute that holds it (`[stroke="#2E5FA3"]`), so no light value is used twice.

use plotters::style::RGBColor;

/// What something in a chart is, and so which colour it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    /// The sheet under a chart that is a file of its own.
    Paper,
    /// Titles and tick labels.
    Text,
    /// Names of axes.
    Muted,
    /// Lines of the grid.
    Grid,
    /// The line that the ticks stand on.
    Axis,
    /// A limit, an alarm.
    Alarm,
    /// Something that was changed: roll-backs, smaller batches.
    Change,
    /// The n-th of several series; they repeat after [`Ink::SERIES`].
    Series(usize),
}

/// Light, dark.
type Pair = (u32, u32);

const SERIES: [Pair; 10] = [
    (0x1F6FD0, 0x62A8FF),
    (0xD9660B, 0xFF9E4A),
    (0x1B8A5A, 0x46C98E),
    (0x8246C8, 0xB993FF),
    (0xBE2F7C, 0xFF80BF),
    (0x8C6A12, 0xD9B24C),
    (0x0B7F8C, 0x45C6D3),
    (0x5F6E7E, 0xA2B1C1),
    (0x62790E, 0xA9C44F),
    (0x9C4A32, 0xE39A80),
];

impl Ink {
    /// Series that are told apart by colour.
    pub(crate) const SERIES: usize = SERIES.len();

    fn pair(self) -> Pair {
        match self {
            Ink::Paper => (0xFFFFFF, 0x14181E),
            Ink::Text => (0x1C2228, 0xE4E9EF),
            Ink::Muted => (0x5C6670, 0x9BA7B4),
            Ink::Grid => (0xE4E8EC, 0x2A323B),
            Ink::Axis => (0x98A2AD, 0x566270),
            Ink::Alarm => (0xC62828, 0xFF6B64),
            Ink::Change => (0xA8730A, 0xF0B849),
            Ink::Series(n) => SERIES[n % SERIES.len()],
        }
    }

    /// As charts are drawn.
    pub(crate) fn light(self) -> RGBColor {
        let [_, red, green, blue] = self.pair().0.to_be_bytes();
        RGBColor(red, green, blue)
    }

    /// The light colour as a page writes it.
    pub(crate) fn hex(self) -> String {
        format!("#{:06X}", self.pair().0)
    }
}

/// Style rules that give every chart below `svg` its dark colours.
pub(crate) fn dark_rules() -> String {
    let named = [Ink::Paper, Ink::Text, Ink::Muted, Ink::Grid, Ink::Axis, Ink::Alarm, Ink::Change];
    let inks = named.into_iter().chain((0..Ink::SERIES).map(Ink::Series));
    let rule = |ink: Ink| {
        let (light, dark) = (ink.hex(), ink.pair().1);
        format!(
            "svg [fill=\"{light}\"]{{fill:#{dark:06X}}}svg [stroke=\"{light}\"]{{stroke:#{dark:06X}}}\n"
        )
    };
    inks.map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_light_colour_is_used_twice() {
        let rules = dark_rules();
        let lights: BTreeSet<&str> =
            rules.split("svg ").filter_map(|r| r.split(']').next()).collect();
        // A fill and a stroke for each of seven names and the series; the first piece is empty.
        assert_eq!(lights.len(), 2 * (7 + Ink::SERIES) + 1);
        assert_eq!(Ink::Series(0), Ink::Series(0));
        assert_eq!(Ink::Series(0).hex(), Ink::Series(Ink::SERIES).hex());
    }
}
