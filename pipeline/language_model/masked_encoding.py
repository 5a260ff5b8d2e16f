"""Texts in tokens for a masked model: which tokens are asked for, and what is seen of the others."""

import difflib
import logging
import math
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.errors import DataError
from pipeline.requests import LogLikelihood

log = logging.getLogger(__name__)


class Text(NamedTuple):
    """A text in tokens, special ones at both ends included; the others come from text[start:end]."""

    ids: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    left: int
    right: int


class Masked(NamedTuple):
    """A text with one mask: ids[:place], the mask, ids[resume:]. What it is asked for is ids[place]."""

    ids: tuple[int, ...]
    place: int
    resume: int

    @property
    def length(self) -> int:
        return len(self.ids) - (self.resume - self.place) + 1

    @property
    def target(self) -> int:
        return self.ids[self.place]

    def tokens(self, mask: int) -> tuple[int, ...]:
        return (*self.ids[: self.place], mask, *self.ids[self.resume :])


class MaskedEncoder:
    """Texts and requests in tokens, with the tokenizer's special ones.

    cut  requests so far that were longer than the limit and lost their beginning
    """

    def __init__(self, tokenizer, limit: int):
        self.tokenizer, self.limit, self.cut = tokenizer, limit, 0

    def requests(self, requests: list[LogLikelihood]) -> list[list[Masked]]:
        """The masked copies that each request asks for.

        Raises DataError for a continuation without tokens, or one that is longer than the limit.
        """
        texts = self._texts(
            text for asked in requests for text in (_whole(asked), *([] if asked.rival is None else [_rival(asked)]))
        )
        result, cut = [], 0
        for number, asked in enumerate(requests):
            text = texts[_whole(asked)]
            begin = len(asked.context.rstrip())
            stop = math.inf if asked.suffix is None else len((asked.context + asked.continuation).rstrip())
            places = [
                place
                for place in range(text.left, len(text.ids) - text.right)
                if (text.starts[place] >= begin or text.ends[place] > begin) and text.starts[place] < stop
            ]
            excess = max(0, len(text.ids) - self.limit)
            if not places or excess > places[0] - text.left:
                raise DataError(
                    f"request {number}: a continuation must have 1 token or more and fit into the model's {self.limit} "
                    f"with all that follows, but {asked.continuation[:60]!r} has {len(places)} after "
                    f"{asked.context[-60:]!r}"
                )
            cut += excess > 0
            if asked.rival is not None:
                shared = _shared(text, texts[_rival(asked)])
                places = [place for place in places if place in shared]
            ids = (*text.ids[: text.left], *text.ids[text.left + excess :])
            places = [place - excess for place in places]
            result.append(
                [Masked(ids, place, places[-1] + 1 if asked.suffix is not None else place + 1) for place in places]
            )
        self.cut += cut
        if cut:
            log.warning(
                "%d of %d requests are longer than the model's %d tokens and lose their beginning",
                cut,
                len(requests),
                self.limit,
            )
        return result

    def windows(self, text: str) -> list[list[Masked]]:
        """A whole text, in windows of the limit that do not overlap, each token masked once."""
        found = self._texts([text])[text]
        end = len(found.ids) - found.right
        size = self.limit - found.left - found.right
        windows = []
        for start in range(found.left, end, size):
            inner = found.ids[start : min(start + size, end)]
            ids = (*found.ids[: found.left], *inner, *found.ids[end:])
            windows.append([Masked(ids, place, place + 1) for place in range(found.left, found.left + len(inner))])
        return windows

    def sentences(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Texts to train on, in tokens with the special ones.

        max_length  most tokens of each, special ones among them; what is longer loses its beginning
        """
        most = min(max_length, self.limit)
        table, result, cut = self._texts(texts), [], 0
        for text in texts:
            ids, _, _, left, right = table[text]
            if left + right == len(ids):
                raise DataError(
                    f"a sentence to train on must have a token, but {text[:60]!r} has none: change donor.data"
                )
            cut += len(ids) > most
            result.append([*ids[:left], *ids[left + max(0, len(ids) - most) :]])
        if cut:
            log.warning("%d of %d texts are longer than %d tokens and lose their beginning", cut, len(texts), most)
        return result

    def beginnings(self, texts: list[str], most: int) -> list[tuple[int, ...]]:
        """The first `most` tokens of each text that has any, special ones among them."""
        found = [self._texts([text])[text] for text in texts]
        return [
            (*ids[: max(left + 1, min(len(ids), most) - right)], *ids[len(ids) - right :])
            for ids, _, _, left, right in found
            if left + right < len(ids)
        ]

    def _texts(self, texts: Iterable[str]) -> dict[str, Text]:
        """Each distinct text in tokens."""
        wanted = list(dict.fromkeys(texts))
        if not wanted:
            return {}
        found = self.tokenizer(
            wanted,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        table = {}
        for number, text in enumerate(wanted):
            ids, offsets = found["input_ids"][number], found["offset_mapping"][number]
            own = [place for place, special in enumerate(found["special_tokens_mask"][number]) if not special]
            left = own[0] if own else len(ids)
            right = len(ids) - own[-1] - 1 if own else 0
            starts, ends = zip(*offsets, strict=True) if offsets else ((), ())
            table[text] = Text(tuple(ids), starts, ends, left, right)
        return table


def _whole(asked: LogLikelihood) -> str:
    return f"{asked.context}{asked.continuation}{asked.suffix or ''}"


def _rival(asked: LogLikelihood) -> str:
    return f"{asked.context}{asked.rival}{asked.suffix or ''}"


def _shared(text: Text, other: Text) -> set[int]:
    """The places of a text's tokens in the 'equal' blocks of the comparison with another text."""
    own, its = text.ids, other.ids
    if own <= its:
        blocks = difflib.SequenceMatcher(None, own, its, autojunk=False).get_matching_blocks()
        starts = [(block.a, block.size) for block in blocks]
    else:
        blocks = difflib.SequenceMatcher(None, its, own, autojunk=False).get_matching_blocks()
        starts = [(block.b, block.size) for block in blocks]
    return {place for start, size in starts for place in range(start, start + size)}
