//! From text to a checked configuration, and back.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::RigConfig;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("the configuration is not TOML: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A key does not exist, or its value is of the wrong type.
    #[error("{key}: {message}")]
    Key {
        /// The key, dotted.
        key: String,
        /// What was wrong and what was expected.
        message: String,
    },
    /// An override is not `key=value`.
    #[error("--set {text}: expected key=value, such as task.trial_frames=150")]
    Override {
        /// What was given.
        text: String,
    },
    /// Values that cannot be; all of them.
    #[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
    Violations(Vec<String>),
}

/// Reads a file; relative paths in it are relative to its directory.
///
/// # Errors
/// See [`ConfigError`].
pub fn load_file(path: &Path, overrides: &[String]) -> Result<RigConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut config = load_text(&text, overrides)?;
    let register = &mut config.register;
    for (key, file) in [
        ("rois.file", &mut config.rois.file),
        ("register.template", &mut register.template),
        ("register.z_stack", &mut register.z_stack),
    ] {
        let overridden = overrides.iter().any(|o| o.trim_start().starts_with(key));
        if let (true, false, Some(directory)) = (!file.as_os_str().is_empty(), overridden, path.parent()) {
            // An absolute path stays as it is.
            *file = directory.join(&file);
        }
    }
    Ok(config)
}

/// Reads text, applies the overrides in order, and checks everything.
///
/// # Errors
/// See [`ConfigError`].
pub fn load_text(text: &str, overrides: &[String]) -> Result<RigConfig, ConfigError> {
    let mut table: toml::Table = text.parse()?;
    for item in overrides {
        apply(&mut table, item)?;
    }
    let config: RigConfig = serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|e| {
        ConfigError::Key { key: e.path().to_string(), message: e.inner().to_string().trim().to_owned() }
    })?;
    let violations = config.violations();
    if violations.is_empty() { Ok(config) } else { Err(ConfigError::Violations(violations)) }
}

/// The configuration as TOML, every key with its value.
pub fn to_toml(config: &RigConfig) -> String {
    // A tree of plain structs always serialises; were it ever not to, an empty configuration would not load again.
    toml::to_string_pretty(config).unwrap_or_default()
}

/// SHA-256 of the configuration as [`to_toml`] writes it, hexadecimal.
pub fn hash(config: &RigConfig) -> String {
    Sha256::digest(to_toml(config).as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sets one dotted key. The value is TOML; what is not TOML is text.
fn apply(table: &mut toml::Table, item: &str) -> Result<(), ConfigError> {
    let refuse = || ConfigError::Override { text: item.to_owned() };
    let (key, value) = item.split_once('=').ok_or_else(refuse)?;
    let (key, value) = (key.trim(), value.trim());
    let mut path: Vec<&str> = key.split('.').collect();
    let Some(last) = path.pop().filter(|last| !last.is_empty() && path.iter().all(|part| !part.is_empty())) else {
        return Err(refuse());
    };
    let value = match format!("v = {value}").parse::<toml::Table>() {
        Ok(mut parsed) => parsed.remove("v").ok_or_else(refuse)?,
        Err(_) => toml::Value::String(value.to_owned()),
    };
    let mut at = table;
    for part in path {
        let next = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = next.as_table_mut().ok_or_else(refuse)?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(items: &[&str]) -> Result<RigConfig, ConfigError> {
        load_text("", &items.iter().map(|&s| s.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_default_is_valid_and_comes_back_from_its_own_text() {
        let config = load_text("", &[]).expect("the default is valid");
        assert_eq!(load_text(&to_toml(&config), &[]).expect("its text is valid"), config);
    }

    #[test]
    fn an_override_takes_numbers_lists_and_text() {
        let config = set(&["task.trial_frames=150", "ensembles.plus=[0, 2,4]", "rig.name=left-box"]).expect("valid");
        assert_eq!(config.trial_frames(), 150);
        assert_eq!(config.ensembles.plus, [0, 2, 4]);
        assert_eq!(config.rig.name, "left-box");
    }

    #[test]
    fn an_unknown_key_is_named_with_those_that_exist() {
        let error = set(&["task.trial_fames=150"]).expect_err("no such key").to_string();
        assert!(error.contains("task.trial_fames") && error.contains("trial_frames"), "{error}");
    }

    #[test]
    fn an_override_without_a_value_is_refused() {
        assert!(matches!(set(&["task.trial_frames"]), Err(ConfigError::Override { .. })));
        assert!(matches!(set(&["=3"]), Err(ConfigError::Override { .. })));
    }

    #[test]
    fn every_violation_is_listed_at_once() {
        let Err(ConfigError::Violations(found)) =
            set(&["service.listen=0.0.0.0:1", "baseline.frames=0", "ensembles.minus=[1]"])
        else {
            panic!("three violations");
        };
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().any(|v| v.contains("because there is no TLS")), "{found:?}");
    }

    #[test]
    fn a_hardware_output_without_limits_does_not_start() {
        let error = set(&["outputs.reward.device=serial", "outputs.reward.port=/dev/ttyACM0"]).expect_err("no limits");
        assert!(error.to_string().contains("limits"), "{error}");
    }
}
