"""One checkpoint, as far as its headers, config and tokenizer tell it; imports no torch."""

from functools import cached_property
from pathlib import Path

from pipeline.checkpoint.configs import CHANGE, read_config
from pipeline.checkpoint.header import TensorInfo, headers
from pipeline.checkpoint.names import is_embedding, is_head, is_head_bias, twin
from pipeline.checkpoint.tokens import Tokens, read_tokens
from pipeline.errors import CheckpointError

BLOCK = 1 << 20


class Model:
    """What is known of a checkpoint before a tensor is read, and which of its tensors are one.

    embedding    the matrix with a row for each token, None if no declared name fits
    rows         how many rows it has: at least one for each token, often some more for the hardware
    head         the stored matrix of the output, None if there is none
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.infos: dict[str, TensorInfo] = headers(self.folder)
        self.config = read_config(self.folder)
        self._equal: dict[tuple[str, str], bool] = {}

    @cached_property
    def tokens(self) -> Tokens | None:
        return read_tokens(self.folder)

    @cached_property
    def head(self) -> str | None:
        heads = [name for name, info in self.infos.items() if is_head(name, info)]
        shapes = {info.shape for name, info in self.infos.items() if is_embedding(name, info)}
        return next((name for name in heads if self.infos[name].shape in shapes), next(iter(heads), None))

    @cached_property
    def embedding(self) -> str | None:
        found = [name for name, info in self.infos.items() if is_embedding(name, info)]
        if self.head is not None:
            found = [name for name in found if self.infos[name].shape == self.infos[self.head].shape] or found
        rows = self.config.get("vocab_size")
        return next((name for name in found if self.infos[name].shape[0] == rows), next(iter(found), None))

    @property
    def rows(self) -> int | None:
        return None if self.embedding is None else self.infos[self.embedding].shape[0]

    def row(self, token: str) -> int | None:
        """Which row is a token's: none for a token of others, nor for one that the tokenizer has beyond the rows."""
        row = self.tokens.ids.get(token)
        return None if row is None or self.rows is None or row >= self.rows else row

    @cached_property
    def of_vocabulary(self) -> set[str]:
        """The tensors with a row, or an entry, for each token."""
        return {
            name
            for name, info in self.infos.items()
            if (is_embedding(name, info) or is_head(name, info) or is_head_bias(name, info))
            and info.shape[0] == self.rows
        }

    @cached_property
    def head_kind(self) -> str:
        """tied (not stored, or stored and equal to the embedding), untied, or missing.

        A config that does not say counts as tied where no head is stored, or where what is stored equals the embedding:
        the default of a config depends on the architecture and on the version of a library.
        """
        tied = self.config.get("tie_word_embeddings")
        if self.head is None:
            return "missing" if tied is False else "tied"
        if tied is False or self.embedding is None:
            return "untied"
        if self.same(self.head, self.embedding):
            return "tied"
        if tied:
            raise CheckpointError(
                f"{self.head} should equal {self.embedding}, as tie_word_embeddings says, found other numbers in "
                f"{self.folder}: set tie_word_embeddings to false in its config.json if the head is its own, or {CHANGE}"
            )
        return "untied"

    def original(self, name: str) -> str | None:
        """Which other tensor of this checkpoint a stored tensor may be a copy of."""
        return twin(name, self.infos) or (self.embedding if name == self.head else None)

    @cached_property
    def copies(self) -> dict[str, str]:
        """Stored tensors that are others of this checkpoint once more: a tied head -> the embedding."""
        found = {name: self.original(name) for name in self.infos}
        return {
            name: original
            for name, original in found.items()
            if original and (self.head_kind == "tied" if name == self.head else self.same(name, original))
        }

    def same(self, one: str, other: str) -> bool:
        """Whether two stored tensors hold the same bytes. Stops at the first block that differs."""
        key = one, other
        if key not in self._equal:
            mine, its = self.infos[one], self.infos[other]
            alike = (mine.dtype, mine.shape) == (its.dtype, its.shape)
            self._equal[key] = alike and _same_bytes(mine, its)
        return self._equal[key]


def _same_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    with open(one.file, "rb") as mine, open(other.file, "rb") as its:
        mine.seek(one.start)
        its.seek(other.start)
        return all(
            mine.read(size) == its.read(size)
            for size in (min(BLOCK, one.bytes - at) for at in range(0, one.bytes, BLOCK))
        )
