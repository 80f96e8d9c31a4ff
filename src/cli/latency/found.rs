//! What was measured: the session's own record, with what the far end of the line saw.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::super::page::Page;
use super::timer::until;
use crate::engine::{Clock, HostClock, Stage};
use crate::export::stage_latency;
use crate::journal::{JournalRecord, Percentiles, SYNC_OUTPUT, SessionFiles, latency_histogram};
use crate::proto::v1;
use crate::report::{LatencyHistogram, LatencyReport, MeasuredLatency, latency_html};

/// Which frames count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// The first frame behind the warm-up.
    pub first_index: u64,
    /// When it was handed over, in nanoseconds of the host's clock.
    pub start_ns: u64,
    /// For how long frames count, in nanoseconds.
    pub length_ns: u64,
}

impl Window {
    /// Hands frames over for so many seconds, at `pace` a second or as fast as they go; `first_index` is the first's.
    pub fn run(
        first_index: u64,
        seconds: f64,
        pace: Option<f64>,
        mut frame: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let window = Self::begin(first_index, seconds);
        for k in 0u64.. {
            if let Some(rate_hz) = pace {
                let due_ns = window.due_ns(k, rate_hz);
                std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(HostClock.now_ns())));
            }
            if window.is_over() {
                break;
            }
            frame()?;
        }
        Ok(window)
    }

    /// The same within a runtime of one thread, which sends the frames.
    pub async fn play(
        first_index: u64,
        seconds: f64,
        pace: Option<f64>,
        mut frame: impl AsyncFnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let window = Self::begin(first_index, seconds);
        for k in 0u64.. {
            until(pace.map_or(0, |rate_hz| window.due_ns(k, rate_hz))).await;
            if window.is_over() {
                break;
            }
            frame().await?;
        }
        Ok(window)
    }

    fn begin(first_index: u64, seconds: f64) -> Self {
        Self { first_index, start_ns: HostClock.now_ns(), length_ns: (seconds * 1e9) as u64 }
    }

    /// When frame `k` of it is due.
    fn due_ns(&self, k: u64, rate_hz: f64) -> u64 {
        self.start_ns + (k as f64 * 1e9 / rate_hz) as u64
    }

    fn is_over(&self) -> bool {
        HostClock.now_ns() >= self.start_ns + self.length_ns
    }
}

/// Distributions, in nanoseconds, of the frames behind the warm-up.
pub(super) struct Measured {
    /// From the adapter's hand-over to the byte at the far end of the line.
    pub trigger: Histogram<u64>,
    /// ... until the byte was written.
    pub written: Histogram<u64>,
    /// ... until the decision stood.
    pub decided: Histogram<u64>,
    /// ... until the real-time thread took the frame.
    pub receive: Histogram<u64>,
    /// Each stage, in the order of [`Stage::ALL`].
    pub stages: [Histogram<u64>; 6],
    /// Frames decided within the window.
    pub frames: u64,
    /// Frames skipped or refused.
    pub lost: u64,
    /// For how long frames counted, in seconds.
    pub seconds: f64,
    /// Reading one frame from memory, in nanoseconds.
    pub floor_ns: u64,
    /// Of frames in strips, how long a scan takes, in nanoseconds: times count from its beginning.
    pub scan_ns: Option<u64>,
    /// What was asked of the operating system, and what came of it.
    pub thread_settings: Vec<String>,
}

/// One frame, as its records come.
#[derive(Default)]
struct Seen {
    frame_index: u64,
    handed_over_ns: u64,
    sync: Option<u32>,
    decided: bool,
}

