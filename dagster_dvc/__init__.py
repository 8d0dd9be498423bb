"""Dagster on DVC: every stage of dvc.yaml an asset, every run a `dvc repro`, every data version DVC's own hash."""
