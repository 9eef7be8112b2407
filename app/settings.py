"""Settings: one class, read once by `app.main`, which hands the values on as constructor arguments.

Each setting comes from a flag of `python -m app serve`, else from the environment (`ARMOSERVE_…`), else its default.
A wrong value stops the start with one line that names the setting, the value and what is allowed.
"""

import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import InvalidSetting

ENVIRONMENT_PREFIX = "ARMOSERVE_"
FIRST_INHERITED = 3
SECRET_SETTINGS = frozenset({"api_keys"})

KEPT_KERNELS = "16"
"""Of four packs: a decoder has four shapes of weights."""
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")

Port = Annotated[int, Field(ge=0, le=65535)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^\s/?#@]+)$")]
CollectorAddress = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _comma_separated(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _keys(value: object) -> object:
    keys = _comma_separated(value)
    if isinstance(value, str) and not keys:  # a variable that is not set, say: that must not open the service
        raise ValueError("there is no key in it")
    return keys


def _named_weights(value: object) -> object:
    """Read `name:weight,name:weight`; a name may itself hold a colon."""
    if not isinstance(value, str):
        return value
    return {name.strip(): weight for name, _, weight in (part.rpartition(":") for part in value.split(","))}


def setting(default: Any, description: str, allowed: str) -> Any:
    return Field(default=default, description=description, json_schema_extra={"allowed": allowed})


class Settings(BaseSettings):
    """Everything that can be chosen about a running server. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    weights: Annotated[str, Field(pattern=r"\S")] = setting(
        "weights/default", "weights folder, or a hub id", "a folder, or OWNER/NAME of the hub"
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = setting(
        "auto", "where the model runs", "auto, cpu, cuda, cuda:N"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "number type of the backbone; the heads are always float32", "auto, float32, bfloat16, float16"
    )
    quantization: Literal["none", "int8", "nf4", "fp8"] = setting(
        "none",
        "number type of the backbone's linear layers where they are to take less memory; int8 and nf4 need the extra "
        "quantization, fp8 the extra fp8 and CUDA",
        "none, int8, nf4, fp8",
    )
    moslim_weights: Path | None = setting(None, "moslim.safetensors to lay beside the weights", "a file")
    default_preference: Annotated[
        Mapping[str, Annotated[float, Field(allow_inf_nan=False)]] | None, NoDecode, BeforeValidator(_named_weights)
    ] = setting(
        None,
        "direction that gives weights with several objectives and no gating their scalar",
        "name:weight,name:weight",
    )
    host: Annotated[str, Field(min_length=1)] = setting("127.0.0.1", "address to listen on", "a host name or address")
    port: Port = setting(8000, "port to listen on; 0 takes a free one", "a whole number from 0 to 65535")
    max_pack_tokens: PositiveInt = setting(16_384, "token budget of one forward pass", "a whole number above 0")
    max_conversation_tokens: PositiveInt | None = setting(
        None, "longest conversation; unset: what the model and the pack allow", "a whole number above 0"
    )
    max_queued_tokens: PositiveInt = setting(2_000_000, "tokens that may wait", "a whole number above 0")
    max_wait_seconds: PositiveSeconds = setting(
        90.0, "longest estimated wait that is still admitted", "a number above 0"
    )
    max_body_bytes: PositiveInt = setting(32 * 2**20, "largest request body", "a whole number above 0")
    max_items: PositiveInt = setting(4096, "most items of one request", "a whole number above 0")
    prefix_cache_bytes: Annotated[int, Field(ge=0)] | None = setting(
        None,
        "memory for the keys and values of prompts seen before; unset: 256 MiB on the CPU, a third of what is free "
        "on CUDA; 0: none",
        "a whole number from 0",
    )
    batch_invariant: bool = setting(
        default=False,
        description="whether an answer is the same to the last bit in any company; every forward pass then costs as "
        "much as one of max_pack_tokens",
        allowed="true, false",
    )
    special_tokens: Literal["neutralise", "reject"] = setting(
        "neutralise",
        "content that spells a special token: read as plain text, or refused (native routes)",
        "neutralise, reject",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_keys)] = setting(
        (), "keys that callers must show; unset: the service is open", "key,key; at least one"
    )
    api_keys_file: Path | None = setting(None, "file with one key a line", "a readable file with at least one key")
    metrics_auth: bool = setting(default=False, description="whether /metrics needs a key too", allowed="true, false")
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_comma_separated)] = setting(
        (), "origins whose pages may call the service", "https://host,https://host:port, without a path; or *"
    )
    stream_stall_seconds: PositiveSeconds = setting(
        60.0, "how long the caller of a stream may neither send nor take what is due", "a number above 0"
    )
    drain_delay_seconds: Seconds = setting(
        5.0, "time between SIGTERM and the end of accepting, for load balancers to notice", "a number from 0"
    )
    drain_timeout_seconds: Seconds = setting(60.0, "time for what is queued to finish after that", "a number from 0")
    watchdog_seconds: PositiveSeconds = setting(
        120.0, "silence of the engine thread after which /livez fails", "a number above 0"
    )
    otlp_endpoint: CollectorAddress | None = setting(
        None,
        "OpenTelemetry collector that takes traces over OTLP/HTTP; needs the extra otel",
        "http://host:port or https://host:port, to which /v1/traces is added",
    )
    log_format: Literal["json", "text"] = setting("json", "how log lines look", "json, text")
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "least severe log line written", "debug, info, warning, error"
    )

    @model_validator(mode="after")
    def _a_conversation_fits_a_pack(self) -> Self:
        if self.max_conversation_tokens is not None and self.max_conversation_tokens > self.max_pack_tokens:
            raise ValueError(
                f"max_conversation_tokens = {self.max_conversation_tokens} is not allowed; "
                f"allowed: up to max_pack_tokens = {self.max_pack_tokens}, or the conversation fits no pack"
            )
        return self

    @property
    def is_exposed(self) -> bool:
        """Whether other machines may reach the service, as far as the address tells."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    def keys(self) -> tuple[str, ...]:
        """Return every key a caller may show, from the setting and from the file.

        Raises:
            InvalidSetting: the file cannot be read or holds no key.
        """
        keys = tuple(key.get_secret_value() for key in self.api_keys)
        if self.api_keys_file is None:
            return keys
        try:
            lines = self.api_keys_file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError):
            lines = []
        if not lines:
            raise InvalidSetting(_message("api_keys_file", self.api_keys_file))
        return keys + tuple(lines)


def read_settings(flags: Mapping[str, str] | None = None) -> Settings:
    """Read the settings: flags first, then the environment, then the defaults.

    Raises:
        InvalidSetting: one line: the setting, its value, what is allowed.
    """
    values: dict[str, Any] = dict(flags or {})
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise InvalidSetting(str(first["msg"]).removeprefix("Value error, ")) from None
        name = str(first["loc"][0])
        value = values.get(name, os.environ.get(ENVIRONMENT_PREFIX + name.upper(), first["input"]))
        raise InvalidSetting(_message(name, value)) from None


def bound_kernel_caches() -> None:
    """Bound what torch's libraries keep on the CPU, unless who started the process did; call it before any product.

    In half precision oneDNN compiles a kernel for each weight shape and number of rows and keeps the last 1024, and so
    does ideep, between it and torch. Packs have ever new lengths: gigabytes end up held by kernels for lengths that do
    not come again, and by free memory that these keep apart. A pack needs its own kernels only, the same in each layer.
    """
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, KEPT_KERNELS)


