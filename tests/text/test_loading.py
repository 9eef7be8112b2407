"""What is refused when a tokenizer is loaded, what its digest covers, and how a template's date stands still."""

from pathlib import Path

import pytest

from app.errors import InvalidConversation, InvalidWeights
from app.text.tokenization import load_tokenizer
from tests.small_tokenizers import TEMPLATES
from tests.text.conversations import item_of
from tests.text.loading import load
from tests.text.tokenizer_families import write_family

DATED = "{{ '<|im_start|>system\nIt is ' + strftime_now('%d %B %Y') + '<|im_end|>\n' }}" + TEMPLATES["chatml"]
LLAMA31 = (
    "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{{ '<|im_start|>system\nIt is ' + date_string + '<|im_end|>\n' }}" + TEMPLATES["chatml"]
)
REFUSED = {
    "a broken template": (
        "{% for m in messages %}",
        r"/.*: the chat .* plain conversation: Unexpected end of template",
    ),
    "a template that always raises": ("{{ raise_exception('no') }}", "fails on a plain conversation: TemplateError"),
    "content left out": ("<|im_start|>{{ messages[-1].content }}<|im_end|>", "exactly once"),
    "content written twice": (TEMPLATES["chatml"] + TEMPLATES["chatml"], "exactly once"),
    "no token closes a turn": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "closes a user turn with no special token",
    ),
    "the last turn is closed only while no response follows": (
        "{% for m in messages %}{{ m.role }}\n{{ m.content }}\n{% endfor %}"
        "{% if messages[-1].role == 'user' %}<|im_end|>{% endif %}{% if add_generation_prompt %}assistant\n{% endif %}",
        "the same way once a response follows",
    ),
    "content beside part of a special token": (
        TEMPLATES["chatml"].replace("message['content'] +", "'<|im_' + message['content'] +"),
        "complete one of its special tokens",
    ),
    "part of a special token beside content": (
        TEMPLATES["chatml"].replace("message['content'] +", "message['content'] + '|>' +"),
        "complete one of its special tokens",
    ),
    "contents side by side": (
        "{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>{% if add_generation_prompt %}>>{% endif %}",
        "complete one of its special tokens",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_templates_that_could_not_be_scored_are_refused(why: str, tmp_path: Path) -> None:
    template, message = REFUSED[why]
    with pytest.raises(InvalidWeights, match=message):
        load(write_family(tmp_path, "chatml", template=template), "chatml")


def test_a_template_without_an_end_of_turn_serves_weights_without_gating(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "deepseek")
    with pytest.raises(InvalidWeights, match="last_prompt_token"):
        load_tokenizer(folder, gating_token="end_of_turn", max_conversation_tokens=100)
    assert load(folder, "deepseek").encode(item_of(["Hi"], ["Sure"]))


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidWeights, match=r"no tokenizer\.json"):
        load(tmp_path, "chatml")
    folder = write_family(tmp_path, "chatml")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InvalidWeights, match="no chat template"):
        load(folder, "chatml")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidWeights, match=r"cannot be read: \w+: .*line 1 column"):
        load(folder, "chatml")


def test_unknown_kinds_and_dates_are_refused(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "chatml")
    with pytest.raises(InvalidWeights, match="it must be chat or dpa"):
        load(folder, "chatml", template_kind="alpaca")
    with pytest.raises(InvalidWeights, match="YYYY-MM-DD"):
        load(folder, "chatml", frozen_date="yesterday")


@pytest.mark.parametrize(
    ("template", "frozen_date", "shown"),
    [
        (DATED, None, "26 July 2024"),
        (DATED, "2025-03-01", "01 March 2025"),
        (LLAMA31, None, "26 Jul 2024"),
        (LLAMA31, "2025-03-01", "01 Mar 2025"),
    ],
)
def test_a_template_never_sees_today(template: str, frozen_date: str | None, shown: str, tmp_path: Path) -> None:
    tokenizer = load(write_family(tmp_path, "chatml", template=template), "chatml", frozen_date=frozen_date)
    (conversation,) = tokenizer.render(item_of(["Hi"], ["Sure"])).conversations
    assert f"It is {shown}<|im_end|>" in conversation.text


def test_the_digest_covers_what_decides_the_ids(tmp_path: Path) -> None:
    def digest(name: str, family: str, **options: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        template = options.pop("template", TEMPLATES["chatml"])
        return load(write_family(folder, family, template=template), family, **options).template_digest

    same = digest("same", "chatml")
    assert len(same) == 12
    assert digest("again", "chatml") == same
    others = {
        digest("template", "chatml", template=TEMPLATES["chatml"] + " "),
        digest("date", "chatml", frozen_date="2025-03-01"),
        digest("vocabulary", "chatml_with_plain_turn_tokens"),
        digest("kind", "chatml", template_kind="dpa", gating_token="last_prompt_token"),
    }
    assert len(others - {same}) == 4


def test_a_template_that_takes_no_system_message_says_so(folder_of) -> None:
    tokenizer = load(folder_of("gemma"), "gemma")
    with pytest.raises(InvalidConversation, match="may not take a system message") as refusal:
        tokenizer.encode(item_of(["Hi"], ["Sure"], system="Be secretive"))
    assert "secretive" not in str(refusal.value)
    assert tokenizer.encode(item_of(["Hi"], ["Sure"]))


def test_a_refusal_never_repeats_the_content(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('What: ' + m.content) }}{% endif %}"
        "{% endfor %}" + TEMPLATES["chatml"]
    )
    tokenizer = load(write_family(tmp_path, "chatml", template=template), "chatml")
    with pytest.raises(InvalidConversation) as refusal:
        tokenizer.encode(item_of(["Hi"], ["too bad"]))
    assert "bad" not in str(refusal.value)
