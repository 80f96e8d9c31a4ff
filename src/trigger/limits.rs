//! Limits: the last check before the device, on the host's monotonic clock.
//!
//! In: an intent and the host's time in ns. Out: allowed, or refused with the value and its bound. On-time is bounded
//! first (water is what harms), then the number of pulses, then the interval from the **end** of a pulse to the
//! **start** of the next.
//!
//! What was allowed counts as delivered for ever: nothing gives it back, not a failed write, not a missing
//! acknowledgement. A pulse counts with its whole width in every 60 s that hold any part of it, so that
//! in no window `[t, t + 60 s)` of the host's clock more than the bound is on. The board sees pulses later by the
//! line's delay, which may vary by some milliseconds; the bounds hold for the host's times.
//!
//! Cost: at most one pass over the last minute's pulses. Memory: `max_pulses_per_minute` entries, allocated once.
//! Not recomputed in a replay: a verdict is an input of the engine.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Intent, Output};
use crate::config::limits::{LimitsConfig, ResolvedLimits};

/// What "per minute" means, in nanoseconds.
pub(crate) const MINUTE_NS: u64 = 60_000_000_000;

/// Why an intent was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum LimitReason {
    /// The pulse is empty or too long.
    #[error("a pulse of {width_us} us, expected 1 to {max_us} us (limits.max_pulse_width_ms)")]
    PulseWidth {
        /// Wanted, in us.
        width_us: u64,
        /// Bound, in us.
        max_us: u64,
    },
    /// Too much on-time in 60 s.
    #[error("{would_be_us} us open in 60 s, expected at most {max_us} us (limits.max_on_ms_per_minute)")]
    OnPerMinute {
        /// On-time with this pulse, in us.
        would_be_us: u64,
        /// Bound, in us.
        max_us: u64,
    },
    /// Too much on-time in the session.
    #[error("{would_be_us} us open in the session, expected at most {max_us} us (limits.max_on_ms_per_session)")]
    OnPerSession {
        /// On-time with this pulse, in us.
        would_be_us: u64,
        /// Bound, in us.
        max_us: u64,
    },
    /// Too many pulses in 60 s.
    #[error("{would_be} pulses in 60 s, expected at most {max} (limits.max_pulses_per_minute)")]
    PulsesPerMinute {
        /// Pulses with this one.
        would_be: u64,
        /// Bound.
        max: u64,
    },
    /// Too many pulses in the session.
    #[error("{would_be} pulses in the session, expected at most {max} (limits.max_pulses_per_session)")]
    PulsesPerSession {
        /// Pulses with this one.
        would_be: u64,
        /// Bound.
        max: u64,
    },
    /// Too soon after the end of the last pulse.
    #[error("{since_us} us after the end of the last pulse, expected at least {min_us} us (limits.min_interval_ms)")]
    Interval {
        /// Since the end of the last pulse, in us; 0 while it is still open.
        since_us: u64,
        /// Bound, in us.
        min_us: u64,
    },
    /// The output has no limits of its own, so nothing may drive it.
    #[error("no limits are known for the output {}", output.name())]
    NoLimits {
        /// The output.
        output: Output,
    },
    /// The disk is behind: a crash now would make more pulses forgotten than are then counted as delivered.
    #[error(
        "{unrecorded} pulses that are not on the disk yet, expected fewer than {max} (limits.max_unrecorded_pulses)"
    )]
    Unrecorded {
        /// Pulses that were allowed and whose record is not durable.
        unrecorded: u32,
        /// Bound.
        max: u32,
    },
}

/// What the limits say to an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitVerdict {
    /// It may be sent, and is counted.
    Allowed,
    /// It may not, and is not counted.
    Refused(LimitReason),
}

/// Why saved limits could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The bytes are not saved limits.
    #[error("saved limits cannot be read: {0}")]
    Unreadable(#[from] postcard::Error),
}

