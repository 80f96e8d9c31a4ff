//! Two planes of one microscope: each has a template, a shift and masks of its own, and a decision falls when the last
//! plane that an ensemble needs has come. Held against sessions that see one of the planes alone.

mod common;

use std::sync::Arc;

use apical::config::RigConfig;
use apical::engine::{Command, Engine, EngineError, Input, RecordSink, RoiIds, SkipReason, Step};
use apical::frame::FrameSlot;
use apical::journal::{Published, SessionFiles, VerifyOptions, input_of, verify};
use apical::proto::v1::{self, EventKind, FrameVerdict};
use apical::sample::{ReferenceKind, RoiSet};
use common::record::Recording;
use common::{BASELINE_FRAMES, Collect, Scripted, config, driver, driver_of, frames, play, shape};
use prost::Message;

const FRAMES: u64 = 420;
/// Where it is estimated, both planes' darkest pixels tell it.
const OFFSET: &str = "activity.detector_offset_counts=100";
/// ROIs of each plane.
const CELLS: usize = 6;

/// The masks and frames of two animals as those of two planes: plane 0 of every index, then plane 1.
fn two_planes(count: u64) -> ([RoiSet; 2], Vec<FrameSlot>) {
    let plane = |seed: u32| frames(&config(&[&format!("synthetic.seed={seed}")]), count);
    let ((above, first), (below, second)) = (plane(5), plane(6));
    let second = second.into_iter().map(|mut slot| {
        slot.meta.plane = 1;
        slot
    });
    ([above, below], first.into_iter().zip(second).flat_map(|(a, b)| [a, b]).collect())
}

/// All masks as one set: those of the second plane are ROIs 6 to 11.
fn both([above, below]: &[RoiSet; 2]) -> RoiSet {
    let mut set = above.clone();
    set.rois.extend(below.rois.iter().cloned().zip(CELLS as u32..).map(|(mut roi, id)| {
        (roi.id, roi.plane, roi.name) = (id, 1, id.to_string());
        roi
    }));
    (set.reference, set.reference_kind) = (None, ReferenceKind::None);
    set
}

fn script(slots: &[FrameSlot]) -> Vec<Scripted<'_>> {
    let mut script = vec![Scripted::Command(Command::StartBaseline)];
    for (k, slot) in slots.iter().enumerate() {
        script.push(Scripted::Take(Input::Frame(slot)));
        let ends_volume = slots.get(k + 1).is_none_or(|next| next.meta.index != slot.meta.index);
        if slot.meta.index == BASELINE_FRAMES - 1 && ends_volume {
            script.push(Scripted::Command(Command::Calibrate));
            script.push(Scripted::Command(Command::StartTask { accept_template: true }));
        }
    }
    script
}

fn run(config: &RigConfig, rois: &RoiSet, slots: &[FrameSlot]) -> Vec<Arc<Published>> {
    let mut steps = Collect::default();
    play(&mut driver(config, rois), &script(slots), &mut steps);
    steps.0
}

