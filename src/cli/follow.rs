//! How long a growing recording is waited for: until it stands still for the configured time, or until Ctrl-C.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;

use super::play::Playable;
use super::serve::told_to_stop;
use crate::config::source::SourceConfig;
use crate::engine::{Clock, HostClock};
use crate::source::OpenOptions;

/// Waits for a file to grow.
#[derive(Debug)]
pub(super) struct Follow {
    poll: Duration,
    /// `None`: only when stopped.
    idle: Option<Duration>,
    last_growth_ns: u64,
    stopped: Arc<AtomicBool>,
}

impl Follow {
    /// Waits as configured. From now on Ctrl-C ends the recording, not the program.
    pub fn new(config: &SourceConfig) -> anyhow::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = runtime.block_on(async { told_to_stop() }).context("listening for Ctrl-C")?;
        let listen = move || {
            runtime.block_on(stop);
            flag.store(true, Ordering::Relaxed);
        };
        std::thread::Builder::new().name("apical-signal".to_owned()).spawn(listen)?;
        let idle = (config.idle_timeout_s > 0.0).then(|| Duration::from_secs_f64(config.idle_timeout_s));
        let poll = Duration::from_secs_f64(config.poll_interval_ms / 1e3);
        Ok(Self { poll, idle, last_growth_ns: HostClock.now_ns(), stopped })
    }

    /// Whether somebody said that it is enough.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// The file is growing.
    pub fn has_grown(&mut self) {
        self.last_growth_ns = HostClock.now_ns();
    }

    /// When to look again; `None` when there is nothing to wait for.
    pub fn look_again_in(&self) -> Option<Duration> {
        let still = Duration::from_nanos(HostClock.now_ns().saturating_sub(self.last_growth_ns));
        let idle = self.idle.is_some_and(|idle| still >= idle);
        (!idle && !self.is_stopped()).then_some(self.poll)
    }

    /// Opens a recording that is growing, or that is yet to come.
    pub fn open(&mut self, path: &Path, options: &OpenOptions) -> anyhow::Result<Playable> {
        let mut told = String::new();
        let mut bytes = None;
        loop {
            let wait = self.look_again_in();
            let reason = match Playable::follow(path, options, wait.is_none())? {
                Ok(playable) => {
                    self.has_grown();
                    return Ok(playable);
                }
                Err(reason) => reason,
            };
            let now = std::fs::metadata(path).ok().map(|m| m.len());
            if std::mem::replace(&mut bytes, now) != now {
                self.has_grown();
            }
            if told.is_empty() {
                eprintln!("waiting for {}: {reason}; Ctrl-C ends it", path.display());
                told = reason;
            }
            std::thread::sleep(wait.unwrap_or_default());
        }
    }
}
