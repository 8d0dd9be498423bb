"""DeepSpeed's ZeRO 1 and 2: each process holds all weights, and its part of the optimizer states (2: of gradients too).

The accelerate config of the machine asks for it (``profiles/launch/deepspeed.yaml``). accelerate itself is set up as
without DeepSpeed: its ``prepare`` takes one network with one optimizer and steps that inside the backward pass, while
the loop here looks at the gradients of all networks first. One engine of DeepSpeed per network does the rest: it
averages gradients into the process that owns them, clips them, steps the optimizer on flat parts and gathers weights.

Weights stay float32 and autocast computes, as everywhere, so numbers are those of one process up to the rounding of
sums. States have the form that one process gives them, with whole tensors: a run may go on without DeepSpeed.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", arXiv:1910.02054.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor, nn

from pipelines.params import AdamW8Bit, Muon, Optimizer, Training
from pipelines.stage import StageError
from pipelines.training.optimizers import NetworkOptimizer
from pipelines.training.sharding import says

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine  # type: ignore[import-not-found]

VARIABLE = "ACCELERATE_USE_DEEPSPEED"
REMEDY = "profiles/launch/deepspeed.yaml has the values"
USED = (
    *("stage", "reduce_bucket_size", "allgather_bucket_size", "allgather_partitions", "reduce_scatter"),
    *("overlap_comm", "contiguous_gradients", "round_robin_gradients"),
)
"""Options of ``zero_optimization`` that are given to DeepSpeed as they are."""
SET_BY_ACCELERATE = ("offload_optimizer", "offload_param", "stage3_gather_16bit_weights_on_model_save")
"""Options of ``zero_optimization`` that accelerate fills in; what matters of them is among the refusals."""
BUCKET = 12_500_000
"""Gradients that are averaged at a time, 50 MB (DeepSpeed's own 500 million take 2 GB)."""


@contextlib.contextmanager
def set_aside() -> Iterator[None]:
    """Inside, accelerate does not see that DeepSpeed is asked for; it would also switch autocast off."""
    said = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if said is not None:
            os.environ[VARIABLE] = said


def _decides(value: Any) -> bool:
    """Whether an option of a DeepSpeed config says something: ``auto``, and a block that is not enabled, do not."""
    if isinstance(value, dict):
        return value.get("enabled", True) is not False and any(_decides(one) for one in value.values())
    return value != "auto"


def _refused_options(plugin: DeepSpeedPlugin, training: Training) -> Iterator[str]:
    """What of accelerate's and DeepSpeed's options the loop does not do."""
    given = plugin.deepspeed_config
    if plugin.zero_stage not in (1, 2):
        other = "several_gpus.yaml" if plugin.zero_stage == 0 else "fsdp.yaml spreads weights too"
        yield f"zero_stage {plugin.zero_stage}: 1 and 2 are supported; profiles/launch/{other}"
    for option in ("offload_optimizer_device", "offload_param_device"):
        if getattr(plugin, option) not in (None, "none"):
            yield f"{option} {getattr(plugin, option)}: set none; gradient_checkpointing saves memory too"
    if given.get("gradient_accumulation_steps") not in (1, "auto", None):
        yield "gradient_accumulation_steps: set 1; batch_size and micro_batch of params.yaml decide"
    if given.get("gradient_clipping") not in (training.max_grad_norm, "auto", None):
        yield f"gradient_clipping: leave it out; max_grad_norm {training.max_grad_norm:g} of params.yaml decides"
    zero = given["zero_optimization"]
    unknown = [name for name in zero if name not in USED + SET_BY_ACCELERATE and _decides(zero[name])]
    if unknown:
        yield f"zero_optimization {', '.join(unknown)}: only {', '.join(USED)} are used; leave the others out"
    for block, instead in (("optimizer", "optimizer"), ("scheduler", "schedule"), ("fp16", "precision")):
        if _decides(given.get(block, "auto")):
            yield f"{block}: leave it out; {instead} of params.yaml decides"
    if _decides(given.get("bf16", "auto")):
        yield "bf16: leave it out, it rounds the weights; precision of params.yaml decides, under autocast"


def refusals(plugin: DeepSpeedPlugin, training: Training, precision: str) -> Iterator[str]:
    """What of accelerate's options, and of a run's parameters, the loop does not do with DeepSpeed."""
    yield from _refused_options(plugin, training)
    optimizers = [training.optimizer, *(block.optimizer for block in (training.per_network or {}).values())]
    if precision == "fp16":
        yield "training.precision fp16 has a loss scale of its own; take bf16"
    if any(isinstance(block, Muon) for block in optimizers):
        yield "training.optimizer muon needs whole matrices; take adamw, or profiles/launch/fsdp.yaml"
    if any(isinstance(block, AdamW8Bit) for block in optimizers):
        yield "training.optimizer adamw_8bit keeps whole states; take adamw or lion"


def asked(processes: int, training: Training, precision: str) -> DeepSpeedPlugin | None:
    """accelerate's options where its config asks for DeepSpeed and there are several processes, else None.

    Raises:
        StageError: an option, or a parameter of the run, is not supported, or DeepSpeed is not installed.
    """
    if not says(VARIABLE) or processes == 1:
        return None
    try:
        plugin = DeepSpeedPlugin()
    except ValueError as error:  # a file of DeepSpeed that accelerate cannot read, or that says a thing twice
        raise StageError(f"DeepSpeed: {error}") from None
    found = list(refusals(plugin, training, precision))
    if found:
        raise StageError(f"DeepSpeed: {'; '.join(found)} ({REMEDY}).")
    return plugin


def _library(device: torch.device) -> Any:
    """DeepSpeed, for this kind of device.

    Raises:
        StageError: it is not installed.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed  # type: ignore[import-not-found]
    except ImportError as error:
        raise StageError(
            f"the accelerate config of this machine asks for DeepSpeed, which cannot be loaded ({error}): "
            f"pip install 'reelgraph[deepspeed]', or REEL_LAUNCH=profiles/launch/fsdp.yaml."
        ) from error
    if device.type == "cpu":
        # else it compiles communication through shared memory, for minutes, which training makes no use of
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def options(plugin: DeepSpeedPlugin, weights: int, max_grad_norm: float) -> dict[str, Any]:
    """DeepSpeed's configuration for a network of so many trained weights.

    The loop says itself when an update is complete, and divides losses by the micro-batches.
    """
    given = plugin.deepspeed_config["zero_optimization"]
    used = {name: given[name] for name in USED if given.get(name, "auto") != "auto"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"reduce_bucket_size": min(weights, BUCKET), **used, "stage": plugin.zero_stage},
    }


class ZeroOptimizer(NetworkOptimizer):
    """The optimizer of one network on this process's part of its weights; its state is whole in the first process.

    A parameter that an update's loss does not reach has a gradient of zero here, where without DeepSpeed it has none.
    """

    def __init__(
        self, network: nn.Module, block: Optimizer, plugin: DeepSpeedPlugin, max_grad_norm: float, device: torch.device
    ) -> None:
        super().__init__(network, block)
        deepspeed = _library(device)
        warnings.filterwarnings("ignore", ".*all_gather_into_tensor. is deprecated", FutureWarning)
        (self.optimizer,) = self.optimizers
        self.members: list[list[nn.Parameter]] = [list(group["params"]) for group in self.optimizer.param_groups]
        self.before = [(parameter, set(vars(parameter))) for parameter in self.plain]
        config = options(plugin, sum(p.numel() for p in self.plain), max_grad_norm)
        deepspeed.utils.logger.setLevel("ERROR")  # it warns of every optimizer that is not one of its own
        self.engine: DeepSpeedEngine = deepspeed.initialize(model=network, optimizer=self.optimizer, config=config)[0]
        deepspeed.utils.logger.setLevel("WARNING")
        # They time the forward pass; the loop calls the network itself.
        self.engine.module_forward_pre_hook.remove()
        self.engine.module_forward_post_hook.remove()
        self.safe: Any = deepspeed.utils
        self.reached = False

    def backward(self, loss: Tensor, last: bool) -> None:
        """Backward pass of a micro-batch; after the ``last`` of an update each process has its part of the mean."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss, scale_wrt_gas=False)
        self.reached = True

    def clip(self, most: float, unscale: Callable[[list[torch.optim.Optimizer]], None]) -> Tensor | None:
        """The norm over all processes, infinite where a gradient is not finite; :meth:`step` clips by it."""
        return torch.as_tensor(self.engine.optimizer.scaled_global_norm()) if self.reached else None

    def step(self, scale: float) -> None:
        """One update at ``scale`` times the stated learning rates; gradients are cleared."""
        self.set_rates(scale)
        self.engine.step()
        self.reached = False

    # ---- state ----

    def _parts(self) -> Iterator[tuple[list[nn.Parameter], Tensor]]:
        """Of each group, its parameters and this process's flat part of them, linked to its optimizer state."""
        for members, group in zip(self.members, self.optimizer.param_groups, strict=True):
            flat = group["params"][0]
            if flat in self.optimizer.state:
                # DeepSpeed does so after the first group's first step, when the others have no state yet
                self.safe.lazy_init_hp_params_optimizer_state(members, flat, self.optimizer.state)
            yield members, flat

    def state_dict(self) -> list[dict]:
        """As one process gives it; whole tensors are in the first process, None in the others. All take part."""
        state: dict[int, dict[str, Any]] = {}
        groups, first = [], 0
        for (members, flat), group in zip(self._parts(), self.optimizer.param_groups, strict=True):
            indices = list(range(first, first + len(members)))
            held = self.optimizer.state.get(flat, {})
            if held:
                state |= {i: self._whole(p, flat, held) for i, p in zip(indices, members, strict=True)}
            groups.append({**{name: value for name, value in group.items() if name != "params"}, "params": indices})
            first += len(members)
        return [{"state": state, "param_groups": groups}]

    def _whole(self, parameter: nn.Parameter, flat: Tensor, held: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in held.items():
            if isinstance(value, Tensor) and value.shape == flat.shape:
                whole = self.safe.safe_get_full_optimizer_state(parameter, name)
                value = whole.cpu() if self.engine.global_rank == 0 else None
            found[name] = value
        return found

    def load_state_dict(self, states: list[dict]) -> None:
        """Restore what :meth:`state_dict`, or one process, gave.

        Raises:
            StageError: its parameters did not make the same number of updates.
        """
        (given,) = states
        flat_states = {}
        for number, (members, group) in enumerate(zip(self.members, given["param_groups"], strict=True)):
            found = [given["state"].get(index, {}) for index in group["params"]]
            if any(found):
                flat = self.optimizer.param_groups[number]["params"][0]
                flat_states[number] = _flattened(found, members, flat)
        groups = [{**group, "params": [number]} for number, group in enumerate(given["param_groups"])]
        self.optimizer.load_state_dict({"state": flat_states, "param_groups": groups})
        indices = [index for group in given["param_groups"] for index in group["params"]]
        parameters = [parameter for members, _ in self._parts() for parameter in members]
        for index, parameter in zip(indices, parameters, strict=True):
            for name, value in given["state"].get(index, {}).items():
                if _is_like(value, parameter):
                    self.safe.safe_set_full_optimizer_state(parameter, value.to(parameter.device), name)

    def held(self) -> Iterator[Tensor]:
        """Tensors of this process besides weights and gradients: its part of weights and optimizer states."""
        yield from super().held()
        yield from (group["params"][0] for group in self.optimizer.param_groups)

    def release(self) -> None:
        """Give the network back as it was, with weights that share no memory."""
        self.engine.destroy()
        for parameter, names in self.before:
            parameter.data = parameter.detach().clone()
            for name in set(vars(parameter)) - names:
                delattr(parameter, name)


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _flattened(found: list[dict[str, Any]], members: list[nn.Parameter], flat: Tensor) -> dict[str, Any]:
    """The state of a flat part: zeros in place of what is as large as its parameter, the count that all share."""
    counts = [{name: float(one[name]) if name == "step" else None for name in one} for one in found]
    if any(count != counts[0] for count in counts):
        raise StageError(
            "DeepSpeed counts updates once for all weights of a network; this run's weights have made different "
            "numbers of them. Continue it as it was started, or with profiles/launch/fsdp.yaml."
        )
    values = found[0].items()
    return {name: torch.zeros_like(flat) if _is_like(value, members[0]) else value for name, value in values}
