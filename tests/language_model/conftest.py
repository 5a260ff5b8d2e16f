"""What the tests of this room share."""

import os
from pathlib import Path

import pytest

from pipeline.language_model.plain_text import TEXT

WORDS = TEXT.split()


@pytest.fixture(scope="session")
def requests() -> list[tuple[str, str]]:
    """Three options to each of some contexts that share their beginnings, an empty context, duplicates, a lone one."""
    asked = []
    for start in range(0, 80, 16):
        for length in (2, 9):
            context = " ".join(WORDS[start : start + length])
            asked += [(context, f" {WORDS[start + length]}{end}") for end in ("", " and more", " or less")]
    return asked + [("", "The rain stopped"), ("", "The rain"), ("", "The rain"), ("At the end ", "of the street")]


@pytest.fixture(scope="session")
def solved() -> list[tuple[str, str]]:
    """Questions after the same words, some of them after the same further words, with three options each."""
    words = " ".join(WORDS[:7])
    begun = [" ".join(WORDS[40:43]), words, f"{words} {' '.join(WORDS[20:32])}", f"{words} {' '.join(WORDS[40:50])}"]
    return [
        (f"{context} {' '.join(WORDS[start : start + 3])}", f" {WORDS[start + 3]}{end}")
        for context in begun
        for start in range(60, 100, 5)
        for end in ("", " and more", " or less")
    ]


@pytest.fixture(scope="session")
def stories() -> Path:
    """The folder of a small real model."""
    folder = Path(os.environ.get("PIPELINE_MODELS", "")) / "stories260K"
    if not os.environ.get("PIPELINE_MODELS") or not folder.is_dir():
        pytest.skip("PIPELINE_MODELS has no stories260K")
    return folder
