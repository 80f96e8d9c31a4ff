//! What a session came to: counters and latency distributions, from its records as they are made or as they are read.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};

use super::Published;
use crate::engine::Stage;
use crate::proto::v1;

/// Latencies beyond this are counted as this, in nanoseconds.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// Counters and latencies of a session.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Counters.
    pub counters: v1::SessionCounters,
    /// From the arrival of a frame's last byte to its decision, in nanoseconds.
    pub total: Histogram<u64>,
    /// From there until the real-time thread took the frame, in nanoseconds.
    pub receive: Histogram<u64>,
    /// From there until the trigger's bytes were written, in nanoseconds.
    pub written: Histogram<u64>,
    /// Each stage, in the order of [`Stage::ALL`], in nanoseconds.
    pub stages: [Histogram<u64>; 6],
    ended: bool,
}

/// Percentiles of a distribution, in microseconds; none above which fewer than five stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// 99.9th percentile.
    pub p999: Option<f64>,
    /// Maximum; none of nothing.
    pub max: Option<f64>,
    /// Frames measured.
    pub n: u64,
}

impl Percentiles {
    /// Of a histogram in nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        let [p50, p99, p999] = QUANTILES.map(|q| percentile_ns(histogram, q).map(us));
        Self { p50, p99, p999, max: (!histogram.is_empty()).then(|| us(histogram.max())), n: histogram.len() }
    }

    /// Median, 99 %, 99.9 % and maximum for a table, with so many decimals.
    pub fn cells(&self, decimals: usize) -> [String; 4] {
        [self.p50, self.p99, self.p999, self.max]
            .map(|us| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.decimals$}")))
    }
}

/// The percentiles that are told.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
/// How many must stand above one for it to say anything.
const ABOVE: f64 = 5.0;

/// A percentile, where enough stand above it.
fn percentile_ns(histogram: &Histogram<u64>, quantile: f64) -> Option<u64> {
    let above = (1.0 - quantile) * histogram.len() as f64;
    (above >= ABOVE).then(|| histogram.value_at_quantile(quantile))
}

/// An empty distribution of nanoseconds: three digits over a minute, a little over 100 kB.
pub fn latency_histogram() -> Histogram<u64> {
    // Its bounds are constants.
    let mut h = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).unwrap_or_else(|_| Histogram::new(3).unwrap());
    h.auto(false);
    h
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            counters: v1::SessionCounters::default(),
            total: latency_histogram(),
            receive: latency_histogram(),
            written: latency_histogram(),
            stages: std::array::from_fn(|_| latency_histogram()),
            ended: false,
        }
    }
}

impl Summary {
    /// Counters that go on; latencies begin anew.
    pub fn going_on(counters: v1::SessionCounters) -> Self {
        Self { counters, ..Self::default() }
    }

    /// Takes one record.
    pub fn take(&mut self, step: &Published) {
        self.count(&step.input, &step.decision);
        self.time(&step.timing);
    }

