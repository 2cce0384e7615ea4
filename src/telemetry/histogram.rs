//! How long things take, counted by how long they took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in microseconds: from a millisecond to a minute.
const BOUNDS: [u64; 15] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

const MICROS: f64 = 1_000_000.0;

/// Durations in buckets. Observing one costs two atomic operations and no lock; whoever reads while others observe may
/// see one that is in its bucket and not yet in the sum.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One more than there are bounds: what took longer than the last.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// A histogram as it was at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Of all of them together, in seconds.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
    /// Upper bounds in seconds, the last one infinite, and how many are in each bucket alone.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Counts one more.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.partition_point(|bound| *bound < micros);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn observed(&self) -> Observed {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / MICROS).chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Observed { sum: self.micros.load(Ordering::Relaxed) as f64 / MICROS, count, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_nothing_is_lost() {
        let histogram = Histogram::default();
        for micros in [0, 1_000, 1_001, 60_000_000, 60_000_001, 3_600_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let Observed { sum, count, buckets } = histogram.observed();
        assert_eq!((sum, count, buckets.len()), (3_720.002_002, 6, 16));
        assert_eq!((buckets[0], buckets[1]), ((0.001, 2), (0.0025, 1)));
        assert_eq!((buckets[14], buckets[15]), ((60.0, 1), (f64::INFINITY, 2)));
    }
}
