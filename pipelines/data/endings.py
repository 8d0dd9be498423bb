"""Endings of the names of videos and pictures. A name is never believed: it says where to look first."""

VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".qt", ".webm", ".mkv", ".avi", ".divx", ".ts", ".mts", ".m2ts", ".m2t", ".mpg", ".mpeg"),
    *(".m2v", ".vob", ".ogv", ".ogm", ".flv", ".f4v", ".3gp", ".3g2", ".wmv", ".asf", ".mxf", ".dv", ".ivf", ".nut"),
    *(".rm", ".rmvb", ".wtv", ".y4m", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".obu"),
)
"""File names that promise a video. What is inside decides, by CONTAINERS."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".apng", ".avif")
