//! How far what is durable lags behind what is published.

use std::collections::VecDeque;

use crate::proto::v1;

/// Inputs that are not durable whose age is known; the oldest are what counts.
const BEHIND_KEPT: usize = 1 << 16;

/// Watches how far what is durable lags behind what is published.
pub(super) struct DiskWatch {
    stall_ns: u64,
    /// Inputs that are not durable, with when they were published.
    behind: VecDeque<(u64, u64)>,
    /// The largest lag of a stall that lasts, in nanoseconds.
    stalled_ns: Option<u64>,
    /// Frames whose dropped pixels were announced so far.
    pub dropped: u64,
    /// Records whose loss was announced so far.
    pub lost: u64,
    /// Records were lost at the last look.
    pub recovers: bool,
}

impl DiskWatch {
    /// Of a session that is told of a lag above `stall_ns`.
    pub fn new(stall_ns: u64) -> Self {
        Self { stall_ns, behind: VecDeque::new(), stalled_ns: None, dropped: 0, lost: 0, recovers: false }
    }

    /// An input was published.
    pub fn published(&mut self, input_seq: u64, now_ns: u64) {
        // A disk that never answers again must not fill the memory; the oldest tells how long it has been.
        if self.behind.len() < BEHIND_KEPT {
            self.behind.push_back((input_seq, now_ns));
        }
    }

    /// For how long the oldest input waits that is not durable; 0 where none does.
    pub fn lag_ns(&self, now_ns: u64) -> u64 {
        self.behind.front().map_or(0, |(_, since_ns)| now_ns.saturating_sub(*since_ns))
    }

    /// The beginning or the end of a stall, with its length so far, in seconds.
    pub fn look(&mut self, now_ns: u64, durable_through: Option<u64>) -> Option<(v1::EventKind, f64)> {
        while self.behind.front().is_some_and(|(seq, _)| durable_through.is_some_and(|through| *seq <= through)) {
            self.behind.pop_front();
        }
        let lag_ns = self.lag_ns(now_ns);
        match self.stalled_ns {
            None if lag_ns > self.stall_ns => {
                self.stalled_ns = Some(lag_ns);
                Some((v1::EventKind::DiskStalled, lag_ns as f64 / 1e9))
            }
            Some(longest_ns) if lag_ns <= self.stall_ns => {
                self.stalled_ns = None;
                Some((v1::EventKind::DiskAnswers, longest_ns as f64 / 1e9))
            }
            Some(longest_ns) => {
                self.stalled_ns = Some(longest_ns.max(lag_ns));
                None
            }
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_lags_is_one_event_and_its_return_another() {
        let mut watch = DiskWatch::new(100);
        watch.published(1, 0);
        watch.published(2, 90);
        assert_eq!(watch.look(100, None), None);
        assert_eq!(watch.look(101, None), Some((v1::EventKind::DiskStalled, 101e-9)));
        assert_eq!(watch.look(150, None), None);
        // The first is durable now, and the second has not waited long.
        assert_eq!(watch.look(160, Some(1)), Some((v1::EventKind::DiskAnswers, 150e-9)));
        assert_eq!(watch.look(200, Some(2)), None);
        assert_eq!(watch.lag_ns(10_000), 0);
    }
}
