"""Bodies that no trainer route takes: (route, body, status and type, words of the error)."""

from typing import Any

SECRET = "xyzzy-plugh"
MALFORMED = (422, "malformed-body")
CONVERSATION = (400, "invalid-conversation")
USER = {"role": "user", "content": SECRET}
ASSISTANT = {"role": "assistant", "content": SECRET}
TURNS = [USER, ASSISTANT]
TEXT = f"<user>{SECRET}<assistant>{SECRET}"
POOLING = ("/classify", "/pooling", "/v1/embeddings")
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
CHAT = "/v1/chat/completions"
EVALUATION = "/v1/score/evaluation"

Bad = tuple[str, Any, tuple[int, str], str]


def of_routes(routes: tuple[str, ...], name: str, body: Any, expected: tuple[int, str], words: str) -> dict[str, Bad]:
    return {f"{route}: {name}": (route, body, expected, words) for route in routes}


BAD_TRAINER_BODIES: dict[str, Bad] = {
    **of_routes(POOLING, "nothing", {}, MALFORMED, "a body has input or messages; this one has neither"),
    **of_routes(POOLING, "both", {"input": TEXT, "messages": TURNS}, MALFORMED, "this one has both"),
    **of_routes(POOLING, "no texts", {"input": []}, MALFORMED, "input: "),
    **of_routes(POOLING, "a number as text", {"input": 7}, MALFORMED, "input: "),
    **of_routes(POOLING, "null among texts", {"input": [TEXT, None]}, MALFORMED, "input[1]: "),
    **of_routes(POOLING, "token ids", {"input": [1, 2]}, MALFORMED, "input: token ids are not taken"),
    **of_routes(POOLING, "lists of ids", {"input": [[1], [2]]}, MALFORMED, "input: token ids are not taken"),
    **of_routes(POOLING, "ids among texts", {"input": [TEXT, [1]]}, MALFORMED, "input: token ids are not taken"),
    **of_routes(POOLING, "half a pair", {"input": ["\ud800"]}, MALFORMED, "input[0]: the text holds a lone surrogate"),
    **of_routes(POOLING, "cut", {"input": TEXT, "truncate_prompt_tokens": -1}, MALFORMED, "truncate_prompt_tokens: te"),
    **of_routes(POOLING, "template", {"messages": TURNS, "chat_template": SECRET}, MALFORMED, "chat_template: mess"),
    **of_routes(
        POOLING, "open", {"messages": TURNS, "add_generation_prompt": True}, MALFORMED, "add_generation_prompt: mess"
    ),
    **of_routes(
        POOLING, "unclosed", {"messages": TURNS, "continue_final_message": True}, MALFORMED, "continue_final_message: "
    ),
    **of_routes(POOLING, "too many texts", {"input": [TEXT] * 65}, MALFORMED, "input holds 65 texts; at most 64"),
    **of_routes(POOLING, "no template", {"input": SECRET}, CONVERSATION, "input: the text is not in the template"),
    **of_routes(
        (*POOLING, CHAT), "no turn", {"messages": []}, CONVERSATION, "the last message must be the assistant's"
    ),
    **of_routes((*POOLING, CHAT), "no response", {"messages": [USER]}, CONVERSATION, "must be the assistant's"),
    **of_routes(
        (*POOLING, CHAT), "only a response", {"messages": [ASSISTANT]}, CONVERSATION, "end with a user message"
    ),
    **of_routes((*POOLING, CHAT), "two users", {"messages": [USER, *TURNS]}, CONVERSATION, "prompt message 1"),
    **of_routes(
        (*POOLING, CHAT),
        "a tool's turn",
        {"messages": [*TURNS, {"role": "tool", "content": SECRET}]},
        MALFORMED,
        "messages[2].role: ",
    ),
    **of_routes(
        (*POOLING, CHAT),
        "a call of a tool",
        {"messages": [USER, {**ASSISTANT, "tool_calls": [{"id": SECRET}]}]},
        MALFORMED,
        "messages[1].tool_calls: the reward model knows no tools",
    ),
    **of_routes(
        (*POOLING, CHAT),
        "parts as content",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": SECRET}]}, ASSISTANT]},
        MALFORMED,
        "messages[0].content: ",
    ),
    **of_routes((*POOLING, CHAT), "texts as turns", {"messages": [SECRET]}, MALFORMED, "messages[0]: input should be"),
    **of_routes(
        (*POOLING, CHAT),
        "too long",
        {"messages": [USER, {"role": "assistant", "content": SECRET * 100}]},
        (413, "too-many-tokens"),
        "the limit is 400",
    ),
    **of_routes(("/pooling",), "token values", {"input": TEXT, "task": "token_classify"}, MALFORMED, "task: "),
    **of_routes(POOLING[1:], "normal length", {"input": TEXT, "normalize": True}, MALFORMED, "normalize: values are"),
    **of_routes(POOLING[1:], "hex", {"input": TEXT, "encoding_format": "hex"}, MALFORMED, "encoding_format: "),
    **of_routes(("/v1/embeddings",), "dimensions", {"input": TEXT, "dimensions": 256}, MALFORMED, "dimensions: "),
    **of_routes(("/classify",), "a word", {"input": TEXT, "use_activation": "no"}, MALFORMED, "use_activation: "),
    **of_routes((CHAT,), "nothing", {"model": SECRET}, MALFORMED, "messages: field required"),
    **of_routes((CHAT,), "a stream", {"messages": TURNS, "stream": True}, MALFORMED, "stream: "),
    **of_routes((CHAT,), "two answers", {"messages": TURNS, "n": 2}, MALFORMED, "n: "),
    **of_routes((CHAT,), "tools", {"messages": TURNS, "tools": [{}]}, MALFORMED, "tools: the reward model knows no"),
    **of_routes((CHAT,), "turns in a list", {"messages": [TURNS]}, MALFORMED, "messages[0]: input should be"),
    **of_routes((EVALUATION,), "nothing", {"model": SECRET}, MALFORMED, "messages: field required"),
    **of_routes((EVALUATION,), "no texts", {"messages": []}, MALFORMED, "messages: "),
    **of_routes((EVALUATION,), "turns", {"messages": TURNS}, MALFORMED, "messages[0]: "),
    **of_routes(
        (EVALUATION,), "cut", {"messages": [TEXT], "max_length": 9}, MALFORMED, "max_length: texts are never cut"
    ),
    **of_routes((EVALUATION,), "too many texts", {"messages": [TEXT] * 65}, MALFORMED, "messages holds 65 texts; at m"),
    **of_routes((EVALUATION,), "no template", {"messages": [SECRET]}, CONVERSATION, "messages[0]: the text is not in"),
    **of_routes(RERANK, "nothing", {}, MALFORMED, "query: field required"),
    **of_routes(RERANK, "no documents", {"query": SECRET, "documents": []}, MALFORMED, "documents: "),
    **of_routes(RERANK, "a text", {"query": SECRET, "documents": SECRET}, MALFORMED, "documents: "),
    **of_routes(RERANK, "a number", {"query": SECRET, "documents": [SECRET, 7]}, MALFORMED, "documents[1]: "),
    **of_routes(
        RERANK, "an image", {"query": SECRET, "documents": [{"image": SECRET}]}, MALFORMED, "documents[0].text: "
    ),
    **of_routes(RERANK, "-1", {"query": SECRET, "documents": [SECRET], "top_n": -1}, MALFORMED, "top_n: "),
    **of_routes(RERANK, "too many", {"query": SECRET, "documents": ["a"] * 65}, MALFORMED, "documents holds 65 texts"),
    **of_routes(
        RERANK,
        "an answer as query",
        {"query": TURNS, "documents": [SECRET]},
        CONVERSATION,
        "the prompt must end with a user message",
    ),
}
