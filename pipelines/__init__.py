"""The science: stages of the video-model lifecycle. Imports neither dagster nor dvc."""
