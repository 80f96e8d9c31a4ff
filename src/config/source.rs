//! Configuration of the source: how a recording is read that `apical replay` plays.

use serde::{Deserialize, Serialize};

/// How a recording on the disk is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// Follow a TIFF, BigTIFF or raw file that is still being written: every page comes out when it is whole. Default
    /// false: the file is read as it stands.
    pub tail: bool,
    /// How often a followed file is looked at while its next page is not whole, 0.1 to 10,000 ms. Default 2.
    pub poll_interval_ms: f64,
    /// A followed file that has not grown for so long has ended, in s; 0: only when stopped (Ctrl-C). 0, or 0.1 to
    /// 86,400. Default 0.
    pub idle_timeout_s: f64,
    /// Read on in the files that ScanImage wrote after the named one in the same acquisition
    /// (`name_00001_00002.tif` after `name_00001_00001.tif`). Default true.
    pub successors: bool,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self { tail: false, poll_interval_ms: 2.0, idle_timeout_s: 0.0, successors: true }
    }
}

impl SourceConfig {
    /// Pushes one sentence for each value that cannot be used; `section` is the table's name, such as `source`.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let poll = self.poll_interval_ms;
        if !(0.1..=10_000.0).contains(&poll) {
            violations.push(format!("{section}.poll_interval_ms: {poll}, expected 0.1 to 10000"));
        }
        let idle = self.idle_timeout_s;
        if idle != 0.0 && !(0.1..=86_400.0).contains(&idle) {
            violations
                .push(format!("{section}.idle_timeout_s: {idle}, expected 0 (only when stopped), or 0.1 to 86400"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_value_out_of_range_is_named() {
        let mut violations = Vec::new();
        SourceConfig::default().validate("source", &mut violations);
        assert_eq!(violations, Vec::<String>::new());
        let config = SourceConfig { poll_interval_ms: 0.0, idle_timeout_s: f64::NAN, ..SourceConfig::default() };
        config.validate("source", &mut violations);
        assert_eq!(
            violations,
            [
                "source.poll_interval_ms: 0, expected 0.1 to 10000",
                "source.idle_timeout_s: NaN, expected 0 (only when stopped), or 0.1 to 86400",
            ]
        );
    }
}