def keep_usage_to_ourselves() -> None:
    """Have Ray tell nobody that it is used, unless who started the process wants that; call it before Ray starts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def inherited_descriptors() -> Sequence[int]:
    """Return the listening sockets that whoever started this process opened for it; none where it opens its own.

    That is systemd's socket activation, sd_listen_fds(3): LISTEN_PID is who is meant, LISTEN_FDS how many there are.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return ()
    return range(FIRST_INHERITED, FIRST_INHERITED + int(os.environ.get("LISTEN_FDS", "0")))


def num_torchrun_processes() -> int:
    """Return how many processes torchrun started to divide the model; 1 where it started none."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def is_torchrun_follower() -> bool:
    """Whether another process of torchrun's answers, and this one only computes."""
    return num_torchrun_processes() > 1 and os.environ["RANK"] != "0"


def allowed_values(field: FieldInfo) -> str:
    """Return what a setting may be, in words."""
    extra = field.json_schema_extra
    return str(extra["allowed"]) if isinstance(extra, dict) else ""


def _message(name: str, value: object) -> str:
    field = Settings.model_fields.get(name)
    if field is None:
        return f"there is no setting {name}; there are {', '.join(Settings.model_fields)}"
    is_secret = name in SECRET_SETTINGS and str(value).strip(", ")
    shown = "(hidden)" if is_secret else repr(str(value)[:200])
    return f"{name} = {shown} is not allowed; allowed: {allowed_values(field)}"