    /// Whether the session was stopped or aborted.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes an input and its decision into the counters.
    pub fn count(&mut self, input: &v1::InputRecord, decision: &v1::DecisionRecord) {
        let c = &mut self.counters;
        match input.kind() {
            v1::InputKind::Frame | v1::InputKind::RoiValues => {
                c.frames_in += 1;
                match decision.verdict() {
                    v1::FrameVerdict::Decided => c.frames_decided += 1,
                    v1::FrameVerdict::Doubted => {
                        c.frames_decided += 1;
                        c.frames_doubted += 1;
                    }
                    v1::FrameVerdict::Gathered => c.frames_gathered += 1,
                    v1::FrameVerdict::Refused => c.frames_refused += 1,
                    _ => {}
                }
            }
            v1::InputKind::Refused => {
                c.frames_in += 1;
                c.frames_refused += 1;
            }
            v1::InputKind::Skipped if input.code == 1 => c.frames_in += input.amount,
            _ => {}
        }
        let events = decision.event_kind.iter().zip(&decision.event_value);
        for (kind, value) in events.map(|(&kind, &value)| (v1::EventKind::try_from(kind), value)) {
            match kind {
                Ok(v1::EventKind::FramesSkipped) => c.frames_skipped += value as u64,
                Ok(v1::EventKind::TrialStarted) => c.trials += 1,
                Ok(v1::EventKind::Hit) => c.hits += 1,
                Ok(v1::EventKind::Aversive) => c.aversive += 1,
                Ok(v1::EventKind::Miss) => c.misses += 1,
                Ok(v1::EventKind::RewardIntended) => c.rewards_intended += 1,
                Ok(v1::EventKind::RewardSent) => c.rewards_sent += 1,
                Ok(v1::EventKind::RewardAcknowledged) => c.rewards_acknowledged += 1,
                Ok(v1::EventKind::RewardUnknown) => c.rewards_unknown += 1,
                Ok(v1::EventKind::RewardLimited) => c.rewards_limited += 1,
                Ok(v1::EventKind::Stopped | v1::EventKind::Aborted) => self.ended = true,
                _ => {}
            }
        }
    }

    /// Takes the stamps of a frame into the distributions; stamps of other inputs are left out.
    pub fn time(&mut self, timing: &v1::TimingRecord) {
        if timing.received_host_ns == 0 {
            return;
        }
        let since = |ns: u64| ns.saturating_sub(timing.received_host_ns).max(1);
        self.total.saturating_record(since(timing.decided_host_ns));
        self.receive.saturating_record(since(timing.taken_host_ns));
        if timing.triggered_host_ns > 0 {
            self.written.saturating_record(since(timing.triggered_host_ns));
        }
        for (histogram, &ns) in self.stages.iter_mut().zip(&timing.stage_ns) {
            if ns > 0 {
                histogram.saturating_record(ns);
            }
        }
    }

    /// Every distribution with its name, in the order of the way of a frame: the total first.
    pub fn distributions(&self) -> impl Iterator<Item = (&'static str, &Histogram<u64>)> {
        let stages = Stage::ALL.iter().map(|stage| stage.name()).zip(&self.stages);
        [("total", &self.total), ("receive", &self.receive)]
            .into_iter()
            .chain(stages)
            .chain([("written", &self.written)])
    }

    /// The percentiles of each that was measured.
    pub fn latencies(&self) -> Vec<(&'static str, Percentiles)> {
        self.distributions().filter(|(_, h)| !h.is_empty()).map(|(name, h)| (name, Percentiles::of(h))).collect()
    }

    /// The distributions as the journal keeps them.
    pub fn latency_records(&self) -> Vec<v1::LatencyRecord> {
        let of = |(stage, h): (&str, &Histogram<u64>)| {
            let mut hdr_histogram = Vec::new();
            // Memory takes every byte.
            let _ = V2Serializer::new().serialize(h, &mut hdr_histogram);
            let [p50_ns, p99_ns, p999_ns] = QUANTILES.map(|q| percentile_ns(h, q));
            v1::LatencyRecord {
                stage: stage.to_owned(),
                p50_ns,
                p99_ns,
                p999_ns,
                max_ns: h.max(),
                count: h.len(),
                hdr_histogram,
            }
        };
        self.distributions().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_needs_five_samples_above_it() {
        let mut h = latency_histogram();
        let empty = Percentiles::of(&h);
        assert_eq!((empty, empty.cells(1)), (Percentiles::default(), ["-"; 4].map(str::to_owned)));
        (0..499).for_each(|_| h.saturating_record(1_000));
        let few = Percentiles::of(&h);
        assert_eq!((few.p50.is_some(), few.p99, few.p999, few.max.is_some()), (true, None, None, true));
        h.saturating_record(1_000);
        let more = Percentiles::of(&h);
        assert_eq!((more.p99.is_some(), more.p999, more.cells(0)[2].as_str()), (true, None, "-"));
        (500..5_000).for_each(|_| h.saturating_record(1_000));
        assert!(Percentiles::of(&h).p999.is_some());
    }
}
