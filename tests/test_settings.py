from pathlib import Path

import pytest

from app.errors import InvalidSetting
from app.settings import ENVIRONMENT_PREFIX, Settings, allowed_values, read_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(ENVIRONMENT_PREFIX + name.upper(), raising=False)


def test_flags_come_before_the_environment_and_that_before_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().port == 8000
    monkeypatch.setenv("ARMOSERVE_PORT", "9000")
    assert read_settings().port == 9000
    assert read_settings({"port": "9001"}).port == 9001


def test_every_setting_says_what_it_is_and_what_is_allowed() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert allowed_values(field), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "http"),
        ("port", "70000"),
        ("port", "tcp://10.0.0.1:8000"),  # what Kubernetes injects for a service called armoserve
        ("device", "tpu"),
        ("device", "cuda:"),
        ("dtype", "float64"),
        ("max_pack_tokens", "0"),
        ("max_items", "-1"),
        ("max_body_bytes", "10MB"),
        ("max_wait_seconds", "nan"),
        ("drain_delay_seconds", "-1"),
        ("watchdog_seconds", "0"),
        ("cors_origins", "not a url"),
        ("cors_origins", "https://a.example/path"),
        ("cors_origins", "https://a.example,b.example"),
        ("otlp_endpoint", "collector:4318"),
        ("otlp_endpoint", "grpc://collector:4317"),
        ("otlp_endpoint", "http://collector:4318?key=1"),
        ("log_format", "xml"),
        ("log_level", "chatty"),
        ("metrics_auth", "perhaps"),
        ("default_preference", "helpful"),
        ("default_preference", "helpful:much"),
        ("default_preference", "helpful:inf"),
    ],
)
@pytest.mark.parametrize("source", ["flag", "environment"])
def test_a_wrong_value_is_one_line_with_setting_value_and_allowed(
    name: str, value: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "environment":
        monkeypatch.setenv(ENVIRONMENT_PREFIX + name.upper(), value)
    with pytest.raises(InvalidSetting) as caught:
        read_settings({name: value} if source == "flag" else {})
    message = str(caught.value)
    assert message.startswith(f"{name} = ")
    assert value in message
    assert allowed_values(Settings.model_fields[name]) in message
    assert "\n" not in message


def test_a_setting_that_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidSetting, match="there is no setting prot; there are weights, device"):
        read_settings({"prot": "1"})


def test_a_conversation_must_fit_a_pack() -> None:
    with pytest.raises(InvalidSetting, match=r"max_conversation_tokens = 4096 is not allowed; .* = 2048"):
        read_settings({"max_conversation_tokens": "4096", "max_pack_tokens": "2048"})


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARMOSERVE_API_KEYS", "first, second,")
    settings = read_settings({"cors_origins": "https://a.example,https://b.example"})
    assert settings.keys() == ("first", "second")
    assert settings.cors_origins == ("https://a.example", "https://b.example")


def test_a_preference_is_names_with_weights() -> None:
    settings = read_settings({"default_preference": "helpful:2, a:b:-0.5"})
    assert settings.default_preference == {"helpful": 2.0, "a:b": -0.5}


def test_keys_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings({"api_keys": "s3cret-key"})
    assert "s3cret-key" not in repr(settings)
    assert "s3cret-key" not in str(settings.model_dump())


@pytest.mark.parametrize("value", ["", ",", " , "])
def test_a_flag_without_a_key_never_opens_the_service(value: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"^api_keys = '{value}' is not allowed; allowed: key,key; at least one$"):
        read_settings({"api_keys": value})


@pytest.mark.parametrize(
    ("host", "exposed"),
    [("127.0.0.1", False), ("127.1.2.3", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True)],
)
def test_which_addresses_others_may_reach(host: str, exposed: bool) -> None:
    assert read_settings({"host": host}).is_exposed is exposed


def test_keys_from_a_file_join_those_of_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("second\nthird\n")
    assert read_settings({"api_keys": "first", "api_keys_file": str(file)}).keys() == ("first", "second", "third")


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe"])
def test_a_key_file_without_keys_never_opens_the_service(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidSetting, match=r"api_keys_file = .* is not allowed"):
        read_settings({"api_keys_file": str(file)}).keys()


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARMOSERVE_PORT", "")
    assert read_settings().port == 8000


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().port = 1  # type: ignore[misc]
