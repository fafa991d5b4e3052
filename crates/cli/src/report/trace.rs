//! A series of any length in bounded memory: as many buckets as a chart can show.

use super::chart::Point;

/// Buckets at most; more than a page has columns.
const BUCKETS: usize = 1024;

/// Values of neighbouring steps.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    /// Step divided by the width of buckets.
    index: u64,
    first_step: u64,
    min: f64,
    max: f64,
    sum: f64,
    count: u64,
}

impl Bucket {
    fn absorb(&mut self, other: &Bucket) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.count += other.count;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// A series over steps. Neighbours are merged when there are too many; lowest, highest and mean
/// of what was merged are kept.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// Steps of a bucket, a power of two.
    width: u64,
    buckets: Vec<Bucket>,
    last: Option<u64>,
}

impl Default for Trace {
    fn default() -> Self {
        Trace { width: 1, buckets: Vec::new(), last: None }
    }
}

impl Trace {
    /// Adds a value; one that is not finite is left out.
    pub(crate) fn push(&mut self, step: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.last = Some(step);
        let index = step / self.width;
        let (min, max, sum, count) = (value, value, value, 1);
        self.add(Bucket { index, first_step: step, min, max, sum, count });
        while self.buckets.len() > BUCKETS {
            self.halve();
        }
    }

    /// Steps only rise; a value of an earlier one joins the last bucket.
    fn add(&mut self, bucket: Bucket) {
        match self.buckets.last_mut().filter(|last| bucket.index <= last.index) {
            Some(last) => last.absorb(&bucket),
            None => self.buckets.push(bucket),
        }
    }

    fn halve(&mut self) {
        self.width *= 2;
        for bucket in std::mem::take(&mut self.buckets) {
            self.add(Bucket { index: bucket.first_step / self.width, ..bucket });
        }
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The least value.
    pub(crate) fn min(&self) -> Option<f64> {
        self.buckets.iter().map(|bucket| bucket.min).reduce(f64::min)
    }

    /// The greatest value.
    pub(crate) fn max(&self) -> Option<f64> {
        self.buckets.iter().map(|bucket| bucket.max).reduce(f64::max)
    }

    /// The mean of all values.
    pub(crate) fn mean(&self) -> Option<f64> {
        let count: u64 = self.buckets.iter().map(|bucket| bucket.count).sum();
        let sum: f64 = self.buckets.iter().map(|bucket| bucket.sum).sum();
        (count > 0).then(|| sum / count as f64)
    }

    /// Lowest and highest value of each bucket, as one line: what raw values look like from afar.
    pub(crate) fn raw(&self) -> Vec<Point> {
        let ends = |bucket: &Bucket| {
            let step = bucket.first_step as f64;
            let low_first = bucket.index.is_multiple_of(2);
            let ends = [bucket.min, bucket.max];
            let ends = if low_first { ends } else { [ends[1], ends[0]] };
            ends.map(|value| (step, value))
        };
        let mut points: Vec<Point> = self.buckets.iter().flat_map(ends).collect();
        points.dedup();
        points
    }

    /// Means of the buckets.
    pub(crate) fn means(&self) -> Vec<Point> {
        self.points(Bucket::mean)
    }

    /// Greatest values of the buckets.
    pub(crate) fn peaks(&self) -> Vec<Point> {
        self.points(|bucket| bucket.max)
    }

    fn points(&self, value: impl Fn(&Bucket) -> f64) -> Vec<Point> {
        let points = self.buckets.iter().map(|bucket| (bucket.first_step as f64, value(bucket)));
        let mut points: Vec<Point> = points.collect();
        // The line goes on to the last step, wherever its bucket began.
        if let (Some(point), Some(step)) = (points.last_mut(), self.last) {
            point.0 = point.0.max(step as f64);
        }
        points
    }

    /// A centred mean over about a thirtieth of the series. It narrows at the beginning, where values
    /// change fast, and is cut off at the end, where one value must not pass for a trend.
    pub(crate) fn smoothed(&self) -> Vec<Point> {
        let reach = self.reach();
        let sums = self.buckets.iter().scan((0.0, 0), |so_far, bucket| {
            *so_far = (so_far.0 + bucket.sum, so_far.1 + bucket.count);
            Some(*so_far)
        });
        let sums: Vec<(f64, u64)> = std::iter::once((0.0, 0)).chain(sums).collect();
        let last = self.buckets.len().saturating_sub(1);
        let mean = |(at, (step, _)): (usize, Point)| {
            let reach = reach.min(at);
            let (from, to) = (sums[at - reach], sums[(at + reach).min(last) + 1]);
            (step, (to.0 - from.0) / (to.1 - from.1) as f64)
        };
        self.means().into_iter().enumerate().map(mean).collect()
    }

    /// Buckets on either side that [`Trace::smoothed`] takes in.
    fn reach(&self) -> usize {
        self.buckets.len() / 60
    }

    /// Steps that one smoothed value is the mean of.
    pub(crate) fn smoothed_over(&self) -> u64 {
        (2 * self.reach() as u64 + 1) * self.width
    }

    /// The same series in at most `buckets`.
    pub(crate) fn reduced(&self, buckets: usize) -> Trace {
        let mut trace = self.clone();
        while trace.buckets.len() > buckets.max(1) {
            trace.halve();
        }
        trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(values: impl IntoIterator<Item = (u64, f64)>) -> Trace {
        let mut trace = Trace::default();
        values.into_iter().for_each(|(step, value)| trace.push(step, value));
        trace
    }

    #[test]
    fn short_series_are_exact() {
        let trace = trace([(1, 3.0), (2, f64::NAN), (3, 1.0), (4, 2.0)]);
        assert_eq!(trace.means(), [(1.0, 3.0), (3.0, 1.0), (4.0, 2.0)]);
        assert_eq!((trace.raw(), trace.smoothed()), (trace.means(), trace.means()));
        assert_eq!((trace.min(), trace.max(), trace.mean()), (Some(1.0), Some(3.0), Some(2.0)));
        assert_eq!((trace.last, trace.width, trace.smoothed_over()), (Some(4), 1, 1));
    }

    #[test]
    fn long_series_keep_extremes_and_the_mean() {
        let value = |step: u64| if step == 777_777 { 50.0 } else { (step % 10) as f64 };
        let trace = trace((1..=1_000_000).map(|step| (step, value(step))));
        assert!(trace.buckets.len() <= BUCKETS && trace.buckets.len() > BUCKETS / 3);
        assert!(trace.raw().iter().any(|point| point.1 == 50.0));
        assert!(trace.peaks().iter().any(|point| point.1 == 50.0));
        assert!((trace.mean().unwrap() - 4.5).abs() < 1e-3);
        let smooth = trace.smoothed();
        assert!(smooth[20..smooth.len() - 20].iter().all(|point| (point.1 - 4.5).abs() < 0.05));
        let small = trace.reduced(100);
        assert!(small.buckets.len() <= 100 && small.max() == Some(50.0));
        assert!((small.mean().unwrap() - trace.mean().unwrap()).abs() < 1e-9);
    }

    #[test]
    fn odd_orders_do_no_harm() {
        let empty = trace([]);
        assert!(empty.is_empty() && empty.smoothed().is_empty() && empty.raw().is_empty());
        assert_eq!((empty.mean(), empty.min()), (None, None));
        let back = trace([(5, 1.0), (3, 2.0), (5, 3.0), (u64::MAX, 1.0), (0, 9.0)]);
        assert_eq!(back.means(), [(5.0, 2.0), (u64::MAX as f64, 5.0)]);
    }
}
