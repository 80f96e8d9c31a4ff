//! Frames through shared memory on the same machine, by [iceoryx2](https://iceoryx.io): written in place by their
//! producer, decided on in place.
//!
//! In, at the producer's end ([`SharedSender`]): a frame's samples, written into memory that both ends map. Out, at the
//! service's end ([`SharedReceiver`]): a [`SharedFrame`] that reads them there. Two iceoryx2 services bear one name:
//! one of publish and subscribe for the frames (`[u16]` with [`SharedFrameHeader`]), and an event that wakes the
//! service. The memory can be read and written by the user alone who runs both.
//!
//! The service tells the name when a stream's header asks for shared memory (`StreamAccepted.shared_memory`).
#![allow(unsafe_code, reason = "shared memory is taken as written, which any bits in it are")]

use std::mem::MaybeUninit;
#[cfg(target_os = "linux")]
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::{BackpressureAction, BackpressureInfo, LoanError, SendError};
use iceoryx2::prelude::{BackpressureStrategy, FileDescriptorBased, SignalHandlingMode};
use iceoryx2::sample_mut_uninit::SampleMutUninit;
use iceoryx2::service::port_factory::{event, publish_subscribe};

use crate::frame::{FrameMeta, PixelType, SharedFrame, SharedFrameHeader, SharedService, canonical};

/// Frames of one producer that may wait in the service's queue.
const QUEUE_FRAMES: usize = 16;
/// Frames that a producer may write at a time.
const LOANS: usize = 2;
/// The service, and a producer that has just replaced one that died.
const PRODUCERS: usize = 2;
/// Who wakes the service: its own threads, and producers.
const NOTIFIERS: usize = 1 + PRODUCERS;
/// How long a patient producer sleeps before it looks whether there is room again.
const PATIENCE: Duration = Duration::from_micros(50);
/// How often it looks whether a service that has not mapped its memory yet has done so: a second at least.
const LOOKS: u32 = 20_000;

/// Why frames cannot go through shared memory.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// iceoryx2 refused.
    #[error("shared memory {name}: {what}: {why}")]
    Refused {
        /// Name of the service.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What it said.
        why: String,
    },
    /// The producer's own frame has another size.
    #[error("shared memory: {got} samples, expected {expected}")]
    SampleCount {
        /// Samples that were to be sent.
        got: usize,
        /// Samples of a frame.
        expected: usize,
    },
    /// The service takes no frame for now: its queue is full, or nobody listens.
    #[error("shared memory: the service takes no frame")]
    NotTaken,
}

/// What a step of the way to iceoryx2 failed on.
fn refused<E: std::fmt::Debug>(name: &str, what: &'static str) -> impl FnOnce(E) -> SharedError {
    move |why| SharedError::Refused { name: name.to_owned(), what, why: format!("{why:?}") }
}

/// Both services of a name, as either end opens them.
struct Services {
    node: Node<SharedService>,
    frames: publish_subscribe::PortFactory<SharedService, [u16], SharedFrameHeader>,
    wake: event::PortFactory<SharedService>,
}

impl Services {
    /// Makes them, with room for `slots` frames at the service's end.
    fn create(name: &str, slots: usize) -> Result<Self, SharedError> {
        let node = node(name)?;
        let service = name.try_into().map_err(refused(name, "its name"))?;
        let frames = node
            .service_builder(&service)
            .publish_subscribe::<[u16]>()
            .user_header::<SharedFrameHeader>()
            .enable_safe_overflow(false)
            .subscriber_max_buffer_size(QUEUE_FRAMES)
            .subscriber_max_borrowed_samples(slots)
            .history_size(0)
            .max_subscribers(1)
            .max_publishers(PRODUCERS)
            .create()
            .map_err(refused(name, "making the service"))?;
        let wake = node
            .service_builder(&service)
            .event()
            .max_listeners(1)
            .max_notifiers(NOTIFIERS)
            .create()
            .map_err(refused(name, "making the event"))?;
        Ok(Self { node, frames, wake })
    }

    /// Opens what the service has made.
    fn open(name: &str) -> Result<Self, SharedError> {
        let node = node(name)?;
        let service = name.try_into().map_err(refused(name, "its name"))?;
        let frames = node
            .service_builder(&service)
            .publish_subscribe::<[u16]>()
            .user_header::<SharedFrameHeader>()
            .open()
            .map_err(refused(name, "opening the service"))?;
        let wake = node.service_builder(&service).event().open().map_err(refused(name, "opening the event"))?;
        Ok(Self { node, frames, wake })
    }
}

