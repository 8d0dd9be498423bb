"""Pictures as clips of one frame: decoded by Pillow within limits, upright by EXIF, over black where transparent."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError, features

from pipelines.data.containers import holds_video
from pipelines.data.limits import Limits, VideoError, check_bytes
from pipelines.data.picture import Picture
from pipelines.data.whole import is_known, missing_end

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", *(["AVIF"] if features.check("avif") else []))
SRGB = ImageCms.createProfile("sRGB")


def _in_srgb(image: Image.Image) -> Image.Image:
    """The colours that its ICC profile means, as sRGB; as they are, where it has none or a broken one."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "L", "LA", "CMYK"):
        return image
    form = "RGBA" if image.mode in ("RGBA", "LA") else "RGB"
    source = image.convert(image.mode[:-1]) if image.mode in ("LA", "RGBA") else image
    try:
        meant = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        made = ImageCms.profileToProfile(source, meant, SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    if made is None:
        return image
    if form == "RGBA":
        made.putalpha(image.getchannel("A"))
    return made


def _eight_bit(image: Image.Image) -> Image.Image:
    """RGB; sixteen-bit greys are scaled, not cut off, and what is transparent is black."""
    if image.mode.startswith("I;16") or image.mode == "I":
        levels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    image = _in_srgb(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    return image.convert("RGB")


def is_animated(path: Path) -> bool:
    """Whether a picture's file holds several, by its head: GIF, animated PNG and WebP, AVIF sequences."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"GIF8"):
        return holds_video(path, Limits())
    if head.startswith(b"\x89PNG"):
        return 0 <= head.find(b"acTL") < (head.find(b"IDAT") % (len(head) + 1))
    if is_webp(head):
        return head[12:16] == b"VP8X" and bool(head[20:21] and head[20] & 2)
    return head[4:12] == b"ftypavis"


def is_webp(head: bytes) -> bool:
    """Whether a file begins as WebP does."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def is_picture(path: Path) -> bool:
    """Whether a file of any name is a picture known here, from its head alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS):
                return True
    except Exception:  # whatever Pillow's readers say of foreign bytes
        return False


def animation(path: Path, limits: Limits) -> Iterator[tuple[float, Picture]]:
    """Seconds since the first and picture of each frame of an animated WebP, which FFmpeg does not read; the last one
    once more at the end of its time.

    Raises:
        VideoError: it is damaged, or over a limit.
    """
    with _opened(path, limits) as image:
        milliseconds, seconds, picture = 0.0, 0.0, None
        for count, frame in enumerate(ImageSequence.Iterator(image)):
            if count >= limits.max_frames or seconds > limits.max_seconds:
                raise VideoError("too_long", f"more than {limits.max_frames} frames or {limits.max_seconds:g} s")
            picture = _as_picture(_eight_bit(frame))
            picture.seconds = seconds
            yield seconds, picture
            milliseconds += frame.info.get("duration", 100)
            seconds = milliseconds / 1000


def _as_picture(image: Image.Image) -> Picture:
    return Picture(VideoFrame.from_ndarray(np.asarray(image), format="rgb24"))


@contextlib.contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[Image.Image]:
    """A picture's file; what Pillow says of it becomes a reason."""
    check_bytes(path, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > limits.max_pixels:
                    text = f"{image.width}x{image.height} pixels; at most {limits.max_pixels} are allowed"
                    raise VideoError("too_large", text)
                yield image
    except VideoError:
        raise
    except Image.DecompressionBombError:
        raise VideoError("too_large", "more pixels than Pillow opens") from None
    except UnidentifiedImageError:
        missing = missing_end(path) if is_known(path) else None
        if missing:
            raise VideoError("truncated", missing) from None
        text = "is empty" if path.stat().st_size == 0 else "is no picture known here"
        raise VideoError("not_image", text) from None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's words for damaged files
        missing = missing_end(path)
        if missing:
            raise VideoError("truncated", missing) from None
        reason = "truncated" if "truncated" in str(error).lower() else "decode_error"
        raise VideoError(reason, str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def read_picture(path: Path, limits: Limits) -> Picture:
    """The first picture of an image file, as :class:`pipelines.data.picture.Picture`.

    Raises:
        VideoError: the file is no picture known here, is damaged, or is over a limit.
    """
    with _opened(path, limits) as image:
        return _as_picture(_eight_bit(ImageOps.exif_transpose(image)))
