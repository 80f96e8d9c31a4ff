//! Frames that come too fast, too late, not at all, twice, or out of order: what becomes of each, and that it is told.

mod common;

use apical::engine::{
    Command, EventKind, FrameItem, FrameVerdict, InputSummary, ManualClock, Overload, Realtime, RealtimeSettings,
    Record, ServiceEnds, SkipReason, rings,
};
use apical::frame::FrameSlot;
use apical::proto::v1;
use apical::task::TaskState;
use common::service::{Service, frame, header, verified};
use common::{BASELINE_FRAMES, config, driver, frames};

const PERIOD_NS: u64 = 33_333_333;
const SLOTS: usize = 8;

/// The real-time thread's loop, turned by hand on a clock that is put.
struct Loop {
    realtime: Realtime<ManualClock>,
    ends: ServiceEnds,
    clock: ManualClock,
    slots: Vec<FrameSlot>,
}

impl Loop {
    fn new(overload: Overload, count: u64) -> Self {
        let config = config(&[]);
        let (rois, slots) = frames(&config, count);
        let driver = driver(&config, &rois);
        let (clock, engine) = (driver.clock().clone(), driver.engine());
        let (thread, ends) = rings(engine.roi_count(), engine.segments(), engine.state_bytes(), SLOTS);
        let settings = RealtimeSettings { overload, gap_ns: 2 * PERIOD_NS, spin_ns: 0, snapshot_frames: 0 };
        let realtime = Realtime::new(driver, thread, settings, std::thread::current());
        Self { realtime, ends, clock, slots }
    }

    fn push(&mut self, index: u64) {
        let mut slot = self.slots[index as usize].clone();
        slot.meta.index = index;
        assert!(self.ends.frames.push(FrameItem::Pixels(Box::new(slot))).is_ok());
    }

    fn command(&mut self, command: Command) {
        self.ends.commands.push((1, command)).expect("room");
    }

    /// Everything that there is to do; its records.
    fn turn(&mut self) -> Vec<Record> {
        while self.realtime.turn() {}
        let mut records = Vec::new();
        while let Ok(record) = self.ends.publisher.records.pop() {
            let Record { input, decision, timing, ticket } = &*record;
            records.push(Record { input: *input, decision: decision.clone(), timing: *timing, ticket: *ticket });
            assert!(self.ends.publisher.free_records.push(record).is_ok());
        }
        while self.ends.publisher.used_frames.pop().is_ok() {}
        while let Ok(snapshot) = self.ends.publisher.snapshots.pop() {
            assert!(self.ends.publisher.free_snapshots.push(snapshot).is_ok());
        }
        records
    }

    /// A baseline, a calibration, and some frames of the task; the clock goes with them.
    fn begin_task(&mut self) {
        self.command(Command::StartBaseline);
        self.turn();
        for index in 0..BASELINE_FRAMES {
            self.clock.set_ns((index + 1) * PERIOD_NS);
            self.push(index);
            self.turn();
        }
        self.command(Command::Calibrate);
        self.command(Command::StartTask { accept_template: true });
        self.turn();
    }
}

fn kinds(records: &[Record]) -> Vec<EventKind> {
    records.iter().flat_map(|record| record.decision.events.iter().map(|event| event.kind)).collect()
}

fn verdicts(records: &[Record]) -> Vec<(u64, FrameVerdict)> {
    let frames = records.iter().filter(|record| record.decision.verdict != FrameVerdict::None);
    frames.map(|record| (record.decision.frame_index, record.decision.verdict)).collect()
}

#[test]
fn latest_skips_to_the_newest_frame_and_every_skip_is_an_input() {
    let mut turned = Loop::new(Overload::Latest, 10);
    (0..5).for_each(|index| turned.push(index));
    let records = turned.turn();
    let skipped: Vec<u64> = records
        .iter()
        .filter_map(|record| match record.input {
            InputSummary::Skipped { first_index, count: 1, reason: SkipReason::Overload } => Some(first_index),
            _ => None,
        })
        .collect();
    assert_eq!(skipped, [0, 1, 2, 3]);
    assert_eq!(verdicts(&records).last(), Some(&(4, FrameVerdict::Decided)));
    let told: f64 = records
        .iter()
        .flat_map(|record| record.decision.events.iter())
        .filter(|event| event.kind == EventKind::FramesSkipped)
        .map(|event| event.value)
        .sum();
    assert_eq!(told, 4.0, "each is announced");
    // One at a time none is.
    for index in 5..8 {
        turned.push(index);
        assert_eq!(verdicts(&turned.turn()), [(index, FrameVerdict::Decided)]);
    }
}

#[test]
fn every_decides_them_all() {
    let mut turned = Loop::new(Overload::Every, 10);
    (0..8).for_each(|index| turned.push(index));
    let expected: Vec<_> = (0..8).map(|index| (index, FrameVerdict::Decided)).collect();
    assert_eq!(verdicts(&turned.turn()), expected);
}

