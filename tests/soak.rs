//! A million frames through the whole service with everything on: all decided, none lost, memory flat, the tail of the
//! latency as it was in the beginning. A thousand frames a second, thirty times what a microscope gives, for seventeen
//! minutes:
//!
//! ```text
//! cargo test --release --test soak -- --ignored --nocapture
//! ```
//!
//! `APICAL_SOAK_FRAMES` sets another number of frames, `APICAL_SOAK_RATE_HZ` another rate (0: as fast as they go; what
//! waits for the disk then rises and falls by megabytes).
#![cfg(target_os = "linux")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apical::config::to_toml;
use apical::engine::{Clock, HostClock};
use apical::proto::v1::activity_service_client::ActivityServiceClient;
use apical::proto::v1::events_service_client::EventsServiceClient;
use apical::proto::v1::feedback_service_client::FeedbackServiceClient;
use apical::proto::v1::{self, FrameVerdict, ingest_frames_request, ingest_frames_response};
use common::process::{Operator, Process};
use common::service::{Stream, frame, header, verified};
use common::{BASELINE_FRAMES, config, frames};
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

/// Frames that circulate.
const DISTINCT: u64 = 96;
const MINUTE_NS: u64 = 60_000_000_000;
/// Frames that may be under way.
const UNDER_WAY: usize = 16;
/// Frames between two looks at memory; no divisor of what comes and goes with full seconds or full blocks.
const LOOK_FRAMES: u64 = 97;

/// Resident memory of the service, in bytes.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("Linux tells");
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4_096
}

/// What one minute looked like; of memory the median of what was seen, and the most.
struct Minute {
    frames: u64,
    resident_bytes: u64,
    most_bytes: u64,
    delay_ns: Histogram<u64>,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "seventeen minutes"]
