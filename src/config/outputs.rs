//! `[outputs]`: which device gives rewards, and the sync line.

use serde::{Deserialize, Serialize};

/// Everything that leaves the computer as a pulse.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputsConfig {
    /// `[outputs.reward]`: the valve.
    pub reward: RewardOutputConfig,
    /// `[outputs.sync]`: the line that marks decided frames.
    pub sync: SyncOutputConfig,
    /// `[outputs.light]`: room kept for optogenetic light.
    pub light: LightOutputConfig,
}

/// What kind of device gives rewards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardDevice {
    /// A pulse board on a serial port, speaking the plain serial protocol (`docs/serial-protocol.md`).
    Serial,
    /// A simulated board inside the service.
    Simulated,
    /// No device: rewards are decided and recorded, but nothing is given.
    #[default]
    None,
}

/// The valve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardOutputConfig {
    /// `"serial"`, `"simulated"` or `"none"`.
    pub device: RewardDevice,
    /// The serial port: `/dev/ttyACM0`, `COM3`. Not empty when `device = "serial"`.
    pub port: String,
    /// Speed of the port, in bits a second, 1,200 to 4,000,000. Boards with native USB ignore it.
    pub baud: u32,
    /// How long the valve opens for one reward, in ms, 0.1 to 10,000.
    pub width_ms: f64,
    /// How long the host waits for a reward's acknowledgement before it closes it as `unknown`, in ms, 1 to 10,000.
    pub ack_timeout_ms: u32,
    /// The board's output line, 0 to 127.
    pub line: u8,
    /// The board closes everything when the host was silent for so long, in ms, 100 to 10,000.
    pub heartbeat_timeout_ms: u16,
    /// The longest that one write to the port may hold up the real-time thread, in ms, 1 to 50.
    pub write_timeout_ms: u32,
}

impl Default for RewardOutputConfig {
    fn default() -> Self {
        Self {
            device: RewardDevice::None,
            port: String::new(),
            baud: 115_200,
            width_ms: 50.0,
            ack_timeout_ms: 200,
            line: 0,
            heartbeat_timeout_ms: 500,
            write_timeout_ms: 2,
        }
    }
}

impl RewardOutputConfig {
    /// The pulse width of one reward, in whole us; 0 for a width that `validate` refuses.
    pub fn width_us(&self) -> u32 {
        // A float-to-integer cast saturates, and NaN becomes 0.
        (self.width_ms * 1_000.0).round() as u32
    }
}

/// The sync line: one short pulse on the reward's board for every decided frame. Limits do not apply to it, since it
/// drives no valve and no light; the board fixes its width.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyncOutputConfig {
    /// Whether decided frames are marked.
    pub enabled: bool,
    /// For the measurement of round trips (`apical latency --loop`), where the line lights an LED at the objective: in
    /// place of every frame only one is marked whose F, the mean over all ROIs, has risen to so many counts, and one
    /// after 10 frames without a pulse. Absent: every decided frame is.
    pub answers_light_counts: Option<f64>,
}

/// Room for optogenetic light.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LightOutputConfig {
    /// Must be `false`: no device drives light yet.
    pub enabled: bool,
}

impl OutputsConfig {
    /// Whether any output acts on the world, so that limits are required.
    pub fn has_hardware(&self) -> bool {
        self.reward.device == RewardDevice::Serial
    }

    /// Pushes one sentence for each value that cannot be used.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let reward = &self.reward;
        let mut refuse = |key: &str, value: &dyn std::fmt::Display, expected: &str| {
            violations.push(format!("{section}.{key}: {value}, expected {expected}"));
        };
        if reward.device == RewardDevice::Serial && reward.port.trim().is_empty() {
            refuse("reward.port", &"empty", "the name of a serial port, such as /dev/ttyACM0 or COM3");
        }
        if !(1_200..=4_000_000).contains(&reward.baud) {
            refuse("reward.baud", &reward.baud, "1200 to 4000000");
        }
        if !(0.1..=10_000.0).contains(&reward.width_ms) {
            refuse("reward.width_ms", &reward.width_ms, "0.1 to 10000");
        }
        if !(1..=10_000).contains(&reward.ack_timeout_ms) {
            refuse("reward.ack_timeout_ms", &reward.ack_timeout_ms, "1 to 10000");
        }
        if reward.line > 127 {
            refuse("reward.line", &reward.line, "0 to 127");
        }
        if !(100..=10_000).contains(&reward.heartbeat_timeout_ms) {
            refuse("reward.heartbeat_timeout_ms", &reward.heartbeat_timeout_ms, "100 to 10000");
        }
        if !(1..=50).contains(&reward.write_timeout_ms) {
            refuse("reward.write_timeout_ms", &reward.write_timeout_ms, "1 to 50");
        }
        if self.sync.enabled && reward.device == RewardDevice::None {
            refuse("sync.enabled", &true, "false, or a reward.device that has a sync line (serial, simulated)");
        }
        if let Some(counts) = self.sync.answers_light_counts.filter(|counts| !counts.is_finite()) {
            refuse("sync.answers_light_counts", &counts, "a finite number of counts");
        }
        if self.light.enabled {
            refuse("light.enabled", &true, "false: this version has no light output");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(config: &OutputsConfig) -> Vec<String> {
        let mut found = Vec::new();
        config.validate("outputs", &mut found);
        found
    }

    #[test]
    fn the_defaults_are_valid_and_touch_no_hardware() {
        assert_eq!(violations(&OutputsConfig::default()), Vec::<String>::new());
        assert!(!OutputsConfig::default().has_hardware());
    }

    #[test]
    fn all_violations_are_listed_at_once() {
        let reward = RewardOutputConfig {
            device: RewardDevice::Serial,
            port: " ".into(),
            baud: 10,
            width_ms: f64::NAN,
            ack_timeout_ms: 0,
            line: 200,
            heartbeat_timeout_ms: 5,
            write_timeout_ms: 0,
        };
        let config = OutputsConfig { reward, light: LightOutputConfig { enabled: true }, ..Default::default() };
        let found = violations(&config);
        assert_eq!(found.len(), 8, "{found:#?}");
        assert_eq!(found[2], "outputs.reward.width_ms: NaN, expected 0.1 to 10000");
    }

    #[test]
    fn a_width_in_ms_becomes_whole_microseconds() {
        let width = |width_ms| RewardOutputConfig { width_ms, ..Default::default() }.width_us();
        assert_eq!(
            [width(50.0), width(0.1), width(33.3333), width(f64::NAN), width(-1.0)],
            [50_000, 100, 33_333, 0, 0]
        );
    }

    #[test]
    fn the_file_form_is_read() {
        let text = "[reward]\ndevice = \"serial\"\nport = \"/dev/ttyACM0\"\nwidth_ms = 30.0\n[sync]\nenabled = true\n";
        let config: OutputsConfig = toml::from_str(text).unwrap();
        assert_eq!(
            (config.reward.device, config.reward.baud, config.sync.enabled),
            (RewardDevice::Serial, 115_200, true)
        );
        assert!(toml::from_str::<OutputsConfig>("[reward]\nwidht_ms = 3.0\n").is_err());
    }
}
