//! Disks that misbehave under a live service, as a process of its own: one that stalls for two seconds, and one that is
//! full. Decisions go on, what is not durable is shown and announced, pixels go first, and nothing that fits is lost.
#![cfg(target_os = "linux")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use apical::config::to_toml;
use apical::journal::{SessionFiles, VerifyOptions, VerifyReport, verify};
use apical::proto::v1::events_service_client::EventsServiceClient;
use apical::proto::v1::{self, EventKind, FrameVerdict};
use common::process::{Operator, Process};
use common::service::{Stream, frame, header};
use common::{config, frames};

/// The rig of these tests, writing into `parent`.
fn rig(folder: &Path, parent: &Path, more: &[&str]) -> PathBuf {
    let directory = format!("record.directory={:?}", parent.display().to_string());
    let mut set = vec!["service.listen=127.0.0.1:0", "engine.gap_periods=0", "record.report=false", &directory];
    set.extend(more);
    let path = folder.join("rig.toml");
    std::fs::write(&path, to_toml(&config(&set))).expect("it is written");
    path
}

/// The first event of a kind; the stream of events is read from the first one on.
async fn until(process: &Process, kind: EventKind) -> v1::SubscribeEventsResponse {
    let mut client = EventsServiceClient::new(process.channel().await);
    let q = v1::SubscribeEventsRequest { from_event_seq: 0 };
    let mut events = client.subscribe_events(q).await.expect("events").into_inner();
    let wait = async {
        loop {
            let event = events.message().await.expect("the stream lives").expect("it goes on");
            if event.kind() == kind {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("no {kind:?}"))
}

fn verified(directory: &Path) -> VerifyReport {
    let files = SessionFiles::open(directory).expect("a session");
    let report = verify(&files, &VerifyOptions::default()).expect("it can be verified");
    assert_eq!((report.differences, &report.damage[..]), (0, &[][..]), "{:?}", report.first_difference);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stalls_for_two_seconds_delays_no_decision_and_is_an_event() {
    let folder = tempfile::tempdir().expect("a directory");
    let shim = folder.path().join("stall.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shim/stall.c");
    let built = Command::new("gcc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).args([source, "-ldl"]).status();
    assert!(built.is_ok_and(|status| status.success()), "gcc is a prerequisite");
    let stall = folder.path().join("stall");
    let rig = rig(folder.path(), folder.path(), &["record.frames=\"all\"", "record.frames_queue=16"]);
    let environment = [("LD_PRELOAD", shim.as_path()), ("APICAL_STALL", stall.as_path())];
    let process = Process::start_with(&rig, None, &environment);
    let (rois, slots) = frames(&config(&[]), 300);
    let mut operator = Operator::new(process.channel().await);
    operator.create(&rois).await;
    let mut stream = Stream::open(process.channel().await, header()).await.expect("accepted");
    let (mut largest, mut behind) = (0, 0);
    for (k, slot) in slots.iter().enumerate() {
        match k {
            20 => std::fs::write(&stall, "2000").expect("written"),
            // The two files wait for one sync each; no later one does.
            60 => std::fs::remove_file(&stall).expect("removed"),
            _ => {}
        }
        let ack = stream.send(frame(slot)).await;
        assert_eq!(ack.verdict(), FrameVerdict::Decided, "frame {k}: {}", ack.reason);
        largest = largest.max(ack.delay_ns);
        behind = behind.max(ack.decided_through - ack.durable_through.unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(behind > 100, "the acknowledgements show what is not durable: {behind}");
    let stalled = until(&process, EventKind::DiskStalled).await;
    assert!((0.1..2.0).contains(&stalled.value), "{stalled:?}");
    let answers = until(&process, EventKind::DiskAnswers).await;
    assert!((1.5..10.0).contains(&answers.value), "{answers:?}");
    println!("largest delay of a decision while the disk stalled: {} us", largest / 1_000);
    let state = operator.control.get_state(v1::GetStateRequest {}).await.expect("a state").into_inner();
    assert_eq!(state.records_lost, 0);
    assert!(state.pixels_dropped > 100, "only so many frames may wait: {}", state.pixels_dropped);
    assert_eq!(until(&process, EventKind::PixelsDropped).await.detail, "the disk is too slow or full for the pixels");
    let directory = operator.stop().await;
    let report = verified(&directory);
    assert_eq!(report.frames_compared, 300);
    assert!(report.frames_from_pixels >= 20 && report.frames_from_pixels < 300, "{}", report.frames_from_pixels);
    assert!(report.unfinished.is_empty());
    process.kill();
}

/// So many manual rewards, further apart than the limits want; what is counted then.
async fn rewards(operator: &mut Operator, count: usize) -> v1::SessionCounters {
    for _ in 0..count {
        operator.reward().await;
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    let state = operator.control.get_state(v1::GetStateRequest {}).await.expect("a state").into_inner();
    state.counters.expect("counters")
}

/// A file system of two megabytes; none where the system does not let one be made.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(at).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_delays_no_decision_and_everything_that_waits_is_written_when_there_is_room() {
    let folder = tempfile::tempdir().expect("a directory");
    let Some(disk) = SmallDisk::mount(&folder.path().join("small")) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 1_200_000]).expect("there is room");
    let rig = rig(folder.path(), &disk.0, &[]);
    let process = Process::start(&rig, None);
    let (rois, slots) = frames(&config(&[]), 200);
    let mut operator = Operator::new(process.channel().await);
    operator.create(&rois).await;
    let mut stream = Stream::open(process.channel().await, header()).await.expect("accepted");
    let process = std::sync::Arc::new(process);
    let watching = std::sync::Arc::clone(&process);
    let stalled = tokio::spawn(async move { until(&watching, EventKind::DiskStalled).await });
    let (mut index, mut more) = (0, 300);
    let mut last = v1::Ack::default();
    // Until the disk is said to be behind, and then on.
    while more > 0 {
        let mut message = frame(&slots[index as usize % slots.len()]);
        (message.index, message.device_ns) = (index, index * 33_333_333);
        last = stream.send(message).await;
        assert_eq!(last.verdict(), FrameVerdict::Decided, "frame {index}: {}", last.reason);
        (index, more) = (index + 1, more - u64::from(stalled.is_finished()));
    }
    stalled.await.expect("it did not panic");
    assert!(last.decided_through - last.durable_through.unwrap_or(0) >= 300);
    let durable = last.durable_through.expect("something is durable");
    // A crash now would find everything up to there.
    let files = SessionFiles::open(&disk.0.join("session")).expect("it opens");
    assert!(files.last_input_seq() >= Some(durable) && files.damage().is_empty(), "{:?}", files.damage());
    let state = operator.control.get_state(v1::GetStateRequest {}).await.expect("a state").into_inner();
    assert_eq!((state.records_lost, state.segment), (0, 0));
    // A crash now would also make rewards forgotten, so there are three and no more.
    let sent = rewards(&mut operator, 5).await;
    assert_eq!((sent.rewards_sent, sent.rewards_limited), (3, 2));
    assert!(until(&process, EventKind::RewardLimited).await.detail.contains("limits.max_unrecorded_pulses"));
    std::fs::remove_file(&ballast).expect("removed");
    until(&process, EventKind::DiskAnswers).await;
    let sent = rewards(&mut operator, 1).await;
    assert_eq!((sent.rewards_sent, sent.rewards_limited), (4, 2));
    drop(stream);
    let directory = operator.stop().await;
    let report = verified(&directory);
    assert_eq!((report.frames_compared, report.unfinished.len()), (index, 0));
    std::sync::Arc::into_inner(process).expect("nobody else has it").kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stays_full_leaves_a_session_that_goes_on_elsewhere_from_what_was_durable() {
    let folder = tempfile::tempdir().expect("a directory");
    let Some(disk) = SmallDisk::mount(&folder.path().join("small")) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let rig = rig(folder.path(), &disk.0, &["record.frames=\"all\""]);
    let process = Process::start(&rig, None);
    let (rois, slots) = frames(&config(&[]), 400);
    let mut operator = Operator::new(process.channel().await);
    operator.create(&rois).await;
    let mut stream = Stream::open(process.channel().await, header()).await.expect("accepted");
    let mut last = v1::Ack::default();
    for (sent, slot) in slots.iter().enumerate() {
        last = stream.send(frame(slot)).await;
        assert_eq!(last.verdict(), FrameVerdict::Decided);
        // A disk that is full before anything was on it leaves nothing to go on from.
        while sent == 20 && last.durable_through.is_none() {
            let state = operator.control.get_state(v1::GetStateRequest {}).await.expect("a state");
            last.durable_through = state.into_inner().durable_through;
        }
    }
    let durable = last.durable_through.expect("something is durable");
    assert!(durable + 50 < last.decided_through, "the disk is full: {durable} of {}", last.decided_through);
    process.kill();
    let copy = folder.path().join("session");
    let copied = Command::new("cp").arg("-r").arg(disk.0.join("session")).arg(&copy).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let before = verified(&copy);
    assert!(before.inputs_compared > durable && before.unfinished.len() == 1, "{before:?}");
    let process = Process::start(&rig, Some(&copy));
    let mut operator = Operator::new(process.channel().await);
    let mut stream = Stream::open(process.channel().await, header()).await.expect("accepted");
    for slot in &slots[..10] {
        assert_eq!(stream.send(frame(slot)).await.verdict(), FrameVerdict::Decided);
    }
    let directory = operator.stop().await;
    assert_eq!(directory, copy);
    assert_eq!(verified(&copy).segments, 2);
    process.kill();
}