#[test]
fn when_frames_stop_the_trial_stands_still_until_they_come_again() {
    let mut turned = Loop::new(Overload::Latest, 300);
    turned.begin_task();
    let mut index = BASELINE_FRAMES;
    let mut now_ns = (index + 1) * PERIOD_NS;
    let mut one = |turned: &mut Loop, now_ns: u64| {
        turned.clock.set_ns(now_ns);
        turned.push(index);
        index += 1;
        turned.turn()
    };
    for _ in 0..10 {
        one(&mut turned, now_ns);
        now_ns += PERIOD_NS;
    }
    let before = one(&mut turned, now_ns);
    let (state, phase_frame) = before.last().map(|r| (r.decision.state, r.decision.phase_frame)).expect("a decision");
    assert_ne!(state, TaskState::Paused);
    // Less than two periods are no silence; more are one, told once.
    turned.clock.set_ns(now_ns + 2 * PERIOD_NS - 1_000_000);
    assert!(!kinds(&turned.turn()).contains(&EventKind::Gap));
    now_ns += 3 * PERIOD_NS;
    turned.clock.set_ns(now_ns);
    let silence = turned.turn();
    assert_eq!(kinds(&silence).iter().filter(|kind| **kind == EventKind::Gap).count(), 1);
    assert_eq!(silence.last().map(|record| record.decision.state), Some(TaskState::Paused));
    turned.clock.set_ns(now_ns + 10 * PERIOD_NS);
    assert!(!kinds(&turned.turn()).contains(&EventKind::Gap), "silence is told once");
    // A command takes effect meanwhile.
    turned.command(Command::ChangeThreshold { threshold: 0.7, range_low: None });
    assert!(kinds(&turned.turn()).contains(&EventKind::ThresholdChanged));
    let after = one(&mut turned, now_ns + 11 * PERIOD_NS);
    assert!(kinds(&after).contains(&EventKind::GapEnded));
    let resumed = after.iter().find(|record| record.decision.verdict == FrameVerdict::Decided).expect("a decision");
    assert_eq!(resumed.decision.state, state, "the trial goes on where it stood");
    assert!(resumed.decision.phase_frame <= phase_frame + 1);
}

#[test]
fn repeated_reordered_and_far_away_indices_have_a_verdict_each() {
    let mut turned = Loop::new(Overload::Every, 20);
    let mut one = |index: u64, shown: u64| {
        let mut slot = turned.slots[shown as usize].clone();
        slot.meta.index = index;
        assert!(turned.ends.frames.push(FrameItem::Pixels(Box::new(slot))).is_ok());
        let records = turned.turn();
        let missing: f64 = records
            .iter()
            .flat_map(|record| record.decision.events.iter())
            .filter(|event| event.kind == EventKind::FramesSkipped)
            .map(|event| event.value)
            .sum();
        (records.last().expect("a record").decision.verdict, missing)
    };
    assert_eq!(one(7, 0), (FrameVerdict::Decided, 0.0), "a stream may begin anywhere");
    assert_eq!(one(7, 1), (FrameVerdict::Refused, 0.0), "repeated");
    assert_eq!(one(3, 2), (FrameVerdict::Refused, 0.0), "reordered");
    assert_eq!(one(8, 3), (FrameVerdict::Decided, 0.0));
    assert_eq!(one(12, 4), (FrameVerdict::Decided, 3.0), "three are missing");
    assert_eq!(one(u64::MAX - 1, 5).0, FrameVerdict::Decided, "a leap is counted, and survived");
    assert_eq!(one(13, 6).0, FrameVerdict::Refused);
    assert_eq!(one(u64::MAX, 7), (FrameVerdict::Decided, 0.0));
    assert_eq!(one(u64::MAX, 8).0, FrameVerdict::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_held_back_or_skipped_and_every_frame_is_answered_once() {
    for overload in ["every", "latest"] {
        let set = [format!("engine.overload={overload}"), "engine.queue_frames=2".to_owned()];
        let config = config(&[&set[0], &set[1], "engine.gap_periods=0"]);
        let (rois, slots) = frames(&config, 400);
        let mut service = Service::start(config).await;
        let mut stream = service.open(&rois, header()).await;
        let sender = stream.sender.clone();
        let messages: Vec<v1::Frame> = slots.iter().map(frame).collect();
        let flood = tokio::spawn(async move {
            for frame in messages {
                let message = Some(v1::ingest_frames_request::Message::Frame(frame));
                sender.send(v1::IngestFramesRequest { message }).await.expect("the stream lives");
            }
        });
        let mut skipped = 0;
        for index in 0..400 {
            let ack = stream.ack().await;
            assert_eq!(ack.index, index);
            skipped += u64::from(ack.verdict() == v1::FrameVerdict::Skipped);
            assert!(matches!(ack.verdict(), v1::FrameVerdict::Decided | v1::FrameVerdict::Skipped), "{ack:?}");
        }
        flood.await.expect("it sent them all");
        let state = service.control.get_state(v1::GetStateRequest {}).await.expect("a state").into_inner();
        let counters = state.counters.expect("counters");
        assert_eq!((counters.frames_decided, counters.frames_skipped), (400 - skipped, skipped), "{overload}");
        assert!(skipped == 0 || overload == "latest");
        drop(stream);
        verified(&service.stop_session().await);
        service.end().await;
    }
}
