"""The commands on a real, tiny checkpoint: what people type and what they read."""

import json
import re
import socket
from pathlib import Path

import httpx
import pytest

from app.__main__ import main
from app.errors import InvalidSetting
from app.main import load_engine
from app.settings import Settings, read_settings
from tests.checkpoints import write_armorm, write_own_folder
from tests.end_to_end.processes import run, server_process

PROMPT = 'What are some synonyms for the word "beautiful"?'
RESPONSES = ["Stunning, handsome, pretty.", "No."]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_folder(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(json.dumps({"id": n, "prompt": PROMPT, "responses": RESPONSES}) for n in range(3)))
    return path


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert {"serve", "score", "info", "fetch"} <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_every_setting_is_a_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')} " in shown for name in Settings.model_fields)


def test_info_for_people_and_for_machines(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(weights)]) == 0
    table = capsys.readouterr().out
    assert main(["info", str(weights), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] in table
    assert facts["revision"] in table
    assert len(facts["objectives"]) > 1
    assert all(objective["name"] in table for objective in facts["objectives"])
    assert facts["heads"]


def test_info_loads_in_the_numbers_that_are_asked_for(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--device", "cpu", "--dtype", "bfloat16", "--quantization", "int8"]
    assert main(["info", str(weights), *flags]) == 0
    assert re.search(r"^runs as +bfloat16\+int8 on cpu$", capsys.readouterr().out, re.MULTILINE)
    assert main(["info", str(weights), *flags, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["dtype"], facts["quantization"]) == ("bfloat16+int8", "int8")
    assert main(["info", str(weights), "--quantization", "int3"]) == 2
    assert "quantization = 'int3' is not allowed; allowed: none, int8, nf4, fp8" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "code", "followed"), [("info", 0, ["w"]), ("score", 0, ["w"]), ("fetch", 2, [])])
def test_a_second_process_of_torchrun_follows_the_first_or_is_refused(
    monkeypatch: pytest.MonkeyPatch, command: str, code: int, followed: list[str]
) -> None:
    def untouched(*_: object) -> None:
        pytest.fail("it answers by itself")

    for name, value in {"TORCHELASTIC_RUN_ID": "run", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    seen: list[str] = []
    monkeypatch.setattr("app.__main__.follow_torchrun", lambda settings: seen.append(settings.weights))
    monkeypatch.setattr("app.__main__.load_engine", untouched)
    monkeypatch.setattr("app.hub.download", untouched)
    assert main([command, *{"info": ["w"], "score": ["x", "--weights", "w"], "fetch": ["a/w"]}[command]]) == code
    assert seen == followed


def test_a_file_is_scored_as_the_server_scores(weights: Path, items: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["score", str(items), "-o", str(out), "--weights", str(weights)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["line"], line["id"]) for line in lines] == [(1, 0), (2, 1), (3, 2)]
    with server_process("app", ["serve", "--weights", str(weights)], tmp_path / "log") as server:
        server.wait_ready()
        answer = httpx.post(server.url + "/score", json={"prompt": PROMPT, "responses": RESPONSES}, timeout=60).json()
    for line in lines:
        assert line["scores"] == pytest.approx(answer["results"][0]["scores"], abs=1e-5)


def test_bad_lines_are_error_lines_and_an_exit_code(weights: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"prompt": "x", "response": "y"}\n{"prompt": "x"}\n')
    ended = run("app", "score", str(items), "--weights", str(weights))
    assert ended.returncode == 1
    good, bad = (json.loads(line) for line in ended.stdout.splitlines())
    assert "scores" in good
    assert bad["error"]["type"] == "malformed-body"
    assert "1 lines are errors" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--port", "http"], "port = 'http' is not allowed; allowed: a whole number from 0 to 65535"),
        (["serve", "--api-keys-file", "/nowhere/keys"], "api_keys_file = '/nowhere/keys' is not allowed"),
        (["score", "/nowhere/items.jsonl"], "/nowhere/items.jsonl is not a file"),
        (["score", "/nowhere/items.jsonl", "--resume"], "--resume needs an output file"),
        (["serve", "--weights", ""], "weights = '' is not allowed; allowed: a folder, or OWNER/NAME of the hub"),
        (["serve", "--api-keys", ""], "api_keys = '' is not allowed"),
        (["info", "."], f"{Path.cwd()} has no config.json"),
        (["info", "/nowhere/weights"], "weights folder /nowhere/weights does not exist"),
        (["fetch", "someone/something"], "someone/something could not be downloaded"),
        (["fetch", "nothing"], "nothing is no hub id"),
    ],
)
def test_what_goes_wrong_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("armoserve: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "flags", "words"),
    [
        ("items.jsonl", [], "itself: choose another file"),
        ("items.jsonl", ["--overwrite"], "itself: choose another file"),
        ("link.jsonl", ["--resume"], "itself: choose another file"),
        ("old.jsonl", [], "is not empty: --resume goes on with it, --overwrite replaces it"),
        ("nowhere/out.jsonl", [], "nowhere/out.jsonl cannot be written"),
        (".", [], "cannot be written"),
    ],
)
def test_an_output_that_would_cost_something_is_refused_before_anything_is_loaded(
    items: Path, capsys: pytest.CaptureFixture[str], output: str, flags: list[str], words: str
) -> None:
    (items.parent / "old.jsonl").write_text("precious\n")
    (items.parent / "link.jsonl").symlink_to(items)
    content = items.read_text()
    assert main(["score", str(items), "-o", str(items.parent / output), *flags, "--weights", "/nowhere"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert items.read_text() == content
    assert (items.parent / "old.jsonl").read_text() == "precious\n"


def test_an_output_is_replaced_where_that_is_asked_for(weights: Path, items: Path, tmp_path: Path) -> None:
    (out := tmp_path / "out.jsonl").write_text("precious\n")
    assert main(["score", str(items), "-o", str(out), "--overwrite", "--weights", str(weights)]) == 0
    assert "precious" not in out.read_text()


def test_weights_that_do_not_load_end_the_server(tmp_path: Path, weights: Path) -> None:
    broken = write_own_folder(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no tensors")
    ended = run("app", "serve", "--weights", str(broken), "--port", "0", "--log-level", "error")
    assert ended.returncode == 2
    logged, said = ended.stderr.splitlines()
    assert json.loads(logged)["level"] == "error"
    assert said.startswith("armoserve: ")
    assert said.removeprefix("armoserve: ") in json.loads(logged)["message"]


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("app", "serve", "--port", str(port))
    assert ended.returncode == 2
    said = ended.stderr.splitlines()[-1]
    assert said.startswith(f"armoserve: port = {port} with host = '127.0.0.1' is not allowed: ")
    assert "already in use" in said
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("host", ["no such host", "256.0.0.1", "a..b"])
def test_an_address_that_is_none_is_named(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", host]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"armoserve: port = 8000 with host = '{host}' is not allowed: ")


def test_moslim_weights_that_are_not_there_are_named(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidSetting, match=r"^moslim_weights = '/nowhere' is not allowed; allowed: a moslim"):
        load_engine(read_settings({"weights": str(weights), "moslim_weights": "/nowhere"}))


def test_a_conversation_longer_than_the_model_takes_is_no_setting(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--max-conversation-tokens", "10000", "--max-pack-tokens", "20000", "--port", "0"]
    ended = run("app", "serve", "--weights", str(weights), *flags, "--log-level", "error")
    assert ended.returncode == 2
    assert "max_conversation_tokens = 10000 is not allowed; allowed: up to 8192" in ended.stderr


def test_a_checkpoint_that_claims_to_be_the_published_one_must_answer_like_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    impostor = write_armorm(tmp_path / "ArmoRM-Llama3-8B-v0.1")
    assert main(["info", str(impostor)]) == 2
    assert "is not the model card's" in capsys.readouterr().err
    impostor.rename(tmp_path / "something-else")
    assert main(["info", str(tmp_path / "something-else")]) == 0
