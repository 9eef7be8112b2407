"""`python -m benchmarks.gpu` runs from end to end on a tiny model, and its checks can fail. No timing is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.model import quantization, reward_model
from app.model.attention import AttentionLayout
from app.packing import Segment
from benchmarks.decoder_configs import TINY, config_of
from benchmarks.gpu.__main__ import main, make_scene, parse_options
from benchmarks.gpu.clock import Deadline
from benchmarks.gpu.correctness import check_company, check_family, check_that_nobody_waits
from benchmarks.gpu.models import random_model
from benchmarks.gpu.quantized import measure_quantized
from benchmarks.gpu.rows import Row, all_met, table
from benchmarks.kernel_kinds import kind_of
from tests.conftest import REPOSITORY

CPU = torch.device("cpu")
NOT_NEEDED = (
    "fastapi",
    "starlette",
    "pydantic",
    "pydantic_settings",
    "prometheus_client",
    "orjson",
    "uvicorn",
    "httpx",
)
"""What a machine with a GPU need not have."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_command_checks_measures_and_writes(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED!r}));"
        "from benchmarks.gpu.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    run = subprocess.run(  # noqa: PLW1510 - the status is what is asked for
        [sys.executable, "-c", code, "--tiny", "--device", "cpu", "--out", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    written = json.loads((tmp_path / "gpu.json").read_text())
    goals = " · ".join(row["goal"] for row in written["rows"])
    for goal in (
        "packs of 512",
        "one 50-token",
        "best-of-16",
        "mixed",
        "seen again",
        "batch_inv",
        "memory",
        "goes",
        "compiled",
        "int8",
        "nf4",
        "fp8",
    ):
        assert goal in goals
    assert not [row for row in written["rows"] if row["measured"].startswith("failed")]
    assert {check["is_met"] for check in written["checks"] if check["goal"] != "no wait inside a forward"} == {True}
    recalled = next(row for row in written["rows"] if "seen again" in row["goal"])
    assert recalled["is_met"], recalled
    quantized = {row["goal"].split()[-1]: row for row in written["rows"] if "random weights: " in row["goal"]}
    assert quantized["int8"]["figures"]["score_correlation"] > 0.99
    assert quantized["nf4"]["figures"]["weights_gib"] < quantized["int8"]["figures"]["weights_gib"]
    assert quantized["fp8"]["figures"] == {}
    assert quantized["fp8"]["measured"] == "not measured"
    assert "needs a GPU with eight-bit floats" in quantized["fp8"]["next"]
    captured = next(row for row in written["rows"] if "compiled" in row["goal"])
    assert captured["is_met"], captured
    profile = next(row for row in written["rows"] if "goes, 512" in row["goal"])
    assert sum(profile["figures"].values()) == pytest.approx(1)
    assert profile["figures"]["matrix products"] > 0
    assert profile["figures"]["attention"] > 0
    assert table([Row(**recalled)]).splitlines()[-1] in (tmp_path / "gpu.md").read_text()
    assert {"device", "matrix products", "commit", "versions"} <= written["facts"].keys()


def test_a_token_that_sees_too_much_fails_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all_met(list(check_family("mistral", CPU)))
    mask = AttentionLayout.mask_QS

    def leaking(layout: AttentionLayout, segment: Segment, window: int | None) -> torch.Tensor:
        return mask(layout, segment, None if window is None else window + 1)

    monkeypatch.setattr(AttentionLayout, "mask_QS", leaking)
    rows = list(check_family("mistral", CPU))
    assert not all_met(rows)
    assert "**no**" in table(rows)


def test_a_pack_of_another_length_fails_the_check_of_company(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(config_of("llama", TINY), CPU, torch.float32)
    assert check_company(model).is_met
    monkeypatch.setattr(reward_model, "padded", lambda token_ids, num_tokens: token_ids)
    monkeypatch.setattr(reward_model, "read_in_rows", lambda read, *features: read(*features))
    assert check_company(model).is_met is False


def test_chosen_rows_are_measured_alone_into_a_file_of_their_own(tmp_path: Path) -> None:
    assert main(["--tiny", "--device", "cpu", "--rows", "request", "memory", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu_request_memory.json", "gpu_request_memory.md"]
    written = json.loads((tmp_path / "gpu_request_memory.json").read_text())
    assert [row["goal"] for row in written["rows"]] == ["tiny, one 50-token request", "memory"]
    assert written["checks"] == []
    assert "Nothing was checked in this run" in (tmp_path / "gpu_request_memory.md").read_text()


def test_a_package_that_is_missing_is_named_and_no_figure_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    scene = make_scene(parse_options(["--tiny", "--device", "cpu"]), Deadline(60))
    rows = list(measure_quantized(scene))
    assert [row.measured for row in rows] == ["not measured"] * 3
    assert "int8 needs bitsandbytes" in rows[0].next
    assert not any(row.figures for row in rows)


def test_what_cannot_be_measured_is_neither_met_nor_failed() -> None:
    row = check_that_nobody_waits(random_model(config_of("llama", TINY), CPU, torch.float32))
    assert row.is_met is None
    assert row.measured == "not measured"
    assert all_met([row])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_NNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", "matrix products"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128>>", "attention"),
        ("void at::native::elementwise_kernel<128, 4, silu>", "element-wise"),
        ("void at::native::index_elementwise_kernel<128, 4>", "gathering"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<bfloat16>", "copies"),
        ("Memcpy DtoH (Device -> Pageable)", "copies"),
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::mul", "element-wise"),
    ],
)
def test_kernels_are_told_apart(name: str, kind: str) -> None:
    assert kind_of(name) == kind
