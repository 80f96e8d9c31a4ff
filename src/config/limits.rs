//! `[limits]`: how much water (or light) an animal may be given, whatever the task or an operator asks for.
//!
//! No field has a default that lets a real valve open: with a hardware output every field but `max_unrecorded_pulses`
//! must be written in the file.

use serde::{Deserialize, Serialize};

use super::outputs::OutputsConfig;

/// Bounds on the pulses of an output. A minute is any 60 s, not a minute of the clock on the wall.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The longest single pulse, in ms, 0.1 to 10,000.
    pub max_pulse_width_ms: Option<f64>,
    /// From the end of a pulse to the start of the next, in ms, 0 to 60,000.
    pub min_interval_ms: Option<f64>,
    /// On-time in any 60 s, in ms, 0.1 to 60,000.
    pub max_on_ms_per_minute: Option<f64>,
    /// On-time in a session, in ms, 0.1 to 10,000,000.
    pub max_on_ms_per_session: Option<f64>,
    /// Pulses in any 60 s, 1 to 6,000.
    pub max_pulses_per_minute: Option<u32>,
    /// Pulses in a session, 1 to 1,000,000.
    pub max_pulses_per_session: Option<u32>,
    /// Pulses that were sent and are not on the disk yet, 1 to 16; 3 where it is left out. So many count as delivered
    /// when a session goes on after a crash, and a disk that is further behind than that lets no more be sent.
    pub max_unrecorded_pulses: Option<u32>,
}

/// The bounds in the units of the check, all known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolvedLimits {
    /// The longest single pulse, in us.
    pub max_pulse_width_us: u64,
    /// From the end of a pulse to the start of the next, in us.
    pub min_interval_us: u64,
    /// On-time in any 60 s, in us.
    pub max_on_us_per_minute: u64,
    /// On-time in a session, in us.
    pub max_on_us_per_session: u64,
    /// Pulses in any 60 s.
    pub max_pulses_per_minute: u32,
    /// Pulses in a session.
    pub max_pulses_per_session: u32,
    /// Pulses that are not on the disk yet.
    pub max_unrecorded_pulses: u32,
}

impl LimitsConfig {
    /// What a simulated valve is held to where the file says nothing. Never used for hardware.
    pub fn for_simulation() -> Self {
        Self {
            max_pulse_width_ms: Some(500.0),
            min_interval_ms: Some(100.0),
            max_on_ms_per_minute: Some(6_000.0),
            max_on_ms_per_session: Some(300_000.0),
            max_pulses_per_minute: Some(120),
            max_pulses_per_session: Some(3_000),
            max_unrecorded_pulses: Some(3),
        }
    }

    /// The bounds in whole microseconds. Bounds that are missing are those of [`Self::for_simulation`]; times are
    /// rounded down for what is allowed and up for the interval, so that rounding never gives more.
    pub fn resolved(&self) -> ResolvedLimits {
        let fallback = Self::for_simulation();
        // Casts saturate; NaN becomes 0, which allows nothing.
        let us = |value: Option<f64>, other: Option<f64>| value.or(other).unwrap_or(0.0) * 1_000.0;
        ResolvedLimits {
            max_pulse_width_us: us(self.max_pulse_width_ms, fallback.max_pulse_width_ms).floor() as u64,
            min_interval_us: us(self.min_interval_ms, fallback.min_interval_ms).ceil() as u64,
            max_on_us_per_minute: us(self.max_on_ms_per_minute, fallback.max_on_ms_per_minute).floor() as u64,
            max_on_us_per_session: us(self.max_on_ms_per_session, fallback.max_on_ms_per_session).floor() as u64,
            max_pulses_per_minute: self
                .max_pulses_per_minute
                .or(fallback.max_pulses_per_minute)
                .unwrap_or(0)
                .min(6_000),
            max_pulses_per_session: self.max_pulses_per_session.or(fallback.max_pulses_per_session).unwrap_or(0),
            max_unrecorded_pulses: self.max_unrecorded_pulses.or(fallback.max_unrecorded_pulses).unwrap_or(0).min(16),
        }
    }

