//! The stream of frames as it comes off the wire: gRPC messages out of HTTP/2 frames, large frames as strips.
//!
//! A library gathers a whole message before it gives it away. A frame of 512 x 512 is half a megabyte: it is copied
//! into a buffer of its own, and nothing can be made of it before its last byte is there. Here a frame that does not
//! fit one HTTP/2 frame leaves as strips while it arrives, which is what its adapter might have sent; the strips'
//! pixels are slices of what the socket was read into. Everything else (headers, pings, strips that fit) leaves as it
//! came.
//!
//! The forms: a message of [gRPC](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) is a byte that says
//! whether it is compressed, its length in four bytes, the largest first, and the message; protobuf's
//! [encoding](https://protobuf.dev/programming-guides/encoding/) of the message. A frame is cut where its pixels stand
//! last in it, as every writer that goes by the fields' numbers puts them, and are as many as its rows need; any other
//! message is gathered.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tokio_stream::Stream;
use tonic::Status;
use tonic::codegen::{Body, Service, http};
use tonic::server::NamedService;

use super::{HTTP2_FRAME_BYTES, MESSAGE_BYTES_MAX};
use crate::engine::StreamShape;
use crate::journal::shape_of_header;
use crate::proto::v1;
use crate::proto::v1::ingest_frames_request::Message as Kind;

/// Path of the method whose messages come this way.
const PATH: &str = "/apical.v1.IngestService/IngestFrames";
/// Bytes before a message.
const PREFIX_BYTES: usize = 5;
/// A message of so many bytes or fewer is gathered, as one HTTP/2 frame brings it.
const GATHERED_BYTES: usize = HTTP2_FRAME_BYTES as usize;
/// What a frame says of itself before its pixels is shorter than this, in bytes.
const HEAD_BYTES: usize = 96;
/// Protobuf's key of `IngestFramesRequest.frame`, and of `Frame.pixels`.
const FRAME_KEY: u64 = 2 << 3 | 2;
const PIXELS_KEY: u64 = 8 << 3 | 2;

/// A service whose stream of frames is read from the wire: in place of its body, a request has a [`Wire`] among its
/// extensions.
#[derive(Clone)]
pub(super) struct OffTheWire<S>(pub S);

impl<S: NamedService> NamedService for OffTheWire<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<tonic::body::Body>>> Service<http::Request<tonic::body::Body>> for OffTheWire<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> S::Future {
        if request.uri().path() == PATH {
            let body = std::mem::take(request.body_mut());
            request.extensions_mut().insert(Taken(Arc::new(Mutex::new(Some(Wire::new(body))))));
        }
        self.0.call(request)
    }
}

/// A request's stream, for whoever comes first.
#[derive(Clone)]
struct Taken(Arc<Mutex<Option<Wire<tonic::body::Body>>>>);

