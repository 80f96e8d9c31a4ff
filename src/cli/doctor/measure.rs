//! What is measured: how late a thread wakes, what a frame costs to read, what the clock costs, what the disk does.

use std::io::{Seek, Write};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::super::latency::read_from_memory_ns;
use super::{Check, Verdict};
use crate::config::{EngineConfig, RigConfig};
use crate::engine::{Clock, HostClock, schedule_this_thread};
use crate::journal::latency_histogram;

/// The priority that is tried where the rig asks for none.
const TRIED_PRIORITY: u32 = 80;
/// A thread sleeps for so long at a time.
const SLEEP: Duration = Duration::from_millis(1);
/// Bytes of a write that is synced.
const WRITTEN_BYTES: usize = 64 << 10;

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn told(h: &Histogram<u64>) -> String {
    let at = |q: f64| us(h.value_at_quantile(q));
    format!(
        "median {:.0} us, 99 % {:.0} us, 99.9 % {:.0} us, largest {:.0} us",
        at(0.5),
        at(0.99),
        at(0.999),
        us(h.max())
    )
}

/// How late sleeps of a millisecond end, on a thread that runs as the configuration wants; why it does not, if so.
fn lateness(engine: &EngineConfig, time: Duration) -> (Histogram<u64>, Vec<String>) {
    let engine = engine.clone();
    let thread = std::thread::spawn(move || {
        let refused =
            schedule_this_thread(&engine).iter().filter(|s| s.refused.is_some()).map(ToString::to_string).collect();
        let (clock, mut late) = (HostClock, latency_histogram());
        let start_ns = clock.now_ns();
        while clock.now_ns() - start_ns < time.as_nanos() as u64 {
            let before_ns = clock.now_ns();
            std::thread::sleep(SLEEP);
            late.saturating_record((clock.now_ns() - before_ns).saturating_sub(SLEEP.as_nanos() as u64).max(1));
        }
        (late, refused)
    });
    thread.join().unwrap_or_else(|_| (latency_histogram(), vec!["the measuring thread panicked".to_owned()]))
}

/// How late a thread wakes: as the rig runs it, and what another way of running it would win.
pub(super) fn wakes(config: &RigConfig, time: Duration) -> Vec<Check> {
    let wanted = EngineConfig { lock_memory: false, ..config.engine.clone() };
    let (rig, refused) = lateness(&wanted, time);
    let demand_us = config.engine.deadline_ms * 1e3;
    let expected = match config.engine.deadline_ms {
        0.0 => "no demand".to_owned(),
        demand => format!("99.9 % within half of the {demand} ms, and none beyond them"),
    };
    let found = format!("sleeps of 1 ms over {:.1} s: late by {}", time.as_secs_f64(), told(&rig));
    let check = Check::pass("waking up", found, expected);
    let (p999_us, max_us) = (us(rig.value_at_quantile(0.999)), us(rig.max()));
    let breaks = demand_us > 0.0 && (p999_us > demand_us / 2.0 || max_us > demand_us);
    let mut checks = Vec::new();
    if config.engine.realtime_priority > 0 {
        checks.push(match refused.iter().find(|why| why.contains("realtime_priority")) {
            None => Check::pass("real-time priority", "granted", "granted, as rig.toml asks"),
            Some(why) => Check::pass("real-time priority", why, "granted, as rig.toml asks").but(
                Verdict::Fail,
                "give the user the right to it, and log in again",
                p999_us / 2.0,
            ),
        });
        checks.push(if breaks {
            check.but(Verdict::Fail, "a quieter computer: fewer programs, a real-time kernel, no virtual machine", 0.0)
        } else {
            check
        });
    } else {
        let tried = EngineConfig { realtime_priority: TRIED_PRIORITY, ..wanted };
        let (first, refused) = lateness(&tried, time);
        let wins_us = p999_us - us(first.value_at_quantile(0.999));
        let name = "real-time priority";
        let expected = "granted if asked for";
        checks.push(match refused.iter().find(|why| why.contains("realtime_priority")) {
            Some(why) => Check::pass(name, why, expected).but(
                Verdict::Could,
                "give the user the right to it, then set engine.realtime_priority = 80",
                p999_us / 2.0,
            ),
            None => {
                let found = format!("not asked for; with {TRIED_PRIORITY} late by {}", told(&first));
                let check = Check::pass(name, found, expected);
                if wins_us > 0.0 { check.but(Verdict::Could, "engine.realtime_priority = 80", wins_us) } else { check }
            }
        });
        checks.push(if breaks {
            check.but(Verdict::Fail, "engine.realtime_priority = 80, and a quieter computer", wins_us.max(0.0))
        } else {
            check
        });
    }
    checks.extend(cyclictest(time));
    checks
}

