"""The lineage: this project's assets, gates and previews, derived from dvc.yaml."""