/// Takes the stream out of a request.
///
/// # Errors
/// The request did not come through [`OffTheWire`], or its stream was taken before.
pub(super) fn take<T>(request: &tonic::Request<T>) -> Result<Wire<tonic::body::Body>, Status> {
    let taken = request.extensions().get::<Taken>();
    let wire = taken.and_then(|taken| taken.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    wire.ok_or_else(|| Status::internal("the stream of frames has been taken"))
}

/// Messages of a stream of frames, as they come.
pub(super) struct Wire<B> {
    body: B,
    /// What has come and is not used.
    chunk: Bytes,
    part: Part,
    /// Rows of a frame, and bytes of a row, once the header has come.
    rows: usize,
    row_bytes: usize,
}

/// Where in the stream the next byte belongs.
enum Part {
    /// Into the prefix.
    Prefix(BytesMut),
    /// Into the first bytes of a message of so many, which tell whether it is cut.
    Head(BytesMut, usize),
    /// Into a message of so many bytes that is gathered.
    Gathered(BytesMut, usize),
    /// Into the rows of a frame.
    Rows(Rows),
    /// Nowhere: the stream is broken.
    Broken,
}

/// A frame whose rows leave as they come.
struct Rows {
    /// What the frame says of itself; no pixels.
    frame: v1::Frame,
    /// The row that comes next, and one past the last.
    next: u32,
    end: u32,
    /// The beginning of the next row.
    begun: BytesMut,
}

impl<B: Body<Data = Bytes> + Unpin> Wire<B>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Of a request's body.
    fn new(body: B) -> Self {
        let part = Part::Prefix(BytesMut::new());
        Self { body, chunk: Bytes::new(), part, rows: 0, row_bytes: 0 }
    }

    /// The next message that is there, as far as what has come goes.
    fn parse(&mut self) -> Result<Option<Option<Kind>>, Status> {
        while !self.chunk.is_empty() {
            match std::mem::replace(&mut self.part, Part::Broken) {
                Part::Prefix(mut prefix) => {
                    if fill(&mut prefix, &mut self.chunk, PREFIX_BYTES) {
                        let length = message_bytes(&prefix)?;
                        self.part = if length <= GATHERED_BYTES {
                            Part::Gathered(BytesMut::new(), length)
                        } else {
                            Part::Head(BytesMut::new(), length)
                        };
                        if length == 0 {
                            self.part = Part::Prefix(BytesMut::new());
                            return self.whole(Bytes::new()).map(Some);
                        }
                    } else {
                        self.part = Part::Prefix(prefix);
                    }
                }
                Part::Head(mut head, length) => {
                    if !fill(&mut head, &mut self.chunk, HEAD_BYTES) {
                        self.part = Part::Head(head, length);
                    } else if let Some((mut rows, before)) = self.rows_of(&head, length) {
                        head.advance(before);
                        rows.begun = head;
                        self.part = Part::Rows(rows);
                    } else {
                        self.part = Part::Gathered(head, length);
                    }
                }
                Part::Gathered(mut message, length) => {
                    let whole = if message.is_empty() && self.chunk.len() >= length {
                        self.chunk.split_to(length)
                    } else if fill(&mut message, &mut self.chunk, length) {
                        message.freeze()
                    } else {
                        self.part = Part::Gathered(message, length);
                        continue;
                    };
                    self.part = Part::Prefix(BytesMut::new());
                    return self.whole(whole).map(Some);
                }
                Part::Rows(mut rows) => {
                    let strip = rows.strip(&mut self.chunk, self.row_bytes);
                    self.part = if rows.next == rows.end { Part::Prefix(BytesMut::new()) } else { Part::Rows(rows) };
                    if let Some(strip) = strip {
                        return Ok(Some(Some(Kind::Frame(strip))));
                    }
                }
                Part::Broken => return Ok(None),
            }
        }
        Ok(None)
    }

    /// A message that has come whole.
    fn whole(&mut self, message: Bytes) -> Result<Option<Kind>, Status> {
        let message = v1::IngestFramesRequest::decode(message)
            .map_err(|error| Status::internal(format!("failed to decode a message: {error}")))?;
        if let Some(Kind::Header(header)) = &message.message
            && let StreamShape::Pixels { geometry, pixel_type, .. } = shape_of_header(header)
        {
            (self.rows, self.row_bytes) = (geometry.height_px, pixel_type.size_bytes() * geometry.width_px);
        }
        Ok(message.message)
    }

    /// The frame that begins so, in a message of `length` bytes, and how many bytes come before its pixels. Nothing
    /// where it is not to be cut.
    fn rows_of(&self, head: &[u8], length: usize) -> Option<(Rows, usize)> {
        let mut rest = head;
        let is_frame = varint(&mut rest)? == FRAME_KEY;
        let inner = usize::try_from(varint(&mut rest)?).ok()?;
        if !is_frame || inner.checked_add(head.len() - rest.len())? != length {
            return None;
        }
        let fields = rest;
        let (said, pixels) = loop {
            let said = fields.len() - rest.len();
            match varint(&mut rest)? {
                PIXELS_KEY => break (said, usize::try_from(varint(&mut rest)?).ok()?),
                key if key & 7 == 0 => _ = varint(&mut rest)?,
                key if key & 7 == 1 => rest = rest.get(8..)?,
                _ => return None,
            }
        };
        let before = head.len() - rest.len();
        let frame = v1::Frame::decode(&fields[..said]).ok()?;
        let count = if frame.row_count_px == 0 { self.rows } else { frame.row_count_px as usize };
        let end = frame.row_offset_px.checked_add(u32::try_from(count).ok()?)?;
        let fits = before.checked_add(pixels)? == length && count.checked_mul(self.row_bytes)? == pixels;
        let row = Rows { next: frame.row_offset_px, end, frame, begun: BytesMut::new() };
        // Of a row that is no longer than what has been read here, more than one may have been.
        (fits && count > 1 && self.row_bytes >= HEAD_BYTES).then_some((row, before))
    }
}

