"""Streams of frames and of ROI values into the service; acknowledgements are collected by a thread of their own."""

import collections
import queue
import threading
import time

import grpc
import numpy as np

from . import v1
from .errors import RigError

# Frames that may wait to be sent before `send` blocks.
WAITING = 8
# Acknowledgements that are kept; the oldest are forgotten.
ACKS_KEPT = 100_000

PIXEL_TYPES = {
    np.dtype("uint8"): v1.PIXEL_TYPE_UINT8,
    np.dtype("uint16"): v1.PIXEL_TYPE_UINT16,
    np.dtype("int16"): v1.PIXEL_TYPE_INT16,
}


class _Stream:
    """What both kinds of stream have in common: a queue out, a thread that takes the answers."""

    def __init__(self, call, request, header, frame_rate_hz, on_ack=None):
        self._request = request
        self._outgoing = queue.Queue(WAITING)
        self._condition = threading.Condition()
        self._on_ack = on_ack
        self._ended = False
        self._error = None
        self._pongs = {}
        self._pings = 0
        self.acks = collections.deque(maxlen=ACKS_KEPT)
        """Acknowledgements, oldest first: index, verdict, reason, decided_through, durable_through, delay_ns."""
        self.acked = 0
        """How many acknowledgements came."""
        self.sent = 0
        """Frames sent."""
        self._outgoing.put(request(header=header))
        self._call = call(self._requests())
        try:
            self.accepted = next(self._call).accepted
            """The service's answer to the header: session_id, next_index, notes."""
        except grpc.RpcError as error:
            raise RigError.of(error) from None
        except StopIteration:
            raise RigError(grpc.StatusCode.UNAVAILABLE, "the service ended the stream before it began") from None
        self._next_index = self.accepted.next_index
        self._period_ns = 1e9 / frame_rate_hz
        self._thread = threading.Thread(target=self._take_answers, name="apical-acks", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.close()
        else:
            self.cancel()

    def _requests(self):
        while (message := self._outgoing.get()) is not None:
            yield message

    def _put(self, message):
        while True:
            if self._ended:
                raise self._error or RigError(grpc.StatusCode.FAILED_PRECONDITION, "the stream has ended")
            try:
                return self._outgoing.put(message, timeout=0.1)
            except queue.Full:
                continue

    def _take_answers(self):
        error = None
        try:
            for answer in self._call:
                with self._condition:
                    if answer.HasField("ack"):
                        self.acks.append(answer.ack)
                        self.acked += 1
                    elif answer.HasField("pong"):
                        self._pongs[answer.pong.id] = answer.pong
                    self._condition.notify_all()
                if answer.HasField("ack") and self._on_ack:
                    self._on_ack(answer.ack)
        except grpc.RpcError as ended:
            if ended.code() != grpc.StatusCode.CANCELLED:
                error = RigError.of(ended)
        finally:
            with self._condition:
                self._ended, self._error = True, error
                self._condition.notify_all()

    def _stamp(self, index, device_ns):
        index = self._next_index if index is None else int(index)
        self._next_index = max(self._next_index, index + 1)
        return index, round(index * self._period_ns) if device_ns is None else int(device_ns)

    @property
    def is_open(self):
        """Whether the service still takes frames."""
        return not self._ended

    def wait(self, count, timeout_s=30.0):
        """Waits until ``count`` acknowledgements came in all; returns those that are kept."""
        with self._condition:
            done = self._condition.wait_for(lambda: self.acked >= count or self._ended, timeout_s)
            if self.acked < count:
                if self._error:
                    raise self._error
                why = "the stream ended" if done else f"nothing more came in {timeout_s} s"
                raise RigError(grpc.StatusCode.DEADLINE_EXCEEDED, f"{self.acked} of {count} frames acknowledged; {why}")
            return list(self.acks)

    def ping(self, timeout_s=5.0):
        """Asks for the service's clock. Returns (offset_ns, uncertainty_ns): the service's monotonic clock (it counts
        from the service's start) minus ``time.monotonic_ns()`` here, and half of the time that the answer took."""
        self._pings += 1
        number, sent_ns = self._pings, time.monotonic_ns()
        self._put(self._request(ping=v1.ClockPing(id=number, device_ns=sent_ns)))
        with self._condition:
            if not self._condition.wait_for(lambda: number in self._pongs or self._ended, timeout_s):
                raise RigError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer to a ping in {timeout_s} s")
            pong = self._pongs.pop(number, None)
        if pong is None:
            raise self._error or RigError(grpc.StatusCode.FAILED_PRECONDITION, "the stream has ended")
        half_ns = (time.monotonic_ns() - sent_ns) / 2
        return pong.host_ns - (sent_ns + half_ns), half_ns

    def close(self, timeout_s=30.0):
        """Says that no frame follows, and waits for the outstanding acknowledgements."""
        if not self._ended:
            self._put_last()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.cancel()
            raise RigError(grpc.StatusCode.DEADLINE_EXCEEDED, f"the service did not end the stream in {timeout_s} s")
        if self._error:
            raise self._error

    def _put_last(self):
        try:
            self._put(None)
        except RigError:
            # It ended meanwhile; `close` says so if it ended badly.
            pass

    def cancel(self):
        """Drops the stream as a crash would; the session goes on, and takes another stream with the same header."""
        self._call.cancel()
        self._thread.join(5.0)
        # Lets the thread that sends go.
        while True:
            try:
                return self._outgoing.put_nowait(None)
            except queue.Full:
                try:
                    self._outgoing.get_nowait()
                except queue.Empty:
                    pass


class FrameStream(_Stream):
    """A stream of frames of pixels; made by ``Rig.open_stream``."""

    def __init__(self, stub, header, dtype, on_ack=None):
        self.shape = (header.height_px, header.width_px)
        self.dtype = np.dtype(dtype)
        super().__init__(stub.IngestFrames, v1.IngestFramesRequest, header, header.frame_rate_hz, on_ack)

    def send(self, frame, index=None, device_ns=None, plane=0, channel=0, z_um=None):
        """Sends one whole frame, a height x width array of the stream's dtype. Returns its index.

        Without ``index`` frames are counted on; without ``device_ns`` their time is index / frame_rate_hz. Blocks
        where the service is behind. What became of the frame is told by its acknowledgement in ``acks``.
        """
        frame = np.asarray(frame)
        if frame.shape != self.shape or frame.dtype != self.dtype:
            got, expected = f"{frame.shape} {frame.dtype}", f"{self.shape} {self.dtype}"
            raise ValueError(f"frame of {got}, expected {expected} as the stream was opened")
        return self.send_bytes(self._pixels(frame), index, device_ns, plane, channel, z_um)

    def send_strip(self, rows, row_offset, index, device_ns=None, plane=0, channel=0, z_um=None):
        """Sends some scan lines of frame ``index``: rows x width values, from row ``row_offset`` on, top to bottom."""
        rows = np.asarray(rows)
        if rows.ndim != 2 or rows.shape[1] != self.shape[1] or rows.dtype != self.dtype:
            got, expected = f"{rows.shape} {rows.dtype}", f"rows x {self.shape[1]} {self.dtype}"
            raise ValueError(f"strip of {got}, expected {expected} as the stream was opened")
        return self.send_bytes(self._pixels(rows), index, device_ns, plane, channel, z_um, row_offset, len(rows))

    def send_bytes(self, pixels, index=None, device_ns=None, plane=0, channel=0, z_um=None, row_offset=0, row_count=0):
        """Sends bytes as they are, little-endian; the service checks them."""
        index, device_ns = self._stamp(index, device_ns)
        frame = v1.Frame(index=index, plane=plane, channel=channel, device_ns=device_ns, z_um=z_um, pixels=pixels)
        frame.row_offset_px, frame.row_count_px = row_offset, row_count
        self._put(self._request(frame=frame))
        self.sent += 1
        return index

    def _pixels(self, values):
        return np.ascontiguousarray(values).astype(self.dtype.newbyteorder("<"), copy=False).tobytes()


class ValuesStream(_Stream):
    """A stream of ROI values that the microscope has integrated; made by ``Rig.open_values``."""

    def __init__(self, stub, header, on_ack=None):
        super().__init__(stub.IngestRoiValues, v1.IngestRoiValuesRequest, header, header.frame_rate_hz, on_ack)

    def send(self, values, index=None, device_ns=None):
        """Sends the mean brightness of every ROI in one frame, in detector counts, offset removed. Returns its index."""
        index, device_ns = self._stamp(index, device_ns)
        values = np.asarray(values, dtype=float).ravel()
        self._put(self._request(values=v1.RoiValues(index=index, device_ns=device_ns, f_counts=values)))
        self.sent += 1
        return index
