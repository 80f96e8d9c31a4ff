//! `apical config`: check a configuration, and print it with every default.

use clap::Args;

use super::{ConfigSource, Outcome, print_json, print_text};
use crate::config::{RigConfig, hash, load_file, load_text, to_toml};

/// Arguments of `apical config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    source: ConfigSource,
}

impl ConfigSource {
    /// The configuration, checked; `more` overrides what is in it, and `--set` overrides that.
    pub(super) fn load(&self, more: &[String]) -> anyhow::Result<RigConfig> {
        self.load_over("", more)
    }

    /// The same, where no file is given on top of `default_toml`.
    pub(super) fn load_over(&self, default_toml: &str, more: &[String]) -> anyhow::Result<RigConfig> {
        let overrides: Vec<String> = more.iter().chain(&self.set).cloned().collect();
        Ok(match &self.config {
            Some(path) => load_file(path, &overrides)?,
            None => load_text(default_toml, &overrides)?,
        })
    }
}

/// Runs the command.
pub(super) fn run(args: &ConfigArgs, json: bool) -> anyhow::Result<Outcome> {
    let config = args.source.load(&[])?;
    if json {
        print_json(&serde_json::json!({ "sha256": hash(&config), "config": config }))?;
    } else {
        print_text(&to_toml(&config))?;
    }
    Ok(Outcome::Good)
}