/// Steps of frames with this verdict, in order.
fn of(steps: &[Arc<Published>], verdict: FrameVerdict) -> Vec<&Arc<Published>> {
    let is = |step: &&Arc<Published>| step.input.kind() == v1::InputKind::Frame && step.decision.verdict() == verdict;
    steps.iter().filter(is).collect()
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The same animals, each seen alone by a session of one plane.
fn alone(rois: &RoiSet, slots: &[FrameSlot], plane: u32) -> Vec<Arc<Published>> {
    let mut set = rois.clone();
    (set.reference, set.reference_kind) = (None, ReferenceKind::None);
    let own = slots.iter().filter(|slot| slot.meta.plane == plane).cloned();
    let config = config(&[&format!("stream.plane={plane}"), OFFSET]);
    run(&config, &set.with_reference(), &own.collect::<Vec<_>>())
}

#[test]
fn a_plane_behind_the_one_that_decides_never_delays_it() {
    let (sets, slots) = two_planes(FRAMES);
    let steps = run(&config(&["stream.plane=[0, 1]", OFFSET]), &both(&sets), &slots);
    let (decided, gathered) = (of(&steps, FrameVerdict::Decided), of(&steps, FrameVerdict::Gathered));
    assert!(decided.iter().all(|step| step.input.plane == 0) && gathered.iter().all(|step| step.input.plane == 1));
    assert_eq!((decided.len(), gathered.len()), (FRAMES as usize, FRAMES as usize));
    let first = alone(&sets[0], &slots, 0);
    let second = alone(&sets[1], &slots, 1);
    let (first, second) = (of(&first, FrameVerdict::Decided), of(&second, FrameVerdict::Decided));
    assert_eq!((first.len(), second.len()), (FRAMES as usize, FRAMES as usize));
    for (n, (step, own)) in decided.iter().zip(&first).enumerate() {
        // Shift, F and what is decided are those of the plane alone.
        assert_eq!((step.decision.dy_px, step.decision.dx_px), (own.decision.dy_px, own.decision.dx_px), "{n}");
        assert_eq!(bits(&step.decision.f_counts[..CELLS]), bits(&own.decision.f_counts), "{n}");
        assert_eq!(step.decision.state, own.decision.state, "{n}");
        assert_eq!(step.decision.cursor.to_bits(), own.decision.cursor.to_bits(), "{n}");
        if n as u64 >= BASELINE_FRAMES - 1 {
            // The baseline ends with the decision: the last frame of the plane behind it is not in its template.
            continue;
        }
        // What the other plane says of a volume enters the next decision.
        let before = n.checked_sub(1).map(|before| &second[before].decision.f_counts[..]);
        let expected = before.map_or(bits(&[f64::NAN; CELLS]), bits);
        assert_eq!(bits(&step.decision.f_counts[CELLS..]), expected, "{n}");
        assert_eq!(bits(&gathered[n].decision.f_counts[CELLS..]), bits(&second[n].decision.f_counts), "{n}");
        assert!(gathered[n].decision.f_counts[..CELLS].iter().all(|f| f.is_nan()));
        let shift = |d: &v1::DecisionRecord| (d.dy_px, d.dx_px, d.score, d.fit);
        assert_eq!(shift(&gathered[n].decision), shift(&second[n].decision), "{n}");
    }
    assert!(decided.iter().any(|step| step.decision.event_kind.contains(&(EventKind::TrialStarted as i32))));
    let apart = decided.iter().zip(&gathered).filter(|(a, b)| (a.decision.dy_px - b.decision.dy_px).abs() > 0.2);
    assert!(apart.count() > 50, "the planes move apart in this test");
}

#[test]
fn a_decision_waits_for_every_plane_that_an_ensemble_needs() {
    let (sets, slots) = two_planes(FRAMES);
    let config = config(&["stream.plane=[0, 1]", "ensembles.minus=[7, 9, 11]"]);
    // The second plane of one volume and the first of another are lost.
    let kept = slots.into_iter().filter(|slot| !matches!((slot.meta.index, slot.meta.plane), (300, 1) | (350, 0)));
    let steps = run(&config, &both(&sets), &kept.collect::<Vec<_>>());
    let decided = of(&steps, FrameVerdict::Decided);
    let indices: Vec<u64> = decided.iter().map(|step| step.decision.frame_index).collect();
    assert_eq!(indices, (0..FRAMES).filter(|&n| n != 300 && n != 350).collect::<Vec<_>>());
    assert!(decided.iter().all(|step| step.input.plane == 1 && step.decision.f_counts.iter().all(|f| f.is_finite())));
    let skipped: Vec<(u64, u32)> = steps
        .iter()
        .filter(|step| step.decision.event_kind.contains(&(EventKind::FramesSkipped as i32)))
        .map(|step| (step.decision.frame_index, step.input.plane))
        .collect();
    // The one is known when the next volume begins, the other when its last plane comes without the first.
    assert_eq!(skipped, [(301, 0), (350, 1)]);
}

#[test]
fn a_replay_and_a_snapshot_in_the_middle_of_a_volume_give_the_same() {
    let (sets, slots) = two_planes(FRAMES);
    let config = config(&["stream.plane=[0, 1]", "ensembles.minus=[7, 9, 11]"]);
    let set = both(&sets);
    let steps = run(&config, &set, &slots);
    let mut engine = Engine::new(&config, &set, &shape(), 0).expect("an engine");
    let mut replayed = Collect::default();
    for step in &steps {
        let mut command = None;
        let input = input_of(&step.input, &step.decision, &mut command).expect("the record makes sense");
        let Step { decision, timing } = engine.step(&input);
        replayed.record(&apical::engine::InputSummary::of(&input), decision, &timing);
    }
    let encoded = |steps: &[Arc<Published>]| steps.iter().map(|s| s.decision.encode_to_vec()).collect::<Vec<_>>();
    assert!(encoded(&steps) == encoded(&replayed.0), "from F");
    let script = script(&slots);
    for cut in [2, 101, 440, 445, 700] {
        let mut whole = driver(&config, &set);
        play(&mut whole, &script[..cut], &mut Collect::default());
        let mut state = Vec::new();
        whole.engine().save(&mut state);
        let mut engine = Engine::new(&config, &set, &shape(), 0).expect("an engine");
        engine.load(&state).expect("its own state");
        let (mut loaded, mut rest) = (Collect::default(), Collect::default());
        play(&mut driver_of(&config, engine), &script[cut..], &mut loaded);
        play(&mut whole, &script[cut..], &mut rest);
        let of_frames = |steps: &[Arc<Published>]| {
            let only = steps.iter().filter(|s| s.input.kind() == v1::InputKind::Frame);
            only.map(|s| v1::DecisionRecord { input_seq: 0, ..s.decision.clone() }.encode_to_vec()).collect::<Vec<_>>()
        };
        assert!(of_frames(&loaded.0) == of_frames(&rest.0), "cut at {cut}");
    }
}

#[test]
fn a_recorded_session_of_two_planes_is_verified_from_its_pixels_and_from_boxes_of_them() {
    let (sets, slots) = two_planes(FRAMES);
    let set = both(&sets);
    let folder = tempfile::tempdir().expect("a directory");
    for kept in ["all", "rois"] {
        let config =
            config(&["stream.plane=[0, 1]", "ensembles.minus=[7, 9, 11]", &format!("record.frames=\"{kept}\"")]);
        let mut driver = driver(&config, &set);
        let mut recording = Recording::create(folder.path(), kept, &config, &set, &driver);
        recording.play(&mut driver, &script(&slots), 100);
        let files = SessionFiles::open(&recording.close()).expect("a session");
        let report = verify(&files, &VerifyOptions::default()).expect("it is verified");
        assert_eq!((report.differences, &report.damage), (0, &Vec::new()), "{kept}: {:?}", report.first_difference);
        assert_eq!(report.frames_compared, 2 * FRAMES, "{kept}");
        match kept {
            "all" => assert!(report.frames_from_pixels == 2 * FRAMES && report.snapshots_compared > 5),
            _ => assert!(report.frames_sampled_again > 2 * FRAMES - 10, "{}", report.frames_sampled_again),
        }
    }
}

#[test]
fn a_volume_that_an_overload_skips_is_missing_once() {
    let (sets, slots) = two_planes(30);
    let config = config(&["stream.plane=[0, 1]", "ensembles.minus=[7, 9, 11]"]);
    let mut driver = driver(&config, &both(&sets));
    let mut steps = Collect::default();
    for slot in &slots {
        let (first_index, count, reason) = (slot.meta.index, 1, SkipReason::Overload);
        match first_index {
            10..12 => driver.take(Input::Skipped { first_index, count, reason }, &mut steps),
            _ => driver.take(Input::Frame(slot), &mut steps),
        }
    }
    let missing = |step: &&Arc<Published>| step.decision.event_kind.contains(&(EventKind::FramesSkipped as i32));
    let missing: Vec<(u64, u32)> =
        steps.0.iter().filter(missing).map(|s| (s.input.frame_index, s.input.plane)).collect();
    assert_eq!(missing, [(10, 0), (11, 0)]);
    assert_eq!(of(&steps.0, FrameVerdict::Decided).len(), 28);
    // A frame that comes again is refused.
    driver.take(Input::Frame(&slots[59]), &mut steps);
    driver.take(Input::Frame(&slots[20]), &mut steps);
    assert_eq!(of(&steps.0, FrameVerdict::Refused).len(), 2);
}

#[test]
fn other_ensembles_ask_for_other_planes() {
    let (sets, slots) = two_planes(4);
    let mut driver = driver(&config(&["stream.plane=[0, 1]"]), &both(&sets));
    let mut steps = Collect::default();
    slots[..4].iter().for_each(|slot| driver.take(Input::Frame(slot), &mut steps));
    let (plus, minus) = (RoiIds::new(&[7]).unwrap(), RoiIds::new(&[]).unwrap());
    driver.take(Input::Command(&Command::SetEnsembles { plus, minus }), &mut steps);
    slots[4..].iter().for_each(|slot| driver.take(Input::Frame(slot), &mut steps));
    let planes: Vec<u32> = of(&steps.0, FrameVerdict::Decided).iter().map(|step| step.input.plane).collect();
    assert_eq!(planes, [0, 0, 1, 1]);
}

#[test]
fn a_mask_on_a_plane_that_is_not_read_is_refused_by_name() {
    let (sets, _) = two_planes(1);
    let error = Engine::new(&config(&[]), &both(&sets), &shape(), 0).err().expect("an error");
    assert!(matches!(error, EngineError::Plane { roi: 6, plane: 1, .. }));
    assert_eq!(
        error.to_string(),
        "ROI 6 (synthetic) lies on plane 1, and stream.plane reads [0]: add the plane, or take the ROI out"
    );
}
