//! The real-time thread as a session shows it: what the operating system granted, what came late, what is measured;
//! and the same service over a Unix socket.

mod common;

use apical::journal::{JournalRecord, SessionFiles};
use apical::proto::v1::{self, EventKind};
use common::service::{Service, Stream, frame, header, verified};
use common::{config, frames};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

/// The baseline of a session of some frames, each answered before the next; what the state says at its end, and its
/// latencies.
async fn session(
    set: &[&str],
    count: u64,
) -> (v1::GetStateResponse, Vec<v1::LatencyRecord>, Vec<v1::Ack>, Vec<v1::SubscribeEventsResponse>) {
    let config = config(&[&["engine.overload=every"], set].concat());
    let (rois, slots) = frames(&config, count);
    let mut service = Service::start(config).await;
    let mut stream = service.open(&rois, header()).await;
    let command = service.header();
    service.control.start_baseline(v1::StartBaselineRequest { command }).await.expect("it starts");
    let mut acks = Vec::new();
    for slot in &slots {
        acks.push(stream.send(frame(slot)).await);
    }
    let state = service.control.get_state(v1::GetStateRequest {}).await.expect("a state").into_inner();
    let latency = service.control.get_latency(v1::GetLatencyRequest {}).await.expect("latencies").into_inner();
    drop(stream);
    let directory = service.stop_session().await;
    verified(&directory);
    let mut events = Vec::new();
    let files = SessionFiles::open(&directory).expect("a session");
    files
        .read(|record| {
            if let JournalRecord::Event(event) = record {
                events.push(event);
            }
        })
        .expect("it is whole");
    service.end().await;
    (state, latency.latencies, acks, events)
}

