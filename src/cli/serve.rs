//! `apical serve`: the service, until it is told to stop.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{ConfigSource, Outcome, print_json, runtime};
use crate::config::load_text;
use crate::journal::{ResumePoint, SessionFiles, resume};
use crate::service::{Listeners, Rig, RigMode, ServiceError, run as serve};

/// Arguments of `apical serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Go on with a session that a service left without ending it: as its next segment, with its own configuration,
    /// as soon as its stream comes again.
    #[arg(long = "continue", value_name = "DIR")]
    continued: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &ServeArgs, json: bool) -> anyhow::Result<Outcome> {
    let point = match &args.continued {
        None => None,
        Some(directory) => Some(find_point(directory)?),
    };
    let config = match &point {
        // The rig's own, where the command line names none.
        Some(point) if args.source.config.is_none() => load_text(&point.head.config_toml, &args.source.set)?,
        _ => args.source.load(&[])?,
    };
    if let Some(point) = &point {
        say_point(point);
    }
    runtime()?.block_on(async {
        let listeners = Listeners::bind(&config.service).await.map_err(|error| match error {
            ServiceError::Socket { .. } => anyhow::Error::from(error),
            error => anyhow::Error::from(error).context(config.service.listen.to_string()),
        })?;
        let address = listeners.tcp.local_addr()?;
        let socket = Some(config.service.socket.clone()).filter(|socket| !socket.as_os_str().is_empty());
        // Before anybody learns the address: whoever knows it may stop the service.
        let stop = told_to_stop()?;
        let continued = point.as_ref().map(|point| {
            serde_json::json!({
                "session_id": point.head.session_id,
                "segment": point.head.segment,
                "last_input_seq": point.last_input_seq,
                "snapshot_input_seq": point.snapshot_seq,
                "inputs_recomputed": point.recomputed,
                "triggers_unknown": point.continuation.waiting.len(),
                "pulses_assumed": point.pulses_assumed,
                "template_lost": point.continuation.template_lost,
            })
        });
        let rig = match point {
            Some(point) => Rig::continuing(config, point),
            None => Rig::new(config, RigMode::Live),
        };
        if json {
            let version = env!("CARGO_PKG_VERSION");
            print_json(
                &serde_json::json!({ "listen": address, "socket": socket, "version": version, "continued": continued }),
            )?;
        } else {
            let beside = socket.map_or_else(String::new, |socket| format!(" and {}", socket.display()));
            eprintln!("apical {} serves gRPC on {address}{beside}; Ctrl-C stops it", env!("CARGO_PKG_VERSION"));
        }
        serve(listeners, rig, stop).await?;
        Ok(Outcome::Good)
    })
}

fn find_point(directory: &Path) -> anyhow::Result<ResumePoint> {
    let files = SessionFiles::open(directory)?;
    resume(&files).with_context(|| format!("--continue {}", directory.display()))
}

/// What the operator must know of the session that goes on.
fn say_point(point: &ResumePoint) {
    let last = point.last_input_seq.map_or("no input".to_owned(), |seq| format!("input {seq}"));
    eprintln!(
        "session {} goes on as segment {}: the last durable input is {last}; {} inputs behind the last snapshot \
         recomputed",
        point.head.session_id, point.head.segment, point.recomputed
    );
    let waiting = point.continuation.waiting.len();
    if waiting > 0 {
        eprintln!("triggers that were on their way, unknown and counted as delivered: {waiting}");
    }
    if point.pulses_assumed > 0 {
        eprintln!("pulses that count as delivered although nothing says that they were: {}", point.pulses_assumed);
    }
    if point.continuation.template_lost {
        eprintln!("the baseline's template had not reached the disk: take another baseline");
    }
    eprintln!("it waits for its stream, with the same header as before");
}

/// Listens for Ctrl-C, and for SIGTERM where there is one; completes when one comes. They are heard from the moment of
/// the call, not only once the answer is awaited.
pub(super) fn told_to_stop() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
    }
    #[cfg(windows)]
    {
        let mut interrupt = tokio::signal::windows::ctrl_c()?;
        Ok(async move {
            let _ = interrupt.recv().await;
        })
    }
}