impl Measured {
    /// Of a recorded session, whose frames carry as their own time when they were handed over.
    pub fn of_session(session: &Path, window: Window, far_end: &[(u32, u64)], floor_ns: u64) -> anyhow::Result<Self> {
        let far_end: HashMap<u32, u64> = far_end.iter().copied().collect();
        let mut found = Self {
            trigger: latency_histogram(),
            written: latency_histogram(),
            decided: latency_histogram(),
            receive: latency_histogram(),
            stages: std::array::from_fn(|_| latency_histogram()),
            frames: 0,
            lost: 0,
            seconds: window.length_ns as f64 / 1e9,
            floor_ns,
            scan_ns: None,
            thread_settings: Vec::new(),
        };
        let mut seen = Seen::default();
        SessionFiles::open(session)?.read(|record| match record {
            JournalRecord::Input(input) => {
                let counts = matches!(input.kind(), v1::InputKind::Frame);
                let lost = matches!(input.kind(), v1::InputKind::Skipped | v1::InputKind::Refused);
                found.lost += u64::from(lost && input.frame_index >= window.first_index);
                seen = Seen {
                    frame_index: if counts { input.frame_index } else { 0 },
                    handed_over_ns: input.device_ns,
                    ..Seen::default()
                };
            }
            JournalRecord::Decision(decision) => {
                let verdict = decision.verdict();
                seen.decided = matches!(verdict, v1::FrameVerdict::Decided | v1::FrameVerdict::Doubted);
                let mut intents = decision.intent_sequence.iter().zip(&decision.intent_output);
                seen.sync = intents.find(|(_, output)| **output == SYNC_OUTPUT).map(|(sequence, _)| *sequence);
            }
            JournalRecord::Timing(timing) if seen.decided && seen.frame_index >= window.first_index => {
                found.take(&seen, &timing, window, &far_end);
            }
            JournalRecord::Event(event) if event.kind() == v1::EventKind::ThreadSetting => {
                found.thread_settings.push(event.detail);
            }
            _ => {}
        })?;
        Ok(found)
    }

    fn take(&mut self, seen: &Seen, timing: &v1::TimingRecord, window: Window, far_end: &HashMap<u32, u64>) {
        let since = |ns: u64| ns.saturating_sub(seen.handed_over_ns).max(1);
        self.frames += u64::from(timing.decided_host_ns <= window.start_ns + window.length_ns);
        self.receive.saturating_record(since(timing.taken_host_ns));
        self.decided.saturating_record(since(timing.decided_host_ns));
        if timing.triggered_host_ns > 0 {
            self.written.saturating_record(since(timing.triggered_host_ns));
        }
        if let Some(read_ns) = seen.sync.and_then(|sequence| far_end.get(&sequence)) {
            self.trigger.saturating_record(since(*read_ns));
        }
        for (histogram, &ns) in self.stages.iter_mut().zip(&timing.stage_ns) {
            histogram.saturating_record(ns.max(1));
        }
    }

