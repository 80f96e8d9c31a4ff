//! Frames through shared memory: decided on where they were written, with the same results as any other; what a
//! producer may do wrong; and that taking one costs no memory.
#![cfg(all(feature = "shm", unix))]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use apical::engine::{Engine, Input, shared_clock_ns};
use apical::frame::{FrameMeta, FrameSlot, Geometry, PixelType, SharedFrame, SharedFrameHeader, SharedService};
use apical::journal::{JournalRecord, SessionFiles};
use apical::proto::v1::{self, FrameVerdict};
use apical::register::FitVerdict;
use apical::source::{SharedLoan, SharedReceiver, SharedSender};
use common::counting::{Counting, count};
use common::service::{Service, Stream, frame, header, verified};
use common::{SIDE_PX, config, frames, shape};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PIXELS: usize = SIDE_PX * SIDE_PX;

fn shared_header() -> v1::StreamHeader {
    v1::StreamHeader { shared_memory: true, ..header() }
}

fn publish(sender: &SharedSender, slot: &FrameSlot) {
    let mut loan = sender.loan().expect("memory");
    loan.samples_mut().copy_from_slice(slot.samples());
    loan.publish(&slot.meta, shared_clock_ns()).expect("the service takes it");
}

/// A name that no other test has.
fn name(of: &str) -> String {
    format!("apical/test/{}/{of}", std::process::id())
}

