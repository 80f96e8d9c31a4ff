//! What became of rewards, which limits stopped them, and how long the valve was open.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::config::load_text;
use crate::journal::REWARD_OUTPUT;
use crate::proto::v1;
use crate::trigger::{LimitReason, LimitVerdict, MINUTE_NS, TriggerId};

/// Rewards beyond what the counters say.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Rewards {
    /// Of those intended, how many an operator ordered.
    pub by_hand: u64,
    /// Those that a limit stopped, by limit.
    pub limits_reached: Vec<LimitReached>,
    /// Those whose write to the device failed; they count as delivered.
    pub writes_failed: u64,
    /// Those that the device refused.
    pub refused_by_device: u64,
    /// Pulses that the device measured.
    pub pulses_measured: u64,
    /// Their on-time together, in milliseconds.
    pub measured_on_ms: f64,
    /// On-time of what counts as delivered.
    pub on: OnTime,
}

/// A limit, and what it stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitReached {
    /// The key that bounds it in the configuration.
    pub limit: &'static str,
    /// Rewards that it stopped.
    pub count: u64,
    /// The frame that was current at the first of them.
    pub first_frame: u64,
    /// What it said of that.
    pub first: String,
}

/// How long the valve was open, as the limits count it: everything that was allowed, with its whole width in every
/// minute that holds any part of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OnTime {
    /// In the segment, in milliseconds.
    pub total_ms: f64,
    /// The largest in any 60 s of the host's clock, on which a device's limits are checked, in milliseconds.
    pub most_in_60_s_host_ms: f64,
    /// The largest in any 60 s of the microscope's clock, on which a replay's limits are checked, in milliseconds.
    pub most_in_60_s_device_ms: f64,
    /// The bound for 60 s, in milliseconds; absent where the configuration cannot be read.
    pub limit_per_minute_ms: Option<f64>,
    /// The bound for the session, in milliseconds.
    pub limit_per_session_ms: Option<f64>,
}

/// Follows the rewards.
#[derive(Debug, Clone, Default)]
pub(super) struct RewardWatch {
    found: Rewards,
    reached: BTreeMap<&'static str, LimitReached>,
    /// Intents whose verdict is not known yet.
    waiting: BTreeMap<TriggerKey, Pulse>,
    on_us: u64,
    host: Minute,
    device: Minute,
}

type TriggerKey = (u32, u32);

#[derive(Debug, Clone, Copy, Default)]
struct Pulse {
    host_ns: u64,
    device_ns: u64,
    width_us: u64,
}

/// The last minute on one clock.
#[derive(Debug, Clone, Default)]
struct Minute {
    /// End in nanoseconds, and width in microseconds; oldest first.
    recent: VecDeque<(u64, u64)>,
    on_us: u64,
    most_us: u64,
}

impl Minute {
    fn add(&mut self, start_ns: u64, width_us: u64) {
        while let Some(&(end_ns, width_us)) = self.recent.front()
            && end_ns.saturating_add(MINUTE_NS) <= start_ns
        {
            self.recent.pop_front();
            self.on_us -= width_us;
        }
        self.recent.push_back((start_ns.saturating_add(width_us.saturating_mul(1_000)), width_us));
        self.on_us += width_us;
        self.most_us = self.most_us.max(self.on_us);
    }
}

impl RewardWatch {
    /// The head says what the limits are.
    pub fn head(&mut self, head: &v1::SessionHead) {
        if let Ok(config) = load_text(&head.config_toml, &[]) {
            let bounds = config.limits.resolved();
            self.found.on.limit_per_minute_ms = Some(ms(bounds.max_on_us_per_minute));
            self.found.on.limit_per_session_ms = Some(ms(bounds.max_on_us_per_session));
        }
    }

    /// What this input intends, at the host's time in nanoseconds.
    pub fn intents(&mut self, segment: u32, input: &v1::InputRecord, d: &v1::DecisionRecord, host_ns: u64) -> bool {
        let mut any = false;
        let intents = d.intent_sequence.iter().zip(&d.intent_output).zip(&d.intent_width_us);
        for ((&sequence, _), &width_us) in intents.filter(|((_, output), _)| **output == REWARD_OUTPUT) {
            any = true;
            self.found.by_hand += u64::from(input.kind() == v1::InputKind::Command);
            let pulse = Pulse { host_ns, device_ns: d.device_ns, width_us: u64::from(width_us) };
            self.waiting.insert((segment, sequence), pulse);
        }
        any
    }

    /// What the limits said of an intent.
    pub fn limit(&mut self, id: TriggerId, verdict: &LimitVerdict, sent: bool, frame: u64) {
        let pulse = self.waiting.remove(&(id.segment, id.sequence)).unwrap_or_default();
        match verdict {
            LimitVerdict::Allowed => {
                self.found.writes_failed += u64::from(!sent);
                self.on_us += pulse.width_us;
                self.host.add(pulse.host_ns, pulse.width_us);
                self.device.add(pulse.device_ns, pulse.width_us);
            }
            LimitVerdict::Refused(reason) => {
                let limit = key_of(reason);
                let new = || LimitReached { limit, count: 0, first_frame: frame, first: reason.to_string() };
                self.reached.entry(limit).or_insert_with(new).count += 1;
            }
        }
    }

    /// The device refused one.
    pub fn refused(&mut self) {
        self.found.refused_by_device += 1;
    }

    /// The device measured a pulse.
    pub fn measured(&mut self, width_us: u64) {
        self.found.pulses_measured += 1;
        self.found.measured_on_ms += ms(width_us);
    }

    /// What was found.
    pub fn finish(mut self) -> Rewards {
        self.found.limits_reached = self.reached.into_values().collect();
        let on = &mut self.found.on;
        on.total_ms = ms(self.on_us);
        on.most_in_60_s_host_ms = ms(self.host.most_us);
        on.most_in_60_s_device_ms = ms(self.device.most_us);
        self.found
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

/// The key of the configuration that sets this limit.
const fn key_of(reason: &LimitReason) -> &'static str {
    match reason {
        LimitReason::PulseWidth { .. } => "limits.max_pulse_width_ms",
        LimitReason::OnPerMinute { .. } => "limits.max_on_ms_per_minute",
        LimitReason::OnPerSession { .. } => "limits.max_on_ms_per_session",
        LimitReason::PulsesPerMinute { .. } => "limits.max_pulses_per_minute",
        LimitReason::PulsesPerSession { .. } => "limits.max_pulses_per_session",
        LimitReason::Interval { .. } => "limits.min_interval_ms",
        LimitReason::Unrecorded { .. } => "limits.max_unrecorded_pulses",
        LimitReason::NoLimits { .. } => "limits",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_counts_whole_in_every_minute_that_holds_any_part_of_it() {
        let mut minute = Minute::default();
        let second = |s: u64| s * 1_000_000_000;
        minute.add(second(10), 1_000_000);
        minute.add(second(70), 2_000_000);
        assert_eq!(minute.most_us, 3_000_000, "the first ends at 11 s and reaches into [11, 71)");
        minute.add(second(131), 500_000);
        assert_eq!((minute.on_us, minute.most_us), (2_500_000, 3_000_000));
        minute.add(second(132), 500_000);
        assert_eq!((minute.on_us, minute.most_us), (1_000_000, 3_000_000));
    }
}
