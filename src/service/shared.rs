//! Frames that come through shared memory: the session's end of it.
//!
//! The real-time thread itself takes them: nothing stands between the producer and the decision but the wake-up.
//! Slots circulate as for every other source; each keeps its frame until the journal, where it keeps pixels, has taken
//! it. Acknowledgements go out over the gRPC stream whose header asked for shared memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::engine::{Clock, FrameItem, FramePort, HostClock, Waker, shared_clock_ns};
use crate::frame::{FrameRefusal, FrameSlot, Geometry, PixelType, SharedFrame};
use crate::source::{SharedError, SharedReceiver};

/// Refusals whose words wait for the publisher.
const REFUSALS: usize = 64;

/// A session's frames in shared memory.
pub struct Shared {
    /// For the real-time thread.
    pub port: Box<dyn FramePort>,
    /// Wakes it.
    pub waker: Waker,
    /// Takes slots back.
    pub give_back: Arc<dyn Fn(FrameItem) + Send + Sync>,
    /// Why frames were refused, in the order in which they were.
    pub refusals: Consumer<FrameRefusal>,
}

struct Port {
    receiver: SharedReceiver,
    /// What `CLOCK_MONOTONIC` is ahead of the host's clock here, in nanoseconds.
    shared_ahead_ns: u64,
    /// Of a frame as it comes, and as it is decided on.
    geometry: Geometry,
    decided: Geometry,
    pixel_type: PixelType,
    returned: Consumer<FrameItem>,
    #[allow(clippy::vec_box, reason = "the box itself circulates; unpacking it would free it on the real-time thread")]
    empty: Vec<Box<FrameSlot>>,
    /// A frame waits for a slot: whoever gives one back must say so.
    starved: Arc<AtomicBool>,
    refusals: Producer<FrameRefusal>,
}

/// Makes the services of this name, with so many slots, of which each shows the upper `rows_px` rows of its frame.
///
/// # Errors
/// The name is taken, or the system gives no shared memory.
pub fn open(
    name: &str,
    geometry: Geometry,
    rows_px: usize,
    pixel_type: PixelType,
    slots: usize,
) -> Result<Shared, SharedError> {
    let (receiver, waker) = SharedReceiver::create(name, slots)?;
    let waker = Waker::new(move || waker.wake());
    let (returning, returned) = RingBuffer::new(slots);
    let (refusing, refusals) = RingBuffer::new(REFUSALS);
    let starved = Arc::new(AtomicBool::new(false));
    let decided = Geometry::new(rows_px, geometry.width_px);
    let port = Port {
        receiver,
        shared_ahead_ns: shared_clock_ns().saturating_sub(HostClock.now_ns()),
        geometry,
        decided,
        pixel_type,
        returned,
        empty: (0..slots).map(|_| Box::new(FrameSlot::for_shared(decided, pixel_type))).collect(),
        starved: Arc::clone(&starved),
        refusals: refusing,
    };
    let (returning, wake) = (Mutex::new(returning), waker.clone());
    let give_back = move |item| {
        // The ring has room for every slot that exists.
        let _ = returning.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        if starved.swap(false, Ordering::AcqRel) {
            wake.wake();
        }
    };
    Ok(Shared { port: Box::new(port), waker, give_back: Arc::new(give_back), refusals })
}

impl Port {
    fn take_back(&mut self) {
        while let Ok(item) = self.returned.pop() {
            if let FrameItem::Pixels(mut slot) = item {
                slot.give_up_shared();
                self.empty.push(slot);
            }
        }
    }

    /// What is handed over for a frame.
    fn item(&mut self, frame: SharedFrame) -> Option<FrameItem> {
        let mut meta = frame.meta();
        let (now_ns, published_ns) = (HostClock.now_ns(), meta.received_host_ns.checked_sub(self.shared_ahead_ns));
        // A producer that does not say when, or says nonsense, was heard just now.
        meta.received_host_ns = published_ns.filter(|&ns| ns > 0 && ns <= now_ns).unwrap_or(now_ns);
        let (got, expected) = (frame.samples().len(), self.geometry.count());
        if got != expected {
            let Geometry { height_px: rows, width_px: width } = self.geometry;
            // In shared memory a sample takes two bytes, whatever the microscope stores.
            let (index, pixel_type) = (meta.index, PixelType::U16);
            let refusal =
                FrameRefusal::PayloadLength { index, got: 2 * got, expected: 2 * expected, rows, width, pixel_type };
            // Only its words are lost where the publisher is far behind.
            let _ = self.refusals.push(refusal);
            return Some(FrameItem::Refused(meta, refusal.code()));
        }
        let mut slot = self.empty.pop()?;
        slot.take_shared(frame);
        slot.meta = meta;
        (slot.geometry, slot.pixel_type) = (self.decided, self.pixel_type);
        Some(FrameItem::Pixels(slot))
    }
}

impl FramePort for Port {
    fn fetch(&mut self, frames: &mut Producer<FrameItem>) {
        self.take_back();
        while !frames.is_full() {
            if self.empty.is_empty() {
                self.starved.store(self.receiver.has_frames(), Ordering::Release);
                // A slot that came back meanwhile woke nobody.
                self.take_back();
                if self.empty.is_empty() {
                    return;
                }
            }
            let Some(item) = self.receiver.receive().and_then(|frame| self.item(frame)) else { return };
            // There is room.
            let _ = frames.push(item);
        }
    }

    fn has_frames(&self) -> bool {
        !self.empty.is_empty() && self.receiver.has_frames()
    }

    fn wait(&self, timeout: Duration) {
        self.receiver.wait(timeout);
    }
}
