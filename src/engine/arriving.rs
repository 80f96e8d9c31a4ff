//! The frame that is arriving: whoever receives it fills a slot, and the real-time thread looks at the lines meanwhile.
//!
//! A slot belongs to one of the two at a time. The real-time thread never waits for it: where the other one has it,
//! there will be more to see soon. The other one waits for a glance of the real-time thread, some microseconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::FrameItem;
use crate::frame::FrameSlot;

/// Where the slot lies while more of its lines are waited for.
#[derive(Debug, Default)]
pub struct Arriving {
    item: Mutex<Option<FrameItem>>,
    /// How often lines have come.
    lines: AtomicU64,
}

impl Arriving {
    /// Leaves a slot here; lines of a frame that are in it may be looked at.
    pub fn put(&self, item: FrameItem) {
        let has_lines = matches!(&item, FrameItem::Pixels(slot) if slot.arrival.rows_px > 0);
        *self.lock() = Some(item);
        if has_lines {
            self.lines.fetch_add(1, Ordering::Release);
        }
    }

    /// Takes it back, to fill it or to hand it over.
    pub fn take(&self) -> Option<FrameItem> {
        self.lock().take()
    }

    /// How often lines have come so far.
    pub(super) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Acquire)
    }

    /// Shows the slot where it lies here; `None` where it does not, without waiting.
    pub(super) fn look<R>(&self, see: impl FnOnce(&FrameSlot) -> R) -> Option<R> {
        match &*self.try_lock()? {
            Some(FrameItem::Pixels(slot)) => Some(see(slot)),
            _ => None,
        }
    }

    /// Never sleeps on the lock: whom the real-time thread had put to sleep, it would have to wake.
    fn lock(&self) -> MutexGuard<'_, Option<FrameItem>> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            std::thread::yield_now();
        }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Option<FrameItem>>> {
        match self.item.try_lock() {
            Ok(guard) => Some(guard),
            // A glance that panicked has changed nothing.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Arrival, Geometry, PixelType};

    #[test]
    fn a_slot_is_seen_only_as_it_was_left() {
        const ROUNDS: usize = 20_000;
        let arriving = Arriving::default();
        let slot = FrameSlot::new(Geometry::new(4, 4), PixelType::U16);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut item = FrameItem::Pixels(Box::new(slot));
                for round in 0..ROUNDS {
                    if let FrameItem::Pixels(slot) = &mut item {
                        slot.arrival = Arrival { number: 1 + round as u64, rows_px: 1 + round % 4 };
                        slot.samples_mut().fill(round as u16);
                    }
                    arriving.put(item);
                    item = arriving.take().expect("nobody else takes it");
                }
                arriving.put(item);
            });
            let (mut last, mut seen) = (0, 0);
            while arriving.lines() <= ROUNDS as u64 {
                let Some((arrival, whole)) = arriving.look(|slot| {
                    let round = (slot.arrival.number - 1) as u16;
                    (slot.arrival, slot.samples().iter().all(|&sample| sample == round))
                }) else {
                    continue;
                };
                assert!(whole && arrival.number >= last, "{arrival:?} behind {last}");
                (last, seen) = (arrival.number, seen + 1);
            }
            assert!(seen > 0);
        });
        assert_eq!(arriving.look(|slot| slot.arrival.number), Some(ROUNDS as u64));
        assert!(arriving.take().is_some() && arriving.take().is_none());
        assert_eq!(arriving.lines(), 1 + ROUNDS as u64);
    }
}
