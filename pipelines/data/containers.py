"""Opening a video file: which containers are known, which of its streams is the video, and what it is refused for.

A file is opened by a short list of containers, from this machine only, within limits on bytes and pixels, because a few
kilobytes can claim gigabytes. Names are never believed, neither that a file is a video nor that it is none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import av
from av.codec import CodecContext
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipelines.data.limits import Limits, VideoError, check_bytes
from pipelines.data.whole import is_known, missing_end

CONTAINERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "ogg", "flv"),
    *("asf", "mxf", "gif", "apng", "dv", "ivf", "nut", "rm", "wtv", "yuv4mpegpipe"),
    *("h264", "hevc", "m4v", "mpegvideo", "obu"),
)
PICTURES = ("heic", "heix", "heim", "heis", "mif1", "avif", "jpeg")
"""Brands of ISO files that hold a picture, in tiles that no video decoder joins."""
RESTARTING = ("mpegts", "mpeg", "ogg")
"""Containers whose times may start again, as FFmpeg knows them."""
RAW = ("h264", "hevc", "m4v", "mpegvideo", "obu")
"""Bare streams: no times, and a rate only where the codec's own head states one."""
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read the transparency of a WebM too; FFmpeg's own ones of these codecs pass over it."""
CHECKING = {"vp9": "libvpx-vp9"}
"""Decoders that notice where a frame's data does not end with the frame; FFmpeg's own ones decode on into garbage."""
FORGIVING = ("h264", "tiff")
"""Decoders that in strict mode refuse undamaged files, too: recordings that begin within a group, tags out of order."""
TABLED = ("huffyuv", "ffvhuff", "asv1", "asv2")
"""Codecs whose tables stand in the container's head, and whose decoders take others where it has none: noise comes out,
without an error (WTV keeps no such head)."""
SHORTFALL_SECONDS = 0.5
SHORTFALL_SHARE = 0.05
"""A file that says nowhere how long it is, but how many seconds, was cut off where it ends this much before them."""


def words(error: Exception) -> str:
    """The first line of what a library says."""
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]


def _open(path: Path) -> InputContainer:
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
    try:
        return av.open(f"file:{path}", options=options, metadata_errors="replace")
    except (FileNotFoundError, PermissionError) as error:
        raise VideoError("unreadable", words(error)) from None
    except (av.FFmpegError, OSError, ValueError) as error:
        if path.stat().st_size == 0:
            raise VideoError("not_video", "is empty") from None
        missing = missing_end(path)
        if missing:
            raise VideoError("truncated", missing) from None
        if is_known(path):
            raise VideoError("decode_error", f"its header cannot be read ({words(error)})") from None
        raise VideoError("not_video", f"is no video container known here ({words(error)})") from None


@contextlib.contextmanager
def opened(path: Path, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream, float | None]]:
    """The container, its largest video stream, and stated seconds where nothing else says how long it is.

    Raises:
        VideoError: the file is no video, is shorter than it says, or is over a limit.
    """
    check_bytes(path, limits)
    with _open(path) as container:
        missing = missing_end(path)
        if missing:
            raise VideoError("truncated", missing)
        if container.metadata.get("major_brand") in PICTURES:
            raise VideoError("not_video", f"is a picture ({container.metadata['major_brand']}), no video")
        streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
            raise VideoError("no_video_stream", f"holds {kinds}, no video")
        known = [stream for stream in streams if stream.codec_context is not None]
        if not known:
            raise VideoError("unknown_codec", "its codec is unknown here; convert it, to H.264 for example")
        stream = max(known, key=_rank)
        if stream.width * stream.height > limits.max_pixels:
            found = f"{stream.width}x{stream.height} pixels; at most {limits.max_pixels} are allowed"
            raise VideoError("too_large", found)
        _check_tables(container, stream)
        yield container, stream, _seconds(container) if missing is None else None


def _check_tables(container: InputContainer, stream: VideoStream) -> None:
    """Refuse a stream whose decoder would have to guess its tables; Huffyuv 1 had fixed ones, and marks them."""
    codec = stream.codec_context
    is_first = "huff" in codec.name and codec.bits_per_coded_sample % 8 != 0
    if codec.name in TABLED and not codec.extradata and not is_first:
        lost = f"its container ({container.format.name}) lost the tables that {codec.name} is decoded by"
        raise VideoError("decode_error", f"{lost}; convert the original anew")


def _rank(stream: VideoStream) -> tuple[int, bool, int]:
    """The largest stream counts; of equals one that is no single picture (an AVIF sequence holds its cover, too)."""
    return stream.width * stream.height, stream.frames != 1, -stream.index


def holds_video(path: Path, limits: Limits) -> bool:
    """Whether a file of any name is a video of more than one frame, from its head alone."""
    try:
        with opened(path, limits) as (container, stream, _):
            packets = (packet for packet in container.demux(stream) if packet.size)
            return next(packets, None) is not None and next(packets, None) is not None
    except VideoError as error:
        return error.reason in ("truncated", "too_large", "too_many_bytes", "unknown_codec")
    except (av.FFmpegError, OSError):
        return False


def decoder_of(stream: VideoStream, limits: Limits) -> VideoCodecContext:
    """What decodes the stream: on one thread, within the limit of pixels, and saying what it finds damaged."""
    decoder = stream.codec_context
    other = _other_decoder(stream)
    if other in av.codecs_available:
        decoder = _told_of_colors(cast(VideoCodecContext, CodecContext.create(other, "r")), stream.codec_context)
    most = str(2 * limits.max_pixels + 65536)  # decoders pad their frames
    strict = "crccheck" if decoder.name in FORGIVING else "explode+crccheck"
    decoder.options = {"max_pixels": most, "err_detect": strict}
    decoder.thread_type, decoder.thread_count = "NONE", 1
    return decoder


def _other_decoder(stream: VideoStream) -> str | None:
    """A decoder that does more than FFmpeg's own; None: there is none that reads this stream."""
    name, form = stream.codec_context.name, stream.codec_context.format
    if stream.metadata.get("alpha_mode") == "1":
        return WITH_ALPHA.get(name)
    eight_bit = form is not None and all(part.bits <= 8 for part in form.components)
    return CHECKING.get(name) if eight_bit else None


def _told_of_colors(decoder: VideoCodecContext, stated: VideoCodecContext) -> VideoCodecContext:
    """The decoder, told of the colours that the container states, as FFmpeg's own one is."""
    decoder.color_trc, decoder.color_primaries = stated.color_trc, stated.color_primaries
    decoder.colorspace, decoder.color_range = stated.colorspace, stated.color_range
    return decoder


def _seconds(container: InputContainer) -> float | None:
    """What the head states; None where it states nothing, or where FFmpeg measures it on what is there."""
    named = set(container.format.name.split(",")) & {"matroska", "asf", "nut"}
    return container.duration / av.time_base if named and container.duration is not None else None
