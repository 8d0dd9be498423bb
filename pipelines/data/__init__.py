"""The data contract: manifest, shards, catalog, video files."""
