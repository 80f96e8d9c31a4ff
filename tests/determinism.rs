//! Determinism is the test: run, run again, replay from what was recorded, snapshot and go on: the same bytes.

mod common;

use apical::engine::{Engine, Step};
use apical::journal::{Published, input_of};
use apical::proto::v1;
use common::{Collect, FRAMES, config, driver, driver_of, frames, play, script, shape};
use prost::Message;

fn bytes(steps: &[std::sync::Arc<Published>]) -> Vec<Vec<u8>> {
    steps.iter().map(|step| step.decision.encode_to_vec()).collect()
}

/// The first decision that differs, spelled out.
fn assert_same(a: &[std::sync::Arc<Published>], b: &[std::sync::Arc<Published>], what: &str) {
    for (x, y) in a.iter().zip(b) {
        assert_eq!(format!("{:?}", x.decision), format!("{:?}", y.decision), "{what}, input {}", x.decision.input_seq);
    }
    assert_eq!(bytes(a), bytes(b), "{what}");
}

/// With the rate of a lag in the cursor.
const RATE: [&str; 3] = ["activity.deconvolution=ar1", "activity.deconvolution_lag_frames=3", "decode.signal=rate"];

/// With a template that follows.
const FOLLOWING: [&str; 2] = ["register.template_update_frames=100", "register.template_update_share=0.5"];

#[test]
fn everything_happens_in_the_script() {
    let config = config(&[]);
    let (rois, slots) = frames(&config, FRAMES);
    let mut run = Collect::default();
    play(&mut driver(&config, &rois), &script(&slots), &mut run);
    let kinds: std::collections::BTreeSet<i32> = run.0.iter().flat_map(|s| s.decision.event_kind.clone()).collect();
    let missing: Vec<_> = (1..=30)
        .filter_map(|k| v1::EventKind::try_from(k).ok())
        .filter(|kind| !kinds.contains(&(*kind as i32)))
        .collect();
    // What a simulated board on time cannot do, and what this animal does not.
    let not_here = [v1::EventKind::RewardUnknown, v1::EventKind::Aborted, v1::EventKind::Warning];
    assert!(missing.iter().all(|kind| not_here.contains(kind) || *kind == v1::EventKind::Aversive), "{missing:?}");
    assert!(run.0.iter().any(|s| s.decision.verdict() == v1::FrameVerdict::Refused));
}

#[test]
fn the_same_inputs_give_the_same_decisions() {
    let config = config(&[]);
    let (rois, slots) = frames(&config, FRAMES);
    let script = script(&slots);
    let (mut first, mut second) = (Collect::default(), Collect::default());
    play(&mut driver(&config, &rois), &script, &mut first);
    play(&mut driver(&config, &rois), &script, &mut second);
    assert_same(&first.0, &second.0, "run again");
    let numbers: Vec<u64> = first.0.iter().map(|s| s.decision.input_seq).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "inputs are numbered without gaps");
}

#[test]
fn simd_or_not_the_decisions_are_the_same() {
    let (with, without) = (config(&[]), config(&["register.simd=false"]));
    let (rois, slots) = frames(&with, FRAMES);
    let script = script(&slots);
    let (mut first, mut second) = (Collect::default(), Collect::default());
    play(&mut driver(&with, &rois), &script, &mut first);
    play(&mut driver(&without, &rois), &script, &mut second);
    assert_same(&first.0, &second.0, "without SIMD");
}

#[test]
fn a_replay_of_what_was_recorded_gives_the_same_decisions() {
    for more in [&[][..], &RATE] {
        a_replay_gives_the_same_decisions(more);
    }
}

fn a_replay_gives_the_same_decisions(more: &[&str]) {
    let config = config(more);
    let (rois, slots) = frames(&config, FRAMES);
    let mut run = Collect::default();
    play(&mut driver(&config, &rois), &script(&slots), &mut run);
    let mut engine = Engine::new(&config, &rois, &shape(), 0).expect("an engine");
    let mut replayed = Collect::default();
    for step in &run.0 {
        let mut command = None;
        let input = input_of(&step.input, &step.decision, &mut command).expect("the record makes sense");
        let Step { decision, timing } = engine.step(&input);
        let summary = apical::engine::InputSummary::of(&input);
        apical::engine::RecordSink::record(&mut replayed, &summary, decision, &timing);
    }
    assert_same(&run.0, &replayed.0, "replay");
    let with_rate = run.0.iter().filter(|s| !s.decision.rate.is_empty()).count();
    assert_eq!(with_rate > 0, !more.is_empty(), "a rate where the configuration asks for one, and only there");
    let inputs: Vec<_> = run.0.iter().map(|s| s.input.clone()).collect();
    let again: Vec<_> = replayed.0.iter().map(|s| s.input.clone()).collect();
    assert_eq!(inputs, again, "what a replay records can be replayed");
}

#[test]
fn snapshot_load_go_on_equals_uninterrupted() {
    for more in [&[][..], &RATE, &FOLLOWING] {
        snapshot_load_go_on(more);
    }
}

fn snapshot_load_go_on(more: &[&str]) {
    let config = config(more);
    let (rois, slots) = frames(&config, FRAMES);
    let script = script(&slots);
    for cut in [1, 2, 40, 200, 225, 300, 440, 460, 480, 600, 880] {
        let mut whole = driver(&config, &rois);
        let mut first = Collect::default();
        play(&mut whole, &script[..cut], &mut first);
        let mut state = Vec::with_capacity(whole.engine().state_bytes().most);
        let room = state.capacity();
        whole.engine().save(&mut state);
        assert_eq!(state.capacity(), room, "a snapshot fits into the room that was asked for");
        let mut engine = Engine::new(&config, &rois, &shape(), 0).expect("an engine");
        engine.load(&state).expect("its own state");
        // The board and the limits are outside the engine: both runs go on with new ones.
        let mut old = Engine::new(&config, &rois, &shape(), 0).expect("an engine");
        old.load(&state).expect("its own state");
        let (mut a, mut b) = (Collect::default(), Collect::default());
        play(&mut driver_of(&config, engine), &script[cut..], &mut a);
        play(&mut driver_of(&config, old), &script[cut..], &mut b);
        assert_same(&a.0, &b.0, "two loads");
        let mut rest = Collect::default();
        play(&mut whole, &script[cut..], &mut rest);
        // What the limits and the board say may differ; frames may not.
        let frames = |steps: &[std::sync::Arc<Published>]| -> Vec<Vec<u8>> {
            let only = steps.iter().filter(|s| s.input.kind() == v1::InputKind::Frame);
            only.map(|s| v1::DecisionRecord { input_seq: 0, ..s.decision.clone() }.encode_to_vec()).collect()
        };
        assert_eq!(frames(&a.0), frames(&rest.0), "cut at {cut}");
    }
}
