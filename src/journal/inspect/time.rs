//! Frame rates as measured, and what interrupts them.

use serde::Serialize;

use super::GAPS_LISTED;

/// How regularly frames came.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rate {
    /// One over the median period, in hertz.
    pub rate_hz: f64,
    /// Median of the periods between frames that follow each other by number, in milliseconds.
    pub period_median_ms: f64,
    /// From the 1st to the 99th percentile of these periods, in milliseconds.
    pub jitter_ms: f64,
    /// The longest time between two decided frames, whether some are missing between them or not, in milliseconds.
    pub longest_ms: f64,
    /// The frame that ended it.
    pub longest_before_frame: u64,
    /// Periods measured.
    pub periods: u64,
}

/// Measures one clock. Keeps every period, so that the median is exact: half a megabyte for an hour at 30 Hz.
#[derive(Debug, Clone, Default)]
pub(super) struct Periods {
    /// In nanoseconds; beyond 4.3 s as that.
    between: Vec<u32>,
    last: Option<(u64, u64)>,
    longest: (u64, u64),
}

impl Periods {
    /// A decided frame, and its time in nanoseconds; 0 is no time.
    pub fn frame(&mut self, index: u64, time_ns: u64) {
        if time_ns == 0 {
            return;
        }
        if let Some((last_index, last_ns)) = self.last.replace((index, time_ns)) {
            let period_ns = time_ns.saturating_sub(last_ns);
            if period_ns > self.longest.0 {
                self.longest = (period_ns, index);
            }
            if index == last_index.saturating_add(1) {
                self.between.push(u32::try_from(period_ns).unwrap_or(u32::MAX));
            }
        }
    }

    /// What was measured; nothing of fewer than two frames that follow each other.
    pub fn rate(mut self) -> Option<Rate> {
        let ms = |ns: u32| f64::from(ns) / 1e6;
        let last = self.between.len().checked_sub(1)?;
        self.between.sort_unstable();
        let at = |hundredths: usize| self.between.get(last * hundredths / 100).copied().unwrap_or_default();
        let median = at(50);
        Some(Rate {
            rate_hz: 1e9 / f64::from(median.max(1)),
            period_median_ms: ms(median),
            jitter_ms: ms(at(99).saturating_sub(at(1))),
            longest_ms: self.longest.0 as f64 / 1e6,
            longest_before_frame: self.longest.1,
            periods: self.between.len() as u64,
        })
    }
}

/// Why there are no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapKind {
    /// They never came.
    Missing,
    /// They came, and newer ones were there already.
    Overload,
    /// Nothing came for so long that the session stood still.
    Silence,
}

impl GapKind {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            GapKind::Missing => "missing",
            GapKind::Overload => "overload",
            GapKind::Silence => "silence",
        }
    }
}

/// Frames that are missing, or silence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gap {
    /// Why.
    pub kind: GapKind,
    /// The first frame that is missing; for silence, the last frame before it.
    pub frame: u64,
    /// Frames that are missing; 0 for silence.
    pub frames: u64,
    /// From the decided frame before to the one after, in seconds of the microscope's clock; for silence the longest
    /// that any clock says; absent where no clock says anything.
    pub duration_s: Option<f64>,
}

/// Everything that interrupted the frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Gaps {
    /// Frames that never came.
    pub missing_frames: u64,
    /// In how many runs.
    pub missing_runs: u64,
    /// Frames that were skipped since newer ones were there already.
    pub overload_frames: u64,
    /// In how many runs.
    pub overload_runs: u64,
    /// Times that nothing came for too long.
    pub silences: u64,
    /// Their duration together, in seconds.
    pub silent_s: f64,
    /// The first of all these, in order.
    pub first: Vec<Gap>,
}

/// Follows the gaps.
#[derive(Debug, Clone, Default)]
pub(super) struct GapWatch {
    found: Gaps,
    last_device_ns: u64,
    /// Places in the list that wait for the next decided frame.
    open: Vec<usize>,
    silence: Option<Silence>,
}

#[derive(Debug, Clone, Copy)]
struct Silence {
    place: Option<usize>,
    device_ns: u64,
    /// Since when, on the host's clock; 0 where that says nothing.
    since_host_ns: u64,
    /// The longest that was known.
    silent_ns: u64,
}

