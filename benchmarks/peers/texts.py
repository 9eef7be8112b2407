"""Texts of given lengths, cut from this repository's own prose, no two alike: nothing else is needed."""

from pathlib import Path
from typing import Final

import numpy as np
from transformers import AutoTokenizer

ROOT: Final = Path(__file__).resolve().parents[2]
PROSE: Final = ("README.md", "docs/*.md", "docs/adr/*.md", "weights/default/README.md")
LEAST_TOKENS: Final = 2


class Prose:
    """A long run of tokens; every call cuts other texts from it, the same ones in each run."""

    def __init__(self, tokenizer_folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
        files = sorted({path for pattern in PROSE for path in ROOT.glob(pattern)})
        text = " ".join(" ".join(path.read_text(encoding="utf-8").split()) for path in files).replace("<|", "")
        self._ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        self._generator = np.random.default_rng(0)

    def texts(self, lengths: list[int]) -> list[str]:
        """Return texts of about these many tokens: cut and joined again, a text may have one or two more or fewer."""
        starts = self._generator.integers(0, len(self._ids) - max(lengths), size=len(lengths)).tolist()
        return [self._text(start, max(length, LEAST_TOKENS)) for start, length in zip(starts, lengths, strict=True)]

    def _text(self, start: int, length: int) -> str:
        text: str = self._tokenizer.decode(self._ids[start : start + length])
        return text.replace("\ufffd", "").strip() or "Yes."