/// The limits of the reward output and what was delivered so far.
#[derive(Debug, Clone)]
pub struct Limits {
    bounds: ResolvedLimits,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    /// Pulses that reach into the last 60 s, oldest first; never more than the bound's capacity.
    recent: VecDeque<Pulse>,
    on_us_minute: u64,
    on_us_session: u64,
    pulses_session: u64,
    last_end_ns: Option<u64>,
    now_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Pulse {
    end_ns: u64,
    width_us: u64,
}

impl Limits {
    /// Limits with nothing delivered yet.
    pub fn new(config: &LimitsConfig) -> Self {
        let bounds = config.resolved();
        let recent = VecDeque::with_capacity(bounds.max_pulses_per_minute as usize);
        let state =
            State { recent, on_us_minute: 0, on_us_session: 0, pulses_session: 0, last_end_ns: None, now_ns: 0 };
        Self { bounds, state }
    }

    /// Decides on an intent at the host's time, and counts it if it is allowed. A clock that goes back is taken as
    /// standing still.
    pub fn check(&mut self, intent: &Intent, host_ns: u64) -> LimitVerdict {
        match intent.output {
            // Drives no valve and no light.
            Output::Sync => return LimitVerdict::Allowed,
            Output::Light => return LimitVerdict::Refused(LimitReason::NoLimits { output: intent.output }),
            Output::Reward => {}
        }
        self.forget_before(host_ns);
        match self.refusal(u64::from(intent.width_us)) {
            Some(reason) => LimitVerdict::Refused(reason),
            None => {
                self.add(u64::from(intent.width_us));
                LimitVerdict::Allowed
            }
        }
    }

    /// Counts a pulse of the journal that was allowed after the state was saved, without asking the bounds.
    pub fn count_delivered(&mut self, intent: &Intent, host_ns: u64) {
        if intent.output == Output::Reward {
            self.forget_before(host_ns);
            self.add(u64::from(intent.width_us));
        }
    }

    /// On-time counted in the session, in us.
    pub fn on_us_session(&self) -> u64 {
        self.state.on_us_session
    }

    /// On-time counted in the last 60 s as of the last check, in us.
    pub fn on_us_minute(&self) -> u64 {
        self.state.on_us_minute
    }

    /// Pulses counted in the session.
    pub fn pulses_session(&self) -> u64 {
        self.state.pulses_session
    }

    /// Appends the counts to `out`.
    pub fn save(&self, out: &mut Vec<u8>) -> Result<(), LimitsError> {
        postcard::to_io(&self.state, &mut *out)?;
        Ok(())
    }

    /// Goes on with saved counts; gives the bytes consumed. The saved times belong to the clock of the process that
    /// saved them, so the last pulse is taken to end now, and the others as long before it as they were: the first
    /// minute after a crash errs on the side of less.
    pub fn load(&mut self, bytes: &[u8], host_ns: u64) -> Result<usize, LimitsError> {
        let (state, rest) = postcard::take_from_bytes::<State>(bytes)?;
        let last_end_ns = state.last_end_ns.unwrap_or(0);
        let moved = |end_ns: u64| host_ns.saturating_sub(last_end_ns.saturating_sub(end_ns));
        let capacity = self.bounds.max_pulses_per_minute as usize;
        self.state.recent.clear();
        // Where the bound was lowered since, the oldest lend their on-time to the newest: the sum stays whole.
        let surplus = state.recent.len().saturating_sub(capacity);
        let lent_us = state.recent.iter().take(surplus).fold(0_u64, |sum, pulse| sum.saturating_add(pulse.width_us));
        let kept = state.recent.iter().skip(surplus);
        self.state.recent.extend(kept.map(|pulse| Pulse { end_ns: moved(pulse.end_ns), width_us: pulse.width_us }));
        if let Some(newest) = self.state.recent.back_mut() {
            newest.width_us = newest.width_us.saturating_add(lent_us);
        }
        self.state.on_us_minute = self.state.recent.iter().fold(0, |sum, pulse| sum.saturating_add(pulse.width_us));
        self.state.on_us_session = state.on_us_session;
        self.state.pulses_session = state.pulses_session;
        self.state.last_end_ns = state.last_end_ns.map(moved);
        self.state.now_ns = host_ns;
        Ok(bytes.len() - rest.len())
    }

