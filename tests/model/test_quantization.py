"""Quantised layers compute what their formats say, on every family; what is not a linear layer of the decoder stays."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from app.domain import Readout, TokenizedConversation
from app.errors import InvalidSetting, InvalidWeights
from app.model.prefix_cache import PrefixCache
from app.model.quantization import Int8Linear, Nf4Linear, check_quantization, num_bytes
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from app.pack_builder import PackBuilder, pack_of
from benchmarks.decoder_configs import FAMILIES
from tests.checkpoints import save_tensors, write_armorm, write_classifier, write_moslim_heads
from tests.equivalence.reference import read_tensors

CPU = torch.device("cpu")
KINDS = {"int8": Int8Linear, "nf4": Nf4Linear}
NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Dettmers et al. 2023, "QLoRA", appendix E."""
PACKED_TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05}


@pytest.fixture(autouse=True, scope="module")
def _operators() -> None:
    check_quantization("int8", CPU, torch.float32)


@pytest.fixture(scope="module", params=[*FAMILIES, "armorm"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("weights") / "one"
    if request.param == "armorm":
        return write_armorm(folder, "chatml")
    return write_classifier(folder, request.param, num_labels=2)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conversations(seed: int, count: int = 12) -> list[TokenizedConversation]:
    random = np.random.default_rng(seed)
    prompts = [tuple(random.integers(0, 300, random.integers(5, 80)).tolist()) for _ in range(4)]
    responses = [tuple(random.integers(0, 300, random.integers(1, 40)).tolist()) for _ in range(count)]
    return [TokenizedConversation(prompts[n % 4], ids, len(prompts[n % 4]) - 2) for n, ids in enumerate(responses)]


def rewards(readouts: Sequence[Readout]) -> np.ndarray:
    return np.stack([readout.rewards for readout in readouts])


def alone(model: RewardModel, given: Sequence[TokenizedConversation]) -> np.ndarray:
    return rewards([readout for one in given for readout in model.forward(pack_of([one])).readouts()])


@pytest.mark.parametrize("with_bias", [False, True])
def test_int8_rounds_each_row_of_the_weights_and_no_input(with_bias: bool) -> None:
    weight, states = normal(32, 48) * torch.logspace(-2, 2, 32)[:, None], normal(2, 7, 48, seed=1)
    states[0, 4, 5] = 1000.0
    bias = normal(32, seed=2) if with_bias else None
    steps = weight.abs().amax(dim=-1, keepdim=True) / 127
    expected = nn.functional.linear(states, (weight / steps).round() * steps, bias)
    found = Int8Linear(weight, bias)(states)
    assert found.shape == (2, 7, 32)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(found, nn.functional.linear(states, weight, bias), rtol=1e-3)


def test_a_row_of_zeros_gives_zeros() -> None:
    weight = normal(32, 48)
    weight[3] = 0
    found = Int8Linear(weight, None)(normal(1, 3, 48, seed=1))
    assert found[..., 3].abs().max() == 0
    assert found.isfinite().all()


@pytest.mark.parametrize("width", [128, 112, 48])
def test_nf4_takes_the_nearest_level_of_each_block(width: int) -> None:
    weight, bias, states = normal(32, width), normal(32, seed=2), normal(2, 7, width, seed=1)
    blocks = [block for row in weight for block in row.split(64)]
    levels = torch.tensor(NF4_LEVELS)
    near = [levels[(one[:, None] / one.abs().max() - levels).abs().argmin(dim=1)] * one.abs().max() for one in blocks]
    expected = nn.functional.linear(states, torch.cat(near).view(32, width), bias)
    assert torch.allclose(Nf4Linear(weight, bias)(states), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", KINDS)
def test_every_linear_layer_of_the_decoder_and_nothing_else(folder: Path, quantization: str, dtype: str) -> None:
    heads = write_moslim_heads(folder.parent / "heads.safetensors")
    full = load_reward_model(folder, device="cpu", dtype=dtype, moslim_weights=heads)
    model = load_reward_model(folder, device="cpu", dtype=dtype, quantization=quantization, moslim_weights=heads)
    assert (model.info.quantization, full.info.quantization) == (quantization, "none")
    assert model.info.revision == full.info.revision
    linears = {name for name, module in full.backbone.named_modules() if isinstance(module, nn.Linear)}
    replaced = {name for name, module in model.backbone.named_modules() if isinstance(module, KINDS[quantization])}
    assert replaced == linears
    assert num_bytes(model.backbone) < num_bytes(full.backbone)
    kept = model.backbone.state_dict()
    assert kept
    assert all(tensor.dtype == getattr(torch, dtype) for tensor in kept.values())
    of_full = full.backbone.state_dict()
    assert of_full.keys() - kept.keys() == {name for name in of_full if name.rpartition(".")[0] in linears}
    assert all(torch.equal(tensor, of_full[name]) for name, tensor in kept.items())
    for one in (model.head, model.intensity_heads):
        assert {tensor.dtype for tensor in one.state_dict().values()} == {torch.float32}
    found, expected = (rewards(each.forward(pack_of(conversations(1))).readouts()) for each in (model, full))
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-4 < difference < 0.5


@pytest.mark.parametrize("dtype", PACKED_TOLERANCE)
@pytest.mark.parametrize("quantization", KINDS)
def test_packed_equals_alone_and_recalled(folder: Path, quantization: str, dtype: str) -> None:
    model = load_reward_model(folder, device="cpu", dtype=dtype, quantization=quantization)
    given = conversations(2)
    expected = alone(model, given)
    assert expected.std(axis=0).min() > 0.01
    tolerance = PACKED_TOLERANCE[dtype] * np.abs(expected).max()
    assert np.abs(rewards(model.forward(pack_of(given)).readouts()) - expected).max() < tolerance
    model.prefix_cache = PrefixCache(2**30)
    for computed in (pack_of(given).num_tokens, sum(len(one.response_ids) for one in given)):
        builder = PackBuilder(10**6, recall=model.prefix_cache.find)
        assert all(builder.try_add(one) for one in given)
        pack = builder.build()
        assert pack.num_tokens == computed
        assert np.abs(rewards(model.forward(pack).readouts()) - expected).max() < tolerance


def test_loading_stays_strict(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "one")
    tensors = read_tensors(folder)
    name = "model.layers.1.mlp.up_proj.weight"
    whole = tensors.pop(name)
    save_tensors(folder, tensors)
    with pytest.raises(InvalidWeights, match=f"missing tensor {name}"):
        load_reward_model(folder, quantization="int8")
    whole[3, 5] = torch.nan
    save_tensors(folder, tensors | {name: whole})
    with pytest.raises(InvalidWeights, match=f"tensor {name} holds NaN"):
        load_reward_model(folder, quantization="nf4")


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ("int3", "quantization: int3 is not one of none, int8, nf4, fp8"),
        ("fp8", "quantization: fp8 needs a GPU with eight-bit floats .*, not cpu"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_read(tmp_path: Path, quantization: str, said: str) -> None:
    folder = write_classifier(tmp_path / "one")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidSetting, match=said):
        load_reward_model(folder, device="cpu", quantization=quantization)


@pytest.mark.parametrize("quantization", KINDS)
def test_a_missing_package_is_named_with_its_extra(quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidSetting, match=f"{quantization} needs bitsandbytes, which the extra quantization"):
        check_quantization(quantization, CPU, torch.float32)


def test_fp8_needs_a_gpu_that_multiplies_eight_bits_its_type_and_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(InvalidSetting, match="fp8 needs a GPU with eight-bit floats"):
        check_quantization("fp8", torch.device("cuda"), torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(InvalidSetting, match="fp8 needs dtype bfloat16"):
        check_quantization("fp8", torch.device("cuda"), torch.float16)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidSetting, match="fp8 needs torchao, which the extra fp8"):
        check_quantization("fp8", torch.device("cuda"), torch.bfloat16)
