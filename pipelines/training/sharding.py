"""Networks spread over the processes (FSDP2): each keeps its part of every weight, gradient, optimizer state, average.

The accelerate config of the machine asks for it (``profiles/launch/fsdp.yaml``). The spreading itself is torch's
``fully_shard``, with the options of accelerate's plugin: accelerate prepares a network only together with its one torch
optimizer, one network per run, and on GPUs, while the loop here has its own optimizers.

Weights stay float32 and autocast computes, as everywhere, so numbers are those of one process up to the rounding of
sums. States and checkpoints hold whole tensors: they do not show over how many processes a run was spread.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn

from pipelines.params import AdamW8Bit, Training
from pipelines.stage import StageError

if TYPE_CHECKING:  # they take a second to import, which a run of one process has no use for
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

OTHER_CALLS = ("encode", "decode")
"""Methods besides ``forward`` by which a network is called."""
REMEDY = "profiles/launch/fsdp.yaml has the values"


def says(variable: str) -> bool:
    """Whether accelerate's launcher set this variable to true."""
    return os.environ.get(variable, "false").lower() == "true"


def check_asked() -> None:
    """Refuse what the loop does not do, before accelerate is set up (which would miss a package first).

    Raises:
        StageError: the accelerate config of this machine asks for Megatron-LM.
    """
    if says("ACCELERATE_USE_MEGATRON_LM"):
        raise StageError(
            "the accelerate config of this machine asks for Megatron-LM, which the training loop does not support: it "
            "steps its own optimizers. Weights, gradients and optimizer states spread over the processes in the "
            "same way with distributed_type FSDP: REEL_LAUNCH=profiles/launch/fsdp.yaml."
        )


def refusals(plugin: FullyShardedDataParallelPlugin, training: Training, precision: str) -> Iterator[str]:
    """What of accelerate's options, and of a run's parameters, the loop does not do when networks are spread."""
    optimizers = [training.optimizer, *(block.optimizer for block in (training.per_network or {}).values())]
    if plugin.fsdp_version != 2:
        yield f"fsdp_version {plugin.fsdp_version}: only 2 is supported"
    if says("FSDP_OFFLOAD_PARAMS"):
        yield "fsdp_offload_params: set false; gradient_checkpointing and a smaller micro_batch save memory too"
    if plugin.cpu_ram_efficient_loading:
        yield "fsdp_cpu_ram_efficient_loading: set false; it leaves frozen networks of other processes empty"
    if plugin.activation_checkpointing:
        yield "fsdp_activation_checkpointing: set false; gradient_checkpointing of params.yaml decides"
    if precision == "fp16":
        yield "training.precision fp16 has a loss scale per process; take bf16"
    if any(isinstance(block, AdamW8Bit) for block in optimizers):
        yield "training.optimizer adamw_8bit keeps whole states; take adamw or lion"


def asked(accelerator: Accelerator, training: Training, precision: str) -> FullyShardedDataParallelPlugin | None:
    """accelerate's options where its config asks for FSDP and there are several processes, else None.

    Raises:
        StageError: for a kind of distribution, or with an option, that the loop does not support.
    """
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
    if accelerator.distributed_type not in known:
        raise StageError(
            f"the accelerate config of this machine asks for {accelerator.distributed_type.value}, which the training "
            "loop does not support; take a file of profiles/launch/ as REEL_LAUNCH."
        )
    if not says("ACCELERATE_USE_FSDP") or accelerator.num_processes == 1:
        return None
    plugin = FullyShardedDataParallelPlugin()
    found = list(refusals(plugin, training, precision))
    if found:
        raise StageError(f"FSDP: {'; '.join(found)} ({REMEDY}).")
    return plugin


# ---- tensors ------------------------------------------------------------------------------------------------------


def is_part(tensor: Any) -> TypeGuard[DTensor]:
    """Whether this process holds only a part of it."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its part, which shares its memory, or all of it."""
    return tensor.to_local() if is_part(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process must ask for it."""
    return tensor.full_tensor() if is_part(tensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """What belongs to this process of a whole tensor that every process has, spread as ``like`` is."""
    if not is_part(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def flattened(tensor: Tensor) -> Tensor:
    """[O, I, ...] as [O, I * ...], sharing the memory; parts are along O."""
    columns = tensor.shape[1:].numel()
    if not is_part(tensor):
        return tensor.view(-1, columns)
    from torch.distributed.tensor import DTensor

    rows, size = tensor.to_local(), torch.Size((tensor.shape[0], columns))
    flat = rows.view(rows.shape[0], columns)
    return DTensor.from_local(flat, tensor.device_mesh, tensor.placements, shape=size, stride=(columns, 1))


def gathered(tree: Any, keep: bool) -> Any:
    """The tree with whole tensors in the main memory; every process takes part, the others get None for each."""
    if is_part(tree):
        found = whole(tree.detach())
        return found.cpu() if keep else None
    if isinstance(tree, dict):
        return {key: gathered(value, keep) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [gathered(value, keep) for value in tree]
    return tree


# ---- networks -----------------------------------------------------------------------------------------------------


def spread(network: nn.Module, blocks: Iterable[nn.Module], plugin: FullyShardedDataParallelPlugin) -> nn.Module:
    """Spread a network in place; returns a copy of it without weights, for :func:`put_together`.

    Weights of a block are gathered while it computes, and given up after it unless ``fsdp_reshard_after_forward`` is
    false; what is in no block stays gathered from its forward to its backward pass.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # It warns of in-place operations on what a network returns; objectives compute with it and leave it as it is.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in network.parameters()}
    skeleton = copy.deepcopy(network, empty)
    for block in blocks:
        fully_shard(block, reshard_after_forward=bool(plugin.reshard_after_forward))
    fully_shard(network)
    for name in OTHER_CALLS:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)
    return skeleton


def is_spread(network: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether :func:`spread` was here."""
    return hasattr(network, "reshard")


def own_class(network: nn.Module) -> type:
    """The class of a network, which ``fully_shard`` makes one parent of another."""
    return type(network).__mro__[2] if is_spread(network) else type(network)


def settle(network: nn.Module) -> None:
    """Give up what a forward without a backward pass left gathered: it would not follow the next change of weights."""
    modules = list(network.modules())
    for module in modules if is_spread(network) else ():
        if is_spread(module):
            module.reshard()


@contextlib.contextmanager
def unsynchronised(network: nn.Module) -> Iterator[None]:
    """Inside, gradients of a spread network add up in each process; the next backward pass outside averages them."""
    assert is_spread(network)
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


def put_together(network: nn.Module, skeleton: nn.Module) -> None:
    """Make a spread network whole again, in every process: the object becomes what it was before :func:`spread`."""
    settle(network)
    skeleton.load_state_dict({name: whole(value) for name, value in network.state_dict().items()}, assign=True)
    skeleton.train(network.training)
    network.__class__ = type(skeleton)
    network.__dict__.clear()
    network.__dict__.update(skeleton.__dict__)
