//! Frames into a service, over a real socket or shared memory: what an adapter, the service and the board do on a rig.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tonic::transport::Channel;

use super::super::client::{FrameStream, Opened, Operator, PixelStream, connect, open_stream, strips_of};
use super::super::play::PlayedHeader;
use super::super::runtime;
use super::feed::{Feed, RING_FRAMES};
use super::found::Window;
use super::load::Load;
use super::timer::until;
use crate::config::{RigConfig, to_toml};
use crate::engine::{Clock, HostClock, run_first};
use crate::proto::v1;
use crate::service::{Listeners, Rig, RigMode, run as serve};

/// How long the service may take for what it has.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures: frames come as the feed's header says, over the Unix socket where the configuration has one, else over
/// TCP; the session's directory, and which frames count.
pub(super) fn measure(
    config: &RigConfig,
    feed: &Feed,
    seconds: f64,
    pace: Option<f64>,
    load: bool,
) -> anyhow::Result<(PathBuf, Window)> {
    let rig = Rig::new(config.clone(), RigMode::Live);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = runtime()?;
    let listeners = service.block_on(Listeners::bind(&config.service))?;
    let socket = &config.service.socket;
    let url = if socket.as_os_str().is_empty() {
        format!("http://{}", listeners.tcp.local_addr()?)
    } else {
        format!("unix://{}", socket.display())
    };
    let serving = service.spawn(serve(listeners, rig, async {
        let _ = stopped.await;
    }));
    let load = if load { Some(Load::start(&url, &config.record.directory)?) } else { None };
    let measured = on_one_thread(|| async { play(config, feed, connect(&url).await?, seconds, pace).await });
    drop(load);
    let _ = stop.send(());
    service.block_on(serving).context("the service panicked")??;
    measured
}

/// An adapter is a program of its own. One thread has its frames and its socket: nobody must be woken for a frame to
/// leave.
pub(super) fn on_one_thread<T: Send, F: Future<Output = anyhow::Result<T>>>(
    adapter: impl FnOnce() -> F + Send,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("apical-adapter".into())
            .spawn_scoped(scope, move || runtime.block_on(adapter()))?;
        thread.join().unwrap_or_else(|_| bail!("the adapter's thread panicked"))
    })
}

async fn play(
    config: &RigConfig,
    feed: &Feed,
    channel: Channel,
    seconds: f64,
    pace: Option<f64>,
) -> anyhow::Result<(PathBuf, Window)> {
    let mut operator = Operator::new(channel.clone(), "latency");
    operator.create(to_toml(config), Vec::new(), "latency".to_owned()).await?;
    operator.upload(&feed.rois).await?;
    let header = PlayedHeader::Pixels(feed.header.clone());
    let Opened { stream, accepted, mut acks } = open_stream(channel, header).await?;
    let FrameStream::Pixels(stream) = stream else { bail!("the stream carries no pixels") };
    let way = Way::open(&feed.header, &accepted, stream)?;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&acknowledged);
    let acks = tokio::spawn(async move {
        while let Some(ack) = acks.recv().await {
            ack?;
            counted.fetch_add(1, Ordering::Release);
        }
        anyhow::Ok(())
    });
    let mut adapter = Adapter {
        ring: &feed.ring,
        way,
        next: 0,
        strips: feed.strips,
        rows: feed.header.height_px,
        // The warm-up does not wait for a scan.
        scan_ns: 0,
    };
    let baseline = operator.start_baseline().await?;
    adapter.send(baseline).await?;
    acknowledged_all(&acknowledged, baseline).await?;
    // Without a threshold the trial does not run; everything else does.
    if operator.calibrate().await.is_ok() {
        operator.start_task().await?;
    }
    adapter.send(RING_FRAMES as u64).await?;
    acknowledged_all(&acknowledged, adapter.next).await?;
    if config.engine.realtime_priority > 0 {
        // Where both want a processor, the frame that is there comes before the next one.
        let _ = run_first((config.engine.realtime_priority - 1).max(1));
    }
    adapter.scan_ns = pace.map_or(0, |rate_hz| (1e9 / rate_hz) as u64);
    let window = Window::play(adapter.next, seconds, pace, async || adapter.frame().await).await?;
    acknowledged_all(&acknowledged, adapter.next).await?;
    drop(adapter);
    let directory = operator.stop().await?;
    acks.await.context("reading acknowledgements panicked")??;
    Ok((directory, window))
}

