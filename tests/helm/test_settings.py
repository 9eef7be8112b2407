"""The chart's settings are the code's: the same names, defaults and bounds, in a ConfigMap that starts the service."""

import os
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from app.errors import InvalidSetting
from app.main import create_app
from app.settings import ENVIRONMENT_PREFIX, Settings, read_settings
from tests.helm.rendering import CHART, Release, Render

THE_CHARTS_OWN = {"host", "port", "weights", "api_keys_file"}
"""Decided by service, weights and apiKeys."""
NEVER_IN_A_CONFIG_MAP = {"api_keys"}
OTHERS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "bfloat16",
    "quantization": "int8",
    "moslim_weights": "/weights/moslim.safetensors",
    "default_preference": "helpful:1,verbose:-0.5",
    "max_pack_tokens": 3_000_000,
    "max_conversation_tokens": 2_000_000,
    "max_queued_tokens": 40_000_000,
    "max_wait_seconds": 30.5,
    "max_body_bytes": 1_073_741_824,
    "max_items": 100_000,
    "prefix_cache_bytes": 20_000_000_000,
    "batch_invariant": True,
    "special_tokens": "reject",
    "metrics_auth": True,
    "cors_origins": "https://a.example,https://b.example:8443",
    "stream_stall_seconds": 90,
    "drain_delay_seconds": 0,
    "drain_timeout_seconds": 0.5,
    "watchdog_seconds": 600,
    "otlp_endpoint": "http://collector:4318",
    "log_format": "text",
    "log_level": "debug",
}
WRONG: dict[str, Any] = {
    "device": "gpu",
    "dtype": "float64",
    "quantization": "int4",
    "default_preference": "helpful",
    "max_pack_tokens": 0,
    "max_conversation_tokens": 0,
    "max_queued_tokens": 1.5,
    "max_wait_seconds": 0,
    "max_body_bytes": -1,
    "max_items": "many",
    "prefix_cache_bytes": -1,
    "batch_invariant": "perhaps",
    "special_tokens": "keep",
    "metrics_auth": "perhaps",
    "cors_origins": "https://a.example/path",
    "stream_stall_seconds": 0,
    "drain_delay_seconds": -1,
    "drain_timeout_seconds": -1,
    "watchdog_seconds": 0,
    "otlp_endpoint": "collector:4318",
    "log_format": "xml",
    "log_level": "trace",
}


def configured(release: Release) -> dict[str, str]:
    return release.one("ConfigMap", "-settings")["data"]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
        monkeypatch.delenv(name)
    return monkeypatch


def start(release: Release, environment: pytest.MonkeyPatch) -> Settings:
    for name, value in configured(release).items():
        environment.setenv(name, value)
    return read_settings()


def test_the_config_map_has_every_setting_and_no_other(render: Render) -> None:
    names = {name.removeprefix(ENVIRONMENT_PREFIX).lower() for name in configured(render())}
    assert names == set(Settings.model_fields) - NEVER_IN_A_CONFIG_MAP
    values = yaml.safe_load((CHART / "values.yaml").read_text())["settings"]
    assert set(values) == names - THE_CHARTS_OWN
    assert set(OTHERS) == set(values)


def test_the_defaults_are_the_codes(render: Render, environment: pytest.MonkeyPatch) -> None:
    found = start(render(), environment)
    assert found.host == "0.0.0.0"
    for name in set(Settings.model_fields) - {"host"}:
        assert getattr(found, name) == Settings.model_fields[name].default, name


def test_a_gpu_that_was_asked_for_is_never_a_cpu(render: Render, environment: pytest.MonkeyPatch) -> None:
    # auto would serve from the CPU, slowly and without a word, where the node's driver is missing.
    assert start(render({"gpu": {"enabled": True}}), environment).device == "cuda"
    assert start(render({"gpu": {"enabled": True}, "settings": {"device": "cuda:0"}}), environment).device == "cuda:0"


def test_every_other_value_arrives(render: Render, environment: pytest.MonkeyPatch) -> None:
    release = render({"settings": OTHERS, "apiKeys": {"existingSecret": "keys"}, "service": {"port": 9000}})
    found = start(release, environment)
    assert found == read_settings({name: str(value) for name, value in OTHERS.items()})
    for name in OTHERS:
        assert getattr(found, name) != Settings.model_fields[name].default, name
    assert (found.host, found.port) == ("0.0.0.0", 9000)
    assert found.api_keys_file == Path("/etc/armoserve/keys/api-keys")


def test_the_environment_builds_the_application(render: Render, environment: pytest.MonkeyPatch) -> None:
    assert create_app(start(render(), environment)).title == "armoserve"


@pytest.mark.parametrize("name", WRONG)
def test_what_the_code_refuses_the_chart_refuses_before_it(
    render: Render, helm: Any, environment: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(helm.HelmValuesError, match=f"/settings/{name}"):
        render({"settings": {name: WRONG[name]}})
    environment.setenv(ENVIRONMENT_PREFIX + name.upper(), str(WRONG[name]))
    with pytest.raises(InvalidSetting, match=name):
        read_settings()


def test_choices_are_the_codes(helm: Any) -> None:
    schema = helm.Chart.load(CHART).schema["properties"]["settings"]["properties"]
    for name, field in Settings.model_fields.items():
        choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
        if choices:
            assert schema[name] == {"enum": choices}, name
