"""A policy: a causal language model with its tokenizer, loaded, given adapters, saved as a plain folder.

Only safetensors are read and no remote code is run. Content is tokenised as TRL's trainers do: a special token's
string in it is that token. Knows no reward and no algorithm.
"""

import copy
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from app.domain import Message
from app.text.chat_template import ChatTemplate
from training.errors import InvalidRecipe, MissingArtifact
from training.policy.configs import AdaptersConfig, PolicyRecipe

Prompt = tuple[Message, ...]
TINY: Final = "tiny"
SFT: Final = "sft"
"""Folders of the work folder that stages leave policies in."""


@dataclass
class Policy:
    """A causal language model and its tokenizer. `model` may be a peft model, whose adapters alone are trained."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.tokenizer.chat_template is None:
            raise InvalidRecipe("policy.model: its tokenizer has no chat template; take an instruct model")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @classmethod
    def load(
        cls, folder_or_id: str, lora: AdaptersConfig | None = None, device: str = "cpu", dtype: str = "float32"
    ) -> "Policy":
        """Load a policy from a folder or the hub, with fresh adapters where `lora` has a rank.

        Raises:
            InvalidRecipe: there is no such model, it holds no safetensors or lacks a tensor, its tokenizer has no
                chat template, or it has no module of a name in `lora.target_modules`.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder_or_id, trust_remote_code=False)
            model, loading = AutoModelForCausalLM.from_pretrained(
                folder_or_id,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:  # transformers has no narrower promise; its messages have many lines
            said = str(error).strip().partition("\n")[0]
            raise InvalidRecipe(f"the policy {folder_or_id} cannot be loaded: {said}") from error
        if missing := sorted(loading["missing_keys"]):  # transformers would go on with random ones
            raise InvalidRecipe(f"the policy {folder_or_id} lacks tensors, {missing[0]} for one")
        policy = cls(model.to(device), tokenizer, device)
        return policy.with_adapters(lora) if lora is not None and lora.rank else policy

    def with_adapters(self, lora: AdaptersConfig) -> "Policy":
        """Return this policy with fresh adapters in it, which start as the identity; its own weights are frozen.

        Raises:
            InvalidRecipe: the model has no module of a name in `lora.target_modules`.
        """
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - takes seconds, and only real sizes need it

        names = {name.rpartition(".")[2] for name, _ in self.model.named_modules()}
        if absent := set(lora.target_modules) - names:
            raise InvalidRecipe(f"policy.lora.target_modules: this policy has no {', '.join(sorted(absent))}")
        adapters = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers has renamed
            return Policy(get_peft_model(self.model, adapters), self.tokenizer, self.device)

    def learn_only_tokens(self, tokens: Sequence[str]) -> None:
        """Freeze all but the embeddings of some tokens: prompt tuning (Lester et al., 2021), for what a prefix says.

        Where a policy's embeddings are tied, how likely it is to write these tokens itself changes with them.

        Raises:
            InvalidRecipe: the policy has adapters, or one of them is no token of its own.
        """
        if self.has_adapters:
            raise InvalidRecipe("learned_tokens: leave policy.lora.rank at 0, for adapters would not be learned")
        ids = [self._ids(token) for token in tokens]
        if broken := [token for token, own in zip(tokens, ids, strict=True) if len(own) != 1]:
            raise InvalidRecipe(f"learned_tokens: {broken[0]} is no token of this policy but several")
        self.model.requires_grad_(requires_grad=False)
        weight_VD = self.model.get_input_embeddings().weight.requires_grad_()
        is_learned_V1 = torch.zeros_like(weight_VD[:, :1])
        is_learned_V1[[own[0] for own in ids]] = 1
        weight_VD.register_hook(lambda gradient_VD: gradient_VD * is_learned_V1)

    @property
    def has_adapters(self) -> bool:
        return hasattr(self.model, "merge_and_unload")

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer)

    @cached_property
    def closing_ids(self) -> tuple[int, ...]:
        """What the template writes behind a response, up to and with the first special token; else the eos."""
        said = "a response"
        closing = self._ids(self.template.conversations((Message("user", "a prompt"),), [said])[0].rpartition(said)[2])
        special = [place for place, token in enumerate(closing) if token in self.tokenizer.all_special_ids]
        return tuple(closing[: special[0] + 1]) if special else (int(self.tokenizer.eos_token_id),)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end a response: the tokenizer's eos, those of the generation config, what closes a turn."""
        configured = self.model.generation_config.eos_token_id
        named = configured if isinstance(configured, list) else [configured]
        ids = {self.tokenizer.eos_token_id, self.closing_ids[-1], *named}
        return tuple(sorted(token for token in ids if token is not None))

    def encode(self, prompt: Sequence[Message]) -> list[int]:
        """Return the ids of a prompt, up to where the response begins.

        Raises:
            InvalidConversation: the template refuses these messages.
        """
        return self._ids(self.template.prompt(prompt))

    def encode_response(self, response: str) -> list[int]:
        """Return the ids of a response and what closes it: what a policy learns to write after `encode(prompt)`."""
        return [*self._ids(response), *self.closing_ids]

    def decode(self, response_ids: Sequence[int]) -> str:
        """Return the text of a response, without special tokens; "" where there is nothing else."""
        text = self.tokenizer.decode(response_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def save(self, folder: Path) -> None:
        """Write a folder that `Policy.load`, transformers and vLLM load, in place of what was there.

        Adapters are merged into a copy, so this policy can be trained on.
        """
        model = copy.deepcopy(self.model).merge_and_unload() if self.has_adapters else self.model
        beside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        model.save_pretrained(beside)
        self.tokenizer.save_pretrained(beside)
        for path in beside.iterdir():
            path.chmod(0o644)  # transformers writes weights that only their owner may read; others may serve them
        shutil.rmtree(folder, ignore_errors=True)
        beside.replace(folder)

    def _ids(self, text: str) -> list[int]:
        # The template writes the begin-of-text token itself.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def base_policy(recipe: PolicyRecipe) -> str:
    """Return the folder or hub id of the policy that fine-tuning starts from.

    Raises:
        MissingArtifact: it is the tiny policy, and the stage `tiny` was not run.
    """
    return recipe.policy.model or _made_by(recipe, TINY)


def sft_policy(recipe: PolicyRecipe) -> str:
    """Return the folder or hub id of the SFT policy that algorithms start from, and measure their KL to.

    That is what the stage `sft` left; where it was not run, `policy.model`, taken to be fine-tuned already.

    Raises:
        MissingArtifact: there is neither.
    """
    was_run = (Path(recipe.work_folder) / SFT).is_dir()
    return recipe.policy.model if recipe.policy.model and not was_run else _made_by(recipe, SFT)


def _made_by(recipe: PolicyRecipe, stage: str) -> str:
    folder = Path(recipe.work_folder) / stage
    if not folder.is_dir():
        command = f"python -m training.policy {stage} RECIPE"
        raise MissingArtifact(f"{folder} is not there: run `{command}` first, with the same --seed where there is one")
    return str(folder)