async fn soak() {
    let number = |name: &str, usual: u64| std::env::var(name).map_or(usual, |n| n.parse().expect("a number"));
    let (count, rate_hz) = (number("APICAL_SOAK_FRAMES", 1_000_000), number("APICAL_SOAK_RATE_HZ", 1_000));
    let set = ["engine.overload=every", "engine.gap_periods=0", "record.frames=rois", "activity.deconvolution=ar1"];
    let limits = ["limits.max_pulses_per_session=100000", "limits.max_on_ms_per_session=10000000.0"];
    let cells = format!("synthetic.anatomy.cells={}", number("APICAL_SOAK_CELLS", 10));
    let size = ["synthetic.height_px=512", "synthetic.width_px=512", &cells];
    let folder = tempfile::tempdir().expect("a directory");
    let place = [format!("record.directory={:?}", folder.path()), "service.listen=127.0.0.1:0".to_owned()];
    let place: Vec<&str> = place.iter().map(String::as_str).collect();
    let config = config(&[&set[..], &limits[..], &size[..], &place[..]].concat());
    let (rois, slots) = frames(&config, DISTINCT);
    let messages: Vec<v1::Frame> = slots.iter().map(frame).collect();
    drop(slots);
    let rig = folder.path().join("rig.toml");
    std::fs::write(&rig, to_toml(&config)).expect("it can be written");
    let process = Process::start(&rig, None);
    let channel = process.channel().await;
    let mut service = Operator::new(channel.clone());
    service.create(&rois).await;
    let header = v1::StreamHeader { height_px: 512, width_px: 512, ..header() };
    let mut stream = Stream::open(channel.clone(), header).await.expect("accepted");
    let received = [const { AtomicU64::new(0) }; 3].map(Arc::new);
    subscribe(&channel, &received).await;
    let command = service.header();
    service.control.start_baseline(v1::StartBaselineRequest { command }).await.expect("it starts");
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let (taken, sender) = (Arc::clone(&room), stream.sender.clone());
    let adapter = tokio::spawn(async move {
        let begun = tokio::time::Instant::now();
        for index in 0..count {
            if let Some(due_ms) = (1_000 * index).checked_div(rate_hz) {
                tokio::time::sleep_until(begun + Duration::from_millis(due_ms)).await;
            }
            // The task begins between two frames: behind a calibrated baseline.
            let needed = if index == BASELINE_FRAMES { UNDER_WAY as u32 } else { 1 };
            let permits = taken.acquire_many(needed).await.expect("it is open");
            permits.forget();
            taken.add_permits(needed as usize - 1);
            let device_ns = index * 33_333_333;
            let frame = v1::Frame { index, device_ns, ..messages[(index % DISTINCT) as usize].clone() };
            let message = Some(ingest_frames_request::Message::Frame(frame));
            sender.send(v1::IngestFramesRequest { message }).await.expect("the stream lives");
        }
    });
    let mut minutes: Vec<Minute> = Vec::new();
    let mut delay_ns = Histogram::new_with_bounds(1, MINUTE_NS, 3).expect("a histogram");
    let started_ns = HostClock.now_ns();
    let (mut began_ns, mut in_minute, mut resident) = (started_ns, 0, Vec::new());
    for index in 0..count {
        let message = stream.answers.message().await.expect("the stream lives").and_then(|m| m.message);
        let Some(ingest_frames_response::Message::Ack(ack)) = message else { panic!("expected an ack: {message:?}") };
        let good = matches!(ack.verdict(), FrameVerdict::Decided | FrameVerdict::Doubted);
        assert!(ack.index == index && good, "{ack:?}");
        delay_ns.saturating_record(ack.delay_ns);
        in_minute += 1;
        if index + 1 == BASELINE_FRAMES {
            let command = service.header();
            service.control.calibrate(v1::CalibrateRequest { command }).await.expect("it is calibrated");
            let command = service.header();
            let q = v1::StartTaskRequest { command, accept_template: true };
            service.control.start_task(q).await.expect("it starts");
        }
        room.add_permits(1);
        if index % LOOK_FRAMES == 0 || resident.is_empty() {
            resident.push(resident_bytes(process.id()));
        }
        if HostClock.now_ns() - began_ns >= MINUTE_NS || index + 1 == count {
            resident.sort_unstable();
            let minute = Minute {
                frames: in_minute,
                resident_bytes: resident[resident.len() / 2],
                most_bytes: resident.last().copied().unwrap_or(0),
                delay_ns: delay_ns.clone(),
            };
            resident.clear();
            let us = |q: f64| minute.delay_ns.value_at_quantile(q) as f64 / 1e3;
            println!(
                "minute {:>2}: {:>7} frames, resident {:.1} MB (at most {:.1}), delay median {:.0} us, 99 % {:.0} us, \
                 99.9 % {:.0} us",
                minutes.len() + 1,
                minute.frames,
                minute.resident_bytes as f64 / 1e6,
                minute.most_bytes as f64 / 1e6,
                us(0.5),
                us(0.99),
                us(0.999),
            );
            minutes.push(minute);
            delay_ns.reset();
            (began_ns, in_minute) = (HostClock.now_ns(), 0);
        }
    }
    adapter.await.expect("it sent them all");
    let state = service.control.get_state(v1::GetStateRequest {}).await.expect("a state").into_inner();
    let counters = state.counters.expect("counters");
    println!("{count} frames in {:.0} s; {counters:?}", (HostClock.now_ns() - started_ns) as f64 / 1e9);
    assert_eq!((state.records_lost, counters.frames_in), (0, count));
    for (received, what) in received.iter().zip(["feedback", "events", "activity"]) {
        assert!(received.load(Ordering::Relaxed) > 0, "no {what} reached its subscriber");
    }
    drop(stream);
    verified(&service.stop().await);
    // The last minute is cut short.
    if let [first, settled @ .., last, _] = &minutes[..] {
        let settled: Vec<f64> = settled.iter().chain([last]).map(|minute| minute.resident_bytes as f64).collect();
        let mean = settled.iter().sum::<f64>() / settled.len() as f64;
        let off = settled.iter().map(|bytes| (bytes / mean - 1.0).abs()).fold(0.0, f64::max);
        println!(
            "memory after the first minute: {:.1} MB, no minute off by more than {:.2} %",
            mean / 1e6,
            100.0 * off
        );
        let most_bytes = minutes.iter().map(|minute| minute.most_bytes).max().unwrap_or(0);
        let growth = last.resident_bytes as f64 / first.resident_bytes as f64 - 1.0;
        println!("memory from the first minute to the last whole one: {:+.2} %", 100.0 * growth);
        assert!(
            growth < 0.01 && off < 0.01 && most_bytes <= 150_000_000,
            "memory is not flat, or large: {most_bytes} bytes"
        );
        let tail = |minute: &Minute| minute.delay_ns.value_at_quantile(0.99) as f64;
        assert!(tail(last) < 1.5 * tail(first), "the tail grows: {} and {} ns", tail(first), tail(last));
    }
}

/// Subscribers of every kind, which read all that they get.
async fn subscribe(channel: &Channel, received: &[Arc<AtomicU64>; 3]) {
    let mut feedback = FeedbackServiceClient::new(channel.clone());
    let mut events = EventsServiceClient::new(channel.clone());
    let mut activity = ActivityServiceClient::new(channel.clone());
    let feedback = feedback.subscribe_feedback(v1::SubscribeFeedbackRequest::default()).await.expect("feedback");
    let events = events.subscribe_events(v1::SubscribeEventsRequest::default()).await.expect("events");
    let activity = activity.subscribe_activity(v1::SubscribeActivityRequest::default()).await.expect("activity");
    let (mut feedback, mut events, mut activity) = (feedback.into_inner(), events.into_inner(), activity.into_inner());
    let [a, b, c] = received.clone();
    tokio::spawn(async move {
        while feedback.next().await.is_some() {
            a.fetch_add(1, Ordering::Relaxed);
        }
    });
    tokio::spawn(async move {
        while events.next().await.is_some() {
            b.fetch_add(1, Ordering::Relaxed);
        }
    });
    tokio::spawn(async move {
        while activity.next().await.is_some() {
            c.fetch_add(1, Ordering::Relaxed);
        }
    });
}
