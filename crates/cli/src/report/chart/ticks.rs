//! Where the ticks of an axis stand and what is written beside them.

/// What the numbers of an axis are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Whole things: steps, tokens.
    Count,
    /// Any number.
    Number,
    /// Bytes, in binary units.
    Bytes,
    /// Shares of one, shown as percentages.
    Share,
}

/// How far apart equal ratios or equal differences stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    /// Decades; nothing below or at zero is shown.
    Log,
}

/// Values of the ticks and their texts, in rising order.
pub(crate) type Ticks = Vec<(f64, String)>;

const BINARY: [(&str, f64); 5] = [
    ("TiB", (1u64 << 40) as f64),
    ("GiB", (1u64 << 30) as f64),
    ("MiB", (1u64 << 20) as f64),
    ("KiB", 1024.0),
    ("B", 1.0),
];

/// About `wanted` ticks from `low` to `high`, two finite numbers in this order.
pub(crate) fn ticks(unit: Unit, scale: Scale, low: f64, high: f64, wanted: usize) -> Ticks {
    match scale {
        Scale::Linear => linear(unit, low, high, wanted),
        Scale::Log => log(unit, low, high, wanted),
    }
}

fn linear(unit: Unit, low: f64, high: f64, wanted: usize) -> Ticks {
    // Percentages and bytes have round numbers of their own.
    let (size, suffix) = match unit {
        Unit::Bytes => {
            let fits = |(_, size): &&(&str, f64)| high >= *size;
            let (name, size) = BINARY.iter().find(fits).unwrap_or(&("B", 1.0));
            (*size, format!(" {name}"))
        }
        Unit::Share => (0.01, " %".into()),
        Unit::Count | Unit::Number => (1.0, String::new()),
    };
    let (low, high) = (low / size, high / size);
    let mut step = nice((high - low) / wanted.max(1) as f64);
    if unit == Unit::Count {
        step = step.max(1.0);
    }
    // An end that is a tick but for the last bit is one.
    let (first, last) = ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
    let text = |value: f64| match unit {
        Unit::Bytes | Unit::Share => format!("{}{suffix}", decimals(value, step)),
        Unit::Count | Unit::Number => short(value, step),
    };
    // Far from zero, or so near together that numbers run out, a step may lead nowhere.
    let indices = (first..=last).take(4 * wanted);
    indices.map(|i| i as f64 * step).map(|value| (value * size, text(value))).collect()
}

/// The whole decades in reach, and their halves where these are few.
fn log(unit: Unit, low: f64, high: f64, wanted: usize) -> Ticks {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let every = ((last - first) as usize / wanted.max(1)).max(1);
    let within = |parts: &[f64], every: usize| -> Vec<f64> {
        let decades = (first..=last).step_by(every);
        let values = decades.flat_map(|d| parts.iter().map(move |part| part * 10f64.powi(d)));
        values.filter(|value| (low..=high).contains(value)).collect()
    };
    let mut values = within(&[1.0], every);
    for parts in [&[1.0, 3.0][..], &[1.0, 2.0, 5.0]] {
        if values.len() < 3 {
            values = within(parts, 1);
        }
    }
    if values.len() < 2 {
        return linear(unit, low, high, wanted);
    }
    values.into_iter().map(|value| (value, shown(unit, value))).collect()
}

/// The least of 1, 2, 5 times a power of ten that is not below `rough`.
fn nice(rough: f64) -> f64 {
    if !(rough.is_finite() && rough > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= rough * 0.999).unwrap_or(10.0);
    factor * power
}

/// `value` with as many digits after the point as `step` has.
fn decimals(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    // No minus before a zero.
    format!("{:.digits$}", value + 0.0)
}