    fn refusal(&self, width_us: u64) -> Option<LimitReason> {
        let (bounds, state) = (&self.bounds, &self.state);
        if width_us == 0 || width_us > bounds.max_pulse_width_us {
            return Some(LimitReason::PulseWidth { width_us, max_us: bounds.max_pulse_width_us });
        }
        let would_be_us = state.on_us_minute.saturating_add(width_us);
        if would_be_us > bounds.max_on_us_per_minute {
            return Some(LimitReason::OnPerMinute { would_be_us, max_us: bounds.max_on_us_per_minute });
        }
        let would_be_us = state.on_us_session.saturating_add(width_us);
        if would_be_us > bounds.max_on_us_per_session {
            return Some(LimitReason::OnPerSession { would_be_us, max_us: bounds.max_on_us_per_session });
        }
        let (would_be, max) = (state.recent.len() as u64 + 1, u64::from(bounds.max_pulses_per_minute));
        if would_be > max {
            return Some(LimitReason::PulsesPerMinute { would_be, max });
        }
        let (would_be, max) = (state.pulses_session.saturating_add(1), u64::from(bounds.max_pulses_per_session));
        if would_be > max {
            return Some(LimitReason::PulsesPerSession { would_be, max });
        }
        let last_end_ns = state.last_end_ns?;
        let (since_us, min_us) = (state.now_ns.saturating_sub(last_end_ns) / 1_000, bounds.min_interval_us);
        (state.now_ns < last_end_ns || since_us < min_us).then_some(LimitReason::Interval { since_us, min_us })
    }

    fn add(&mut self, width_us: u64) {
        let state = &mut self.state;
        let end_ns = state.now_ns.saturating_add(width_us.saturating_mul(1_000));
        if state.recent.len() < self.bounds.max_pulses_per_minute as usize {
            state.recent.push_back(Pulse { end_ns, width_us });
        } else if let Some(newest) = state.recent.back_mut() {
            // Only `count_delivered` comes here: the history is full, so the on-time joins the newest entry.
            newest.end_ns = newest.end_ns.max(end_ns);
            newest.width_us = newest.width_us.saturating_add(width_us);
        }
        state.on_us_minute = state.on_us_minute.saturating_add(width_us);
        state.on_us_session = state.on_us_session.saturating_add(width_us);
        state.pulses_session = state.pulses_session.saturating_add(1);
        state.last_end_ns = Some(state.last_end_ns.map_or(end_ns, |last| last.max(end_ns)));
    }

