"""The prompt template of RLHFlow/RewardModel-Mistral-7B-for-DPA-v1, which has no chat template of its own.

Nothing here knows what a token is; the beginning-of-text token is handed on by its id, once.
"""

from collections.abc import Sequence

from app.domain import Message

INSTRUCTION = (
    "[INST] You must read the following conversation carefully and rate the assistant's response from score 0-100 "
    "in these aspects: helpfulness, correctness, coherence, honesty, complexity, verbosity"
)
SPEAKERS = {"system": "", "user": "User: ", "assistant": "Assistant: "}


class DpaTemplate:
    """Renders a conversation to be rated; a system message stands, without a speaker, before the first user."""

    source = f"dpa {INSTRUCTION}"

    def __init__(self, bos_token_id: int | None) -> None:
        self.leading_ids = () if bos_token_id is None else (bos_token_id,)

    def prompt(self, messages: Sequence[Message], *, opens_response: bool = True) -> str:
        """Render the prompt, up to where a response begins or (`opens_response=False`) its last turn ends.

        The space before a response belongs to the response: tokenizers join it with the first word.
        """
        turns = [f"{SPEAKERS[message.role]}{message.content}" for message in messages]
        return "\n\n".join([INSTRUCTION, *turns, *(["Assistant:"] if opens_response else [])])

    def conversations(self, messages: Sequence[Message], responses: Sequence[str]) -> list[str]:
        """Render the prompt once with each response and the closing `[/INST]`."""
        prompt = self.prompt(messages)
        return [f"{prompt} {response} [/INST]" for response in responses]
