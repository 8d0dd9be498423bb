"""A world model: the project's video transformer with actions in every block, seeing the past only.

It is given a point of the path with a level per frame: frames of the past stand clean, at sigma 0, and are named as
given by a mask; the frames of the last chunk are noise to be turned into what the actions lead to. What it takes, in
which order of channels, stands in ``conditioning.json``:

    latents C | mask | clean latents C, or a draft of them | positions 6

Wan's image-to-video layout is the same without draft and positions: 16 + 4 + 16 (the mask four times).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pipelines.models import lora, modulation, wan, window
from pipelines.models.action_module import ActionModule
from pipelines.models.backbones import packed, unpacked
from pipelines.models.denoiser import CONDITIONING, POSITION_CHANNELS, positions
from pipelines.models.draft import Draft
from pipelines.models.frame_attention import Memory, Reach, Shared, attend_itself, crossed
from pipelines.stage import StageError

ACTIONS_FILE, DRAFT_FILE = "action_modules.safetensors", "draft.safetensors"


@dataclass(frozen=True)
class Inputs:
    """What the network takes, as ``conditioning.json`` states it.

    Attributes:
        latents: channels of the latents.
        mask: channels that say which frames are given.
        positions: channels of places, 0 or :data:`pipelines.models.denoiser.POSITION_CHANNELS`.
        first_frame: what cross-attention hears: the patches of the video's first latent frame ("patches"), the
            embedding of an image that the caller gives ("image"), or nothing (None).
        keys, axes: columns of the actions.
        rows: raw rows that a latent frame sees.
        action: sizes of the action modules, as :class:`ActionModule` names them.
        sink, window: latent frames that a chunk sees besides itself.
        draft: sizes of the network that drafts frames to be made, as :class:`Draft` names them; None: zeros there.
    """

    latents: int
    mask: int
    positions: int
    first_frame: str | None
    keys: tuple[int, ...]
    axes: tuple[int, ...]
    rows: int
    action: Mapping[str, Any]
    sink: int
    window: int
    draft: Mapping[str, int] | None = None

    @property
    def channels(self) -> int:
        """Of the transformer's input."""
        return 2 * self.latents + self.mask + self.positions


