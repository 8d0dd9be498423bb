"""Pictures as clips of one frame: decoded by Pillow within limits, upright by EXIF, over black where transparent."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.data.limits import Limits, VideoError, check_bytes
from pipelines.data.picture import Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


def _eight_bit(image: Image.Image) -> Image.Image:
    """RGB; sixteen-bit greys are scaled, not cut off, and what is transparent is black."""
    if image.mode.startswith("I;16") or image.mode == "I":
        levels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    return image.convert("RGB")


def read_picture(path: Path, limits: Limits) -> Picture:
    """The first picture of an image file, as :class:`pipelines.data.picture.Picture`.

    Raises:
        VideoError: the file is no picture known here, is damaged, or is over a limit.
    """
    check_bytes(path, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > limits.max_pixels:
                    text = f"{image.width}x{image.height} pixels; at most {limits.max_pixels} are allowed"
                    raise VideoError("too_large", text)
                upright = _eight_bit(ImageOps.exif_transpose(image))
    except VideoError:
        raise
    except Image.DecompressionBombError:
        raise VideoError("too_large", "more pixels than Pillow opens") from None
    except UnidentifiedImageError:
        text = "is empty" if path.stat().st_size == 0 else "is no picture known here"
        raise VideoError("not_image", text) from None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's words for damaged files
        reason = "truncated" if "truncated" in str(error) else "decode_error"
        raise VideoError(reason, str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    return Picture(VideoFrame.from_ndarray(np.asarray(upright), format="rgb24"))
