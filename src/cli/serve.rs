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
        if json {
            print_json(&serde_json::json!({ "listen": address, "version": env!("CARGO_PKG_VERSION") }))?;
        } else {
            eprintln!("apical {} serves gRPC on {address}; Ctrl-C stops it", env!("CARGO_PKG_VERSION"));
        }
        serve(listener, Rig::new(config, RigMode::Live), told_to_stop()).await?;
        Ok(Outcome::Good)
    })
}

/// Completes on Ctrl-C, and on SIGTERM where there is one.
async fn told_to_stop() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupt.await;
}
