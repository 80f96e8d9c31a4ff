//! Frames by a call, in this process: the engine, its journal and the serial line, without a transport.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::ensure;

use super::super::in_process::{InProcess, Recorder, snapshot};
use super::feed::{Feed, RING_FRAMES};
use super::found::Window;
use crate::config::RigConfig;
use crate::engine::{
    Clock, Command, CommandOutcome, Driver, Engine, HEARTBEAT_NS, HostClock, Input, LimitTime, schedule_this_thread,
};
use crate::frame::{FrameAssembly, FrameMeta, FrameSlot, StripMeta};
use crate::journal::shape_of_header;
use crate::proto::v1;
use crate::trigger::{Limits, open_device};

/// What is measured, and with what.
struct Bench {
    driver: InProcess,
    recorder: Recorder,
    ring: Vec<FrameSlot>,
    next: u64,
    last_heartbeat_ns: u64,
}

/// Measures; the session's directory, which frames count, and what was asked of the operating system.
pub(super) fn measure(
    config: &RigConfig,
    feed: &Feed,
    seconds: f64,
    pace: Option<f64>,
) -> anyhow::Result<(PathBuf, Window, Vec<String>)> {
    let shape = shape_of_header(&feed.header);
    let engine = Engine::new(config, &feed.rois, &shape, 0)?;
    let stream = v1::session_head::Stream::Pixels(feed.header.clone());
    let (recorder, path) = Recorder::open(config, "latency", &feed.rois, stream, &engine)?;
    let (trigger, reader) = open_device(&config.outputs.reward, 0)?;
    let (limits, timeout) = (Some(Limits::new(&config.limits)), config.outputs.reward.ack_timeout_ms);
    let driver = Driver::new(engine, HostClock, limits, LimitTime::Host, trigger, timeout);
    let stop = Arc::new(AtomicBool::new(false));
    let stop_reader = Arc::clone(&stop);
    // What the board says is read, so that its line does not fill; nothing here waits for it.
    let reader = reader.map(|reader| std::thread::spawn(move || reader.run(|_| {}, &stop_reader)));
    let settings = schedule_this_thread(&config.engine);
    let rows_px = driver.engine().geometry().map_or(0, |geometry| geometry.height_px);
    let mut bench = Bench { driver, recorder, ring: slots(config, feed, rows_px)?, next: 0, last_heartbeat_ns: 0 };
    bench.warm_up()?;
    let window = Window::run(bench.next, seconds, pace, || {
        bench.frame();
        Ok(())
    })?;
    bench.driver.close_waiting(&mut bench.recorder);
    bench.recorder.finish(config, &path)?;
    stop.store(true, Ordering::Release);
    let _ = reader.map(JoinHandle::join);
    Ok((path, window, settings.iter().map(ToString::to_string).collect()))
}

fn slots(config: &RigConfig, feed: &Feed, rows_px: usize) -> anyhow::Result<Vec<FrameSlot>> {
    let geometry = crate::frame::Geometry::new(feed.header.height_px as usize, feed.header.width_px as usize);
    let decided = crate::frame::Geometry::new(rows_px, geometry.width_px);
    let pixel_type = crate::frame::PixelType::U16;
    let mut assembly = FrameAssembly::new(geometry, pixel_type, config.synthetic.inverted).of_upper_rows(rows_px);
    let mut ring = Vec::with_capacity(feed.ring.len());
    for (index, bytes) in (0..).zip(&feed.ring) {
        let mut slot = FrameSlot::new(decided, pixel_type);
        let frame = FrameMeta { index, ..FrameMeta::default() };
        assembly.add(&StripMeta::whole(frame), bytes, &mut slot)?;
        ring.push(slot);
    }
    Ok(ring)
}

impl Bench {
    /// A baseline, a calibration, and the task begun; nothing of it is measured.
    fn warm_up(&mut self) -> anyhow::Result<()> {
        self.command(&Command::StartBaseline)?;
        while self.driver.engine().baselines_done() == 0 {
            self.frame();
        }
        snapshot(&mut self.driver, &self.recorder);
        // Without a threshold the trial does not run; everything else does.
        if self.command(&Command::Calibrate).is_ok() {
            self.command(&Command::StartTask { accept_template: true })?;
        }
        (0..RING_FRAMES).for_each(|_| self.frame());
        self.recorder.measure_anew();
        Ok(())
    }

    fn command(&mut self, command: &Command) -> anyhow::Result<()> {
        let outcome = self.recorder.command(&mut self.driver, command);
        ensure!(outcome == CommandOutcome::TookEffect, "{}: {outcome}", command.name());
        Ok(())
    }

    fn frame(&mut self) {
        let now_ns = self.driver.clock().now_ns();
        if now_ns - self.last_heartbeat_ns >= HEARTBEAT_NS {
            self.last_heartbeat_ns = now_ns;
            self.driver.heartbeat(&mut self.recorder);
        }
        let slot = &mut self.ring[(self.next % RING_FRAMES as u64) as usize];
        slot.meta.index = self.next;
        self.next += 1;
        slot.meta.device_ns = self.driver.clock().now_ns();
        slot.meta.received_host_ns = slot.meta.device_ns;
        self.driver.take(Input::Frame(slot), &mut self.recorder);
        self.driver.expire(&mut self.recorder);
    }
}
