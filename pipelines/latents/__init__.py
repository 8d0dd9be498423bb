"""Stages autoencoder and latent_shards: pixels to latents, prompts to embeddings, both to shards."""
