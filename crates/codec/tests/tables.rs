//! The errors of the formats are those of the reference tables, and those of `docs/formats.md`.

use smidgen_codec::element::codebook::DYNAMIC_UNSIGNED;
use smidgen_codec::quality::{Moments, error, normals, rows, there_and_back};
use smidgen_codec::{Format, Rng, Rounding, Sign, Stream};

fn format(name: &str) -> Format {
    Format::by_name(name).unwrap()
}

fn assert_near(what: &str, got: f64, expected: f64) {
    assert!((got / expected - 1.0).abs() < 0.05, "{what}: expected {expected}, got {got}");
}

#[test]
fn errors_of_normals() {
    let values = normals();
    for (name, expected) in [
        ("int8-dynamic/64", 0.00951),
        ("int8-dynamic/256", 0.01081),
        ("int8-dynamic/2048", 0.01241),
        ("int8/64", 0.00593),
        ("int8/256", 0.00695),
        ("int8/2048", 0.00823),
        ("nf4/32", 0.0870),
        ("nf4/64", 0.0917),
        ("nf4/128", 0.0952),
        ("e2m1/32", 0.1009),
        ("e2m1/64", 0.1056),
        ("e2m1/128", 0.1085),
        ("int4/32", 0.0967),
        ("int4/64", 0.1074),
        ("int4/128", 0.1170),
        ("mxfp4", 0.1152),
        ("nvfp4", 0.0949),
        ("ternary", 0.512),
    ] {
        assert_near(name, error(&format(name), &values, Rounding::Nearest), expected);
    }
}

#[test]
fn largest_errors_of_a_block() {
    let values = normals();
    for (name, expected) in [("int8-dynamic/64", 0.00703), ("int8/64", 0.00394), ("nf4/64", 0.1519)]
    {
        let largest = values.chunks(64).map(|block| {
            let back = there_and_back(&format(name), block, Rounding::Nearest);
            let absmax = block.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            let error = block.iter().zip(&back).map(|(x, y)| (x - y).abs());
            f64::from(error.fold(0.0, f32::max) / absmax)
        });
        assert_near(name, largest.fold(0.0, f64::max), expected);
    }
}

/// The reference lets values become 0 that ours makes the smallest level.
#[test]
fn errors_of_second_moments() {
    // Many blocks of 2048, whose largest values are far apart: of 64 of them, the reference's sample
    // lost 5.7 % and had its 95 % on the edge of what is lost, so that row is of 40 such samples.
    let mut values = vec![0.0; 1 << 21];
    Rng::new(18, Stream::Init).fill_normal(0, 0, 3.0, &mut values);
    values.iter_mut().for_each(|x| *x = (*x - 8.0).exp());
    for (block, median, upper, flushed) in
        [(64, 0.026, 0.19, 0.005), (256, 0.041, 0.28, 0.015), (2048, 0.072, 0.80, 0.048)]
    {
        let dynamic = format(&format!("int8-dynamic/{block}")).signed_as(Sign::Unsigned);
        let mut back = there_and_back(&dynamic, &values, Rounding::Nearest);
        assert!(back.iter().all(|y| *y > 0.0));
        for (values, back) in values.chunks(block).zip(back.chunks_mut(block)) {
            let least = values.iter().fold(0.0, |max: f32, x| max.max(*x)) * DYNAMIC_UNSIGNED[1];
            let lost = |(x, _): &(&f32, &mut f32)| **x < least / 2.0;
            values.iter().zip(back).filter(lost).for_each(|(_, y)| *y = 0.0);
        }
        let theirs = Moments::of(&values, &back);
        assert_near("median", theirs.median, median);
        assert_near("95 %", theirs.upper, upper);
        // A few of a thousand: the reference is rounded to one of them.
        assert!((theirs.flushed - flushed).abs() < 0.05 * flushed + 0.001, "{}", theirs.flushed);
    }
}

/// Linear codes lose most of them, which is why second moments want the dynamic map.
#[test]
fn shares_that_linear_codes_lose() {
    let mut values = vec![0.0; 1 << 21];
    Rng::new(18, Stream::Init).fill_normal(0, 0, 3.0, &mut values);
    values.iter_mut().for_each(|x| *x = (*x - 8.0).exp());
    for (block, expected) in [(64, 0.59), (256, 0.75), (2048, 0.91)] {
        let lost = values.chunks(block).map(|values| {
            let half_step = values.iter().fold(0.0, |max: f32, x| max.max(*x)) / 510.0;
            values.iter().filter(|x| **x < half_step).count()
        });
        assert_near("become 0", lost.sum::<usize>() as f64 / values.len() as f64, expected);
    }
}

#[test]
fn the_page_has_every_row() {
    let page = include_str!("../../../docs/formats.md");
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let rows = rows();
    assert_eq!(lines.len(), rows.len(), "`smidgen bench formats --markdown > docs/formats.md`");
    for (line, row) in lines.iter().zip(rows) {
        assert!(line.starts_with(&row.columns()), "expected {}, got {line}", row.columns());
    }
}
