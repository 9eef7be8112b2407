"""A tiny Llama policy from random weights, for runs on one CPU core: its tokenizer learns from the SFT responses.

It knows nothing until the stage `sft` has taught it to write words. Knows no reward.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.policy.configs import PolicyRecipe, TinyConfig
from training.policy.policy import TINY, Policy
from training.policy.sft_rows import read_sft_rows
from training.tokenizer import SPLIT

START: Final = "<|im_start|>"
END_OF_TURN: Final = "<|im_end|>"
PAD: Final = "<|endoftext|>"
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML."""


def tiny_policy(texts: Iterable[str], config: TinyConfig, seed: int) -> Policy:
    """Make a policy of random weights whose byte-level BPE is trained on texts."""
    tokenizer = _chat_tokenizer(texts, config)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return Policy(model, tokenizer)


def run(recipe: PolicyRecipe) -> None:
    """Write the tiny policy into the work folder; its tokenizer is trained on the responses that SFT will read."""
    rows = read_sft_rows(recipe.sft)
    policy = tiny_policy((row.response for row in rows), recipe.tiny, recipe.seed)
    policy.save(Path(recipe.work_folder) / TINY)
    print(f"{policy.model.num_parameters():,} parameters, a vocabulary of {len(policy.tokenizer)}")


def _chat_tokenizer(texts: Iterable[str], config: TinyConfig) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=[PAD, START, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in config.whole_tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        additional_special_tokens=[START],
        model_max_length=config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
