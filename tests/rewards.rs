//! Rewards through the whole service, out of a real pseudo-terminal, to a valve that answers, is silent, or hears SAFE.
#![cfg(unix)]

mod common;

use std::time::Duration;

use apical::proto::v1::events_service_client::EventsServiceClient;
use apical::proto::v1::{self, EventKind, FrameVerdict};
use apical::trigger::{BoardFault, ValveSimulator};
use common::service::{Service, Stream, frame, header, verified};
use common::{config, frames};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(5);

/// A service whose valve is this one.
async fn service(valve: &ValveSimulator, more: &[&str]) -> (Service, apical::sample::RoiSet, Vec<v1::Frame>) {
    let port = format!("outputs.reward.port={:?}", valve.path().display().to_string());
    let limits = "limits={max_pulse_width_ms=60.0, min_interval_ms=300.0, max_on_ms_per_minute=1000.0, \
                  max_on_ms_per_session=5000.0, max_pulses_per_minute=10, max_pulses_per_session=50}";
    let mut set = vec!["engine.gap_periods=0", "outputs.reward.device=serial", limits, &port];
    set.extend(more);
    let config = config(&set);
    let (rois, slots) = frames(&config, 3);
    (Service::start(config).await, rois, slots.iter().map(frame).collect())
}

async fn reward(service: &mut Service) -> u32 {
    let command = service.header();
    let answer = service.control.manual_reward(v1::ManualRewardRequest { command }).await.expect("intended");
    answer.into_inner().trigger_sequence
}

/// Events from the first on, until one of this kind for this trigger.
async fn until(service: &Service, kind: EventKind, id: u32) -> Vec<v1::SubscribeEventsResponse> {
    let mut client = EventsServiceClient::new(service.channel.clone());
    let q = v1::SubscribeEventsRequest { from_event_seq: 0 };
    let mut events = client.subscribe_events(q).await.expect("events").into_inner();
    let mut seen = Vec::new();
    let wait = async {
        while let Some(event) = events.message().await.expect("the stream lives") {
            let found = event.kind() == kind && event.id == u64::from(id);
            seen.push(event);
            if found {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "no {kind:?} for {id} among {seen:?}");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reward_is_sent_once_acknowledged_and_measured_and_a_limit_stops_the_next() {
    let valve = ValveSimulator::start().expect("a pseudo-terminal");
    let (mut service, rois, frames) = service(&valve, &[]).await;
    let mut stream = service.open(&rois, header()).await;
    assert_eq!(stream.send(frames[0].clone()).await.verdict(), FrameVerdict::Decided);
    let first = reward(&mut service).await;
    let second = reward(&mut service).await;
    assert!(second > first);
    let events = until(&service, EventKind::RewardLimited, second).await;
    let said = events.iter().find(|e| e.kind() == EventKind::RewardLimited).expect("it is there");
    assert!(said.detail.contains("limits.min_interval_ms"), "{}", said.detail);
    let events = until(&service, EventKind::PulseDone, first).await;
    let kinds: Vec<EventKind> = events.iter().filter(|e| e.id == u64::from(first)).map(|e| e.kind()).collect();
    let once = [EventKind::RewardIntended, EventKind::RewardSent, EventKind::RewardAcknowledged, EventKind::PulseDone];
    for kind in once {
        assert_eq!(kinds.iter().filter(|k| **k == kind).count(), 1, "{kind:?} in {kinds:?}");
    }
    let done = events.iter().find(|e| e.kind() == EventKind::PulseDone).expect("it is there");
    assert!((49.0..60.0).contains(&done.value), "a pulse of 50 ms, measured {} ms", done.value);
    let seen = valve.statistics();
    assert!(seen.triggers_by_id.values().all(|&count| count == 1) && seen.board.opened == 1, "{seen:?}");
    drop(stream);
    verified(&service.stop_session().await);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reward_without_an_answer_is_unknown_and_counts_as_delivered() {
    let valve = ValveSimulator::start().expect("a pseudo-terminal");
    let (mut service, rois, frames) = service(&valve, &["outputs.reward.ack_timeout_ms=100"]).await;
    let mut stream = service.open(&rois, header()).await;
    assert_eq!(stream.send(frames[0].clone()).await.verdict(), FrameVerdict::Decided);
    valve.set_fault(BoardFault::Silent);
    let id = reward(&mut service).await;
    until(&service, EventKind::RewardUnknown, id).await;
    let limited = reward(&mut service).await;
    until(&service, EventKind::RewardLimited, limited).await;
    assert_eq!(stream.send(frames[1].clone()).await.verdict(), FrameVerdict::Decided, "a silent valve stops no frame");
    let state = service.control.get_state(v1::GetStateRequest {}).await.expect("the state").into_inner();
    let c = state.counters.expect("counters");
    assert_eq!((c.rewards_sent, c.rewards_acknowledged, c.rewards_unknown, c.rewards_limited), (1, 0, 1, 1));
    assert_eq!(valve.statistics().board.opened, 1, "it was never sent again");
    drop(stream);
    verified(&service.stop_session().await);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_closes_the_valve_at_once() {
    let valve = ValveSimulator::start().expect("a pseudo-terminal");
    let (mut service, rois, frames) = service(&valve, &["outputs.reward.width_ms=60.0"]).await;
    let mut stream = service.open(&rois, header()).await;
    assert_eq!(stream.send(frames[0].clone()).await.verdict(), FrameVerdict::Decided);
    reward(&mut service).await;
    let command = service.header();
    service.control.abort(v1::AbortRequest { command }).await.expect("aborted");
    assert!(valve.wait_for(PATIENCE, |seen| seen.board.safe_commands > 0 && !seen.is_open), "the board heard SAFE");
    let command = service.header();
    let status = service.control.manual_reward(v1::ManualRewardRequest { command }).await.expect_err("it is over");
    assert_eq!(status.code(), Code::FailedPrecondition);
    drop(stream);
    verified(&service.directory.path().join("session"));
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_not_there_is_an_error_that_names_it() {
    let config = config(&[
        "outputs.reward.device=serial",
        "outputs.reward.port=/dev/no-such-port",
        "limits={max_pulse_width_ms=60.0, min_interval_ms=300.0, max_on_ms_per_minute=1000.0, \
         max_on_ms_per_session=5000.0, max_pulses_per_minute=10, max_pulses_per_session=50}",
    ]);
    let (rois, _) = frames(&config, 1);
    let mut service = Service::start(config).await;
    service.prepare(&rois).await;
    let status = Stream::open(service.channel.clone(), header()).await.err().expect("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("/dev/no-such-port"), "{status}");
    service.end().await;
}