/// The samples of every decided frame of a session.
fn samples_of(directory: &std::path::Path) -> Vec<(u64, Vec<u64>)> {
    let mut found = Vec::new();
    SessionFiles::open(directory)
        .expect("a session")
        .read(|record| {
            if let JournalRecord::Decision(decision) = record
                && !decision.f_counts.is_empty()
            {
                let bits = decision.f_counts.iter().map(|f| f.to_bits()).collect();
                found.push((decision.frame_index, bits));
            }
        })
        .expect("it is whole");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_in_shared_memory_is_decided_as_any_other() {
    let config = config(&["engine.overload=every", "record.frames=all", "record.frames_queue=400"]);
    let (rois, slots) = frames(&config, 300);
    let mut results = Vec::new();
    for header in [header(), shared_header()] {
        let shared = header.shared_memory;
        let mut service = Service::start(config.clone()).await;
        let mut stream = service.open(&rois, header).await;
        assert_eq!(stream.accepted.shared_memory.is_empty(), !shared);
        let command = service.header();
        service.control.start_baseline(v1::StartBaselineRequest { command }).await.expect("it starts");
        let sender = shared.then(|| SharedSender::connect(&stream.accepted.shared_memory, PIXELS, true).expect("room"));
        for slot in &slots {
            match &sender {
                Some(sender) => publish(sender, slot),
                None => stream.push(frame(slot)).await,
            }
            let ack = stream.ack().await;
            assert_eq!((ack.index, ack.verdict()), (slot.meta.index, FrameVerdict::Decided));
        }
        if shared {
            for entry in std::fs::read_dir("/dev/shm").expect("a directory").flatten() {
                // Frames are the one thing there that is larger than a page or two.
                let found = entry.metadata().expect("it is there");
                let mode = found.permissions().mode() & 0o777;
                let is_frames = entry.file_name().to_string_lossy().starts_with("iox2_") && found.len() > 100_000;
                assert!(!is_frames || mode == 0o600, "{entry:?} {mode:o}");
            }
        }
        let directory = service.stop_session().await;
        let report = verified(&directory);
        assert_eq!(report.frames_from_pixels, 300, "recomputed from pixels");
        results.push(samples_of(&directory));
        service.end().await;
    }
    assert_eq!(results[0].len(), 300);
    assert!(results[0] == results[1], "the same F, bit for bit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_producer_does_wrong_is_answered_and_the_session_lives() {
    let config = config(&["engine.overload=every"]);
    let (rois, slots) = frames(&config, 6);
    let mut service = Service::start(config).await;
    let mut stream = service.open(&rois, shared_header()).await;
    let name = stream.accepted.shared_memory.clone();
    let small = SharedSender::connect(&name, 100, true).expect("room");
    small.loan().expect("memory").publish(&FrameMeta::default(), 0).expect("it is taken");
    let ack = stream.ack().await;
    assert_eq!(ack.verdict(), FrameVerdict::Refused);
    assert_eq!(ack.reason, format!("frame 0: 200 bytes, expected {} for 96 x 96 uint16", 2 * PIXELS));
    drop(small);
    let sender = SharedSender::connect(&name, PIXELS, true).expect("room");
    for slot in &slots[..3] {
        publish(&sender, slot);
        assert_eq!(stream.ack().await.verdict(), FrameVerdict::Decided);
    }
    publish(&sender, &slots[1]);
    let ack = stream.ack().await;
    assert_eq!((ack.index, ack.verdict()), (1, FrameVerdict::Refused));
    // A frame in a message, where frames come through memory.
    stream.push(frame(&slots[3])).await;
    let error = stream.answers.message().await.expect_err("it is refused");
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("shared memory"), "{error}");
    drop((stream, sender));
    // The same stream, opened again, goes on.
    let mut stream = Stream::open(service.channel.clone(), shared_header()).await.expect("accepted");
    assert_eq!((stream.accepted.next_index, &stream.accepted.shared_memory), (3, &name));
    let sender = SharedSender::connect(&name, PIXELS, true).expect("room");
    publish(&sender, &slots[3]);
    assert_eq!(stream.ack().await.verdict(), FrameVerdict::Decided);
    verified(&service.stop_session().await);
    service.end().await;
}

/// More frames than the queue holds, before the service looks for the first time.
#[test]
fn a_patient_producer_waits_for_a_service_that_has_not_mapped_its_memory() {
    let name = name("early");
    let (receiver, _waker) = SharedReceiver::create(&name, 4).expect("shared memory");
    let producer = std::thread::spawn({
        let name = name.clone();
        move || {
            let sender = SharedSender::connect(&name, PIXELS, true).expect("room");
            for index in 0..40 {
                let write = |loan: &mut SharedLoan<'_>| {
                    loan.samples_mut().fill(index as u16);
                    Ok(FrameMeta { index, ..FrameMeta::default() })
                };
                sender.send(write, shared_clock_ns).expect("it is taken in the end");
            }
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    let mut slot = FrameSlot::for_shared(Geometry::new(SIDE_PX, SIDE_PX), PixelType::U16);
    for index in 0..40 {
        let frame = std::iter::repeat_with(|| receiver.receive()).flatten().next().expect("it comes");
        slot.take_shared(frame);
        assert_eq!((slot.meta.index, slot.samples()[PIXELS - 1]), (index, index as u16));
        slot.give_up_shared();
    }
    producer.join().expect("all were taken");
}

#[test]
fn a_frame_that_changes_while_it_is_read_is_doubted() {
    let config = config(&[]);
    let (rois, slots) = frames(&config, 3);
    let mut engine = Engine::new(&config, &rois, &shape(), 0).expect("an engine");
    let name = name("changed");
    let (receiver, _waker) = SharedReceiver::create(&name, 4).expect("shared memory");
    let sender = SharedSender::connect(&name, PIXELS, true).expect("room");
    let mut taken = FrameSlot::for_shared(Geometry::new(SIDE_PX, SIDE_PX), PixelType::U16);
    for (slot, changes) in slots.iter().zip([false, true, false]) {
        let mut loan = sender.loan().expect("memory");
        loan.samples_mut().copy_from_slice(slot.samples());
        let first = loan.samples_mut().as_mut_ptr();
        loan.publish(&slot.meta, 0).expect("there is room");
        taken.take_shared(receiver.receive().expect("it came"));
        if changes {
            // The buffer is filled anew while the frame is read.
            // SAFETY: the sender lives, and with it the memory; nobody reads it at this moment.
            unsafe { std::slice::from_raw_parts_mut(first, PIXELS) }.fill(77);
        }
        let decision = engine.step(&Input::Frame(&taken)).decision;
        assert_eq!(decision.registration.verdict == FitVerdict::Changed, changes, "frame {}", slot.meta.index);
        assert_eq!(decision.doubted(), changes);
        taken.give_up_shared();
    }
}

/// A frame that was published and received, and where its producer can still reach its header and samples.
fn published(of: &str, samples: &[u16], writes: u64) -> (SharedFrame, *const SharedFrameHeader, *mut u16) {
    let config = iceoryx2::config::Config::default();
    let node = iceoryx2::node::NodeBuilder::new().config(&config).create::<SharedService>().expect("a node");
    let service = node
        .service_builder(&name(of).as_str().try_into().expect("a name"))
        .publish_subscribe::<[u16]>()
        .user_header::<SharedFrameHeader>()
        .create()
        .expect("a service");
    let publisher = service.publisher_builder().initial_max_slice_len(samples.len()).create().expect("a producer");
    let subscriber = service.subscriber_builder().create().expect("the other end");
    let mut sample = publisher.loan_slice_uninit(samples.len()).expect("memory").write_from_slice(samples);
    *sample.user_header_mut().writes.get_mut() = writes;
    let header = std::ptr::from_ref(sample.user_header());
    let first = sample.payload_mut().as_mut_ptr();
    sample.send().expect("there is room");
    let frame = SharedFrame::new(subscriber.receive().expect("it is connected").expect("it came"));
    // The producer's mapping stays where it is as long as the producer lives.
    std::mem::forget((publisher, node));
    (frame, header, first)
}

#[test]
fn a_producer_that_changes_its_frame_is_found_out_whether_it_counts_or_not() {
    let samples: Vec<u16> = (0..PIXELS).map(|k| (k * 7_919 % 1_009) as u16).collect();
    let (frame, header, _) = published("counted", &samples, 2);
    assert!(frame.samples() == samples && !frame.is_changed());
    // SAFETY: the producer's mapping lives; the count is atomic.
    unsafe { (*header).writes.fetch_add(1, Ordering::AcqRel) };
    assert!(frame.is_changed());
    let (frame, _, first) = published("not-counted", &samples, 2);
    // An eighth of the rows, as a producer leaves them that fills its buffer anew too early.
    for k in 0..PIXELS / 8 {
        // SAFETY: the producer's mapping lives, and nobody reads it at this moment.
        unsafe { *first.add(k) ^= 0x0155 };
    }
    assert!(frame.is_changed());
    let (frame, ..) = published("still-writing", &samples, 3);
    assert!(frame.is_changed());
}

/// A producer in a process of its own; it runs until it is killed.
#[test]
#[ignore = "the producer of a_producer_that_was_killed_is_replaced"]
fn producer() {
    let Ok(name) = std::env::var("APICAL_TEST_SHARED") else { return };
    let config = config(&[]);
    let (_, slots) = frames(&config, 1);
    let sender = SharedSender::connect(&name, PIXELS, false).expect("room");
    for index in 0.. {
        let mut loan = sender.loan().expect("memory");
        loan.samples_mut().copy_from_slice(slots[0].samples());
        let meta = FrameMeta { index, ..FrameMeta::default() };
        let _ = loan.publish(&meta, shared_clock_ns());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_was_killed_is_replaced() {
    let config = config(&["engine.overload=every", "engine.gap_periods=0.0"]);
    let (rois, slots) = frames(&config, 1);
    let mut service = Service::start(config).await;
    let mut stream = service.open(&rois, shared_header()).await;
    let name = stream.accepted.shared_memory.clone();
    let mut last = 0;
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "producer", "--ignored"])
            .env("APICAL_TEST_SHARED", &name)
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut decided = 0;
        while decided < 20 {
            let ack = stream.ack().await;
            decided += u32::from(ack.verdict() == FrameVerdict::Decided || ack.index <= last);
            last = last.max(ack.index);
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
    }
    let sender = SharedSender::connect(&name, PIXELS, true).expect("a dead producer keeps no place");
    let mut slot = slots[0].clone();
    slot.meta.index = last + 1_000;
    publish(&sender, &slot);
    loop {
        let ack = stream.ack().await;
        if ack.index == slot.meta.index {
            assert_eq!(ack.verdict(), FrameVerdict::Decided);
            break;
        }
    }
    verified(&service.stop_session().await);
    service.end().await;
}

#[test]
fn taking_a_frame_allocates_nothing() {
    let name = name("allocations");
    let (receiver, _waker) = SharedReceiver::create(&name, 4).expect("shared memory");
    let sender = SharedSender::connect(&name, PIXELS, true).expect("room");
    let mut slot = FrameSlot::for_shared(Geometry::new(SIDE_PX, SIDE_PX), PixelType::U16);
    let mut allocated = 0;
    for index in 0..1_000 {
        let loan = sender.loan().expect("memory");
        loan.publish(&FrameMeta { index, ..FrameMeta::default() }, 0).expect("there is room");
        let before = count();
        receiver.wait(std::time::Duration::from_secs(1));
        slot.take_shared(receiver.receive().expect("it came"));
        assert!(!slot.is_changed());
        slot.give_up_shared();
        // The first frame maps the producer's memory.
        allocated += if index == 0 { 0 } else { count() - before };
    }
    assert_eq!(allocated, 0);
}