/// What cyclictest (rt-tests) says, where it is installed.
fn cyclictest(time: Duration) -> Option<Check> {
    let seconds = (time.as_secs_f64().ceil() as u64).clamp(1, 10).to_string();
    let ran = std::process::Command::new("cyclictest").args(["-q", "-i", "1000", "-D", &seconds]).output().ok()?;
    let text = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    let line = text.lines().find(|line| line.starts_with("T:")).map(str::to_owned);
    let expected = "about what was found above (an ordinary thread)";
    Some(match line {
        Some(line) => Check::pass("cyclictest", line, expected),
        None => Check::unknown("cyclictest", String::from_utf8_lossy(&ran.stderr).trim().to_owned(), expected),
    })
}

/// What it takes to read a frame from memory.
pub(super) fn memory(config: &RigConfig) -> Check {
    const FRAME_BYTES: usize = 512 * 512 * 2;
    const FRAMES: usize = 128;
    let frames: Vec<u8> = (0..FRAME_BYTES * FRAMES).map(|k| k as u8).collect();
    let median_us = us(read_from_memory_ns(frames.chunks(FRAME_BYTES)));
    let rate = FRAME_BYTES as f64 / median_us / 1e3;
    let found = format!("a frame of 512 x 512 in {median_us:.0} us, {rate:.1} GB/s");
    let bound_us = if config.engine.deadline_ms > 0.0 { (config.engine.deadline_ms * 50.0).min(200.0) } else { 200.0 };
    let check = Check::pass("memory", found, format!("at most {bound_us:.0} us"));
    if median_us <= bound_us {
        check
    } else {
        check.but(Verdict::Fail, "close what reads and writes memory, or use a faster computer", median_us - bound_us)
    }
}

/// What it costs to ask what time it is.
pub(super) fn clock() -> Check {
    const CALLS: u64 = 100_000;
    let clock = HostClock;
    let start_ns = clock.now_ns();
    for _ in 0..CALLS {
        std::hint::black_box(clock.now_ns());
    }
    let each_ns = (clock.now_ns() - start_ns) as f64 / CALLS as f64;
    let check = Check::pass("asking the clock", format!("{each_ns:.0} ns"), "at most 200 ns");
    if each_ns <= 200.0 {
        check
    } else {
        let advice = "a clock source that is read without a system call: tsc (see \"clock source\")";
        check.but(Verdict::Could, advice, each_ns * 20.0 / 1e3)
    }
}

/// How long a small write takes until the disk has it.
pub(super) fn disk(config: &RigConfig, time: Duration) -> Check {
    let (name, expected_ms) = ("disk", f64::from(config.record.sync_interval_ms).max(50.0));
    let expected =
        format!("64 kB synced within {expected_ms:.0} ms (record.sync_interval_ms); no decision waits for it");
    let directory = &config.record.directory;
    let place = if directory.is_dir() { directory.as_path() } else { std::path::Path::new(".") };
    let path = place.join(format!(".apical-doctor-{}", std::process::id()));
    let measured = std::fs::File::create(&path).and_then(|mut file| {
        let (clock, mut took) = (HostClock, latency_histogram());
        let block = vec![0xa5; WRITTEN_BYTES];
        let start_ns = clock.now_ns();
        while clock.now_ns() - start_ns < time.as_nanos() as u64 {
            let before_ns = clock.now_ns();
            file.rewind()?;
            file.write_all(&block)?;
            file.sync_data()?;
            took.saturating_record((clock.now_ns() - before_ns).max(1));
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(took)
    });
    let _ = std::fs::remove_file(&path);
    match measured {
        Err(error) => Check::pass(name, format!("{}: {error}", place.display()), expected).but(
            Verdict::Fail,
            "a record.directory that can be written",
            0.0,
        ),
        Ok(took) => {
            let check = Check::pass(name, format!("{}: {}", place.display(), told(&took)), expected);
            if us(took.max()) <= expected_ms * 1e3 {
                check
            } else {
                check.but(Verdict::Could, "a disk of its own for the sessions, not shared, no network", 0.0)
            }
        }
    }
}
