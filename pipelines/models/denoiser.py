"""A video denoiser: a transformer of diffusers told of noise level, prompt and class, returning velocity."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.models import backbones, lora, wan
from pipelines.models.backbones import BACKBONES, Extent, InputLayout
from pipelines.models.pretrained_denoiser import Origin, identity, require_same
from pipelines.stage import StageError

CONDITIONING = "conditioning"
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
    """(x, sigma, prompt, class) -> velocity dx/dsigma, by a transformer of :data:`backbones.BACKBONES`.

    Like Wan's pipeline, prompts are padded with zeros to ``text_length`` tokens, and what stands at masked positions
    has no influence. The class is a learned token in the last place, zero at first and where there is no class: a
    pretrained network starts with its own velocities. A single frame stands for a patch of equal frames. The
    transformer is saved as diffusers saves it and loads with diffusers alone.

    Args:
        transformer: of diffusers.
        text_length: places for the tokens of a prompt and, where it knows classes, for the class.
        num_classes: None where it knows no classes.
        extent: seconds and pixels of one latent element; LTX-Video needs it.
        base: where the transformer comes from, when only an adapter of it is trained and saved.
    """

    def __init__(
        self,
        transformer: Any,
        text_length: int,
        num_classes: int | None = None,
        extent: Extent | None = None,
        base: Origin | None = None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.layout = InputLayout.of(transformer.config, type(transformer).__name__)
        self.text_length, self.num_classes = text_length, num_classes
        self.extent, self.base = extent, base
        self.has_positions = self.layout.in_channels == self.layout.out_channels + POSITION_CHANNELS
        self.class_embedding = None
        if num_classes is not None:
            self.class_embedding = nn.Embedding(num_classes, self.layout.text_dim)
            nn.init.zeros_(self.class_embedding.weight)

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

    @property
    def prompt_length(self) -> int:
        """Tokens of the longest prompt: all places, but one for the class where classes are told."""
        return self.text_length - (self.num_classes is not None)

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns per token."""
        return self.layout.patch

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
            sigma: [B, 1], or [B, T] for a level per latent frame, or [B, T, H, W]; in [0, 1].
            prompt_embeds: [B, L, D] with L at most ``prompt_length``.
            prompt_mask: bool [B, L]; masked positions have no influence.
            pseudo_class: int [B], negative where the class is unknown; None where none is.

        Raises:
            ValueError: a prompt is longer than ``prompt_length``, or a class is given to a network without classes.
        """
        if x.shape[2] == 1 < self.patch[0]:
            repeated = x.expand(-1, -1, self.patch[0], -1, -1)
            return self(repeated, sigma, prompt_embeds, prompt_mask, pseudo_class).mean(2, keepdim=True)
        text, mask = self.text_tokens(prompt_embeds, prompt_mask)
        text, mask = self._with_class(text, mask, pseudo_class)
        placed = x
        if self.has_positions:
            placed = torch.cat([x, positions(*x.shape[2:], like=x).expand(len(x), -1, -1, -1, -1)], dim=1)
        if wan.fits(self.transformer, placed):
            return wan.velocity(self.transformer, placed, self.layout.levels(sigma), text)
        return backbones.velocity(self.transformer, self.layout, placed, sigma, text, mask, self.extent)

    def text_tokens(self, prompt_embeds: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, text_length, D]: valid tokens, then zeros, as Wan's pipeline pads them; and the mask [B, text_length]."""
        tokens = prompt_embeds * prompt_mask[..., None].to(prompt_embeds)
        missing = self.text_length - tokens.shape[1]
        if bool(prompt_mask[:, self.prompt_length :].any()):
            longest = int(prompt_mask.sum(1).max())
            raise ValueError(
                f"a prompt has {longest} tokens, this denoiser takes {self.prompt_length}: shorten the prompt, or "
                "train with a larger denoiser.text_length."
            )
        return nn.functional.pad(tokens, (0, 0, 0, missing)), nn.functional.pad(prompt_mask, (0, missing))

    def _with_class(self, text: Tensor, mask: Tensor, pseudo_class: Tensor | None) -> tuple[Tensor, Tensor]:
        """The class in the last place, where no prompt reaches: a sample hears nothing of its neighbours' lengths."""
        if self.class_embedding is None or self.num_classes is None:
            if pseudo_class is not None:
                raise ValueError("this denoiser was built without classes; leave pseudo_class out.")
            return text, mask
        told = torch.full((len(text),), -1, device=text.device) if pseudo_class is None else pseudo_class
        known = (told >= 0)[:, None]
        token = self.class_embedding(told.clamp_min(0)).to(text) * known.to(text)
        return torch.cat([text[:, :-1], token[:, None]], dim=1), torch.cat([mask[:, :-1], known], dim=1)

    # ---- files ----

    def save_pretrained(self, save_directory: Path | str) -> None:
        """The transformer's own ``config.json`` and weights, or its adapter alone; beside them what surrounds it."""
        folder = Path(save_directory)
        facts = {"text_length": self.text_length, "num_classes": self.num_classes, "extent": self.extent}
        if self.base is None:
            self.transformer.save_pretrained(folder)
        else:
            lora.save_lora(self.transformer, folder)
            facts["base"] = {**asdict(self.base), "identity": identity(self.transformer)}
        (folder / f"{CONDITIONING}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if self.class_embedding is not None:
            table = {"class_embedding": self.class_embedding.weight.detach()}
            save_file(table, folder / f"{CONDITIONING}.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path | str, base_weights: str | None = None) -> VideoDenoiser:
        """What :meth:`save_pretrained` wrote; ``base_weights``: hold an adapter's base otherwise than in training.

        Raises:
            StageError: it is an adapter whose base cannot be found, or is another network now.
        """
        folder = Path(folder)
        facts = json.loads((folder / f"{CONDITIONING}.json").read_text(encoding="utf-8"))
        base = None
        if "base" in facts:
            recorded = facts["base"]
            held = base_weights or recorded["weights"]
            base = Origin(recorded["name"], recorded["revision"], recorded["subfolder"], held)
            transformer = _adapted(base, recorded["identity"], folder)
        else:
            transformer = _transformer(folder)
        extent = tuple(facts["extent"]) if facts.get("extent") else None
        denoiser = cls(transformer, facts["text_length"], facts["num_classes"], extent, base)
        if denoiser.class_embedding is not None:
            weight = load_file(folder / f"{CONDITIONING}.safetensors")["class_embedding"]
            denoiser.class_embedding.load_state_dict({"weight": weight})
        return denoiser


def averaged(folder: Path) -> Path:
    """The folder of a denoiser's averaged weights where there are any, else of its trained ones."""
    return folder / "ema" if (folder / "ema" / f"{CONDITIONING}.json").is_file() else folder


def _transformer(folder: Path) -> Any:
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    if kind not in BACKBONES:
        raise StageError(f"{folder / 'config.json'}: a network of class {kind}; understood are {', '.join(BACKBONES)}.")
    module = importlib.import_module(f"diffusers.models.transformers.{BACKBONES[kind]}")
    return getattr(module, kind).from_pretrained(folder, use_safetensors=True)  # never a pickle


def _adapted(base: Origin, recorded: Mapping[str, str | None], folder: Path) -> Any:
    """The base with the adapter of the folder, of which the adapter alone can be trained."""
    transformer = base.load()
    require_same(base, recorded, transformer, folder)
    lora.load_lora(transformer, folder)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    return transformer
