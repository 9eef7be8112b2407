"""The CUDA path without a GPU: tensors that have a device and a shape but no numbers go through the whole forward pass.

Whatever would make the host wait for the device, by asking for a number, fails on such tensors; so does an operator
that is given a wrong type, a wrong shape or a tensor of another device.
"""

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from app.domain import TokenizedConversation
from app.errors import InferenceFailed
from app.model import attention, reward_model
from app.model.prefix_cache import LEAST_SHARED_TOKENS, PrefixCache
from app.model.reward_model import RewardModel
from app.pack_builder import PackBuilder
from app.packing import IndexArray, Pack
from benchmarks.decoder_configs import FAMILIES, TINY, config_of
from benchmarks.gpu.correctness import conversations
from benchmarks.gpu.models import random_model

CUDA = torch.device("cuda:0")
INVARIANT_TOKENS = 16_384


class IndexingWithoutCuda(TorchFunctionMode):
    """Index as Python does, through operators: Python's own way wants a torch that was built for CUDA."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__getitem__:
            return indexed(*args)
        if func is torch.Tensor.__setitem__:
            return torch.ops.aten.copy_.default(indexed(*args[:2]), args[2])
        if func is torch.Tensor.__invert__:
            return torch.ops.aten.bitwise_not.default(*args)
        return func(*args, **(kwargs or {}))


def indexed(tensor: torch.Tensor, index: object) -> torch.Tensor:
    parts = index if isinstance(index, tuple) else (index,)
    if Ellipsis in [part for part in parts if not isinstance(part, torch.Tensor)]:
        missing = tensor.dim() - sum(part is not None for part in parts) + 1
        at = next(place for place, part in enumerate(parts) if part is Ellipsis)
        parts = (*parts[:at], *[slice(None)] * missing, *parts[at + 1 :])
    dim = 0
    for part in parts:
        if part is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice.Tensor(tensor, dim, part.start, part.stop, part.step or 1)
        elif isinstance(part, int):
            tensor = tensor.select(dim, part)
            continue
        else:
            tensor = torch.ops.aten.index.Tensor(tensor, [*[None] * dim, part])
        dim += 1
    return tensor


class Reached(Exception):
    """The readout is on the device, and about to be brought to the host."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.tensors = tensors


def to_nowhere(arrays: list[IndexArray], device: torch.device) -> list[torch.Tensor]:
    """Stand in for the pinned copy, which needs a GPU: one tensor on the device, cut as it is."""
    joined = torch.empty(sum(map(len, arrays)), dtype=torch.int64, device=device)
    return list(torch.split(joined, [len(array) for array in arrays]))


def to_host(tensors: list[torch.Tensor]) -> None:
    raise Reached(tensors)


@pytest.fixture(autouse=True)
def no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reward_model, attention):
        monkeypatch.setattr(module, "to_device", to_nowhere)
    monkeypatch.setattr(reward_model, "to_host", to_host)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Iterator[RewardModel]:
    """A model whose tensors are on a GPU that is not there."""
    sizes = {**TINY, **FAMILIES[request.param]}
    model = random_model(config_of(request.param, sizes), torch.device("cpu"), torch.bfloat16)
    with FakeTensorMode(), IndexingWithoutCuda():
        for module in [*model.backbone.modules(), *model.head.modules()]:
            for kept in (module._parameters, module._buffers):
                kept.update({name: moved(tensor) for name, tensor in kept.items() if tensor is not None})
        model.device = CUDA
        model.prefix_cache = PrefixCache(2**30)
        yield model


def moved(tensor: torch.Tensor) -> torch.Tensor:
    there = torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
    return torch.nn.Parameter(there, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else there


def pack_of(model: RewardModel, given: list[TokenizedConversation]) -> Pack:
    builder = PackBuilder(100_000, recall=model.prefix_cache.find)
    assert all(builder.try_add(conversation) for conversation in given)
    return builder.build()


def readout(model: RewardModel, pack: Pack) -> list[torch.Tensor]:
    with pytest.raises(Reached) as reached:
        model.forward(pack)
    return reached.value.tensors


@pytest.mark.parametrize("invariant_tokens", [None, INVARIANT_TOKENS])
def test_nothing_in_a_forward_asks_for_a_number(model: RewardModel, invariant_tokens: int | None) -> None:
    model.invariant_pack_tokens = invariant_tokens
    given = conversations() + conversations(seed=1)
    pack = pack_of(model, given)
    tensors = readout(model, pack)
    assert {tensor.device for tensor in tensors} == {CUDA}
    assert [len(tensor) for tensor in tensors] == [len(given), *[len(pack.gating_indices_P)] * 2, len(given)]


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_number_that_is_asked_for_fails(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model.backbone.forward

    def asking(*arguments: object) -> torch.Tensor:
        hidden_TD = plain(*arguments)
        return hidden_TD * hidden_TD.amax().item()

    monkeypatch.setattr(model.backbone, "forward", asking)
    with pytest.raises(InferenceFailed) as failed:
        model.forward(pack_of(model, conversations()))
    assert isinstance(failed.value.__cause__, DataDependentOutputException)


@pytest.mark.parametrize("model", ["llama", "mistral"], indirect=True)
def test_half_precision_goes_through_one_call_per_layer(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    plain = attention._varlen_attention

    def counted(**options: bool) -> object:
        called.append(options)
        return plain(**options)

    monkeypatch.setattr(attention, "_varlen_attention", counted)
    readout(model, pack_of(model, conversations()))
    assert called == [{"one_split": False}] * TINY["num_hidden_layers"]
    model.invariant_pack_tokens = INVARIANT_TOKENS
    readout(model, pack_of(model, conversations()))
    assert called[TINY["num_hidden_layers"] :] == [{"one_split": True}] * TINY["num_hidden_layers"]


@pytest.mark.parametrize("invariant_tokens", [None, INVARIANT_TOKENS])
def test_what_is_recalled_goes_through_the_same_way(model: RewardModel, invariant_tokens: int | None) -> None:
    model.invariant_pack_tokens = invariant_tokens
    model.prefix_cache.whole_prompts_only = invariant_tokens is not None
    given = [one for one in conversations() if len(one.prefix_ids) >= LEAST_SHARED_TOKENS]
    remember(model, given)
    pack = pack_of(model, given)
    assert pack.num_cached_tokens == sum(pack.prefix_tokens_P) > 0
    tensors = readout(model, pack)
    assert {tensor.device for tensor in tensors} == {CUDA}
    assert [len(tensor) for tensor in tensors] == [len(given), *[len(pack.gating_indices_P)] * 2, len(given)]


def remember(model: RewardModel, given: list[TokenizedConversation]) -> None:
    """Store states of every prompt, without numbers but of the right shape."""
    config = model.backbone.config
    for one in given:
        recalled = model.prefix_cache.find(one.prefix)
        shape = (1, config.num_key_value_heads, len(one.prefix_ids) - recalled.num_tokens, config.head_dim)
        states = [(fresh(shape), fresh(shape)) for _ in range(config.num_hidden_layers)]
        hidden_D = torch.empty(config.hidden_size, dtype=torch.float32, device=CUDA)
        model.prefix_cache.store(recalled, states, hidden_D)


def fresh(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device=CUDA)