impl GapWatch {
    /// Frames are missing.
    pub fn missing(&mut self, overload: bool, first_index: u64, frames: u64) {
        let kind = if overload { GapKind::Overload } else { GapKind::Missing };
        let (count, runs) = match overload {
            true => (&mut self.found.overload_frames, &mut self.found.overload_runs),
            false => (&mut self.found.missing_frames, &mut self.found.missing_runs),
        };
        *count = count.saturating_add(frames);
        *runs += 1;
        if let Some(place) = self.list(Gap { kind, frame: first_index, frames, duration_s: None }) {
            self.open.push(place);
        }
    }

    /// Nothing came for so long.
    pub fn silence(&mut self, frame: u64, silent_ns: u64, device_ns: u64, host_ns: u64) {
        if let Some(silence) = &mut self.silence {
            silence.silent_ns = silence.silent_ns.max(silent_ns);
            return;
        }
        let place = self.list(Gap { kind: GapKind::Silence, frame, frames: 0, duration_s: None });
        let since_host_ns = host_ns.saturating_sub(silent_ns);
        self.silence = Some(Silence { place, device_ns, since_host_ns, silent_ns });
    }

    /// Something came again, at these times.
    pub fn silence_ends(&mut self, device_ns: u64, host_ns: u64) {
        let Some(silence) = self.silence.take() else { return };
        let since = |from_ns: u64, to_ns: u64| if from_ns == 0 { 0 } else { to_ns.saturating_sub(from_ns) };
        let longest = since(silence.device_ns, device_ns).max(since(silence.since_host_ns, host_ns));
        self.end(silence, longest.max(silence.silent_ns));
    }

    fn end(&mut self, silence: Silence, duration_ns: u64) {
        let duration_s = duration_ns as f64 / 1e9;
        self.found.silences += 1;
        self.found.silent_s += duration_s;
        if let Some(gap) = silence.place.and_then(|place| self.found.first.get_mut(place)) {
            gap.duration_s = Some(duration_s);
        }
    }

    /// A decided frame, at its time in nanoseconds of the microscope's clock; 0 is no time.
    pub fn frame(&mut self, device_ns: u64) {
        let since_ns = device_ns.saturating_sub(self.last_device_ns);
        let known = self.last_device_ns != 0 && since_ns != 0;
        for place in self.open.drain(..) {
            if let Some(gap) = self.found.first.get_mut(place) {
                gap.duration_s = known.then_some(since_ns as f64 / 1e9);
            }
        }
        self.last_device_ns = device_ns;
    }

    /// What was found. Silence that did not end lasted as long as was known.
    pub fn finish(mut self) -> Gaps {
        if let Some(silence) = self.silence.take() {
            self.end(silence, silence.silent_ns);
        }
        self.found
    }

    fn list(&mut self, gap: Gap) -> Option<usize> {
        let place = self.found.first.len();
        (place < GAPS_LISTED).then(|| {
            self.found.first.push(gap);
            place
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_period_is_measured_between_frames_that_follow_each_other_and_a_pause_between_any_two() {
        let mut periods = Periods::default();
        for (index, ms) in [(1, 10), (2, 20), (3, 30), (5, 80), (6, 90), (7, 0)] {
            periods.frame(index, ms * MS);
        }
        let rate = periods.rate().expect("four frames follow each other");
        assert_eq!((rate.period_median_ms, rate.rate_hz), (10.0, 100.0));
        assert_eq!((rate.longest_ms, rate.longest_before_frame, rate.periods), (50.0, 5, 3));
        assert_eq!(Periods::default().rate(), None);
    }

    #[test]
    fn every_gap_is_counted_and_the_first_are_listed_with_their_length() {
        let mut watch = GapWatch::default();
        watch.frame(100 * MS);
        watch.missing(false, 2, 3);
        watch.frame(140 * MS);
        watch.silence(6, 70 * MS, 140 * MS, 1_000 * MS);
        watch.silence(6, 90 * MS, 140 * MS, 1_020 * MS);
        watch.silence_ends(300 * MS, 1_200 * MS);
        watch.missing(true, 9, 1);
        for k in 0..GAPS_LISTED as u64 {
            watch.missing(true, 10 + k, 1);
        }
        let gaps = watch.finish();
        assert_eq!((gaps.missing_frames, gaps.missing_runs, gaps.silences), (3, 1, 1));
        assert_eq!((gaps.overload_frames, gaps.overload_runs), (33, 33));
        assert_eq!(gaps.first.len(), GAPS_LISTED);
        assert_eq!(gaps.first[0].duration_s, Some(0.04));
        // On the host: 200 ms after 70 ms of silence had been noticed.
        assert_eq!(gaps.first[1].duration_s, Some(0.27));
        assert_eq!(gaps.first[2].duration_s, None);
    }
}
