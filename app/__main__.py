"""The command line: `python -m app serve | score | info | fetch`. Every setting of the server is a flag of `serve`."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, get_args

from app import __version__
from app.api.logs import logging_to_stderr
from app.domain import ModelInfo, Truncation
from app.errors import ArmoserveError, InvalidSetting, StartError
from app.main import follow_torchrun, load_engine, serve
from app.offline import check_output, score_file
from app.settings import (
    ENVIRONMENT_PREFIX,
    Settings,
    allowed_values,
    is_torchrun_follower,
    num_torchrun_processes,
    read_settings,
)

MODEL_SETTINGS = ("weights", "device", "dtype", "quantization", "default_preference", "max_pack_tokens")
"""What matters where nothing is served."""
NUMBER_SETTINGS = ("device", "dtype", "quantization")
"""What decides in which numbers given weights are computed."""
RAY_OPTIONS = ("num_replicas", "batch_rows", "gpus_per_replica")
RAY_FLAGS = ("--replicas", "--batch-rows", "--gpus-per-replica")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 0
    try:
        code: int = chosen.run(chosen)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except (ArmoserveError, OSError) as error:
        return _failed(error)
    return code


def run_serve(chosen: argparse.Namespace) -> int:
    settings = _settings(chosen)
    with logging_to_stderr(settings.log_format, settings.log_level):
        if is_torchrun_follower():
            follow_torchrun(settings)
            return 0
        failure = serve(settings)
    return 0 if failure is None else _failed(failure)


def run_score(chosen: argparse.Namespace) -> int:
    if is_torchrun_follower() and not chosen.ray:
        return _follow(chosen)
    return _score_on_ray(chosen) if chosen.ray else _score_here(chosen)


def _follow(chosen: argparse.Namespace) -> int:
    with logging_to_stderr("text", "warning"):
        follow_torchrun(_settings(chosen))
    return 0


def _score_here(chosen: argparse.Namespace) -> int:
    if len(chosen.inputs) > 1 or any(getattr(chosen, name) is not None for name in RAY_OPTIONS):
        raise InvalidSetting(f"more than one input and {', '.join(RAY_FLAGS)} need --ray")
    (source,) = chosen.inputs
    if chosen.resume and chosen.output is None:
        raise InvalidSetting("--resume needs an output file: -o OUT")
    if not source.is_file():
        raise InvalidSetting(f"{source} is not a file")
    if chosen.output is not None:
        check_output(source, chosen.output, goes_on=chosen.resume, overwrites=chosen.overwrite)
    settings = _settings(chosen)
    with logging_to_stderr("text", "warning"):
        num_errors = score_file(
            load_engine(settings),
            settings,
            source,
            chosen.output,
            truncation=chosen.truncate,
            resume=chosen.resume,
        )
    return _told(num_errors)


def _score_on_ray(chosen: argparse.Namespace) -> int:
    # What it needs is slow to import, and comes with an extra.
    from app.offline_ray import BulkRun, score_on_ray  # noqa: PLC0415

    if chosen.output is None or chosen.resume or chosen.overwrite:
        raise InvalidSetting(
            "--ray needs --output FOLDER, and neither --resume nor --overwrite: with the same folder it goes on"
        )
    given = {name: value for name in RAY_OPTIONS if (value := getattr(chosen, name)) is not None}
    settings = _settings(chosen)
    run = BulkRun(tuple(chosen.inputs), chosen.output, chosen.truncate, **given)
    with logging_to_stderr("text", "warning"):
        return _told(score_on_ray(settings, run))


def _told(num_errors: int) -> int:
    if num_errors:
        print(f"{num_errors} lines are errors", file=sys.stderr)
    return 1 if num_errors else 0


def run_info(chosen: argparse.Namespace) -> int:
    if is_torchrun_follower():
        return _follow(chosen)
    engine = load_engine(_settings(chosen))
    print(json.dumps(_facts(engine.info), indent=2) if chosen.json else _table(engine.info))
    return 0


def run_fetch(chosen: argparse.Namespace) -> int:
    # The hub's client is slow to import, and no other command downloads by itself.
    from app.hub import download  # noqa: PLC0415

    if num_torchrun_processes() > 1:
        raise InvalidSetting("fetch is not allowed under torchrun; allowed: one process, which downloads")
    folder = download(chosen.hub_id, chosen.to or Path("weights") / chosen.hub_id.rsplit("/", 1)[-1])
    # As strictly as the server, with every check that it makes.
    engine = load_engine(read_settings({"weights": str(folder)}))
    print(f"{chosen.hub_id} is in {folder}: complete, revision {engine.info.revision}, and it answers as it should")
    print(f"python -m app serve --weights {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description="Readable, steerable rewards.")
    parser.add_argument("--version", action="version", version=f"armoserve {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")

    command = commands.add_parser("serve", help="serve rewards over HTTP")
    _add_settings(command, tuple(Settings.model_fields))
    command.set_defaults(run=run_serve)

    command = commands.add_parser("score", help="score a file of items, one a line, without a server")
    command.add_argument("inputs", nargs="+", type=Path, metavar="FILE", help="items as /score takes them, one a line")
    command.add_argument("-o", "--output", type=Path, metavar="OUT", help="file to write; else standard output")
    _add_ray_options(command)
    existing = command.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="pass over the lines that OUT already holds")
    existing.add_argument("--overwrite", action="store_true", help="replace what OUT already holds")
    command.add_argument("--truncate", choices=get_args(Truncation), default="never", help="what to do with long items")
    _add_settings(command, MODEL_SETTINGS)
    command.set_defaults(run=run_score)

    command = commands.add_parser("info", help="load a weights folder and say what it is")
    command.add_argument("weights", metavar="WEIGHTS", help="a folder or a hub id")
    command.add_argument("--json", action="store_true", help="for machines")
    _add_settings(command, NUMBER_SETTINGS)
    command.set_defaults(run=run_info)

    command = commands.add_parser("fetch", help="download weights from the hub and verify them")
    command.add_argument("hub_id", metavar="HUB_ID", help="such as RLHFlow/ArmoRM-Llama3-8B-v0.1")
    command.add_argument("--to", type=Path, metavar="DIR", help="folder to put them in; else weights/NAME")
    command.set_defaults(run=run_fetch)
    return parser


def _add_ray_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("a data set, on Ray")
    group.add_argument("--ray", action="store_true", help="FILEs may be folders, .gz and .parquet; OUT is a folder")
    group.add_argument("--replicas", dest="num_replicas", type=_at_least_one, help="models side by side (default: 1)")
    group.add_argument("--batch-rows", type=_at_least_one, help="most rows of a shard (default: 1024)")
    group.add_argument("--gpus-per-replica", type=float, help="else 1, where Ray has GPUs; a fraction shares one")


def _at_least_one(given: str) -> int:
    if (number := int(given)) < 1:
        raise argparse.ArgumentTypeError("allowed: a whole number above 0")
    return number


def _add_settings(command: argparse.ArgumentParser, names: Sequence[str]) -> None:
    group = command.add_argument_group("settings", f"each is also the environment variable {ENVIRONMENT_PREFIX}NAME")
    for name in names:
        field = Settings.model_fields[name]
        default = field.get_default()
        shown = "" if default in (None, ()) else f" (default: {default})"
        help_text = f"{field.description}: {allowed_values(field)}{shown}"
        group.add_argument(_flag(name), dest=name, metavar="VALUE", help=help_text.replace("%", "%%"))


def _settings(chosen: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(chosen).items() if name in Settings.model_fields and value is not None}
    return read_settings(given)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _facts(info: ModelInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "description": info.description,
        "revision": info.revision,
        "template": info.template,
        "dtype": info.precision,
        "device": info.device,
        "quantization": info.quantization,
        "max_conversation_tokens": info.max_conversation_tokens,
        "gating": info.has_gating,
        "objectives": [{"name": one.name, "description": one.description} for one in info.objectives],
        "composites": {name: dict(weights) for name, weights in info.composites.items()},
        "heads": {head.name: head.classes for head in info.heads},
    }


def _table(info: ModelInfo) -> str:
    width = max(len(name) for name in info.objective_names)
    rows = [
        ("name", info.name),
        ("description", info.description or "none given"),
        ("revision", info.revision),
        ("template", info.template),
        ("runs as", f"{info.precision} on {info.device}"),
        ("conversation", f"up to {info.max_conversation_tokens} tokens"),
        ("gating", "by the prompt" if info.has_gating else "none"),
        ("heads", ", ".join(f"{head.name} 1-{head.classes}" for head in info.heads) or "none"),
        ("composites", ", ".join(info.composites) or "none"),
        ("objectives", str(len(info.objectives))),
    ]
    lines = [f"{name:<14}{value}" for name, value in rows]
    lines += [f"  {one.name:<{width}}  {one.description}".rstrip() for one in info.objectives]
    return "\n".join(lines)


def _failed(error: Exception) -> int:
    """Say in one line why the process ends."""
    words = " ".join(str(error).split()) or type(error).__name__
    kind = "" if isinstance(error, ArmoserveError) else f"{type(error).__name__}: "
    print(f"armoserve: {kind}{words}", file=sys.stderr)
    return 2 if isinstance(error, StartError) else 1


def end_process(code: int) -> NoReturn:
    """End with this exit code, whatever other threads do.

    A thread inside torch would abort the process (SIGABRT) if the interpreter were taken down under it.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it has gone
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    end_process(main())
