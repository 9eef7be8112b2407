"""Over HTTP, with real tokenizers: a prompt whose prefix was read is, id for id, the prompt without one.

The served weights/default with its own chat template, and random weights with the real Llama 3 tokenizer; intensity
heads are random where the weights have none of their own. The prefix cache is off: what it recalls rounds otherwise.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.real_weights import DEFAULT_WEIGHTS, serving_with_heads
from tests.api.serving import Served
from tests.checkpoints import write_armorm

TURNS = [
    {"role": "user", "content": "<honesty 1> is how my text begins"},
    {"role": "assistant", "content": "<helpfulness 2><harmless 1> So does this"},
]
TEXTS = [
    "Name a fruit.",
    "<b>Name</b> a fruit. <helpfulness 1>",
    "<|im_end|>\n<|eot_id|> Is this <|end_header_id|> text?",
    "日本語で、果物を一つ。\n\n",
    "\0 \u200b e\u0301",
]
RESPONSES = ["A plum.", "<helpfulness 5><harmless 1> A plum.", "<harmless max>", "  indented"]


@pytest.fixture(scope="module", params=["weights/default", "the Llama 3 tokenizer"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    scratch = tmp_path_factory.mktemp("real")
    if request.param == "weights/default":
        with serving_with_heads(DEFAULT_WEIGHTS, scratch, prefix_cache_bytes="0") as running:
            yield running
    else:
        folder = write_armorm(scratch / "armorm", request.getfixturevalue("llama3_tokenizer_folder"))
        with serving_with_heads(folder, scratch, prefix_cache_bytes="0") as running:
            yield running


def targets_of(served: Served) -> dict[str, int]:
    """Return the highest level of the first head of these weights, and the lowest of every other."""
    heads = served.client.get("/info").json()["heads"]
    return {head["name"]: 1 if index else head["classes"] for index, head in enumerate(heads)}


def tagged_and_plain(targets: dict[str, int], text: str) -> list[tuple[Any, Any]]:
    """Return prompts with a prefix beside what they are without it."""
    first, *others = [f"<{name} {level}>" for name, level in targets.items()]
    rest = "".join(others)
    be_nice, user = {"role": "system", "content": "Be nice"}, {"role": "user", "content": text}
    return [
        (f"{first}{rest}{text}", text),
        (f"\n {rest} {first.upper().replace(' ', '   ')}\u3000\n{text}", text),
        ([*TURNS, user | {"content": f"{rest}{first}{text}"}], [*TURNS, user]),
        ([be_nice | {"content": f"{first}{rest}\nBe nice"}, *TURNS, user], [be_nice, *TURNS, user]),
        ([be_nice | {"content": f"{first} Be nice"}, user | {"content": f"{rest} {text}"}], [be_nice, user]),
        ([be_nice | {"content": f"{first}{rest}\n"}, user], [user]),
    ]


def answered(served: Served, route: str, **body: Any) -> Any:
    response = served.post(route, body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("text", [text.lstrip() for text in TEXTS], ids=range(len(TEXTS)))
def test_the_tokens_are_those_of_the_prompt_without_a_prefix(real: Served, text: str) -> None:
    for tagged, plain in tagged_and_plain(targets_of(real), text):
        expected = answered(real, "/tokenize", prompt=plain, responses=RESPONSES)
        assert answered(real, "/tokenize", prompt=tagged, responses=RESPONSES, targets="prefix") == expected
        as_messages = plain if isinstance(plain, list) else [{"role": "user", "content": plain}]
        tagged_messages = tagged if isinstance(tagged, list) else [{"role": "user", "content": tagged}]
        last = {"role": "assistant", "content": RESPONSES[1]}
        read = answered(real, "/tokenize", messages=[*tagged_messages, last], targets="prefix")
        assert read == answered(real, "/tokenize", messages=[*as_messages, last])
        unread = answered(real, "/tokenize", prompt=tagged, responses=RESPONSES)
        assert unread != expected, "without the option a prefix is text like any other"
        assert unread["results"][0]["responses"][0]["text"].count("<") > expected["results"][0]["responses"][0][
            "text"
        ].count("<")


@pytest.mark.parametrize("text", [text.lstrip() for text in TEXTS], ids=range(len(TEXTS)))
def test_a_prefix_gives_the_reward_of_the_same_targets_to_the_last_bit(real: Served, text: str) -> None:
    targets = targets_of(real)
    for tagged, plain in tagged_and_plain(targets, text):
        read = answered(real, "/moslim-classify", prompt=tagged, responses=RESPONSES, targets="prefix")
        named = answered(real, "/moslim-classify", prompt=plain, responses=RESPONSES, targets=targets)
        assert read["results"] == named["results"]
        assert read["usage"] == named["usage"]
        rewards = [response["reward"] for response in read["results"][0]["responses"]]
        assert len(set(rewards)) == len(RESPONSES), "rewards that say the same of everything prove nothing"
        unread = answered(real, "/moslim-classify", prompt=tagged, responses=RESPONSES, targets=targets)
        assert unread["results"] != named["results"], "a prefix that is not read changes what is scored"


def test_a_response_that_spells_a_prefix_is_scored_as_it_stands(real: Served) -> None:
    with_tags, without = "<harmless 1><helpfulness 1>Plums.", "Plums."
    answer = answered(real, "/tokenize", prompt="Hi", responses=[with_tags, without], targets="prefix")
    texts = [response["text"] for response in answer["results"][0]["responses"]]
    assert with_tags in texts[0]
    scored = answered(real, "/moslim-classify", prompt="Hi", responses=[with_tags, without], targets="prefix")
    (result,) = scored["results"]
    assert result["targets"] == {}
    assert result["responses"][0] != result["responses"][1]


def test_a_prompt_of_nothing_but_a_prefix_is_refused_where_it_is_read(real: Served) -> None:
    name = next(iter(targets_of(real)))
    for route in ("/tokenize", "/moslim-classify"):
        refused = real.post(route, {"prompt": f"<{name} 1> ", "response": "Hi", "targets": "prefix"})
        assert (refused.status_code, refused.json()["type"]) == (400, "invalid-conversation")
        assert "nothing but an intensity prefix" in refused.json()["detail"]
        assert real.post(route, {"prompt": f"<{name} 1> ", "response": "Hi"}).status_code == 200
