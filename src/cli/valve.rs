//! `apical valve`: the valve simulator on a pseudo-terminal. It outlives the service, and counts every trigger's id.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, print_text};

/// Arguments of `apical valve`.
#[derive(Debug, Args)]
pub(super) struct ValveArgs {
    /// A name under which the pseudo-terminal can be opened; a link, replaced if it is one.
    #[arg(long, value_name = "PATH")]
    link: Option<PathBuf>,
    /// A file to which every pulse is appended, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Runs the command, until it is killed.
#[cfg(unix)]
pub(super) fn run(args: &ValveArgs, json: bool) -> anyhow::Result<Outcome> {
    use std::sync::atomic::AtomicBool;

    use crate::trigger::{ValveOptions, serve_valve};

    let options = ValveOptions { link: args.link.clone(), log: args.log.clone(), ..ValveOptions::default() };
    let never = AtomicBool::new(false);
    serve_valve(&options, &never, |path| {
        let port = if json { serde_json::json!({ "port": path }).to_string() } else { path.display().to_string() };
        // It serves on whether or not somebody reads this.
        if let Err(error) = print_text(&format!("{port}\n")) {
            tracing::warn!("{}: the port's name could not be printed: {error}", path.display());
        }
    })?;
    Ok(Outcome::Good)
}

/// Pseudo-terminals exist on Unix alone.
#[cfg(not(unix))]
pub(super) fn run(_args: &ValveArgs, _json: bool) -> anyhow::Result<Outcome> {
    anyhow::bail!("the valve simulator needs pseudo-terminals, which this system does not have")
}