/// A tick in thousands or millions, as a power of ten where it is tiny.
fn short(value: f64, step: f64) -> String {
    let large = value.abs().max(step);
    let tiny = step < 1.5e-4;
    match [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")].iter().find(|(size, _)| large >= *size)
    {
        Some((_, _)) if value == 0.0 => "0".into(),
        Some((size, name)) => format!("{}{name}", trimmed(decimals(value / size, step / size))),
        None if tiny && value != 0.0 => power_of_ten(value, step),
        None if tiny => "0".into(),
        None => decimals(value, step),
    }
}

/// Without zeros at the end of a fraction.
fn trimmed(text: String) -> String {
    let short = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    // What rounds to zero has no sign.
    if short == "-0" { "0".into() } else { short.into() }
}

/// `2.5e-4`, with no more digits than the step needs.
fn power_of_ten(value: f64, step: f64) -> String {
    let digits = (value.abs() / step).log10().floor().clamp(0.0, 6.0) as usize;
    let text = format!("{value:.digits$e}");
    match text.split_once('e') {
        Some((number, power)) => format!("{}e{power}", trimmed(number.to_string())),
        None => text,
    }
}

/// One value for people: `1.23k`, `0.0012`, `3.4 MiB`, `12.5 %`.
pub(crate) fn shown(unit: Unit, value: f64) -> String {
    if !value.is_finite() {
        return "not finite".into();
    }
    let digits = |value: f64| {
        let digits = (2.0 - value.abs().max(1e-12).log10().floor()).clamp(0.0, 6.0) as usize;
        trimmed(format!("{value:.digits$}"))
    };
    match unit {
        Unit::Bytes => {
            let fits = |(_, size): &&(&str, f64)| value.abs() >= *size;
            let (name, size) = BINARY.iter().find(fits).unwrap_or(&("B", 1.0));
            format!("{} {name}", trimmed(format!("{:.1}", value / size)))
        }
        Unit::Share => format!("{} %", trimmed(format!("{:.1}", value * 100.0))),
        Unit::Count | Unit::Number => {
            let sizes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
            match sizes.iter().find(|(size, _)| value.abs() >= *size) {
                Some((size, name)) => format!("{}{name}", digits(value / size)),
                None if value != 0.0 && value.abs() < 1e-3 => {
                    power_of_ten(value, value.abs() / 100.0)
                }
                None => digits(value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(unit: Unit, scale: Scale, low: f64, high: f64) -> String {
        let ticks = ticks(unit, scale, low, high, 5);
        ticks.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn ticks_are_round_and_read_well() {
        use Scale::Linear;
        let cases = [
            (Unit::Count, 0.0, 2514.0, "0 | 1k | 2k"),
            (Unit::Count, 0.0, 1.0, "0 | 1"),
            (Unit::Count, 0.0, 1_200_000.0, "0 | 500k | 1M"),
            (Unit::Number, 1.2, 6.3, "2 | 4 | 6"),
            (Unit::Number, 2.31, 2.36, "2.31 | 2.32 | 2.33 | 2.34 | 2.35 | 2.36"),
            (Unit::Number, 0.0, 3e-4, "0 | 1e-4 | 2e-4 | 3e-4"),
            (Unit::Bytes, 0.0, 56_000_000.0, "0 MiB | 20 MiB | 40 MiB"),
            (Unit::Share, 0.0, 0.013, "0.0 % | 0.5 % | 1.0 %"),
        ];
        for (unit, low, high, expected) in cases {
            let got = texts(unit, Linear, low, high);
            assert_eq!(got, expected, "{low} to {high}");
        }
    }

    #[test]
    fn decades_stand_on_a_logarithmic_axis() {
        assert_eq!(
            texts(Unit::Number, Scale::Log, 1e-7, 1.0),
            "1e-7 | 1e-6 | 1e-5 | 1e-4 | 0.001 | 0.01 | 0.1 | 1"
        );
        assert_eq!(texts(Unit::Number, Scale::Log, 0.5, 40.0), "1 | 3 | 10 | 30");
        assert_eq!(texts(Unit::Number, Scale::Log, 1.1, 1.3), "1.10 | 1.15 | 1.20 | 1.25 | 1.30");
    }

    #[test]
    fn no_range_is_too_odd() {
        for (low, high) in [(0.0, 0.0), (1e300, 1e301), (-1e-300, 1e-300), (5.0, 5.0 + 1e-15)] {
            for unit in [Unit::Count, Unit::Number, Unit::Bytes, Unit::Share] {
                assert!(ticks(unit, Scale::Linear, low, high, 5).len() <= 20);
            }
        }
    }

    #[test]
    fn single_values_read_well() {
        let numbers = [2.3456, 1234.0, 88_579.0, 0.00123, 3e-4, 0.0, -12.34, 5_148_672.0];
        let texts = numbers.map(|number| shown(Unit::Number, number));
        assert_eq!(texts, ["2.35", "1.23k", "88.6k", "0.00123", "3e-4", "0", "-12.3", "5.15M"]);
        assert_eq!(shown(Unit::Bytes, 56_203_673.6), "53.6 MiB");
        assert_eq!([shown(Unit::Share, 0.125), shown(Unit::Share, -1e-18)], ["12.5 %", "0 %"]);
        assert_eq!(shown(Unit::Number, f64::NAN), "not finite");
    }
}
