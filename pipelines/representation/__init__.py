"""Stages latent_mae, pseudo_classes, diagnostics: what the latents say, and whether it can be trusted."""
