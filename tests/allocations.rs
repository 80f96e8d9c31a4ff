//! The real-time thread allocates nothing after warm-up: 10,000 frames through rings, engine, limits, a simulated board
//! and records, with every stage on, a baseline, a calibration, trials, rewards and snapshots among them.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use apical::config::sample::{SampleConfig, SampleMode};
use apical::engine::{
    Arriving, Command, FrameItem, Overload, Realtime, RealtimeSettings, ServiceEnds, ThreadEnds, rings,
};
use apical::frame::{Arrival, FrameMeta, FrameSlot, FrameView, Geometry};
use apical::sample::{Roi, RoiPixel, RoiSet, SampleBuffer, Sampler};
use common::counting::{Counting, count};
use common::{BASELINE_FRAMES, config, driver, frames};
use rtrb::Producer;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Frames of a run.
const FRAMES: u64 = 10_000;
/// Of which so many are distinct.
const DISTINCT: usize = 600;

#[test]
fn ten_thousand_frames_allocate_nothing() {
    for phase in ["\"off\"", "\"estimate\""] {
        ten_thousand_frames(1, &[&format!("register.bidirectional_phase={phase}")], in_slots);
    }
    ten_thousand_frames(1, &["register.piecewise=true", "register.blocks_y=4", "register.blocks_x=4"], in_slots);
    ten_thousand_frames(1, &["register.template_update_frames=700"], in_slots);
    ten_thousand_frames(2, &["stream.plane=[0, 1]", "register.z_step_um=10.0"], in_slots);
}

#[cfg(all(feature = "shm", unix))]
#[test]
fn ten_thousand_frames_in_shared_memory_allocate_nothing() {
    ten_thousand_frames(1, &["register.bidirectional_phase=\"estimate\""], in_shared_memory);
    let blocks = ["register.piecewise=true", "register.blocks_y=4", "register.blocks_x=4"];
    ten_thousand_frames(1, &blocks, in_shared_memory);
}

/// Hands frames over, and takes back what the engine is done with.
struct Feed {
    /// The upper half of a frame comes, where a source brings strips.
    arrive: Box<dyn FnMut(usize, FrameMeta)>,
    hand_over: Box<dyn FnMut(usize, FrameMeta)>,
    take_back: Box<dyn FnMut(FrameItem)>,
}

/// Slots that a source fills.
fn in_slots(slots: Vec<FrameSlot>, _: &mut ThreadEnds, frames: Producer<FrameItem>, arriving: Arc<Arriving>) -> Feed {
    let pool: Vec<Option<FrameItem>> = slots.into_iter().map(|slot| Some(FrameItem::Pixels(Box::new(slot)))).collect();
    let (pool, count, mut frames) = (Rc::new(RefCell::new(pool)), DISTINCT as u64, frames);
    let (own, mut lent, mut begun) = (Rc::clone(&pool), 0, 0);
    let half = Arc::clone(&arriving);
    let arrive = move |place: usize, meta| {
        let Some(FrameItem::Pixels(mut slot)) = own.borrow_mut()[place].take() else { panic!("it did not come back") };
        begun += 1;
        slot.meta = meta;
        slot.arrival = Arrival { number: begun, rows_px: slot.geometry.height_px / 2 };
        half.put(slot);
    };
    let hand_over = move |_, _| assert!(frames.push(FrameItem::Pixels(arriving.take().expect("it arrives"))).is_ok());
    let take_back = move |item| {
        pool.borrow_mut()[(lent % count) as usize] = Some(item);
        lent += 1;
    };
    Feed { arrive: Box::new(arrive), hand_over: Box::new(hand_over), take_back: Box::new(take_back) }
}

/// Shared memory, which the real-time thread itself looks into.
#[cfg(all(feature = "shm", unix))]
fn in_shared_memory(slots: Vec<FrameSlot>, thread: &mut ThreadEnds, _: Producer<FrameItem>, _: Arc<Arriving>) -> Feed {
    use apical::engine::shared_clock_ns;
    use apical::service::shared::{Shared, open};
    use apical::source::{SharedLoan, SharedSender};

    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("apical/test/{}/allocations/{number}", std::process::id());
    let (geometry, pixel_type) = (slots[0].geometry, slots[0].pixel_type);
    let Shared { port, give_back, .. } =
        open(&name, geometry, geometry.height_px, pixel_type, 4).expect("shared memory");
    thread.take_from(port);
    let sender = SharedSender::connect(&name, geometry.count(), true).expect("room");
    let hand_over = move |place: usize, meta| {
        let write = |loan: &mut SharedLoan<'_>| {
            loan.samples_mut().copy_from_slice(slots[place].samples());
            Ok(meta)
        };
        sender.send(write, shared_clock_ns).expect("there is room");
    };
    let take_back = Box::new(move |item| give_back(item));
    Feed { arrive: Box::new(|_, _| ()), hand_over: Box::new(hand_over), take_back }
}