    /// Pushes one sentence for each value that cannot be used.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let times = [
            ("max_pulse_width_ms", self.max_pulse_width_ms, 0.1, 10_000.0),
            ("min_interval_ms", self.min_interval_ms, 0.0, 60_000.0),
            ("max_on_ms_per_minute", self.max_on_ms_per_minute, 0.1, 60_000.0),
            ("max_on_ms_per_session", self.max_on_ms_per_session, 0.1, 10_000_000.0),
        ];
        for (key, value, low, high) in times {
            if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
                violations.push(format!("{section}.{key}: {value}, expected {low} to {high}"));
            }
        }
        let counts = [
            ("max_pulses_per_minute", self.max_pulses_per_minute, 6_000),
            ("max_pulses_per_session", self.max_pulses_per_session, 1_000_000),
            ("max_unrecorded_pulses", self.max_unrecorded_pulses, 16),
        ];
        for (key, value, high) in counts {
            if let Some(value) = value.filter(|value| !(1..=high).contains(value)) {
                violations.push(format!("{section}.{key}: {value}, expected 1 to {high}"));
            }
        }
    }

    /// Pushes what is missing for these outputs: with hardware every bound must be written, and the configured reward
    /// must fit them.
    pub fn required_for(&self, outputs: &OutputsConfig, section: &str, violations: &mut Vec<String>) {
        if outputs.has_hardware() {
            let missing: Vec<&str> = self.missing().collect();
            if missing.len() == MEMBERS {
                violations.push(format!(
                    "{section}: missing, but outputs.reward.device = \"serial\" opens a real valve on {}. Say how much \
                     an animal may be given, for example: [{section}] max_pulse_width_ms = 200.0, min_interval_ms = \
                     500.0, max_on_ms_per_minute = 1500.0, max_on_ms_per_session = 30000.0, max_pulses_per_minute = \
                     20, max_pulses_per_session = 500",
                    if outputs.reward.port.is_empty() { "a serial port" } else { &outputs.reward.port },
                ));
            } else {
                for key in missing {
                    violations
                        .push(format!("{section}.{key}: missing, required because outputs.reward is a real valve"));
                }
            }
        }
        let (width_us, max_us) = (u64::from(outputs.reward.width_us()), self.resolved().max_pulse_width_us);
        if self.max_pulse_width_ms.is_some() && width_us > max_us {
            violations.push(format!(
                "outputs.reward.width_ms: {}, expected at most {section}.max_pulse_width_ms = {}",
                outputs.reward.width_ms,
                self.max_pulse_width_ms.unwrap_or(0.0),
            ));
        }
    }

    fn missing(&self) -> impl Iterator<Item = &'static str> {
        [
            ("max_pulse_width_ms", self.max_pulse_width_ms.is_none()),
            ("min_interval_ms", self.min_interval_ms.is_none()),
            ("max_on_ms_per_minute", self.max_on_ms_per_minute.is_none()),
            ("max_on_ms_per_session", self.max_on_ms_per_session.is_none()),
            ("max_pulses_per_minute", self.max_pulses_per_minute.is_none()),
            ("max_pulses_per_session", self.max_pulses_per_session.is_none()),
        ]
        .into_iter()
        .filter_map(|(key, absent)| absent.then_some(key))
    }
}

const MEMBERS: usize = 6;

#[cfg(test)]
mod tests {
    use super::super::outputs::{RewardDevice, RewardOutputConfig};
    use super::*;

    fn hardware() -> OutputsConfig {
        let reward =
            RewardOutputConfig { device: RewardDevice::Serial, port: "/dev/ttyACM0".into(), ..Default::default() };
        OutputsConfig { reward, ..Default::default() }
    }

    fn required(limits: &LimitsConfig, outputs: &OutputsConfig) -> Vec<String> {
        let mut found = Vec::new();
        limits.required_for(outputs, "limits", &mut found);
        found
    }

    #[test]
    fn a_rig_with_a_real_valve_does_not_start_without_limits() {
        let found = required(&LimitsConfig::default(), &hardware());
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("limits: missing, but outputs.reward.device = \"serial\""), "{found:?}");
        assert!(found[0].contains("/dev/ttyACM0"));
        assert!(required(&LimitsConfig::default(), &OutputsConfig::default()).is_empty());
    }

    #[test]
    fn each_missing_bound_is_named() {
        let limits =
            LimitsConfig { max_on_ms_per_session: None, min_interval_ms: None, ..LimitsConfig::for_simulation() };
        let found = required(&limits, &hardware());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("limits.min_interval_ms: missing") && found[1].contains("max_on_ms_per_session"));
    }

    #[test]
    fn a_reward_wider_than_its_limit_is_refused_before_the_session() {
        let limits = LimitsConfig { max_pulse_width_ms: Some(20.0), ..LimitsConfig::for_simulation() };
        let found = required(&limits, &hardware());
        assert_eq!(found, ["outputs.reward.width_ms: 50, expected at most limits.max_pulse_width_ms = 20"]);
    }

    #[test]
    fn values_out_of_range_are_listed_and_nan_allows_nothing() {
        let limits = LimitsConfig {
            max_pulse_width_ms: Some(f64::NAN),
            max_on_ms_per_minute: Some(70_000.0),
            max_pulses_per_minute: Some(0),
            ..LimitsConfig::for_simulation()
        };
        let mut found = Vec::new();
        limits.validate("limits", &mut found);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[1], "limits.max_on_ms_per_minute: 70000, expected 0.1 to 60000");
        assert_eq!(limits.resolved().max_pulse_width_us, 0);
    }
}
