"""Small model folders for the tests of alignment, and what an alignment reads as plain tensors."""

import json
from pathlib import Path

import numpy as np
import torch

from pipeline.checkpoint import Alignment, Writer, align
from pipeline.checkpoint.read import dtypes
from tests.tiny_models import llama_folder, llama_tensors

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def words(*ordinary: str, added: tuple = ()) -> dict:
    """A tokenizer.json of whole words; the added tokens have the ids that follow."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    vocabulary = {token: place for place, token in enumerate(ordinary)}
    return {
        "version": "1.0",
        "added_tokens": [{"id": len(ordinary) + place, "content": token, **flags} for place, token in enumerate(added)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": ordinary[0]},
    }


def folder(place: Path, tokenizer: dict | None = None, rows: int = 12, seed: int = 0, tensors=None, **config) -> Path:
    """A LLaMA with tied embeddings; a config key of None is left out."""
    llama_folder(place, tensors or llama_tensors(rows, seed))
    settings = json.loads((place / "config.json").read_text()) | config
    settings = {key: value for key, value in settings.items() if value is not None}
    (place / "config.json").write_text(json.dumps(settings))
    (place / "tokenizer.json").write_text(json.dumps(tokenizer or words("<unk>", "a", "b")))
    return place


def whole(aligned: Alignment, view, name: str, step: int = 7) -> torch.Tensor:
    """A tensor of a view, put together from small parts that begin and end anywhere."""
    shape = aligned.infos[name].shape
    size = int(np.prod(shape, dtype=int))
    parts = [view.part(name, start, min(start + step, size)) for start in range(0, size, step)]
    assert all(part.dtype == dtypes()[view.dtype(name)] for part in parts)
    found = torch.cat(parts) if parts else view.part(name, 0, 0)
    assert torch.equal(found, view.part(name, 0, size)), "the parts should not depend on where they are cut"
    return found.reshape(shape)


def merged(target: Path, base: Path, donors: list[Path], vocabulary: str = "strict") -> Path:
    """The mean of the aligned models, written as a folder."""
    target.mkdir()
    aligned = align(base, donors, vocabulary)
    with Writer(target, aligned.infos) as writer:
        for name in writer.order:
            mine = whole(aligned, aligned.base, name, 1000)
            if aligned.infos[name].is_float and name not in aligned.buffers:
                views = [aligned.base, *aligned.donors]
                mine = torch.stack([whole(aligned, view, name, 1000).double() for view in views]).mean(0).to(mine.dtype)
            writer.write(name, mine)
    aligned.write_companions(target)
    return target