/// So many planes take turns.
fn ten_thousand_frames(
    planes: u64,
    more: &[&str],
    feed: impl FnOnce(Vec<FrameSlot>, &mut ThreadEnds, Producer<FrameItem>, Arc<Arriving>) -> Feed,
) {
    let deconvolution = ["activity.deconvolution=ar2", "activity.deconvolution_lag_frames=2"];
    let config = config(&[&["limits.min_interval_ms=10.0", deconvolution[0], deconvolution[1]], more].concat());
    let (rois, slots) = frames(&config, DISTINCT as u64);
    let driver = driver(&config, &rois);
    let engine = driver.engine();
    let (mut thread, service) = rings(engine.roi_count(), engine.segments(), engine.state_bytes(), 4);
    let ServiceEnds { frames, arriving, mut commands, mut publisher, replies: _replies, flags: _flags } = service;
    let mut feed = feed(slots, &mut thread, frames, arriving);
    let settings = RealtimeSettings { overload: Overload::Every, gap_ns: 0, spin_ns: 0, snapshot_frames: 1_000 };
    let mut realtime = Realtime::new(driver, thread, settings, std::thread::current());
    let (mut rewards, mut snapshots, mut decided, mut taken) = (0, 0, 0u64, 0);
    commands.push((1, Command::StartBaseline)).expect("room");
    while realtime.turn() {}
    for index in 0..FRAMES {
        if index == planes * BASELINE_FRAMES {
            commands.push((2, Command::Calibrate)).expect("room");
            commands.push((3, Command::StartTask { accept_template: true })).expect("room");
            commands.push((4, Command::ChangeThreshold { threshold: 0.3, range_low: None })).expect("room");
        }
        let meta = FrameMeta {
            index: index / planes,
            plane: (index % planes) as u32,
            device_ns: index * 33_333_333,
            ..FrameMeta::default()
        };
        let place = (index % DISTINCT as u64) as usize;
        (feed.arrive)(place, meta);
        let mut before = count();
        while realtime.look_ahead() {}
        let looked = count() - before;
        (feed.hand_over)(place, meta);
        before = count();
        while realtime.turn() {}
        // the first frame maps its producer's memory
        taken += if index == 0 { 0 } else { looked + count() - before };
        (feed.take_back)(publisher.used_frames.pop().expect("the frame was taken").item);
        while let Ok(record) = publisher.records.pop() {
            decided += u64::from(record.decision.has_pixels);
            rewards += record.decision.intents.iter().filter(|i| i.width_us > 0).count();
            assert!(publisher.free_records.push(record).is_ok());
        }
        while let Ok(snapshot) = publisher.snapshots.pop() {
            snapshots += 1;
            assert!(publisher.free_snapshots.push(snapshot).is_ok());
        }
    }
    assert_eq!(decided, FRAMES);
    assert!(rewards > 10 && snapshots >= 10, "{rewards} rewards, {snapshots} snapshots: the test saw too little");
    assert_eq!(taken, 0, "the frame loop allocated or freed memory");
}

#[test]
fn demixing_allocates_nothing_also_at_the_border() {
    let disc = |row: u32, col: u32| {
        let near = (row - 5..row + 6).flat_map(|r| (col - 5..col + 6).map(move |c| (r, c)));
        near.map(|(r, c)| RoiPixel { row: r, col: c, weight: (1 + r % 3) as f32 }).collect()
    };
    let roi = |(id, pixels)| Roi { id, name: String::new(), plane: 0, radius_told_px: None, pixels };
    let rois: Vec<Roi> = (0..8).map(|k| (k, disc(8 + 6 * k, 8 + 5 * k))).map(roi).collect();
    let geometry = Geometry::new(64, 64);
    let set = RoiSet { geometry, rois, ..RoiSet::default() };
    let config = SampleConfig { mode: SampleMode::Demix, ..SampleConfig::default() };
    let mut sampler = Sampler::new(&config, &set).expect("a sampler");
    sampler.keep_lines_apart();
    let mut out = SampleBuffer::new(8);
    let mut samples: Vec<u16> = (0..64 * 64_u32).map(|k| (k * 7_919 % 1_009) as u16).collect();
    let before = count();
    for frame in 0..400_u16 {
        samples[usize::from(frame)] += frame;
        let view = FrameView { geometry, samples: &samples, bias: 0, saturation: 65_535 };
        let px = f64::from(frame) / 10.0 - 20.0;
        sampler.step_lines(&view, (px, -px / 3.0), 0.4, &mut out);
    }
    assert_eq!(count() - before, 0);
    assert!(out.f[0].is_finite() && out.outside_pixels.iter().any(|&outside| outside > 0), "{out:?}");
}