impl Rows {
    /// The rows that are complete with what has come, if there are any.
    fn strip(&mut self, chunk: &mut Bytes, row_bytes: usize) -> Option<v1::Frame> {
        let pixels = if self.begun.is_empty() && chunk.len() >= row_bytes {
            chunk.split_to(row_bytes * (chunk.len() / row_bytes).min((self.end - self.next) as usize))
        } else if fill(&mut self.begun, chunk, row_bytes) {
            self.begun.split().freeze()
        } else {
            return None;
        };
        let (row_offset_px, row_count_px) = (self.next, (pixels.len() / row_bytes) as u32);
        self.next += row_count_px;
        Some(v1::Frame { row_offset_px, row_count_px, pixels, ..self.frame.clone() })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Stream for Wire<B>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Item = Result<Option<Kind>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(message) = self.parse().transpose() {
                return Poll::Ready(Some(message));
            }
            if matches!(self.part, Part::Broken) {
                return Poll::Ready(None);
            }
            let broken = match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    // What is no data is the end.
                    self.chunk = frame.into_data().unwrap_or_default();
                    continue;
                }
                Some(Err(error)) => Some(Status::from_error(error.into())),
                None if matches!(&self.part, Part::Prefix(begun) if begun.is_empty()) => None,
                None => Some(Status::internal("the stream ended within a message")),
            };
            self.part = Part::Broken;
            return Poll::Ready(broken.map(Err));
        }
    }
}

/// Moves bytes from `chunk` until `buffer` has `wanted`; whether it has.
fn fill(buffer: &mut BytesMut, chunk: &mut Bytes, wanted: usize) -> bool {
    let missing = wanted - buffer.len();
    buffer.reserve(missing);
    buffer.extend_from_slice(&chunk.split_to(missing.min(chunk.len())));
    buffer.len() == wanted
}

/// Bytes of the message behind a prefix.
fn message_bytes(prefix: &[u8]) -> Result<usize, Status> {
    let (&[compressed, ref length @ ..], true) = (prefix, prefix.len() == PREFIX_BYTES) else {
        return Err(Status::internal("a message without its prefix"));
    };
    if compressed != 0 {
        return Err(Status::unimplemented(format!(
            "a message whose first byte is {compressed}: expected 0, uncompressed"
        )));
    }
    let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    if length > MESSAGE_BYTES_MAX {
        return Err(Status::out_of_range(format!("a message of {length} bytes, expected at most {MESSAGE_BYTES_MAX}")));
    }
    Ok(length)
}

