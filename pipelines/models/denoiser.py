"""A video denoiser: diffusers' Wan transformer told of noise level, prompt and class, returning velocity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

TIMESTEPS = 1000.0
POSITION_CHANNELS = 6
"""Per axis u and cos(pi u), u running from -1 to 1: added to the latents' channels where the network is ours."""


def positions(frames: int, height: int, width: int, like: Tensor) -> Tensor:
    """Where an element stands: [POSITION_CHANNELS, T, H, W].

    Rotary attention sees distances only. On a grid of a few tokens, of latents that carry no trace of the picture's
    border, a network cannot tell left from right; published Wan networks have both in plenty and need no such channels.
    """
    channels = []
    for axis, size in enumerate((frames, height, width)):
        place = torch.linspace(-1.0, 1.0, size, device=like.device) if size > 1 else like.new_zeros(1)
        shape = [1, 1, 1]
        shape[axis] = size
        channels += [place.view(shape), torch.cos(torch.pi * place).view(shape)]
    return torch.stack([channel.expand(frames, height, width) for channel in channels]).to(like)


class VideoDenoiser(nn.Module):
    """(x, sigma, prompt, class) -> velocity dx/dsigma, by a :class:`WanTransformer3DModel`.

    The transformer takes no text mask: like Wan's pipeline, prompts are padded with zeros to ``text_length`` tokens,
    and what stands at masked positions has no influence. The class is one more learned token after the text; its last
    row stands for "no class". The transformer is saved as diffusers saves it and loads with diffusers alone.
    """

    def __init__(self, transformer: WanTransformer3DModel, text_length: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_length = text_length
        self.num_classes = num_classes
        self.has_positions = transformer.config["in_channels"] == transformer.config["out_channels"] + POSITION_CHANNELS
        self.class_embedding = None
        if num_classes is not None:
            self.class_embedding = nn.Embedding(num_classes + 1, int(transformer.config["text_dim"]))

    @classmethod
    def build(
        cls,
        *,
        channels: int,
        text_dim: int,
        heads: int,
        head_dim: int,
        layers: int,
        feed_forward: int,
        patch: tuple[int, int, int],
        text_length: int,
        num_classes: int | None = None,
    ) -> VideoDenoiser:
        """A new one with random weights that starts at velocity 0."""
        transformer = WanTransformer3DModel(
            patch_size=patch,
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            in_channels=channels + POSITION_CHANNELS,
            out_channels=channels,
            text_dim=text_dim,
            ffn_dim=feed_forward,
            num_layers=layers,
        )
        nn.init.zeros_(transformer.proj_out.weight)
        nn.init.zeros_(transformer.proj_out.bias)
        return cls(transformer, text_length, num_classes)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        prompt_embeds: Tensor,
        prompt_mask: Tensor,
        pseudo_class: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, C, T, H, W] at ``x`` [B, C, T, H, W].

        Args:
            sigma: [B, 1], or [B, T] for a level per latent frame; in [0, 1].
            prompt_embeds: [B, L, D] with L at most ``text_length``.
            prompt_mask: bool [B, L]; masked positions have no influence.
            pseudo_class: int [B], negative where the class is unknown; None where none is.

        Raises:
            ValueError: a prompt is longer than ``text_length``, or a class is given to a network without classes.
        """
        text = self.text_tokens(prompt_embeds, prompt_mask)
        text = self._with_class(text, pseudo_class)
        placed = x
        if self.has_positions:
            placed = torch.cat([x, positions(*x.shape[2:], like=x).expand(len(x), -1, -1, -1, -1)], dim=1)
        return self.transformer(
            hidden_states=placed, timestep=self._timestep(sigma, x), encoder_hidden_states=text, return_dict=False
        )[0]

    def text_tokens(self, prompt_embeds: Tensor, prompt_mask: Tensor) -> Tensor:
        """[B, text_length, D]: valid tokens, then zeros, as Wan's pipeline pads them."""
        tokens = prompt_embeds * prompt_mask[..., None].to(prompt_embeds)
        missing = self.text_length - tokens.shape[1]
        if missing < 0 and bool(prompt_mask[:, self.text_length :].any()):
            longest = int(prompt_mask.sum(1).max())
            raise ValueError(
                f"a prompt has {longest} tokens, this denoiser takes {self.text_length}: shorten the prompt, or train "
                "with a larger denoiser.text_length."
            )
        return nn.functional.pad(tokens, (0, 0, 0, missing))

    def _with_class(self, text: Tensor, pseudo_class: Tensor | None) -> Tensor:
        if self.class_embedding is None or self.num_classes is None:
            if pseudo_class is not None:
                raise ValueError("this denoiser was built without classes; leave pseudo_class out.")
            return text
        unknown = torch.full((len(text),), self.num_classes, device=text.device)
        known = unknown if pseudo_class is None else torch.where(pseudo_class < 0, unknown, pseudo_class)
        return torch.cat([text, self.class_embedding(known)[:, None].to(text)], dim=1)

    def _timestep(self, sigma: Tensor, x: Tensor) -> Tensor:
        """[B], or a value per token [B, tokens] (as Wan 2.2's 5B model takes it): 1000 sigma in float32."""
        timestep = sigma.float() * TIMESTEPS
        if sigma.shape[1] == 1:
            return timestep[:, 0]
        time, height, width = self.transformer.config["patch_size"]
        per_frame = (x.shape[3] // height) * (x.shape[4] // width)
        return timestep[:, ::time].repeat_interleave(per_frame, dim=1)

    # ---- files ----

    def save_pretrained(self, save_directory: Path | str) -> None:
        """The transformer's own ``config.json`` and weights; beside them what surrounds it."""
        folder = Path(save_directory)
        self.transformer.save_pretrained(folder)
        facts = {"text_length": self.text_length, "num_classes": self.num_classes}
        (folder / "conditioning.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if self.class_embedding is not None:
            save_file({"class_embedding": self.class_embedding.weight.detach()}, folder / "conditioning.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path | str, **options: Any) -> VideoDenoiser:
        """What :meth:`save_pretrained` wrote; ``options`` go to diffusers (``torch_dtype`` …)."""
        folder = Path(folder)
        facts = json.loads((folder / "conditioning.json").read_text(encoding="utf-8"))
        transformer = WanTransformer3DModel.from_pretrained(folder, **options)
        denoiser = cls(transformer, facts["text_length"], facts["num_classes"])
        if denoiser.class_embedding is not None:
            weight = load_file(folder / "conditioning.safetensors")["class_embedding"]
            denoiser.class_embedding.load_state_dict({"weight": weight})
        return denoiser
