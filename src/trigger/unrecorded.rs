//! Pulses that only memory knows of: as many as a crash could make forgotten.
//!
//! In: what was allowed, and how far the record is durable. Out: whether another pulse may be sent. A host that dies
//! takes the last moments of the record with it; whoever goes on with the session counts
//! `limits.max_unrecorded_pulses` as delivered, and that is enough only if there were never more. So with that many
//! on their way to the disk the next one is refused, however long the disk takes.
//!
//! Cost: a few nanoseconds a reward, no allocation after construction.

use std::collections::VecDeque;

use super::{LimitReason, TriggerId};

/// Tells the number of the last input that is durable, with all before it; `None` before the first.
pub type DurableThrough = Box<dyn Fn() -> Option<u64> + Send>;

struct Sent {
    id: TriggerId,
    /// The input that records that it was allowed; none until that was taken.
    input_seq: Option<u64>,
}

/// Counts the pulses that are not in the durable record.
pub struct Unrecorded {
    max: u32,
    durable_through: DurableThrough,
    sent: VecDeque<Sent>,
}

impl Unrecorded {
    /// At most `max` pulses that are not durable.
    pub fn new(max: u32, durable_through: DurableThrough) -> Self {
        Self { max, durable_through, sent: VecDeque::with_capacity(max as usize) }
    }

    /// Why another pulse may not be sent now; nothing if it may.
    pub fn refuses(&mut self) -> Option<LimitReason> {
        let durable = (self.durable_through)();
        let is_durable = |sent: &Sent| sent.input_seq.is_some_and(|seq| durable.is_some_and(|through| seq <= through));
        while self.sent.front().is_some_and(is_durable) {
            self.sent.pop_front();
        }
        let unrecorded = self.sent.len() as u32;
        (unrecorded >= self.max).then_some(LimitReason::Unrecorded { unrecorded, max: self.max })
    }

    /// A pulse was allowed.
    pub fn sent(&mut self, id: TriggerId) {
        if self.sent.len() < self.sent.capacity() {
            self.sent.push_back(Sent { id, input_seq: None });
        }
    }

    /// The input that records that a pulse was allowed.
    pub fn recorded_as(&mut self, id: TriggerId, input_seq: u64) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.id == id) {
            sent.input_seq = Some(input_seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn no_more_pulses_are_unrecorded_than_a_crash_may_make_forgotten() {
        let durable = Arc::new(AtomicU64::new(0));
        let through = Arc::clone(&durable);
        let mut pulses = Unrecorded::new(2, Box::new(move || Some(through.load(Ordering::Relaxed))));
        let id = |sequence| TriggerId { segment: 0, sequence };
        for k in 0..2 {
            assert_eq!(pulses.refuses(), None);
            pulses.sent(id(k));
        }
        let full = Some(LimitReason::Unrecorded { unrecorded: 2, max: 2 });
        assert_eq!(pulses.refuses(), full, "neither verdict is an input yet");
        pulses.recorded_as(id(0), 5);
        durable.store(4, Ordering::Relaxed);
        assert_eq!(pulses.refuses(), full, "the verdict is input 5");
        durable.store(5, Ordering::Relaxed);
        assert_eq!(pulses.refuses(), None);
        pulses.sent(id(2));
        assert_eq!(pulses.refuses(), full, "the second has not become an input");
    }

    #[test]
    fn without_a_durable_input_nothing_is_recorded() {
        let mut pulses = Unrecorded::new(1, Box::new(|| None));
        let id = TriggerId { segment: 0, sequence: 0 };
        pulses.sent(id);
        pulses.recorded_as(id, 0);
        assert_eq!(pulses.refuses(), Some(LimitReason::Unrecorded { unrecorded: 1, max: 1 }));
    }
}
