//! Bad input gets the error that says what was wrong and what was expected, is counted, and leaves the session running
//! and its journal readable.

mod common;

use apical::proto::v1::{self, FrameVerdict};
use common::service::{Service, Stream, frame, header, verified};
use common::{config, frames};
use tonic::Code;

/// A session that has taken two frames; `act` is done to it; then a third frame is taken and everything is verified.
async fn survives(refused: u64, act: impl AsyncFnOnce(&mut Service, &mut Stream)) {
    let config = config(&["engine.gap_periods=0"]);
    let (rois, slots) = frames(&config, 3);
    let mut service = Service::start(config).await;
    let mut stream = service.open(&rois, header()).await;
    for slot in &slots[..2] {
        assert_eq!(stream.send(frame(slot)).await.verdict(), FrameVerdict::Decided);
    }
    act(&mut service, &mut stream).await;
    let ack = stream.send(frame(&slots[2])).await;
    assert_eq!((ack.index, ack.verdict()), (2, FrameVerdict::Decided), "the stream lives on");
    let state = service.control.get_state(v1::GetStateRequest {}).await.expect("the state").into_inner();
    let counters = state.counters.expect("counters");
    assert_eq!((counters.frames_decided, counters.frames_refused), (3, refused));
    drop(stream);
    let directory = service.stop_session().await;
    assert_eq!(verified(&directory).frames_compared, 3);
    service.end().await;
}