fn of_kind(events: &[v1::SubscribeEventsResponse], kind: EventKind) -> Vec<&v1::SubscribeEventsResponse> {
    events.iter().filter(|event| event.kind() == kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_of_the_system_is_told_and_recorded_granted_or_not() {
    let set = ["engine.cores=[0]", "engine.lock_memory=true", "engine.realtime_priority=5"];
    let (state, _, _, events) = session(&set, 3).await;
    let settings = &state.thread_settings;
    assert_eq!(settings.len(), 3, "{settings:?}");
    assert_eq!(settings[0], "engine.cores = [0]: granted");
    let recorded: Vec<&str> =
        of_kind(&events, EventKind::ThreadSetting).iter().map(|event| event.detail.as_str()).collect();
    assert_eq!(recorded, settings.iter().map(String::as_str).collect::<Vec<_>>());
    for (setting, event) in settings.iter().zip(of_kind(&events, EventKind::ThreadSetting)) {
        assert_eq!(event.value, f64::from(u8::from(setting.ends_with(": granted"))), "{setting}");
        assert!(setting.ends_with(": granted") || setting.contains(": refused: "), "{setting}");
    }
    let (state, _, _, events) = session(&["engine.cores=[1000]"], 3).await;
    let refused = &state.thread_settings[0];
    assert!(refused.starts_with("engine.cores = [1000]: refused: ") && refused.contains("processors 0"), "{refused}");
    assert_eq!(of_kind(&events, EventKind::ThreadSetting)[0].value, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_frame_says_so() {
    // The first frames of a baseline make its template anew, blocks and all: several times as long as that.
    let (state, _, acks, events) = session(
        &["engine.deadline_ms=0.1", "register.piecewise=true", "register.blocks_y=4", "register.blocks_x=4"],
        40,
    )
    .await;
    let late = acks.iter().filter(|ack| ack.late).count() as u64;
    assert_eq!((state.frames_late, late > 0), (late, true));
    let told = of_kind(&events, EventKind::FrameLate);
    assert!(!told.is_empty() && told.len() as u64 <= late, "{told:?}");
    assert!(told.iter().all(|event| event.value > 0.1), "{told:?}");
    let (state, _, acks, events) = session(&["engine.deadline_ms=0"], 40).await;
    assert!(state.frames_late == 0 && acks.iter().all(|ack| !ack.late), "without a deadline nothing is late");
    assert!(of_kind(&events, EventKind::FrameLate).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_distributions_are_given_away_whole() {
    let (_, latencies, acks, _) = session(&[], 60).await;
    let names: Vec<&str> = latencies.iter().map(|record| record.stage.as_str()).collect();
    let stages = ["total", "receive", "register", "sample", "activity", "decode", "task", "trigger", "written"];
    assert_eq!(names, stages);
    for record in &latencies {
        let mut bytes = &record.hdr_histogram[..];
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes).expect("an HdrHistogram");
        assert_eq!((histogram.len(), histogram.max()), (record.count, record.max_ns), "{}", record.stage);
        let median_ns = (record.count >= 10).then(|| histogram.value_at_quantile(0.5));
        assert_eq!((record.p50_ns, record.p99_ns), (median_ns, None), "{}: too few for more", record.stage);
    }
    let total = &latencies[0];
    assert_eq!(total.count, acks.len() as u64);
    let slowest = acks.iter().map(|ack| ack.delay_ns).max().expect("frames");
    assert!(total.max_ns >= slowest && total.max_ns <= slowest + slowest / 500 + 1, "{} {slowest}", total.max_ns);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn the_same_service_answers_on_a_unix_socket_beside_tcp() {
    use apical::config::ServiceConfig;
    use apical::proto::v1::session_service_client::SessionServiceClient;
    use apical::service::{Listeners, Rig, RigMode, run, upload_of};

    let folder = tempfile::tempdir().expect("a directory");
    let socket = folder.path().join("apical.sock");
    let mut config = config(&["engine.overload=every"]);
    config.record.directory = folder.path().to_owned();
    config.service = ServiceConfig { listen: "127.0.0.1:0".parse().expect("an address"), socket: socket.clone() };
    let (rois, slots) = frames(&config, 5);
    let listeners = Listeners::bind(&config.service).await.expect("they are free");
    let tcp = format!("http://{}", listeners.tcp.local_addr().expect("an address"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let rig = Rig::new(config, RigMode::Live);
    let serving = tokio::spawn(run(listeners, rig, async {
        let _ = stopped.await;
    }));
    let connect = |url: String| async { tonic::transport::Endpoint::from_shared(url).expect("a URL").connect().await };
    let over_socket = connect(format!("unix://{}", socket.display())).await.expect("it answers");
    let over_tcp = connect(tcp).await.expect("it answers");
    let mut control = SessionServiceClient::new(over_socket.clone());
    let mut commands = 0;
    let mut command = || {
        commands += 1;
        v1::CommandHeader { idempotency_key: format!("key-{commands}"), operator_name: "tester".to_owned() }
    };
    let q = v1::CreateSessionRequest { command: Some(command()), name: "session".to_owned(), ..Default::default() };
    control.create_session(q).await.expect("created");
    control.upload_rois(upload_of(&rois, command())).await.expect("uploaded");
    let mut stream = Stream::open(over_socket, header()).await.expect("accepted");
    for slot in &slots {
        assert_eq!(stream.send(frame(slot)).await.index, slot.meta.index);
    }
    // The same session, seen through the other door.
    let state = SessionServiceClient::new(over_tcp).get_state(v1::GetStateRequest {}).await.expect("a state");
    assert_eq!(state.into_inner().counters.expect("counters").frames_in, 5);
    let _ = stop.send(());
    serving.await.expect("it did not panic").expect("it served");
    assert!(!socket.exists(), "the socket goes with the service");
}

#[cfg(not(feature = "shm"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_shared_memory_says_how_to_get_it() {
    let config = config(&[]);
    let (rois, _) = frames(&config, 1);
    let mut service = Service::start(config).await;
    service.prepare(&rois).await;
    let header = v1::StreamHeader { shared_memory: true, ..header() };
    let error = Stream::open(service.channel.clone(), header).await.err().expect("it is refused");
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    assert!(error.message().contains("cargo build --release --features shm"), "{error}");
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_apical"))
        .args(["latency", "--transport", "shm"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("--features shm"), "{said}");
    service.end().await;
}

#[cfg(unix)]
#[test]
fn a_pulse_that_lights_the_next_frame_comes_back() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_apical"))
        .args(["latency", "--loop", "--fps", "100", "--seconds", "2", "--size", "96", "--json"])
        .output()
        .expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let found: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one JSON object");
    let (trips, frames) = (found["round_trips"].as_u64().expect("a count"), found["frames"].as_u64().expect("a count"));
    // A pulse in the dark every ten frames or so, and the answer to it.
    assert!(frames >= 190 && trips >= frames / 20, "{found}");
    // Never shorter than what is left of a frame.
    assert!(found["round_trip_us"]["p50"].as_f64().is_some_and(|us| us > 1_000.0), "{found}");
}

#[cfg(unix)]
#[test]
fn latency_is_measured_over_every_transport() {
    let transports: &[&str] =
        if cfg!(feature = "shm") { &["inprocess", "grpc", "uds", "shm"] } else { &["inprocess", "grpc", "uds"] };
    for transport in transports {
        let arguments = ["--transport", transport, "--fps", "200", "--seconds", "1", "--size", "96", "--rois", "4"];
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_apical"))
            .arg("latency")
            .args(arguments)
            .args(["--json", "--set", "register.min_template_frames=50"])
            .output()
            .expect("it runs");
        assert!(out.status.success(), "{transport}: {}", String::from_utf8_lossy(&out.stderr));
        let found: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one JSON object");
        let frames = found["frames"].as_u64().expect("a count");
        assert!(found["frames_lost"] == 0 && (100..=200).contains(&frames), "{transport}: {found}");
        for key in ["trigger_us", "written_us"] {
            let (n, p50, max) = (&found[key]["n"], found[key]["p50"].as_f64(), found[key]["max"].as_f64());
            assert!(n.as_u64().is_some_and(|n| n >= frames) && p50 > Some(0.0) && max >= p50, "{transport}: {found}");
            assert!(found[key]["p999"].is_null(), "too few frames to say");
        }
        // The far end may have read the byte before the write to it returns.
        for key in ["trigger_us", "written_us"] {
            assert!(found[key]["p50"].as_f64() >= found["decided_us"]["p50"].as_f64(), "{transport}: {found}");
        }
        for stage in ["receive", "register", "sample", "activity", "decode", "task", "trigger"] {
            assert!(found["stages_us"][stage]["p50"].as_f64() > Some(0.0), "{transport}, {stage}: {found}");
        }
        assert!(found["floor_us"].as_f64() > Some(0.0));
    }
}
