//! `kill -9` at random moments of running sessions: nothing durable is missing, every decision is recomputed, the
//! session goes on, and no trigger is sent twice. A plain loop with a seed: APICAL_KILLS kills (10 unless told
//! otherwise), APICAL_SEED.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apical::config::{RigConfig, to_toml};
use apical::export::{write_report, write_tables};
use apical::frame::FrameSlot;
use apical::journal::{SessionFiles, VerifyOptions, resume, texts, verify};
use apical::proto::v1::{self, ingest_frames_response};
use apical::sample::RoiSet;
use apical::trigger::{Limits, TriggerId, ValveSimulator};
use common::process::{Operator, Process};
use common::service::{Stream, frame, header};
use common::{config, frames};

/// Kills of one session before another one begins.
const KILLS_OF_A_SESSION: u64 = 7;
const PULSES_PER_SESSION: u64 = 40;
const UNRECORDED_PULSES: u64 = 3;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

/// What the client of one process learnt.
#[derive(Default)]
struct Learnt {
    durable_through: Option<u64>,
    baselines_wanted: bool,
}

/// Sends frames, and commands in between, until the process is killed by `kill_after`.
async fn live(
    process: Process,
    slots: &[FrameSlot],
    rois: Option<&RoiSet>,
    kill_after: Duration,
    rewards: u64,
) -> Learnt {
    let channel = process.channel().await;
    let mut operator = Operator::new(channel.clone());
    if let Some(rois) = rois {
        operator.create(rois).await;
    }
    let Stream { sender, mut answers, .. } = Stream::open(channel, header()).await.expect("accepted");
    let state = operator.control.get_state(v1::GetStateRequest {}).await.expect("a state").into_inner();
    let baselines_wanted = state.calibration.is_none();
    let listen = tokio::spawn(async move {
        let mut durable = None;
        while let Ok(Some(answer)) = answers.message().await {
            if let Some(ingest_frames_response::Message::Ack(ack)) = answer.message {
                durable = durable.max(ack.durable_through);
            }
        }
        durable
    });
    let send = async {
        for (k, slot) in slots.iter().cycle().enumerate() {
            let mut message = frame(slot);
            message.index = k as u64;
            message.device_ns = k as u64 * 33_333_333;
            let message = Some(v1::ingest_frames_request::Message::Frame(message));
            if sender.send(v1::IngestFramesRequest { message }).await.is_err() {
                break;
            }
            if baselines_wanted && k % 10 == 0 {
                operator.nudge().await;
            }
            if rewards > 0 && k as u64 % (200 / rewards).max(1) == 7 {
                operator.reward().await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let killer = async {
        tokio::time::sleep(kill_after).await;
        process.kill();
    };
    tokio::select! {
        () = send => panic!("the stream ended before the process was killed"),
        () = killer => {}
    }
    drop(sender);
    let durable_through = listen.await.expect("it listened");
    Learnt { durable_through, baselines_wanted }
}

/// What must be true of the directory after a kill.
fn check(directory: &Path, learnt: &Learnt, what: &str) {
    let files = SessionFiles::open(directory).expect("it opens");
    let last = files.last_input_seq();
    assert!(last >= learnt.durable_through, "{what}: {last:?} is left of {:?}", learnt.durable_through);
    assert_eq!(texts(&files.damage()), Vec::<String>::new(), "{what}");
    let report = verify(&files, &VerifyOptions::default()).expect("it can be verified");
    assert_eq!((report.differences, &report.damage[..]), (0, &[][..]), "{what}: {:?}", report.first_difference);
    assert_eq!(report.inputs_compared, last.map_or(0, |seq| seq + 1), "{what}");
}

/// Whoever goes on with the session counts at least the pulses that the valve made.
fn nothing_is_forgotten(directory: &Path, config: &RigConfig, valve: &ValveSimulator, what: &str) {
    let point = resume(&SessionFiles::open(directory).expect("it opens")).expect("it can go on");
    let mut limits = Limits::new(&config.limits);
    limits.load(&point.limits, 0).expect("the limits' counts");
    let (counted, opened) = (limits.pulses_session(), valve.statistics().board.opened);
    assert!(counted >= opened, "{what}: {counted} pulses are counted of {opened}");
}

fn rig(folder: &Path, valve: &ValveSimulator, keeps_pixels: bool) -> (PathBuf, RigConfig) {
    let port = format!("outputs.reward.port={:?}", valve.path().display().to_string());
    let directory = format!("record.directory={:?}", folder.display().to_string());
    let limits = format!(
        "limits={{max_pulse_width_ms=20.0, min_interval_ms=60.0, max_on_ms_per_minute=1000.0, \
         max_on_ms_per_session=5000.0, max_pulses_per_minute=60, max_pulses_per_session={PULSES_PER_SESSION}, \
         max_unrecorded_pulses={UNRECORDED_PULSES}}}"
    );
    let frames = format!("record.frames={:?}", if keeps_pixels { "all" } else { "none" });
    let config = config(&[
        "outputs.reward.device=serial",
        "outputs.reward.width_ms=5.0",
        "service.listen=127.0.0.1:0",
        "baseline.frames=40",
        "register.min_template_frames=20",
        "calibration.segments=20",
        "engine.snapshot_interval_s=1",
        &limits,
        &port,
        &directory,
        &frames,
    ]);
    let path = folder.join("rig.toml");
    std::fs::write(&path, to_toml(&config)).expect("it is written");
    (path, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_loses_nothing_that_was_durable_and_goes_on() {
    let (kills, mut seed) = (from_environment("APICAL_KILLS", 10), from_environment("APICAL_SEED", 1));
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut killed, mut session, mut in_trials) = (0, 0, 0);
    while killed < kills {
        let folder = tempfile::tempdir().expect("a directory");
        let valve = ValveSimulator::start().expect("a pseudo-terminal");
        let (rig, config) = rig(folder.path(), &valve, session % 2 == 1);
        let (rois, slots) = frames(&config, 200);
        let directory = folder.path().join("session");
        let mut first = true;
        for _ in 0..KILLS_OF_A_SESSION.min(kills - killed) {
            let what = format!("seed {}, kill {killed}", from_environment("APICAL_SEED", 1));
            let process = Process::start(&rig, (!first).then_some(directory.as_path()));
            // Some die in the baseline, some in the trials.
            let kill_after = Duration::from_millis(if draw(2) == 0 { 20 + draw(300) } else { 500 + draw(1_000) });
            let learnt = live(process, &slots, first.then_some(&rois), kill_after, draw(12)).await;
            in_trials += u32::from(!learnt.baselines_wanted);
            check(&directory, &learnt, &what);
            nothing_is_forgotten(&directory, &config, &valve, &what);
            (first, killed) = (false, killed + 1);
        }
        // Once more, to its end.
        let process = Process::start(&rig, Some(&directory));
        let channel = process.channel().await;
        let mut operator = Operator::new(channel.clone());
        let mut stream = Stream::open(channel, header()).await.expect("accepted");
        for slot in &slots[..20] {
            stream.send(frame(slot)).await;
        }
        operator.stop().await;
        process.kill();
        check(&directory, &Learnt::default(), "at its end");
        let tables = folder.path().join("tables");
        assert!(write_tables(&directory, &tables).expect("tables").frames > 0);
        let header = std::fs::read_to_string(tables.join("frames.csv")).expect("a table");
        assert!(header.lines().next().is_some_and(|line| line.ends_with(",latency_us,segment")));
        let html = std::fs::read_to_string(write_report(&directory).expect("a report")).expect("a file");
        assert!(html.contains("without closing"), "the report says what happened");
        let seen = valve.statistics();
        let mut sent: BTreeMap<TriggerId, u64> = BTreeMap::new();
        seen.triggers_by_id.iter().for_each(|((_, id), count)| *sent.entry(*id).or_default() += count);
        assert!(sent.values().all(|&count| count == 1), "a trigger was sent twice: {sent:?}");
        assert!(seen.board.opened <= PULSES_PER_SESSION, "{} pulses, at most {PULSES_PER_SESSION}", seen.board.opened);
        assert!(valve.wait_for(Duration::from_secs(5), |seen| !seen.is_open), "the valve stays open");
        println!("session {session}: {} pulses, each once", seen.board.opened);
        session += 1;
    }
    println!("{killed} kills, {in_trials} of them in sessions that had a calibration");
}