fn node(name: &str) -> Result<Node<SharedService>, SharedError> {
    NodeBuilder::new()
        // What both ends must agree on does not hang on a file that one of them may find.
        .config(&Config::default())
        // Signals are the program's own affair.
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create::<SharedService>()
        .map_err(refused(name, "making a node"))
}

/// The service's end. Every call belongs to one thread: then no lock in iceoryx2 is ever waited for.
#[derive(Debug)]
pub struct SharedReceiver {
    subscriber: Subscriber<SharedService, [u16], SharedFrameHeader>,
    listener: Listener<SharedService>,
    _node: Node<SharedService>,
}

/// Wakes a [`SharedReceiver`] that waits, from any thread.
#[derive(Debug)]
pub struct SharedWaker(Notifier<SharedService>);

impl SharedReceiver {
    /// Makes the services of this name; at most `slots` frames are lent at a time.
    ///
    /// # Errors
    /// The name is taken, or the system gives no shared memory.
    pub fn create(name: &str, slots: usize) -> Result<(Self, SharedWaker), SharedError> {
        let Services { node, frames, wake } = Services::create(name, slots)?;
        let subscriber = frames
            .subscriber_builder()
            .buffer_size(QUEUE_FRAMES)
            .create()
            .map_err(refused(name, "taking frames from it"))?;
        let listener = wake.listener_builder().create().map_err(refused(name, "listening to it"))?;
        let notifier = wake.notifier_builder().create().map_err(refused(name, "waking it"))?;
        Ok((Self { subscriber, listener, _node: node }, SharedWaker(notifier)))
    }

    /// The next frame that was published; `None` where there is none. A producer that has just come, or gone, costs the
    /// mapping of its memory.
    pub fn receive(&self) -> Option<SharedFrame> {
        // A producer that cannot be reached publishes nothing; others may.
        self.subscriber.receive().ok().flatten().map(SharedFrame::new)
    }

    /// Whether a frame waits.
    pub fn has_frames(&self) -> bool {
        self.subscriber.has_samples().unwrap_or(false)
    }

    /// Waits until somebody wakes it, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        self.poll(timeout);
        let _ = self.listener.try_wait(|_| {});
    }

    /// iceoryx2's own timed wait counts in the kernel's ticks, some milliseconds each.
    #[cfg(target_os = "linux")]
    fn poll(&self, timeout: Duration) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        // SAFETY: the listener has it open for as long as it is borrowed here.
        let line = unsafe { BorrowedFd::borrow_raw(self.listener.file_descriptor().native_handle()) };
        let timeout = Timespec::try_from(timeout).ok();
        // A signal ends it early, which costs a look.
        let _ = poll(&mut [PollFd::from_borrowed_fd(line, PollFlags::IN)], timeout.as_ref());
    }

    #[cfg(not(target_os = "linux"))]
    fn poll(&self, timeout: Duration) {
        let _ = self.listener.timed_wait(|_| {}, timeout);
    }
}

impl SharedWaker {
    /// Wakes it.
    pub fn wake(&self) {
        // A full queue wakes it as well.
        let _ = self.0.notify();
    }
}

/// The producer's end: an adapter's.
#[derive(Debug)]
pub struct SharedSender {
    publisher: Publisher<SharedService, [u16], SharedFrameHeader>,
    notifier: Notifier<SharedService>,
    name: String,
    samples: usize,
    patient: bool,
    _node: Node<SharedService>,
}

/// Memory for one frame, to be filled and published.
pub struct SharedLoan<'a> {
    sample: SampleMutUninit<SharedService, [MaybeUninit<u16>], SharedFrameHeader>,
    sender: &'a SharedSender,
}

impl SharedSender {
    /// Connects to the services of this name, for frames of `samples` pixels. A `patient` producer waits where the
    /// service's queue is full (back-pressure); another is told that the frame was not taken.
    ///
    /// # Errors
    /// No service of this name runs under the same user, or it has its producer.
    pub fn connect(name: &str, samples: usize, patient: bool) -> Result<Self, SharedError> {
        let Services { node, frames, wake } = Services::open(name)?;
        let strategy =
            if patient { BackpressureStrategy::RetryUntilDelivered } else { BackpressureStrategy::DiscardData };
        let mut builder = frames
            .publisher_builder()
            .initial_max_slice_len(samples)
            .max_loaned_samples(LOANS)
            .backpressure_strategy(strategy);
        if patient {
            builder = builder.set_backpressure_handler(|_: &BackpressureInfo| {
                std::thread::sleep(PATIENCE);
                BackpressureAction::Retry
            });
        }
        let publisher = builder.create().map_err(refused(name, "publishing to it"))?;
        let notifier = wake.notifier_builder().create().map_err(refused(name, "waking it"))?;
        // The service maps the memory when it looks for frames: before the first one comes.
        let _ = notifier.notify();
        Ok(Self { publisher, notifier, name: name.to_owned(), samples, patient, _node: node })
    }

