//! What the service shows of the frames: the last one as it came, the same moved onto the template, and the template.

mod common;

use apical::frame::{FrameSlot, Image};
use apical::journal::{JournalRecord, SessionFiles};
use apical::proto::v1::activity_service_client::ActivityServiceClient;
use apical::proto::v1::{self, PreviewKind};
use apical::register::resample;
use common::service::{Service, frame, header};
use common::{config, frames};
use tonic::Code;

const BASELINE: u64 = 40;

fn image(slot: &FrameSlot) -> Image {
    Image { geometry: slot.geometry, values: slot.samples().iter().map(|&s| f32::from(s)).collect() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_is_the_frame_that_came_or_its_pixels_on_the_template() {
    // Every frame is decided: a skipped one has no shift.
    let config = config(&[
        "engine.overload=every",
        &format!("baseline.frames={BASELINE}"),
        "task.trial_frames=30",
        "calibration.segments=20",
    ]);
    let (rois, slots) = frames(&config, 2 * BASELINE);
    let mut service = Service::start(config).await;
    let mut stream = service.open(&rois, header()).await;
    let mut activity = ActivityServiceClient::new(service.channel.clone());
    let ask = |kind: PreviewKind| v1::GetPreviewRequest { kind: kind as i32, plane: None };

    let none = activity.get_preview(ask(PreviewKind::Mean)).await.expect_err("there is no template yet");
    assert_eq!(none.code(), Code::FailedPrecondition);

    let command = service.header();
    service.control.start_baseline(v1::StartBaselineRequest { command }).await.expect("it starts");
    let (baseline, rest) = slots.split_at(BASELINE as usize);
    for slot in baseline {
        stream.send(frame(slot)).await;
    }
    let mut shown = Vec::new();
    let mut rest = rest.iter();
    for kind in [PreviewKind::Last, PreviewKind::Registered] {
        let mut asking = activity.clone();
        let mut preview =
            tokio::spawn(
                async move { asking.get_preview(v1::GetPreviewRequest { kind: kind as i32, plane: None }).await },
            );
        // Frames come until the question, which is on its way, has been answered.
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut preview => break answer.expect("it did not panic").expect("a frame came"),
                () = async { stream.send(frame(rest.next().expect("frames are left"))).await; } => {}
            }
        };
        shown.push(answer.into_inner());
    }
    // It stands in the snapshot that is taken as soon as no frame waits.
    let mean = async {
        loop {
            if let Ok(mean) = activity.get_preview(ask(PreviewKind::Mean)).await {
                return mean.into_inner();
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let mean = tokio::time::timeout(std::time::Duration::from_secs(20), mean).await.expect("a template");
    assert_eq!((mean.height_px, mean.width_px), (96, 96));
    let template = mean.values_counts.iter().map(|&v| f64::from(v)).sum::<f64>() / mean.values_counts.len() as f64;
    assert!(template > 1.0, "the template is dark: {template}");

    let directory = service.stop_session().await;
    let mut shifts = std::collections::BTreeMap::new();
    let read = SessionFiles::open(&directory).expect("a session").read(|record| {
        // Commands have decisions too, at the frame that was current.
        if let JournalRecord::Decision(d) = record
            && !d.f_counts.is_empty()
        {
            shifts.insert(d.frame_index, (d.dy_px, d.dx_px));
        }
    });
    read.expect("it is whole");
    let [last, registered] = &shown[..] else { panic!("two were asked for") };
    assert!(last.values_counts == image(&slots[last.frame_index as usize]).values, "frame {}", last.frame_index);
    let (dy_px, dx_px) = shifts[&registered.frame_index];
    let expected = resample(&image(&slots[registered.frame_index as usize]), dy_px, dx_px, 0.0);
    assert!(registered.values_counts == expected.values, "frame {}", registered.frame_index);
    service.end().await;
}