class WorldModel(nn.Module):
    """(x, sigma, actions, given frames, past) -> velocity dx/dsigma.

    Raises:
        StageError: the transformer takes another number of channels, or folds latent frames into one token.
    """

    def __init__(self, transformer: Any, inputs: Inputs) -> None:
        super().__init__()
        config = transformer.config
        if config["in_channels"] != inputs.channels or config["patch_size"][0] != 1:
            raise StageError(
                f"a transformer of {config['in_channels']} channels and patches {list(config['patch_size'])}, but a "
                f"world model's input has {inputs.channels} channels and a token per latent frame (patch [1, h, w])."
            )
        self.transformer, self.inputs = transformer, inputs
        width = config["num_attention_heads"] * config["attention_head_dim"]
        sizes = {"keys": inputs.keys, "axes": inputs.axes, "rows": inputs.rows, **inputs.action}
        self.actions = nn.ModuleList([ActionModule(width, **sizes) for _ in transformer.blocks])
        told = inputs.rows * (len(inputs.keys) + len(inputs.axes))
        self.draft = None if inputs.draft is None else Draft(inputs.latents, told, **inputs.draft)

    @classmethod
    def build(
        cls, inputs: Inputs, *, heads: int, head_dim: int, layers: int, feed_forward: int, patch: tuple[int, int, int]
    ) -> WorldModel:
        """A new one with random weights that starts at velocity 0 and hears no actions yet."""
        token = (inputs.latents + POSITION_CHANNELS) * patch[1] * patch[2]
        transformer = WanTransformer3DModel(
            patch_size=patch,
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            in_channels=inputs.channels,
            out_channels=inputs.latents,
            text_dim=token,
            ffn_dim=feed_forward,
            num_layers=layers,
        )
        nn.init.zeros_(transformer.proj_out.weight)
        nn.init.zeros_(transformer.proj_out.bias)
        return cls(transformer, inputs)

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns per token."""
        return tuple(self.transformer.config.patch_size)  # type: ignore[return-value]

    @property
    def reach(self) -> Reach:
        """How far a chunk looks back."""
        return Reach(self.inputs.sink, self.inputs.window)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        *,
        actions: Tensor,
        given: Tensor,
        first_frame: Tensor,
        chunks: Sequence[int],
        memory: Memory | None = None,
        remember: bool = False,
        shared: Shared | None = None,
        level: int | None = None,
        first: int = 0,
    ) -> Tensor:
        """Velocity [B, C, T - first, H, W] of the new frames ``x`` [B, C, T, H, W], from the frame ``first`` on.

        Args:
            sigma: [B, T], a level per frame; 0 where a frame is given.
            actions: [B, T, rows, A], what each frame sees of the raw actions.
            given: bool [B, T], frames that are clean and stay; their latents are also told through channels.
            first_frame: [B, C, 1, H, W] latents of the video's first frame, or [B, L, D], the embedding of its image.
            chunks: lengths of the chunks that the T frames come in.
            memory: what earlier frames left; None at the start of a video.
            remember: keep what these frames leave in ``memory``.
            shared: of calls that differ in ``x`` and ``sigma`` alone (and at last in ``given``, when all frames are).
            level: names ``sigma``, one for all frames, among the calls of a rollout: what it makes of the network is
                kept in ``memory``.

        Raises:
            ValueError: ``chunks`` do not sum to T, or ``remember`` without a memory.
        """
        if sum(chunks) != x.shape[2] or (remember and memory is None):
            raise ValueError(f"chunks {list(chunks)} of {x.shape[2]} frames, remember {remember}, memory {memory}.")
        past, shared, new = memory or Memory(), shared or Shared(), {}
        if memory is None and window.fits(self, x, chunks):
            return window.velocity(self, x, sigma, actions, given, first_frame, chunks, shared, first)
        leveled = past.of_level(level)
        grid = (x.shape[2], x.shape[3] // self.patch[1], x.shape[4] // self.patch[2])
        embed = self.embed if level is None or remember else self._tokens_apart
        tokens = embed(x, given, actions, past, shared)
        heard = shared.once("heard", lambda: self.hear(first_frame))
        embedder, told = self.transformer.condition_embedder, sigma if level is None else sigma[:1, :1]
        whole, levels = leveled.once("levels", lambda: modulation.embedded(embedder, told, tokens))
        places = min(past.kept_frames + grid[0], self.reach.sink + self.reach.window + max(chunks))
        rotary = wan.rotation(self.transformer.rope, (places, *grid[1:]), x.device)
        rotary = rotary.unflatten(0, (places, -1))[:, :, None]
        for number, (block, action) in enumerate(zip(self.transformer.blocks, self.actions, strict=True)):
            again = torch.is_grad_enabled() and self.transformer.gradient_checkpointing
            kept, once = (None, None) if again else (leveled, shared)  # what is computed again must find nothing done
            parts = (block, action, number, tokens, heard, levels, actions, chunks, past, kept, once, rotary, new)
            tokens = (
                self.transformer._gradient_checkpointing_func(self._block, *parts) if again else self._block(*parts)
            )
        if remember and memory is not None:
            self._keep(memory, new)
            memory.last = x[:, :, -1].detach()
        shift, scale = leveled.once("output", lambda: modulation.of_output(self.transformer, whole))
        normed = modulation.scaled(self.transformer.norm_out, tokens, shift, scale)
        return self.fold(normed, grid)[:, :, first:]

    # ---- parts ----

    def known(self, x: Tensor, given: Tensor, actions: Tensor, past: Memory, shared: Shared) -> Tensor:
        """What is given of ``x`` [B, C, T, H, W]; in the other frames the draft, or zeros without one."""
        if self.draft is None:
            return x * given[:, None, :, None, None].to(x)
        if bool(given.all()):
            return x
        return shared.once("draft", lambda: self.draft.of(x, given, actions, past.last))  # type: ignore[union-attr]

    def embed(self, x: Tensor, given: Tensor, actions: Tensor, past: Memory, shared: Shared) -> Tensor:
        """[B, T, S, D] of the latents, the mask, what is known, and places."""
        known = self.known(x, given, actions, past, shared)
        mask = given[:, None, :, None, None].to(x).expand(-1, self.inputs.mask, -1, *x.shape[3:])
        parts = [x, mask, known]
        if self.inputs.positions:  # of time there is none: a frame's place is what attention turns by
            places = positions(1, *x.shape[3:], like=x)[None].expand(len(x), -1, x.shape[2], -1, -1)
            parts.append(places)
        embedding = self.transformer.patch_embedding
        tokens = functional.linear(packed(torch.cat(parts, 1), self.patch), embedding.weight.flatten(1), embedding.bias)
        return tokens.unflatten(1, (x.shape[2], -1))

    def _tokens_apart(self, x: Tensor, given: Tensor, actions: Tensor, past: Memory, shared: Shared) -> Tensor:
        """The same, with what ``x`` does not change embedded once for the calls that share."""
        embedding = self.transformer.patch_embedding
        steady = shared.once("steady", lambda: self.embed(torch.zeros_like(x), given, actions, past, shared))
        weight = embedding.weight[:, : x.shape[1]].flatten(1)
        moving = functional.linear(packed(x, self.patch).to(weight), weight)
        return steady + moving.unflatten(1, (x.shape[2], -1))

    def hear(self, first_frame: Tensor) -> Tensor:
        """What cross-attention hears [B, L, D]."""
        embedder = self.transformer.condition_embedder
        if self.inputs.first_frame == "image":
            return embedder.image_embedder(first_frame)
        if self.inputs.first_frame is None:
            return embedder.text_embedder(first_frame.new_zeros(len(first_frame), 1, self.transformer.config.text_dim))
        places = positions(1, *first_frame.shape[3:], like=first_frame)[None].expand(len(first_frame), -1, -1, -1, -1)
        return embedder.text_embedder(packed(torch.cat([first_frame, places], 1), self.patch))

    def _block(
        self,
        block: Any,
        action: nn.Module,
        number: int,
        tokens: Tensor,
        heard: Tensor,
        levels: Tensor,
        actions: Tensor,
        chunks: Sequence[int],
        past: Memory,
        leveled: Shared | None,
        shared: Shared | None,
        rotary: Tensor,
        new: dict[str, tuple[Tensor, Tensor]],
    ) -> Tensor:
        """One block of the transformer, as diffusers computes it, with the actions between cross-attention and ffn."""
        leveled, shared = leveled or Shared(), shared or Shared()
        told = leveled.once(f"{number}", lambda: modulation.of_block(block, levels))
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = told
        normed = modulation.scaled(block.norm1, tokens, shift, scale)
        name = f"{number}.frames"
        seen, new[name] = attend_itself(block.attn1, normed, past, shared, name, chunks, self.reach, rotary)
        tokens = modulation.gated(tokens, block.attn1.to_out[0](seen), gate)
        flat = block.norm2(tokens.float()).type_as(tokens).flatten(1, 2)
        tokens = tokens + crossed(block.attn2, flat, heard, shared, number).unflatten(1, tokens.shape[1:3])
        tokens = action(tokens, actions, chunks, self.reach, past, shared, str(number), new)
        normed = modulation.scaled(block.norm3, tokens, ffn_shift, ffn_scale)
        return modulation.gated(tokens, block.ffn(normed), ffn_gate)

    def _keep(self, memory: Memory, new: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        for name, (key, value) in new.items():
            key, value = memory.with_new(name, key, value)
            kept = self.reach.kept(key.shape[1])
            memory.kept[name] = (key[:, kept].detach(), value[:, kept].detach())
        memory.frames += next(iter(new.values()))[0].shape[1]

    def fold(self, normed: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Velocity [B, C, T, H, W] of normalised tokens [B, T, S, D]."""
        made = self.transformer.proj_out(normed).flatten(1, 2)
        _, high, wide = self.patch
        folded = made.unflatten(-1, (high * wide, -1)).transpose(-1, -2).flatten(-2)  # Wan folds channels last
        return unpacked(folded, grid, self.patch)

    # ---- files ----

    def save_pretrained(self, save_directory: Path | str) -> None:
        """The transformer as diffusers saves it (an adapter added in), the action modules, ``conditioning.json``."""
        folder = Path(save_directory)
        lora.whole(self.transformer).save_pretrained(folder)
        text = json.dumps({"inputs": asdict(self.inputs)}, indent=2) + "\n"
        for part, name in ((self.actions, ACTIONS_FILE), (self.draft, DRAFT_FILE)):
            if part is not None:
                save_file({key: value.contiguous() for key, value in part.state_dict().items()}, folder / name)
        (folder / f"{CONDITIONING}.json").write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> WorldModel:
        """What :meth:`save_pretrained` wrote.

        Raises:
            StageError: the folder holds no world model.
        """
        folder = Path(folder)
        facts = json.loads((folder / f"{CONDITIONING}.json").read_text(encoding="utf-8"))
        if "inputs" not in facts:
            raise StageError(f"{folder / CONDITIONING}.json: not of a world model; start from one that is.")
        stated = {**facts["inputs"], "keys": tuple(facts["inputs"]["keys"]), "axes": tuple(facts["inputs"]["axes"])}
        model = cls(WanTransformer3DModel.from_pretrained(folder, use_safetensors=True), Inputs(**stated))
        model.actions.load_state_dict(load_file(folder / ACTIONS_FILE))
        if model.draft is not None:
            model.draft.load_state_dict(load_file(folder / DRAFT_FILE))
        return model
