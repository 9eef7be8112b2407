"""`python -m app score --ray`: a data set on Ray Data. Actors hold the model; a shard of the input is one task.

Whatever kills the driver, an actor or a machine, a shard is finished or it is not: the same command goes on with those
that are not. Inputs, weights and output must be at the same path on every machine.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from tqdm import tqdm

from app.api.lines import Line, LineAnswer
from app.domain import Truncation
from app.errors import ArmoserveError, InvalidSetting
from app.main import load_engine, weights_revision
from app.offline import answers_of
from app.offline_run import Counts, begin, check_dtype, check_parts, owned, part_of, write_part
from app.offline_shards import Shard, ShardReader, find_inputs, plan_inputs
from app.settings import Settings, keep_usage_to_ourselves, num_torchrun_processes

MOST_BLOCKS: Final = 10_000
"""Ray keeps an object per block; with more shards than this a block has several."""
OPTIONS: Final = (
    "device",
    "dtype",
    "quantization",
    "default_preference",
    "max_pack_tokens",
    "max_conversation_tokens",
    "max_body_bytes",
    "special_tokens",
    "batch_invariant",
)
"""The settings that may show in an answer."""


@dataclass(frozen=True, slots=True)
class BulkRun:
    """What to score, where to and how."""

    inputs: tuple[Path, ...]
    output: Path
    truncation: Truncation = "never"
    num_replicas: int = 1
    batch_rows: int = 1024
    gpus_per_replica: float | None = None
    """None: one, where the model may run on a GPU and the cluster has any."""


class ShardScorer:
    """A replica: the model, loaded once, and the shards that Ray gives it."""

    def __init__(self, settings: Settings, output: str, truncation: Truncation, revision: str) -> None:
        self._engine = load_engine(settings)
        if self._engine.info.revision != revision:
            raise InvalidSetting(f"a replica has the weights {self._engine.info.revision}, the run has {revision}")
        check_dtype(Path(output), self._engine.info.precision)
        self._settings = settings
        self._output = Path(output)
        self._truncation = truncation
        self._reader = ShardReader(settings.max_body_bytes)

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
        """Score shards and write each; Ray calls it with a batch of one."""
        shards = [Shard(**orjson.loads(one)) for one in batch["shard"]]
        return {"num_rows": [self._score(shard) for shard in shards]}

    def _score(self, shard: Shard) -> int:
        lines = by_prompt(self._reader.read(shard))
        answers = asyncio.run(self._answers(lines))
        numbered = sorted(zip((line.number for line in lines), answers, strict=True), key=lambda pair: pair[0])
        write_part(self._output, shard, (answer.content for _, answer in numbered))
        return len(numbered)

    async def _answers(self, lines: Sequence[Line]) -> list[LineAnswer]:
        async with aclosing(answers_of(self._engine, self._settings, _each(lines), self._truncation)) as answers:
            return [answer async for answer in answers]


def score_on_ray(settings: Settings, run: BulkRun) -> int:
    """Score all rows of the inputs that are not scored yet; return how many of all answers are errors.

    Ray is the cluster of RAY_ADDRESS, else one of this machine's own.

    Raises:
        InvalidSetting: one line: an input, the folder's run, Ray or its resources are not as they must be.
        ArmoserveError: a shard failed; the run can be gone on with.
    """
    settings = _placed(settings, run)
    files = find_inputs(run.inputs)
    revision = weights_revision(settings)
    with owned(run.output):
        inputs = list(plan_inputs(files, run.batch_rows))
        begin(run.output, revision, _options(settings, run), inputs)
        shards = [shard for one in inputs for shard in one.shards]
        waiting = [shard for shard in shards if not part_of(run.output, shard).exists()]
        num_rows, num_waiting = (sum(shard.num_rows for shard in some) for some in (shards, waiting))
        with tqdm(total=num_rows, initial=num_rows - num_waiting, unit="row", file=sys.stderr) as bar:
            if waiting:
                with _started_ray() as ray:
                    for num_done in _score(ray, settings, run, revision, waiting):
                        bar.update(num_done)
        counts: Counts = check_parts(run.output, shards)
    return counts.num_errors


def by_prompt(lines: Sequence[Line]) -> list[Line]:
    """Return lines in an order in which those that share a prompt, or the beginning of one, follow each other."""
    return sorted(lines, key=lambda line: (_prompt(line.content or b""), line.number))


def _prompt(content: bytes) -> bytes:
    try:
        row = orjson.loads(content)
        return orjson.dumps(row.get("prompt") or row.get("messages"))
    except (ValueError, AttributeError):  # an error line, wherever it stands
        return b""


async def _each(lines: Sequence[Line]) -> AsyncGenerator[Line]:
    for line in lines:
        yield line


def _score(ray: Any, settings: Settings, run: BulkRun, revision: str, waiting: Sequence[Shard]) -> Iterator[int]:
    """Yield how many rows are done whenever a shard is."""
    rows = [{"shard": orjson.dumps(asdict(shard)).decode()} for shard in waiting]
    num_replicas = min(run.num_replicas, len(waiting))
    num_gpus = _gpus_per_replica(ray, settings, run)
    _check_resources(ray, run, num_gpus)
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map_batches(
        ShardScorer,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_replicas),
        num_cpus=1,
        num_gpus=num_gpus or None,
        fn_constructor_args=(settings, str(run.output.absolute()), run.truncation, revision),
    )
    try:
        for done in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            yield int(done["num_rows"].sum())
    except ray.exceptions.RayError as error:
        raise ArmoserveError(f"a shard failed, and the same command goes on: {_cause(error)}") from error


@contextmanager
def _started_ray() -> Iterator[Any]:
    """Give Ray; what is started here ends here, with all of its processes.

    Raises:
        InvalidSetting: it is not installed, or does not start.
    """
    try:
        # An extra, which need not be installed.
        import ray  # noqa: PLC0415
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise InvalidSetting(
            "--ray is not allowed: Ray is not installed; allowed: once it is, with pip install 'armoserve[ray]'"
        ) from error
    for name in ("ray.data", "ray.data._internal.progress"):
        logging.getLogger(name).setLevel(logging.ERROR)
    is_anothers = ray.is_initialized()
    if not is_anothers:
        keep_usage_to_ourselves()
        try:
            ray.init(include_dashboard=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InvalidSetting(f"Ray does not start: {' '.join(str(error).split())}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        if not is_anothers:
            ray.shutdown()


def _placed(settings: Settings, run: BulkRun) -> Settings:
    """Return the settings as other processes need them.

    Raises:
        InvalidSetting: what only one machine could mean, or an output among its own inputs.
    """
    if num_torchrun_processes() > 1:
        raise InvalidSetting("--ray is not allowed under torchrun: a replica of Ray's is one process")
    if settings.device.startswith("cuda:"):
        raise InvalidSetting(
            f"device = {settings.device!r} is not allowed: --ray chooses the GPUs; allowed: auto, cpu, cuda"
        )
    for given in run.inputs:
        if given.is_dir() and run.output.resolve().is_relative_to(given.resolve()):
            raise InvalidSetting(f"--output {run.output} lies in the input {given}: its answers would be inputs")
    absolute: dict[str, object] = {}
    if Path(settings.weights).exists():
        absolute["weights"] = str(Path(settings.weights).absolute())
    if settings.moslim_weights is not None:
        absolute["moslim_weights"] = settings.moslim_weights.absolute()
    return settings.model_copy(update=absolute)


def _options(settings: Settings, run: BulkRun) -> dict[str, Any]:
    options = settings.model_dump(mode="json", include=set(OPTIONS))
    return {"truncate": run.truncation, "batch_rows": run.batch_rows, **options}


def _gpus_per_replica(ray: Any, settings: Settings, run: BulkRun) -> float:
    if run.gpus_per_replica is not None:
        return run.gpus_per_replica
    return 0 if settings.device == "cpu" or not ray.cluster_resources().get("GPU") else 1


def _check_resources(ray: Any, run: BulkRun, num_gpus: float) -> None:
    """See that all replicas can run: Ray would wait for more machines, and say nothing."""
    there = ray.cluster_resources()
    for kind, each in (("CPU", 1), ("GPU", num_gpus)):
        if run.num_replicas * each > there.get(kind, 0):
            raise InvalidSetting(
                f"--replicas {run.num_replicas} is not allowed: each takes {each:g} {kind}, and Ray has "
                f"{there.get(kind, 0):g}; allowed: up to {int(there.get(kind, 0) / each)}"
            )


def _cause(error: BaseException) -> str:
    """Return the first line of what was raised in the actor."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(cause).__name__