    /// Publishes the frame that `write` writes, with what that says of it; `now_ns` is `CLOCK_MONOTONIC`.
    ///
    /// A patient producer that has filled the queue before the service had mapped its memory at all writes the frame
    /// again: iceoryx2 waits for a receiver only where it has one, and has let go of what it could not deliver.
    ///
    /// # Errors
    /// As [`SharedLoan::publish`], and what `write` says.
    pub fn send(
        &self,
        mut write: impl FnMut(&mut SharedLoan<'_>) -> Result<FrameMeta, SharedError>,
        now_ns: impl Fn() -> u64,
    ) -> Result<(), SharedError> {
        let mut looks = if self.patient { LOOKS } else { 0 };
        loop {
            let mut loan = self.loan()?;
            let meta = write(&mut loan)?;
            match loan.publish(&meta, now_ns()) {
                Err(SharedError::NotTaken) if looks > 0 => looks -= 1,
                result => return result,
            }
            std::thread::sleep(PATIENCE);
        }
    }

    /// Memory for a frame.
    ///
    /// # Errors
    /// Every piece is lent to the service ([`SharedError::NotTaken`]), or on loan already.
    pub fn loan(&self) -> Result<SharedLoan<'_>, SharedError> {
        let sample = self.publisher.loan_slice_uninit(self.samples).map_err(|e| match e {
            LoanError::OutOfMemory => SharedError::NotTaken,
            e => refused(&self.name, "memory for a frame")(e),
        })?;
        sample.user_header().writes.fetch_add(1, Ordering::AcqRel);
        Ok(SharedLoan { sample, sender: self })
    }
}

impl SharedLoan<'_> {
    /// Canonical samples, row-major, to be written; what is not written is an earlier frame's, or 0.
    pub fn samples_mut(&mut self) -> &mut [u16] {
        let samples = self.sample.payload_mut();
        // SAFETY: shared memory that the system gave as zeros, or that held an earlier frame; any bits are a `u16`.
        unsafe { &mut *(std::ptr::from_mut(samples) as *mut [u16]) }
    }

    /// Writes pixels as the microscope stores them.
    ///
    /// # Errors
    /// They are not a whole frame.
    pub fn fill(&mut self, payload: &[u8], pixel_type: PixelType, inverted: bool) -> Result<(), SharedError> {
        let (got, expected) = (payload.len() / pixel_type.size_bytes(), self.sender.samples);
        if got != expected {
            return Err(SharedError::SampleCount { got, expected });
        }
        canonical(payload, pixel_type, inverted, self.samples_mut());
        Ok(())
    }

    /// Publishes it, and wakes the service. `published_host_ns` is now, on `CLOCK_MONOTONIC`; of `meta`,
    /// `received_host_ns` is not read.
    ///
    /// # Errors
    /// The service is gone, or its queue is full ([`SharedError::NotTaken`]); a patient producer finds it full only
    /// where the service has not mapped its memory yet. Or iceoryx2 refuses for reasons of its own.
    pub fn publish(mut self, meta: &FrameMeta, published_host_ns: u64) -> Result<(), SharedError> {
        let header = self.sample.user_header_mut();
        header.index = meta.index;
        header.plane = meta.plane;
        header.channel = meta.channel;
        header.device_ns = meta.device_ns;
        header.z_um = meta.z_um.unwrap_or(f64::NAN);
        header.published_host_ns = published_host_ns;
        header.writes.fetch_add(1, Ordering::AcqRel);
        // SAFETY: as in `samples_mut`.
        let sample = unsafe { self.sample.assume_init() };
        let taken = sample.send();
        let _ = self.sender.notifier.notify();
        match taken {
            Ok(0) | Err(SendError::UnableToDeliver) => Err(SharedError::NotTaken),
            Ok(_) => Ok(()),
            Err(e) => Err(refused(&self.sender.name, "publishing a frame")(e)),
        }
    }
}
