//! The host's monotonic clock, behind a door, so that everything above it can be run on a clock of a test's own.
//!
//! Three clocks are never mixed: the microscope's (`device_ns`), the host's monotonic one (`host_ns`, this), and wall
//! time, which is metadata.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// A monotonic clock in nanoseconds.
pub trait Clock {
    /// Nanoseconds since a moment that does not move.
    fn now_ns(&self) -> u64;
}

/// The host's clock; every instance counts from the same moment, the first use in the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostClock;

static START: OnceLock<Instant> = OnceLock::new();

impl Clock for HostClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one home of the host's clock")]
    fn now_ns(&self) -> u64 {
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1
    }
}

/// `CLOCK_MONOTONIC`, which every process of this machine sees alike, in nanoseconds; [`HostClock`] is this one,
/// counted from the first use in the process.
#[cfg(unix)]
pub fn shared_clock_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Elsewhere nobody shares a clock.
#[cfg(not(unix))]
pub fn shared_clock_ns() -> u64 {
    HostClock.now_ns()
}

/// A clock that stands where it was put; clones share it.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Puts the clock.
    pub fn set_ns(&self, now_ns: u64) {
        self.0.store(now_ns, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