    /// Every distribution with its name, in the order of the way of a frame.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, &Histogram<u64>)> {
        let stages = Stage::ALL.iter().map(|stage| stage.name()).zip(&self.stages);
        let names = match self.scan_ns {
            None => ["handed over -> decision", "handed over -> trigger written", "handed over -> far end"],
            Some(_) => ["scan begins -> decision", "scan begins -> trigger written", "scan begins -> far end"],
        };
        let whole = names.into_iter().zip([&self.decided, &self.written, &self.trigger]);
        [("receive", &self.receive)].into_iter().chain(stages).chain(whole)
    }

    /// As one JSON object; `what` says what ran.
    pub fn json(&self, what: serde_json::Value) -> serde_json::Value {
        let stages = Stage::ALL.iter().map(|stage| stage.name()).zip(&self.stages);
        let stages: serde_json::Map<String, serde_json::Value> = [("receive", &self.receive)]
            .into_iter()
            .chain(stages)
            .map(|(name, histogram)| (name.to_owned(), serde_json::json!(Percentiles::of(histogram))))
            .collect();
        let mut found = serde_json::json!({
            "frames": self.frames,
            "frames_per_s": self.frames as f64 / self.seconds,
            "frames_lost": self.lost,
            "trigger_us": Percentiles::of(&self.trigger),
            "written_us": Percentiles::of(&self.written),
            "decided_us": Percentiles::of(&self.decided),
            "stages_us": stages,
            "floor_us": self.floor_ns as f64 / 1e3,
            "thread_settings": self.thread_settings,
            "before_frame_end_ms": self.before_end_ms(),
        });
        if let (Some(found), serde_json::Value::Object(what)) = (found.as_object_mut(), what) {
            found.extend(what);
        }
        found
    }

    /// How long before the end of their frames decisions stood, in ms: half of them and more, 99 % of them, all.
    fn before_end_ms(&self) -> Option<[f64; 3]> {
        let scan_ns = self.scan_ns? as f64;
        Some([0.5, 0.99, 1.0].map(|q| (scan_ns - self.decided.value_at_quantile(q) as f64) / 1e6))
    }

    /// As a page.
    pub fn html(&self, what: &str) -> String {
        let measured = |(name, histogram): (&str, &Histogram<u64>)| MeasuredLatency {
            summary: stage_latency(name, &Percentiles::of(histogram)),
            histogram: bins(histogram),
        };
        let rows: Vec<MeasuredLatency> = self.rows().filter(|(_, h)| !h.is_empty()).map(measured).collect();
        let (whole, stages) = rows.into_iter().partition(|row| row.summary.name.contains("->"));
        let rate = self.frames as f64 / self.seconds;
        let mut facts = vec![
            format!("{} frames decided in {:.1} s: {rate:.0} frames a second.", self.frames, self.seconds),
            format!("Reading one frame from memory takes {:.0} us here.", self.floor_ns as f64 / 1e3),
        ];
        if let Some([half, most, all]) = self.before_end_ms() {
            let before = "Decisions stood so long before the end of their frames";
            facts.push(format!("{before}: median {half:.2} ms, 99 % at least {most:.2} ms, all at least {all:.2} ms."));
        }
        facts.extend(self.thread_settings.iter().map(|setting| format!("{setting}.")));
        latency_html(&LatencyReport { what: what.to_owned(), facts, stages, whole })
    }

    /// As a table for people.
    pub fn page(&self, what: &str) -> Page {
        let mut page = Page::default();
        let rate = self.frames as f64 / self.seconds;
        page.plain(format!("{what}: {} frames decided in {:.1} s, {rate:.0} frames/s", self.frames, self.seconds));
        if self.lost > 0 {
            page.plain(format!("{} frames skipped or refused", self.lost));
        }
        for setting in &self.thread_settings {
            page.plain(setting);
        }
        if let Some([half, most, all]) = self.before_end_ms() {
            let before = "decided before the frame's end";
            page.plain(format!("{before}: median {half:.2} ms, 99 % at least {most:.2} ms, all at least {all:.2} ms"));
        }
        page.plain(format!("reading one frame from memory: {:.0} us", self.floor_ns as f64 / 1e3));
        let heads = format!("{:>9} {:>9} {:>9} {:>9}", "median", "99 %", "99.9 %", "max");
        page.plain(format!("latency in us                     {heads}"));
        for (name, histogram) in self.rows().filter(|(_, histogram)| !histogram.is_empty()) {
            let [p50, p99, p999, max] = Percentiles::of(histogram).cells(1);
            page.plain(format!("  {name:<31} {p50:>9} {p99:>9} {p999:>9} {max:>9}"));
        }
        page
    }
}

/// Twenty bins a decade, for a chart.
fn bins(histogram: &Histogram<u64>) -> LatencyHistogram {
    let bin = |us: f64| (us.max(0.1).log10() * 20.0).floor() as i32;
    let (first, last) = (bin(histogram.min() as f64 / 1e3), bin(histogram.max() as f64 / 1e3));
    let mut counts = vec![0; (last - first + 1).max(1) as usize];
    for value in histogram.iter_recorded() {
        let at = bin(value.value_iterated_to() as f64 / 1e3).clamp(first, last) - first;
        counts[at as usize] += value.count_since_last_iteration();
    }
    let edges_us = (0..=counts.len()).map(|k| 10.0_f64.powf(f64::from(first + k as i32) / 20.0)).collect();
    LatencyHistogram { edges_us, counts }
}
