"""Dagster on DVC: every stage of a dvc.yaml as a Dagster asset. Knows nothing of video."""