    /// Moves the clock forward and lets go of pulses that ended 60 s ago or earlier.
    fn forget_before(&mut self, host_ns: u64) {
        let state = &mut self.state;
        state.now_ns = state.now_ns.max(host_ns);
        while let Some(oldest) = state.recent.front() {
            if oldest.end_ns.saturating_add(MINUTE_NS) > state.now_ns {
                break;
            }
            state.on_us_minute = state.on_us_minute.saturating_sub(oldest.width_us);
            state.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Cause, TriggerId};
    use super::*;

    const MS: u64 = 1_000_000;

    fn reward(width_ms: u32) -> Intent {
        let id = TriggerId { segment: 1, sequence: 1 };
        Intent { id, output: Output::Reward, width_us: width_ms * 1_000, cause: Cause::Hit }
    }

    fn config() -> LimitsConfig {
        LimitsConfig {
            max_pulse_width_ms: Some(200.0),
            min_interval_ms: Some(500.0),
            max_on_ms_per_minute: Some(300.0),
            max_on_ms_per_session: Some(1_000.0),
            max_pulses_per_minute: Some(5),
            max_pulses_per_session: Some(12),
            max_unrecorded_pulses: None,
        }
    }

    #[test]
    fn the_interval_runs_from_the_end_of_a_pulse_to_the_start_of_the_next() {
        let mut limits = Limits::new(&config());
        assert_eq!(limits.check(&reward(100), 0), LimitVerdict::Allowed);
        let early = LimitReason::Interval { since_us: 499_999, min_us: 500_000 };
        assert_eq!(limits.check(&reward(50), 600 * MS - 1), LimitVerdict::Refused(early));
        assert_eq!(limits.check(&reward(50), 600 * MS), LimitVerdict::Allowed);
    }

    #[test]
    fn a_pulse_is_forgotten_60_s_after_its_end_and_not_before() {
        let mut limits = Limits::new(&config());
        assert_eq!(limits.check(&reward(200), 0), LimitVerdict::Allowed);
        assert_eq!(limits.check(&reward(100), 1_000 * MS), LimitVerdict::Allowed);
        let full = LimitReason::OnPerMinute { would_be_us: 400_000, max_us: 300_000 };
        assert_eq!(limits.check(&reward(100), 60_200 * MS - 1), LimitVerdict::Refused(full));
        assert_eq!(limits.check(&reward(100), 60_200 * MS), LimitVerdict::Allowed);
    }

    #[test]
    fn on_time_is_named_before_the_number_of_pulses_and_the_interval() {
        let config = LimitsConfig { max_pulses_per_minute: Some(2), ..config() };
        let mut limits = Limits::new(&config);
        assert_eq!(limits.check(&reward(200), 0), LimitVerdict::Allowed);
        assert_eq!(limits.check(&reward(100), 1_000 * MS), LimitVerdict::Allowed);
        let verdict = limits.check(&reward(1), 1_100 * MS);
        assert!(matches!(verdict, LimitVerdict::Refused(LimitReason::OnPerMinute { .. })), "{verdict:?}");
    }

    #[test]
    fn an_empty_or_too_long_pulse_is_refused_and_not_counted() {
        let mut limits = Limits::new(&config());
        for width_ms in [0, 201] {
            let verdict = limits.check(&reward(width_ms), 0);
            assert!(matches!(verdict, LimitVerdict::Refused(LimitReason::PulseWidth { .. })), "{verdict:?}");
        }
        assert_eq!((limits.pulses_session(), limits.on_us_session()), (0, 0));
    }

    #[test]
    fn sync_is_free_and_light_is_refused() {
        let mut limits = Limits::new(&config());
        let sync = Intent { output: Output::Sync, width_us: u32::MAX, ..reward(1) };
        assert_eq!(limits.check(&sync, 0), LimitVerdict::Allowed);
        assert_eq!(limits.pulses_session(), 0);
        let light = LimitReason::NoLimits { output: Output::Light };
        assert_eq!(limits.check(&Intent { output: Output::Light, ..reward(1) }, 0), LimitVerdict::Refused(light));
        assert_eq!(light.to_string(), "no limits are known for the output light");
    }

    #[test]
    fn a_clock_that_goes_back_allows_nothing_more() {
        let mut limits = Limits::new(&config());
        assert_eq!(limits.check(&reward(100), 100_000 * MS), LimitVerdict::Allowed);
        assert!(matches!(limits.check(&reward(100), 0), LimitVerdict::Refused(LimitReason::Interval { .. })));
    }

    #[test]
    fn after_the_clock_went_back_a_pulse_counts_at_the_latest_time_seen() {
        let mut limits = Limits::new(&config());
        limits.check(&reward(0), 300_000 * MS);
        assert_eq!(limits.check(&reward(100), 150_000 * MS), LimitVerdict::Allowed);
        let early = LimitReason::Interval { since_us: 400_000, min_us: 500_000 };
        assert_eq!(limits.check(&reward(100), 300_500 * MS), LimitVerdict::Refused(early));
    }

    #[test]
    fn the_session_is_bounded_to_the_microsecond_and_to_the_pulse() {
        let mut limits = Limits::new(&config());
        for minute in 0..5 {
            assert_eq!(limits.check(&reward(199), minute * 61_000 * MS), LimitVerdict::Allowed);
        }
        let wide = Intent { width_us: 5_001, ..reward(0) };
        let over = LimitReason::OnPerSession { would_be_us: 1_000_001, max_us: 1_000_000 };
        assert_eq!(limits.check(&wide, 400_000 * MS), LimitVerdict::Refused(over));
        for pulse in 1..8 {
            assert_eq!(
                limits.check(&reward(0), 0),
                LimitVerdict::Refused(LimitReason::PulseWidth { width_us: 0, max_us: 200_000 })
            );
            let tiny = Intent { width_us: 1, ..reward(0) };
            assert_eq!(limits.check(&tiny, (400_000 + pulse * 61_000) * MS), LimitVerdict::Allowed);
        }
        let over = LimitReason::PulsesPerSession { would_be: 13, max: 12 };
        let tiny = Intent { width_us: 1, ..reward(0) };
        assert_eq!(limits.check(&tiny, 2_000_000 * MS), LimitVerdict::Refused(over));
    }

    #[test]
    fn counts_survive_a_crash_and_the_minute_starts_again_in_full() {
        let mut limits = Limits::new(&config());
        assert_eq!(limits.check(&reward(200), 5 * MS), LimitVerdict::Allowed);
        let mut saved = vec![7];
        limits.save(&mut saved).unwrap();
        limits.check(&reward(50), 2_000 * MS);
        let mut again = Limits::new(&config());
        // Another boot: its clock starts at 3 ms.
        assert_eq!(again.load(&saved[1..], 3 * MS).unwrap(), saved.len() - 1);
        again.count_delivered(&reward(50), 3 * MS);
        assert_eq!((again.pulses_session(), again.on_us_session()), (2, 250_000));
        let verdict = again.check(&reward(100), 59_000 * MS);
        assert_eq!(verdict, LimitVerdict::Refused(LimitReason::OnPerMinute { would_be_us: 350_000, max_us: 300_000 }));
        assert!(again.load(&[0xFF; 3], 0).is_err());
    }

    proptest! {
        #[test]
        fn no_minute_and_no_session_exceeds_its_bounds(
            steps in prop::collection::vec((0_u64..20_000, 0_u32..260), 1..200),
            crash in prop::option::of(0_usize..200),
        ) {
            let config = LimitsConfig {
                max_pulses_per_session: Some(40),
                max_on_ms_per_session: Some(4_000.0),
                ..config()
            };
            let mut limits = Limits::new(&config);
            let (mut now_ns, mut given) = (0, Vec::new());
            for (index, (wait_ms, width_ms)) in steps.into_iter().enumerate() {
                // Mostly short waits, so that every bound is met.
                now_ns += wait_ms * wait_ms / 20_000 * MS;
                if crash == Some(index) {
                    let mut saved = Vec::new();
                    limits.save(&mut saved).unwrap();
                    limits = Limits::new(&config);
                    limits.load(&saved, now_ns).unwrap();
                }
                if limits.check(&reward(width_ms), now_ns) == LimitVerdict::Allowed {
                    given.push((now_ns, now_ns + u64::from(width_ms) * MS));
                }
            }
            let on_ns: u64 = given.iter().map(|(start, end)| end - start).sum();
            prop_assert!(on_ns <= 4_000 * MS && given.len() <= 40);
            for pair in given.windows(2) {
                prop_assert!(pair[1].0 >= pair[0].1 + 500 * MS);
            }
            // The worst window begins at some pulse's start or ends at some pulse's end.
            let begins = given.iter().flat_map(|&(start, end)| [start, end.saturating_sub(MINUTE_NS)]);
            for begin in begins {
                let finish = begin + MINUTE_NS;
                let inside = |&&(start, end): &&(u64, u64)| start < finish && end > begin;
                let on_ns: u64 =
                    given.iter().filter(inside).map(|&(start, end)| end.min(finish) - start.max(begin)).sum();
                prop_assert!(on_ns <= 300 * MS, "{on_ns} ns from {begin}");
                prop_assert!(given.iter().filter(inside).count() <= 5);
            }
        }

        #[test]
        fn saved_and_loaded_at_the_moment_of_the_last_end_equals_uninterrupted(
            before in prop::collection::vec((0_u64..9_000, 1_u32..200), 1..30),
            after in prop::collection::vec((0_u64..9_000, 1_u32..200), 1..30),
        ) {
            let config = LimitsConfig {
                max_pulses_per_session: Some(1_000),
                max_on_ms_per_session: Some(1e6),
                ..config()
            };
            let mut straight = Limits::new(&config);
            let mut now_ns = 0;
            for (wait_ms, width_ms) in before {
                now_ns += wait_ms * MS;
                straight.check(&reward(width_ms), now_ns);
            }
            while straight.check(&reward(50), now_ns) != LimitVerdict::Allowed {
                now_ns += 1_000 * MS;
            }
            now_ns += 50 * MS;
            straight.forget_before(now_ns);
            let mut saved = Vec::new();
            straight.save(&mut saved).unwrap();
            let mut loaded = Limits::new(&config);
            loaded.load(&saved, now_ns).unwrap();
            for (wait_ms, width_ms) in after {
                now_ns += wait_ms * MS;
                prop_assert_eq!(straight.check(&reward(width_ms), now_ns), loaded.check(&reward(width_ms), now_ns));
            }
            prop_assert_eq!(straight.state, loaded.state);
        }
    }
}
