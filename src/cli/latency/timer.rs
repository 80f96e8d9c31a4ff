//! Waiting to some 60 us within a runtime of one thread, whose own timer counts in milliseconds.

use std::time::Duration;

use crate::engine::{Clock, HostClock};

/// What is left to the thread's own sleep.
const COARSE: Duration = Duration::from_millis(2);
/// How long it sleeps at a time; then the runtime sees to its sockets.
const SLICE: Duration = Duration::from_micros(200);

/// Waits until a time of the host's clock, in nanoseconds. The runtime works meanwhile, and at least once.
pub(super) async fn until(due_ns: u64) {
    loop {
        tokio::task::yield_now().await;
        let left = Duration::from_nanos(due_ns.saturating_sub(HostClock.now_ns()));
        if left.is_zero() {
            return;
        }
        match left.checked_sub(COARSE) {
            Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
            _ => std::thread::sleep(left.min(SLICE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_while_other_tasks_work() {
        let other = tokio::spawn(async { HostClock.now_ns() });
        for wait_ns in [0, 300_000, 5_000_000] {
            let due_ns = HostClock.now_ns() + wait_ns;
            until(due_ns).await;
            assert!(HostClock.now_ns() >= due_ns);
            assert!(other.is_finished());
        }
    }
}