fn small(index: u64, plane: u32, bytes: usize) -> v1::Frame {
    v1::Frame { index, plane, pixels: vec![0; bytes].into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_the_wrong_length() {
    survives(1, async |_, stream| {
        let ack = stream.send(small(2, 0, 100)).await;
        assert_eq!(ack.verdict(), FrameVerdict::Refused);
        assert_eq!(ack.reason, "frame 2: 100 bytes, expected 18432 for 96 x 96 uint16");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_another_pixel_type() {
    survives(1, async |_, stream| {
        let ack = stream.send(small(2, 0, 96 * 96)).await;
        assert_eq!(ack.verdict(), FrameVerdict::Refused);
        assert!(ack.reason.contains("9216 bytes, expected 18432"), "{}", ack.reason);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_without_a_pixel_type() {
    let config = config(&[]);
    let mut service = Service::start(config).await;
    service.create().await;
    let bad = v1::StreamHeader { pixel_type: 99, ..header() };
    let status = Stream::open(service.channel.clone(), bad).await.err().expect("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("header.pixel_type: 99, expected"), "{status}");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_repeats_or_goes_back() {
    survives(2, async |_, stream| {
        for index in [1, 0] {
            let ack = stream.send(small(index, 0, 18_432)).await;
            assert_eq!(ack.verdict(), FrameVerdict::Refused);
            assert_eq!(ack.reason, format!("frame {index}: expected an index above 1; it repeats or goes back"));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_plane() {
    survives(1, async |_, stream| {
        let ack = stream.send(small(2, 7, 18_432)).await;
        assert_eq!(ack.verdict(), FrameVerdict::Refused);
        assert!(ack.reason.contains("plane 7, channel 0, expected planes below 2"), "{}", ack.reason);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_stream() {
    survives(0, async |service, _| {
        let other = v1::StreamHeader { stream_id: "another".to_owned(), ..header() };
        let status = Stream::open(service.channel.clone(), other).await.err().expect("refused");
        assert_eq!(status.code(), Code::FailedPrecondition);
        let twice = Stream::open(service.channel.clone(), header()).await.err().expect("refused");
        assert_eq!(twice.code(), Code::AlreadyExists);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strips_that_do_not_make_a_frame() {
    survives(2, async |_, stream| {
        let strip = |index, row_offset_px, rows: u32| v1::Frame {
            row_offset_px,
            row_count_px: rows,
            ..small(index, 0, rows as usize * 192)
        };
        let ack = stream.send(strip(2, 10, 5)).await;
        assert!(ack.reason.contains("expected it to start at row 0"), "{}", ack.reason);
        stream.push(strip(2, 0, 40)).await;
        let ack = stream.send(strip(2, 0, 40)).await;
        assert!(ack.reason.contains("expected it to start at row 40"), "{}", ack.reason);
        // The rest of a frame that was refused has had its answer.
        stream.push(strip(2, 40, 40)).await;
        stream.push(strip(2, 80, 16)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_in_strips_is_answered_once_whatever_becomes_of_it() {
    survives(2, async |_, stream| {
        for (index, plane, verdict) in
            [(2, 1, FrameVerdict::NotUsed), (1, 0, FrameVerdict::Refused), (2, 7, FrameVerdict::Refused)]
        {
            for row_offset_px in [0, 32, 64] {
                let strip = v1::Frame { row_offset_px, row_count_px: 32, ..small(index, plane, 32 * 192) };
                stream.push(strip).await;
            }
            let ack = stream.ack().await;
            assert_eq!((ack.index, ack.plane, ack.verdict()), (index, plane, verdict), "{}", ack.reason);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_roi_outside_the_frame() {
    let config = config(&[]);
    let mut service = Service::start(config).await;
    service.create().await;
    let roi = v1::Roi { rows_px: vec![3, 96], cols_px: vec![3, 4], ..Default::default() };
    let q = v1::UploadRoisRequest {
        command: service.header(),
        height_px: 96,
        width_px: 96,
        rois: vec![roi],
        reference: None,
    };
    let status = service.control.upload_rois(q).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("ROI 0") && status.message().contains("row 96"), "{status}");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ensembles_empty() {
    let config = config(&["ensembles.plus=[]", "ensembles.minus=[]"]);
    let (rois, _) = frames(&config, 1);
    let mut service = Service::start(config).await;
    service.prepare(&rois).await;
    let status = Stream::open(service.channel.clone(), header()).await.err().expect("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("both ensembles are empty"), "{status}");
    let q = v1::SetEnsemblesRequest { command: service.header(), plus: vec![], minus: vec![] };
    assert_eq!(service.control.set_ensembles(q).await.expect_err("refused").code(), Code::InvalidArgument);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thresholds_that_are_not_numbers() {
    survives(0, async |service, _| {
        for threshold in [f64::NAN, f64::INFINITY, 0.0] {
            let q = v1::ChangeThresholdRequest { command: service.header(), threshold, range_low: Some(0.5) };
            let status = service.control.change_threshold(q).await.expect_err("refused");
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains("finite"), "{status}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_at_the_wrong_time() {
    survives(0, async |service, _| {
        let q = v1::StartTaskRequest { command: service.header(), accept_template: false };
        let status = service.control.start_task(q).await.expect_err("refused");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("there is no complete baseline"), "{status}");
        let q = v1::PauseRequest { command: None };
        assert_eq!(service.control.pause(q).await.expect_err("refused").code(), Code::InvalidArgument);
    })
    .await;
}

fn apical(args: &[&std::ffi::OsStr]) -> (bool, String) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_apical")).args(args).output().expect("it runs");
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn a_reader_of_what_is_printed_that_leaves_is_no_failure_and_a_full_disk_is() {
    let prints = |args: &[&str], to: std::process::Stdio| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_apical"));
        let out = program.args(args).stdout(to).output().expect("it runs");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for args in [["config"].as_slice(), &["config", "--json"], &["--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        assert_eq!(prints(args, writer.into()), (Some(0), String::new()), "{args:?}");
    }
    if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
        let (status, said) = prints(&["config"], full.into());
        assert!(status == Some(1) && said.contains("standard output: No space left"), "{status:?}: {said}");
    }
}

#[test]
fn a_truncated_tiff() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cut.tif");
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut bytes).expect("an encoder");
    for k in 0..5u16 {
        let page: Vec<u16> = (0..32 * 32).map(|i| i + k).collect();
        encoder.write_image::<tiff::encoder::colortype::Gray16>(32, 32, &page).expect("a page");
    }
    let bytes = bytes.into_inner();
    std::fs::write(&path, &bytes[..bytes.len() - 3_000]).expect("written");
    for mode in ["--in-process", "--fps=max"] {
        let session = directory.path().join(mode.trim_start_matches('-').replace('=', "-"));
        let (good, said) =
            apical(&["replay".as_ref(), path.as_ref(), mode.as_ref(), "--session-dir".as_ref(), session.as_ref()]);
        assert!(!good, "{said}");
        assert!(said.contains("whole"), "it says how many frames were whole: {said}");
        let report = verified(&session);
        assert!((1..5).contains(&report.frames_compared), "{report:?}");
    }
}

#[test]
fn an_npy_of_python_objects() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("objects.npy");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let mut head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".to_vec();
    head.resize(117, b' ');
    head.push(b'\n');
    bytes.extend((head.len() as u16).to_le_bytes());
    bytes.extend(head);
    bytes.extend(b"\x80\x03cos\nsystem\nq\x00X\x02\x00\x00\x00idq\x01\x85q\x02Rq\x03.");
    std::fs::write(&path, &bytes).expect("written");
    let (good, said) = apical(&["replay".as_ref(), path.as_ref(), "--in-process".as_ref()]);
    assert!(!good && said.contains("object"), "{said}");
    let rois = directory.path().join("stat.npy");
    std::fs::write(&rois, &bytes).expect("written");
    let said = apical::sample::read_rois(&rois, None).expect_err("refused").to_string();
    assert!(said.contains("os.system") || said.contains("os system"), "{said}");
}

#[test]
fn a_configuration_with_an_unknown_key() {
    let (good, said) = apical(&["config".as_ref(), "--set".as_ref(), "task.trial_fames=150".as_ref()]);
    assert!(!good);
    assert!(said.contains("task.trial_fames") && said.contains("trial_frames"), "{said}");
    let (good, said) = apical(&["serve".as_ref(), "--set".as_ref(), "service.listen=0.0.0.0:50051".as_ref()]);
    assert!(!good && said.contains("loopback") && said.contains("because"), "{said}");
}
