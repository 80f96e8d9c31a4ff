//! The command line: one file a command.
//!
//! Every command takes `--json` and then prints one object on standard output; what is meant for people goes to
//! standard error. Every command that reads a configuration takes `--config` and `--set key=value`.

mod calibrate;
mod client;
mod config;
mod demo;
mod diff;
mod doctor;
mod export;
mod follow;
mod in_process;
mod inspect;
mod latency;
mod page;
mod play;
mod replay;
mod replay_session;
mod rois;
mod rois_detect;
mod serve;
mod summary;
mod valve;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::prelude::*;

/// Real-time control of two-photon imaging brain-computer interfaces.
#[derive(Debug, Parser)]
#[command(name = "apical", version, propagate_version = true)]
pub struct Cli {
    /// Print one JSON object on standard output; logs and progress go to standard error.
    #[arg(long, global = true)]
    json: bool,
    /// What is logged to standard error: error, warn, info, debug, trace, or a filter such as apical=debug.
    #[arg(long, global = true, default_value = "warn", value_name = "FILTER")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole closed-loop session, live, with a synthetic animal or a recording.
    Demo(demo::DemoArgs),
    /// Serve gRPC on loopback for rig control software.
    Serve(serve::ServeArgs),
    /// Play a recording into a service, exactly as an adapter would.
    Replay(replay::ReplayArgs),
    /// Calibrate threshold and range from a session's baseline or from traces.
    Calibrate(calibrate::CalibrateArgs),
    /// Recompute a session from its recorded inputs and compare every decision, bit for bit.
    Verify(verify::VerifyArgs),
    /// Show what a session holds: segments, gaps, rates, rewards, latency; and where it is damaged.
    Inspect(inspect::InspectArgs),
    /// Compare two sessions: the first frame in which they differ, in which stage, and by how much.
    Diff(diff::DiffArgs),
    /// Write a session as tables.
    Export(export::ExportArgs),
    /// Draw, list and convert sets of ROIs.
    Rois(rois::RoisArgs),
    /// Measure how long a frame takes on this computer, with a synthetic feed.
    Latency(latency::LatencyArgs),
    /// Whether this computer keeps what a rig demands of it, and what would help.
    Doctor(doctor::DoctorArgs),
    /// Check a configuration and print it with every default.
    Config(config::ConfigArgs),
    /// Run the valve simulator on a pseudo-terminal, for tests without a board.
    Valve(valve::ValveArgs),
}

/// Where a configuration comes from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigSource {
    /// The rig's configuration; without it every key has its default.
    #[arg(long, value_name = "RIG.TOML")]
    config: Option<PathBuf>,
    /// Override a key: task.trial_frames=150, 'ensembles.plus=[0,2,4]'. May be given again.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// How a command went, where it did not fail.
pub(crate) enum Outcome {
    /// As asked.
    Good,
    /// It ran, and what it found is not good: exit status 1.
    Bad,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    crate::service::share_one_heap();
    let cli = Cli::parse();
    let Ok(filter) = cli.log.parse::<tracing_subscriber::filter::Targets>() else {
        eprintln!("--log {}: expected error, warn, info, debug, trace, or a filter such as apical=debug", cli.log);
        return ExitCode::from(2);
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(filter).init();
    let json = cli.json;
    let done = match cli.command {
        Command::Demo(args) => demo::run(&args, json),
        Command::Serve(args) => serve::run(&args, json),
        Command::Replay(args) => replay::run(&args, json),
        Command::Calibrate(args) => calibrate::run(&args, json),
        Command::Verify(args) => verify::run(&args, json),
        Command::Inspect(args) => inspect::run(&args, json),
        Command::Diff(args) => diff::run(&args, json),
        Command::Export(args) => export::run(&args, json),
        Command::Rois(args) => rois::run(&args, json),
        Command::Config(args) => config::run(&args, json),
        Command::Doctor(args) => doctor::run(&args, json),
        Command::Latency(args) => latency::run(&args, json),
        Command::Valve(args) => valve::run(&args, json),
    };
    match done {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::from(1),
        Err(error) => {
            eprintln!("apical: {}", said(&error));
            ExitCode::from(1)
        }
    }
}

/// An error with its causes; a cause that the error above it has said already is not said again.
fn said(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Prints one JSON object on standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print_text(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Prints text on standard output. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print_text(text: &str) -> anyhow::Result<()> {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(anyhow::Error::from(e).context("standard output")),
        _ => Ok(()),
    }
}

/// tokio, with as many threads as the service needs beside the real-time one.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().thread_name("apical-tokio").build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let twice = crate::config::ConfigError::Read { path: "rig.toml".into(), source: missing() };
        assert_eq!(said(&anyhow::Error::from(twice).context("loading")), "loading: rig.toml: no such file");
        assert_eq!(said(&anyhow::Error::from(missing()).context("loading")), "loading: no such file");
    }
}
