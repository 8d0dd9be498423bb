"""Clips and prompts to samples: decoding ahead of the autoencoder's forward, and the forward ahead of the writing."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from pipelines import machine, stage
from pipelines.latents.clips import Clips, to_unit_range
from pipelines.latents.params import LatentShardsParams
from pipelines.latents.plan import Part, Plan, fields_of, prompt_hash
from pipelines.latents.stock import StockReader
from pipelines.latents.text import TextEncoder
from pipelines.models.autoencoder import Autoencoder
from pipelines.models.forwards import Forwards
from pipelines.training.precision import computing, resolved

Item = TypeVar("Item")
MOST_DECODERS = 8
"""Threads that decode clips, and one fewer than may work: one processor is left to the forward."""
BATCHES_AHEAD = 2
"""Batches that are decoded, and batches that are encoded, before they are wanted."""
EMBEDS_BYTES = 1 << 28
"""Embeddings of prompts kept in memory between shards."""
PATIENCE = timedelta(hours=6)
"""How long a process that has finished waits for the others."""
SIDECAR = ["key", "content_hash", "start_seconds", "end_seconds"]
"""What the ``json`` member of a sample says beside the prompt: facts that a rename or another split leave alone."""

Sample = tuple[str, dict[str, Any], dict[str, Any]]


def ahead(source: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """The same items, made in a thread of their own, at most ``depth`` before they are wanted.

    An error of the source is raised here; when the caller stops early, so does the thread.
    """
    items: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    gone = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not gone.is_set():
            with contextlib.suppress(queue.Full):
                return items.put((item, error), timeout=0.1)

    def work() -> None:
        try:
            for item in source:
                put(item, None)
                if gone.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield cast(Item, item)
    finally:
        gone.set()
        thread.join(timeout=5.0)


@torch.no_grad()
def encode_batch(autoencoder: Autoencoder, pixels: Tensor, size: int, precision: str, device: torch.device) -> Tensor:
    """uint8 [B, 3, T, H, W] to float16 latents [B, C, T', H', W'].

    The batch is filled up to ``size``, so that the arithmetic of a clip does not know its neighbours.
    """
    missing = size - len(pixels)
    filled = torch.cat([pixels, pixels[-1:].expand(missing, *pixels.shape[1:])]) if missing else pixels
    with computing(resolved(precision, device), device):
        latents = autoencoder.encode(to_unit_range(filled.to(device)))[: len(pixels)]
    return latents.float().half()


class Encoder:
    """Clips and prompts to samples; counts what it encoded."""

    def __init__(self, params: LatentShardsParams, clips: Clips, autoencoder: Autoencoder) -> None:
        self.params, self.clips, self.autoencoder = params, clips, autoencoder
        # Not PartialState: alone it does not know that several CPU processes belong together.
        self.accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
        self.device = self.accelerator.device
        self.autoencoder.to(self.device)
        self.text: TextEncoder | None = None
        self.fields = fields_of(clips.catalog)
        self.clips_encoded = self.prompts_embedded = 0
        self._embeds: dict[str, np.ndarray] = {}
        self._columns = {name: clips.catalog[name].tolist() for name in [*SIDECAR, "caption"]}

    # ---- clips ----

    def _batches(self, rows: Sequence[int]) -> list[list[int]]:
        """Rows in order, in batches of clips of one size."""
        sizes = list(self.clips.catalog[["num_frames", "height", "width"]].itertuples(index=False, name=None))
        batches: list[list[int]] = []
        for row in rows:
            if not batches or len(batches[-1]) == self.params.batch_size or sizes[row] != sizes[batches[-1][0]]:
                batches.append([])
            batches[-1].append(row)
        return batches

    def decoded(self, rows: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        """(rows, pixels uint8 [B, 3, T, H, W]) in order; the next batches are decoded meanwhile."""
        decoders = max(1, min(MOST_DECODERS, machine.workers() - 1))
        with ThreadPoolExecutor(decoders, thread_name_prefix="decode") as pool:
            started: deque[tuple[list[int], list[Future[list[np.ndarray]]]]] = deque()
            try:
                for batch in self._batches(rows):
                    share = -(-len(batch) // decoders)  # each thread gets its share at once: handing over costs time
                    parts = [batch[start : start + share] for start in range(0, len(batch), share)]
                    started.append((batch, [pool.submit(self._frames, part) for part in parts]))
                    if len(started) > BATCHES_AHEAD:
                        yield self._joined(*started.popleft())
                while started:
                    yield self._joined(*started.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _frames(self, rows: Sequence[int]) -> list[np.ndarray]:
        """uint8 [3, T, H, W] of each clip."""
        return [np.moveaxis(self.clips.frames(row), -1, 0) for row in rows]

    @staticmethod
    def _joined(batch: list[int], parts: list[Future[list[np.ndarray]]]) -> tuple[list[int], Tensor]:
        """By numpy: threads of torch, helping with so short a copy, turn idle on and take the decoder's time."""
        return batch, torch.from_numpy(np.stack([clip for part in parts for clip in part.result()]))

    def _forward(self, autoencoder: Autoencoder, pixels: Tensor) -> Tensor:
        return encode_batch(autoencoder, pixels, self.params.batch_size, self.params.precision, self.device).cpu()

    def latents(self, rows: Sequence[int]) -> Generator[np.ndarray, None, None]:
        """float16 [C, T, H, W] of every clip, in order.

        Raises:
            StageError: latents are not finite, or a clip cannot be decoded.
        """
        forwards = Forwards(self._forward, self.autoencoder, self.device)
        for batch, latents in forwards.of(self.decoded(rows)):
            self.clips_encoded += len(batch)
            stage.report(self.clips_encoded, len(rows), "clips")
            for row, value in zip(batch, latents.numpy(), strict=True):
                if not np.isfinite(value).all():
                    raise stage.StageError(
                        f"{self.clips.folder}: clip {self.clips.key(row)}: its latents are not finite in float16; "
                        "encode with precision fp32, or look at the autoencoder."
                    )
                yield value

    # ---- prompts ----

    def embeds(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """Prompt to embedding float16 [L, D]; recent ones are remembered."""
        if sum(value.nbytes for value in self._embeds.values()) > EMBEDS_BYTES:
            self._embeds = {}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeds]
        if new:
            assert self.text is not None, "a text encoder is loaded where prompts are new"
            self._embeds |= self.text.embed(new, self.params.batch_size)
            self.prompts_embedded += len(new)
        return self._embeds

    # ---- samples ----

    def samples(self, plan: Plan, parts: Sequence[Part]) -> Generator[Sample, None, None]:
        """(key, fields, sidecar) of every sample of the parts, in order: encoded, or copied where the plan says so."""
        reader, prompts = StockReader(), self._columns["caption"]
        latents = self.latents([row for part in parts for row in part.rows if row not in plan.latents])
        with contextlib.closing(latents):
            for part in parts:
                hashes = {row: prompt_hash(prompts[row]) for row in part.rows}
                embeds = self.embeds([prompts[row] for row in part.rows if hashes[row] not in plan.embeds])
                for row in part.rows:
                    known, told = plan.latents.get(row), plan.embeds.get(hashes[row])
                    fields = {
                        "latents": next(latents) if known is None else reader.read(known, "latents"),
                        "prompt_embeds": embeds[prompts[row]] if told is None else reader.read(told, "prompt_embeds"),
                        "prompt": prompts[row],
                    }
                    if "actions" in self.fields:
                        fields["actions"] = np.stack(self.clips.catalog["actions"].iloc[row]).astype(np.float32)
                    yield self._columns["key"][row], fields, self._sidecar(row, hashes[row])

    def _sidecar(self, row: int, hashed: str) -> dict[str, Any]:
        facts = {name: self._columns[name][row] for name in SIDECAR}
        return {**facts, "prompt": self._columns["caption"][row], "prompt_hash": hashed}
