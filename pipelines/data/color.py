"""What the numbers of a frame mean as colours: tags where there are tags, one stated rule where there are none.

Untagged YUV is BT.709 from a width of 1280 or a height of 720 on, else BT.601; a VP8 stream is BT.601, as its
specification says. Untagged range is limited. PQ and HLG (HDR) become what a display of 203 nits shows: highlights are
rolled off (the EETF of ITU-R BT.2390) and the primaries of BT.2020 become those of BT.709.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, ColorTrc

from pipelines.data.limits import VideoError

RGB, UNSPECIFIED = 0, 2
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""FFmpeg's number of a tagged matrix (ITU-T H.273) to its converter's."""
HD_WIDTH, HD_HEIGHT = 1280, 720
HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
PEAK, WHITE = 1000.0, 203.0
"""Nits: the brightest that an HDR source is taken to show, and what becomes 255."""
TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
"""Linear BT.2020 to linear BT.709 (ITU-R BT.2087)."""


def matrix(frame: VideoFrame, codec: str = "") -> Colorspace | None:
    """The YUV matrix to read a frame with; None for RGB and grey.

    Raises:
        VideoError: the frame is tagged with a matrix that is not known here.
    """
    if frame.format.is_rgb or len(frame.format.components) < 3 or frame.colorspace == RGB:
        return None
    if frame.colorspace == UNSPECIFIED or frame.colorspace == 3:
        large = frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT
        return Colorspace.ITU709 if large and not codec.endswith(("vp8", "libvpx")) else Colorspace.ITU601
    found = MATRICES.get(frame.colorspace)
    if found is None:
        raise VideoError("unknown_color", f"its colours have the matrix {frame.colorspace} of H.273, not known here")
    return found


def known_range(frame: VideoFrame) -> ColorRange | None:
    """The range to read YUV with; None lets the format say (RGB, grey and the full-range formats of JPEG)."""
    if frame.format.is_rgb or frame.format.name.startswith(("yuvj", "gray")):
        return None
    return ColorRange.JPEG if frame.color_range == ColorRange.JPEG else ColorRange.MPEG


def is_hdr(frame: VideoFrame) -> bool:
    """Whether the frame is coded for a bright display: PQ or HLG."""
    return frame.color_trc in HDR


def _to_pq(nits: np.ndarray) -> np.ndarray:
    """Nits to the code of SMPTE ST 2084, 0 to 1."""
    power = (nits / 10000.0) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def _from_pq(code: np.ndarray) -> np.ndarray:
    power = code ** (1 / 78.84375)
    return 10000.0 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)


def _from_hlg(code: np.ndarray) -> np.ndarray:
    """HLG signal to scene light, 0 to 1 (ITU-R BT.2100)."""
    high = (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(code <= 0.5, code**2 / 3, high)


@cache
def _decoded(transfer: int) -> np.ndarray:
    """Light of each of 65536 codes: nits of PQ, scene light of HLG; float32."""
    codes = np.arange(65536) / 65535
    return (_from_pq(codes) if transfer == ColorTrc.SMPTE2084 else _from_hlg(codes)).astype(np.float32)


def _rolled_off(nits: np.ndarray) -> np.ndarray:
    """Nits up to PEAK to nits up to WHITE: BT.2390's EETF, straight below its knee, a Hermite spline above."""
    top = _to_pq(np.array(PEAK))
    code, most = _to_pq(np.minimum(nits, PEAK)) / top, _to_pq(np.array(WHITE)) / top
    knee = 1.5 * most - 0.5
    t = np.clip((code - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return _from_pq(np.where(code < knee, code, spline) * top)


@cache
def _gains() -> np.ndarray:
    """Per nit of the brightest channel, 0 to 10000 in 4096 steps of its square root: what all three are times."""
    nits = (np.linspace(0, 100, 4096) ** 2).clip(1e-4)
    return (_rolled_off(nits) / nits).astype(np.float32)


def tone_mapped(codes: np.ndarray, transfer: int) -> np.ndarray:
    """HDR for an ordinary display.

    Args:
        codes: uint16 [H, W, 3], RGB of BT.2020 primaries, full range.
        transfer: PQ or HLG, as FFmpeg numbers it.

    Returns:
        uint8 [H, W, 3], BT.709 primaries, for the gamma of BT.1886.
    """
    light = _decoded(int(transfer))[codes]
    if transfer == ColorTrc.ARIB_STD_B67:  # the system gamma of a display of 1000 nits
        luma = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light = PEAK * light * np.maximum(luma, 1e-6)[..., None] ** 0.2
    brightest = np.sqrt(light.max(-1, keepdims=True)) * (4095 / 100)
    light = light * _gains()[brightest.clip(0, 4095).round().astype(np.int32)]
    shown = np.clip(light @ TO_BT709.T / WHITE, 0, 1) ** (1 / 2.4)
    return (shown * 255 + 0.5).astype(np.uint8)
