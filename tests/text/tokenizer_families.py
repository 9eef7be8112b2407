"""Small tokenizers of the kinds found in the wild, each with its chat template: what tokenisation must be exact on.

They differ in what decides a boundary: what the template trims, which tokens are special, and what the tokenizer
does to white space. All are trained on the spot on the same few lines.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer

from tests.small_tokenizers import CORPUS, LLAMA3_SPLIT, TEMPLATES

Splitting = Literal["bytes", "pieces", "pieces_or_unknown", "metaspace_first"]


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of tokenizer: how it splits text, its special and other added tokens, its template."""

    template: str
    special: tuple[str, ...]
    splitting: Splitting = "bytes"
    added: tuple[AddedToken, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    closing: str | None = None
    """The token that closes a prompt's last turn; None where the template has none."""
    takes_system: bool = True


CHATML: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TURNS: Final = "{% for m in messages %}"
QWEN_THINKING: Final = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    + TURNS
    + "{% set text = m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ text }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\nLet me see. {% endif %}"
)
GEMMA: Final = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + TURNS
    + "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL: Final = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}" + TURNS + "{% if m.role == 'user' %}"
    "[INST] {{ (system if loop.last or (loop.index0 == messages | length - 2) else '') + m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA2: Final = (
    TURNS + "{% if m.role == 'system' %}<<SYS>>\n{{ m.content }}\n<</SYS>>\n\n"
    "{% elif m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK: Final = (
    "{{ bos_token }}"
    + TURNS
    + "{% if m.role == 'user' %}<|User|>{{ m.content }}{% elif m.role == 'system' %}{{ m.content }}"
    "{% else %}<|Assistant|>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
PHI: Final = (
    TURNS + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PLAIN: Final = (
    TURNS + "{{ m.role | upper }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
BOS_EOS: Final = {"bos_token": "<s>", "eos_token": "</s>"}

FAMILIES: Final[Mapping[str, Family]] = {
    "llama3": Family(
        TEMPLATES["llama3"],
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        config={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        closing="<|eot_id|>",
    ),
    "chatml": Family(TEMPLATES["chatml"], CHATML, closing="<|im_end|>", config={"eos_token": "<|im_end|>"}),
    "chatml_with_plain_turn_tokens": Family(
        TEMPLATES["chatml"],
        ("<|endoftext|>",),
        added=(AddedToken("<|im_start|>", normalized=False), AddedToken("<|im_end|>", normalized=False)),
        closing="<|im_end|>",
    ),
    "qwen_thinking": Family(
        QWEN_THINKING,
        CHATML,
        added=(AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)),
        closing="<|im_end|>",
    ),
    "gemma": Family(
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        splitting="pieces",
        added=(AddedToken("\n\n", normalized=False), AddedToken("\n\n\n", normalized=False)),
        config={"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"},
        closing="<end_of_turn>",
        takes_system=False,
    ),
    "characters_may_be_unknown": Family(
        TEMPLATES["chatml"], ("<unk>", *CHATML), splitting="pieces_or_unknown", closing="<|im_end|>"
    ),
    "mistral": Family(
        MISTRAL,
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        splitting="metaspace_first",
        config=BOS_EOS,
        closing="[/INST]",
    ),
    "llama2": Family(LLAMA2, ("<unk>", "<s>", "</s>"), splitting="metaspace_first", config=BOS_EOS),
    "phi": Family(
        PHI,
        ("<|endoftext|>",),
        added=tuple(
            AddedToken(text, special=True, rstrip=True, normalized=False)
            for text in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
        ),
        config={"eos_token": "<|endoftext|>"},
        closing="<|end|>",
    ),
    "tokens_that_take_the_space_before_them": Family(
        PHI,
        ("<|endoftext|>", "<|end|>"),
        added=tuple(
            AddedToken(text, special=True, lstrip=True, normalized=False)
            for text in ("<|system|>", "<|user|>", "<|assistant|>")
        ),
        config={"eos_token": "<|endoftext|>"},
        closing="<|end|>",
    ),
    "deepseek": Family(DEEPSEEK, ("<s>", "</s>", "<|User|>", "<|Assistant|>"), config=BOS_EOS),
    "plain": Family(PLAIN, ("<|endoftext|>",)),
}
GATED: Final = tuple(name for name, family in FAMILIES.items() if family.closing)


def write_family(folder: Path, name: str, **overrides: Any) -> Path:
    """Write the tokenizer of a family, with any of its files' parts overridden; return the folder."""
    family = FAMILIES[name]
    tokenizer = _trained(family)
    tokenizer.add_tokens(list(family.added))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **family.config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(overrides.get("template", family.template))
    return folder


def reference_of(folder: Path) -> Any:
    """Return the original tokenizer, loaded apart from anything of ours."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _trained(family: Family) -> Tokenizer:
    if family.splitting == "bytes":
        return _trained_on_bytes(family)
    knows_bytes = family.splitting != "pieces_or_unknown"
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=knows_bytes))
    if family.splitting != "metaspace_first":
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bytes_spelled = [f"<0x{byte:02X}>" for byte in range(256)] if knows_bytes else []
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[*family.special, *bytes_spelled], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in family.special]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    if "<s>" in family.special:
        bos = ("<s>", family.special.index("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[bos])
    return tokenizer


def _trained_on_bytes(family: Family) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(family.special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer
