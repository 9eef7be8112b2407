"""What cannot be divided among processes is refused in one line that says what can."""

from collections.abc import Iterator

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig, PreTrainedModel
from transformers.distributed import DistributedConfig

from app.errors import DevicePoisoned, InvalidSetting
from app.loading import load_checked_engine
from app.model.backbone import build_backbone, empty_backbone
from app.model.tensor_parallel import LeadingBackbone, Ranks, own_part
from app.packing import Segment
from app.settings import read_settings
from tests.checkpoints import backbone_config


class LostRanks:
    """Ranks of which one has ended."""

    def tell(self, call: object) -> None:
        raise RuntimeError("Connection closed by peer")


def config(**changes: int) -> LlamaConfig:
    entries = backbone_config("llama", 100, **changes)
    return LlamaConfig(**{key: value for key, value in entries.items() if key != "model_type"})


@pytest.mark.parametrize(
    ("num_ranks", "changes", "said"),
    [
        (3, {}, "num_attention_heads = 4 and num_key_value_heads = 2 and intermediate_size = 112; allowed: 1, 2"),
        (4, {}, "num_key_value_heads = 2; allowed: 1, 2"),
        (2, {"num_key_value_heads": 1}, "num_key_value_heads = 1; allowed: 1"),
    ],
)
def test_heads_that_cannot_be_divided_are_refused(
    monkeypatch: pytest.MonkeyPatch, num_ranks: int, changes: dict[str, int], said: str
) -> None:
    monkeypatch.setattr(distributed, "get_world_size", lambda: num_ranks)
    ranks = Ranks(None, None, torch.device("cpu"), None)
    with pytest.raises(InvalidSetting) as refused:
        ranks.divided(empty_backbone(config(**changes), torch.float32))
    assert str(refused.value) == f"torchrun with {num_ranks} processes is not allowed: these weights have {said}"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("quantization", "int8", "quantization = 'int8' is not allowed under torchrun; allowed: none"),
        ("prefix_cache_bytes", "1000", "prefix_cache_bytes = 1000 is not allowed under torchrun; allowed: unset or 0"),
        ("batch_invariant", "true", "batch_invariant = True is not allowed under torchrun; allowed: false"),
    ],
)
def test_settings_that_no_divided_backbone_can_have_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    for variable, given in {"TORCHELASTIC_RUN_ID": "run", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(variable, given)
    with pytest.raises(InvalidSetting) as refused:
        load_checked_engine(read_settings({name: value}))
    assert str(refused.value) == said


def test_a_lost_process_is_beyond_repair() -> None:
    decoder = empty_backbone(config(), torch.float32).decoder
    token_ids_T = torch.arange(3)
    with pytest.raises(DevicePoisoned, match="tensor-parallel group failed"):
        LeadingBackbone(decoder, LostRanks())(token_ids_T, token_ids_T, (Segment(0, 3),))  # type: ignore[arg-type]


@pytest.fixture
def first_of_two() -> Iterator[None]:
    """Rank 0 of two, where nobody else is and nothing is sent."""
    distributed.init_process_group(backend="fake", rank=0, world_size=2, store=FakeStore())
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("first_of_two")
def test_a_rank_holds_its_half_of_the_linear_layers_and_all_of_the_norms() -> None:
    joined, device, mesh = PreTrainedModel.prepare_distribute_model(DistributedConfig(tp_size=2))
    whole = build_backbone(config()).decoder.state_dict()
    decoder = Ranks(joined, mesh, torch.device(device), None).divided(empty_backbone(config(), torch.float32)).decoder
    parts = {name: own_part(place, whole[name]) for name, place in decoder.state_dict().items()}
    halves = {name: part.to_local() for name, part in parts.items() if isinstance(part, DTensor)}
    layer = "layers.0.self_attn"
    assert torch.equal(halves[f"{layer}.q_proj.weight"], whole[f"{layer}.q_proj.weight"][:32])
    assert torch.equal(halves[f"{layer}.o_proj.weight"], whole[f"{layer}.o_proj.weight"][:, :32])
    assert all(2 * half.numel() == whole[name].numel() for name, half in halves.items())
    assert all(half.untyped_storage().nbytes() == half.numel() * 4 for half in halves.values())
    assert {name.split(".")[-2] for name in parts.keys() - halves.keys()} <= {
        "norm",
        "input_layernorm",
        "post_attention_layernorm",
        "embed_tokens",
    }
    assert len(halves) >= 3 * 7
