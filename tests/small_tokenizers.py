"""Small tokenizers made on the spot: byte-level BPE with Llama 3's splitting, its template or ChatML. No network.

They merge across line breaks and spaces as the real ones do, which is what makes the boundary between a prompt and
its response worth testing.
"""

import json
from pathlib import Path
from typing import Final, Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TemplateName = Literal["llama3", "chatml"]

LLAMA3_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS: Final = {
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "[PAD]",
    ],
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[PAD]"],
}
END_OF_TURN: Final = {"llama3": "<|eot_id|>", "chatml": "<|im_end|>"}
TEMPLATES: Final = {
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
"""ChatML leaves the white space of a message alone, and puts a line break after the last end of turn."""
CORPUS: Final = (
    "What are some synonyms for the word beautiful? The user asks the assistant, and the assistant responds:\n\n",
    "Sure! Here is the code:\n\n```python\ndef add(first, second):\n    return first + second\n```\n\n\n",
    "  I am sorry, but I can't help with that.\n \n\tPlease ask something else; there are 1,234 other things.\n\n",
    "Natalia sold 48 clips in April, and then she sold half as many in May. 48 / 2 = 24, so 48 + 24 = 72.\n",
)


def write_small_tokenizer(folder: Path, template: TemplateName = "llama3", vocabulary: int = 500) -> int:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja; return the number of tokens."""
    special_tokens = SPECIAL_TOKENS[template]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if template == "llama3":
        bos = special_tokens[0]
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TURN[template],
        "pad_token": "[PAD]",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    if template == "llama3":
        config["bos_token"] = special_tokens[0]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATES[template])
    return tokenizer.get_vocab_size()