/// Waits until so many frames are acknowledged.
async fn acknowledged_all(acknowledged: &AtomicU64, frames: u64) -> anyhow::Result<()> {
    let all = async {
        while acknowledged.load(Ordering::Acquire) < frames {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.context("the service acknowledges no more frames")
}

/// How frames leave the adapter.
enum Way {
    /// In messages of the stream.
    Messages(PixelStream),
    /// Through memory that the service reads.
    #[cfg(feature = "shm")]
    Shared(Box<SharedWay>),
}

/// Shared memory, and what its frames are like.
#[cfg(feature = "shm")]
struct SharedWay {
    memory: crate::source::SharedSender,
    pixel_type: crate::frame::PixelType,
    inverted: bool,
    /// Acknowledgements come as long as the stream is open.
    _stream: PixelStream,
}

impl Way {
    #[cfg(feature = "shm")]
    fn open(header: &v1::StreamHeader, accepted: &v1::StreamAccepted, stream: PixelStream) -> anyhow::Result<Self> {
        if !header.shared_memory {
            return Ok(Way::Messages(stream));
        }
        let crate::engine::StreamShape::Pixels { pixel_type, geometry, .. } = crate::journal::shape_of_header(header)
        else {
            bail!("the stream carries no pixels")
        };
        let memory = crate::source::SharedSender::connect(&accepted.shared_memory, geometry.count(), true)?;
        Ok(Way::Shared(Box::new(SharedWay { memory, pixel_type, inverted: header.inverted, _stream: stream })))
    }

    #[cfg(not(feature = "shm"))]
    fn open(_: &v1::StreamHeader, _: &v1::StreamAccepted, stream: PixelStream) -> anyhow::Result<Self> {
        Ok(Way::Messages(stream))
    }
}

/// Hands frames over.
struct Adapter<'a> {
    ring: &'a [bytes::Bytes],
    way: Way,
    next: u64,
    strips: u32,
    rows: u32,
    /// How long the scan of a frame takes that is sent in strips, in nanoseconds.
    scan_ns: u64,
}

impl Adapter<'_> {
    /// The next frame; its own time is when it is handed over, or, of one in strips, when its scan begins.
    async fn frame(&mut self) -> anyhow::Result<()> {
        let pixels = &self.ring[(self.next % self.ring.len() as u64) as usize];
        let index = self.next;
        self.next += 1;
        match &self.way {
            Way::Messages(stream) => {
                let frame =
                    v1::Frame { index, device_ns: HostClock.now_ns(), pixels: pixels.clone(), ..v1::Frame::default() };
                if self.strips == 1 {
                    return stream.send(frame).await;
                }
                // Each strip leaves when its last line has been scanned.
                let begun_ns = frame.device_ns;
                for strip in strips_of(frame, self.rows, self.strips) {
                    let end = strip.row_offset_px + strip.row_count_px;
                    until(begun_ns + self.scan_ns * u64::from(end) / u64::from(self.rows)).await;
                    stream.send(strip).await?;
                }
                Ok(())
            }
            #[cfg(feature = "shm")]
            Way::Shared(way) => {
                let write = |loan: &mut crate::source::SharedLoan<'_>| {
                    // A microscope's adapter writes lines as they come: the frame is there before it is handed over.
                    loan.fill(pixels, way.pixel_type, way.inverted)?;
                    let device_ns = HostClock.now_ns();
                    Ok(crate::frame::FrameMeta { index, device_ns, ..crate::frame::FrameMeta::default() })
                };
                way.memory.send(write, crate::engine::shared_clock_ns).context("the service takes no frames")
            }
        }
    }

    /// Sends so many frames as fast as they go.
    async fn send(&mut self, frames: u64) -> anyhow::Result<()> {
        for _ in 0..frames {
            self.frame().await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
