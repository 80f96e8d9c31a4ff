//! `apical serve`: the service, until it is told to stop.

use anyhow::Context;
use clap::Args;

use super::{ConfigSource, Outcome, print_json, runtime};
use crate::service::{Rig, RigMode, bind, run as serve};

/// Arguments of `apical serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    source: ConfigSource,
}

/// Runs the command.
pub(super) fn run(args: &ServeArgs, json: bool) -> anyhow::Result<Outcome> {
    let config = args.source.load(&[])?;
    runtime()?.block_on(async {
        let listener = bind(config.service.listen).await.with_context(|| config.service.listen.to_string())?;
        let address = listener.local_addr()?;
        // Before anybody learns the address: whoever knows it may stop the service.
        let stop = told_to_stop()?;
        if json {
            print_json(&serde_json::json!({ "listen": address, "version": env!("CARGO_PKG_VERSION") }))?;
        } else {
            eprintln!("apical {} serves gRPC on {address}; Ctrl-C stops it", env!("CARGO_PKG_VERSION"));
        }
        serve(listener, Rig::new(config, RigMode::Live), stop).await?;
        Ok(Outcome::Good)
    })
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