/// A number of protobuf's at the front of `bytes`, which then begin behind it.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use proptest::prelude::*;
    use tokio_stream::StreamExt;

    use super::*;

    /// A body that comes in these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(http_body::Frame::data(piece))))
        }
    }

    fn encoded(message: Kind) -> Vec<u8> {
        let message = v1::IngestFramesRequest { message: Some(message) }.encode_to_vec();
        [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
    }

    /// What comes of a stream of these bytes, cut into pieces of these lengths, around and around.
    fn read(bytes: &Bytes, lengths: &[usize]) -> Vec<Result<Option<Kind>, Status>> {
        let (mut rest, mut pieces) = (bytes.clone(), VecDeque::new());
        for &length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            pieces.push_back(rest.split_to(length.min(rest.len())));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Wire::new(Pieces(pieces)).collect())
    }

    fn header(rows: u32, width: u32) -> Kind {
        let pixel_type = v1::PixelType::Uint16 as i32;
        Kind::Header(v1::StreamHeader { height_px: rows, width_px: width, pixel_type, ..Default::default() })
    }

    fn frame(index: u64, row_offset_px: u32, row_count_px: u32, bytes: usize) -> v1::Frame {
        let pixels: Vec<u8> = (0..bytes).map(|k| (k as u64 * 31 + index) as u8).collect();
        let z_um = index.is_multiple_of(2).then_some(1.5);
        v1::Frame {
            index,
            device_ns: 7 * index,
            z_um,
            row_offset_px,
            row_count_px,
            pixels: pixels.into(),
            ..Default::default()
        }
    }

    /// Puts strips that follow each other together again.
    fn joined(messages: Vec<Result<Option<Kind>, Status>>, rows: u32) -> Vec<Kind> {
        let mut whole: Vec<Kind> = Vec::new();
        for message in messages {
            match (message.unwrap().unwrap(), whole.last_mut()) {
                (Kind::Frame(strip), Some(Kind::Frame(last)))
                    if last.index == strip.index && last.row_offset_px + last.row_count_px == strip.row_offset_px =>
                {
                    last.row_count_px += strip.row_count_px;
                    last.pixels = [&last.pixels[..], &strip.pixels[..]].concat().into();
                }
                (message, _) => whole.push(message),
            }
        }
        for message in &mut whole {
            if let Kind::Frame(frame) = message
                && (frame.row_offset_px, frame.row_count_px) == (0, rows)
            {
                frame.row_count_px = 0;
            }
        }
        whole
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_comes_off_the_wire_is_what_was_sent(
            rows in 100u32..400,
            width in 1u32..500,
            lengths in prop::collection::vec(1usize..70_000, 1..6),
            kinds in prop::collection::vec(0u8..4, 1..6),
        ) {
            let row_bytes = 2 * width as usize;
            let mut sent = vec![header(rows, width)];
            for (kind, index) in kinds.into_iter().zip(10u64..) {
                sent.push(match kind {
                    0 => Kind::Ping(v1::ClockPing { id: index, device_ns: 3 }),
                    1 => Kind::Frame(frame(index, rows / 2, rows - rows / 2, (rows - rows / 2) as usize * row_bytes)),
                    // Not as many pixels as the rows need: whoever looks at it says so.
                    2 => Kind::Frame(frame(index, 0, 0, rows as usize * row_bytes + 1)),
                    _ => Kind::Frame(frame(index, 0, 0, rows as usize * row_bytes)),
                });
            }
            let bytes: Bytes = sent.iter().cloned().flat_map(encoded).collect();
            prop_assert_eq!(joined(read(&bytes, &lengths), rows), sent);
        }
    }

    #[test]
    fn a_frame_leaves_while_it_comes_and_is_not_copied() {
        const ROW_BYTES: usize = 1_024;
        let whole = frame(3, 0, 0, 512 * ROW_BYTES);
        let bytes = Bytes::from([encoded(header(512, 512)), encoded(Kind::Frame(whole))].concat());
        let bytes = bytes.slice(..bytes.len() - 1);
        let messages = read(&bytes, &[64 << 10]);
        let (last, strips) = messages[1..].split_last().unwrap();
        assert_eq!(last.as_ref().unwrap_err().message(), "the stream ended within a message");
        let (mut rows, mut copied) = (0, 0);
        for strip in strips {
            let Ok(Some(Kind::Frame(strip))) = strip else { panic!("{strip:?}") };
            rows += strip.row_count_px;
            copied += if bytes.as_ptr_range().contains(&strip.pixels.as_ptr()) { 0 } else { strip.row_count_px };
        }
        assert_eq!(rows, 511, "all but the row whose last byte is missing");
        assert_eq!(copied, 8, "the first row, and one at each border between two pieces but the last");
    }

    #[test]
    fn a_broken_stream_says_why_and_ends() {
        for (bytes, code, why) in [
            (&[1, 0, 0, 0, 1, 0][..], tonic::Code::Unimplemented, "first byte is 1: expected 0"),
            (&[0, 255, 0, 0, 0], tonic::Code::OutOfRange, "4278190080 bytes, expected at most 67108864"),
            (&[0, 0, 0, 0, 2, 255, 255], tonic::Code::Internal, "failed to decode a message"),
            (&[0, 0, 0], tonic::Code::Internal, "ended within a message"),
        ] {
            let [Err(status)] = &read(&Bytes::from_static(bytes), &[2])[..] else { panic!("{bytes:?}") };
            assert!(status.code() == code && status.message().contains(why), "{status}");
        }
        let [Ok(None)] = read(&Bytes::from_static(&[0; 5]), &[5])[..] else { panic!("an empty message is one") };
    }
}
