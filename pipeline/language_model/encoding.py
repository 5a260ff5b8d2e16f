"""Text to tokens, by the rules of lm-eval's HFLM, so that our numbers are those of its tables."""

import logging
from collections.abc import Iterable

from pipeline.errors import ConfigError, DataError
from pipeline.language_model.trie import Encoded

log = logging.getLogger(__name__)


class Encoder:
    """Turns (context, continuation) into tokens.

    Spaces at the end of the context belong to the continuation. The pair is tokenised as one text and cut where the
    tokens of the context alone end. The tokenizer's own habit decides about a BOS; a text that begins with the prefix
    token, or a prompt to go on with that begins with BOS, gets no second one. An empty context is the prefix token. What exceeds the model's limit is cut off at the
    left, with one warning that counts.

    tokenizer     a transformers tokenizer
    length        the model's limit, in tokens
    prefix_token  stands for an empty context, as text; None takes BOS, or EOS where there is none

    Where HFLM stops with an AssertionError: a context of nothing but spaces is taken as empty; a continuation without
    a token of its own, or longer than the limit, raises DataError.
    Raises ConfigError if prefix_token is not one token of the vocabulary.
    Reference: lm-eval 0.4.13, `TemplateLM._encode_pair`, `TemplateLM.loglikelihood`, `HFLM.tok_encode`.
    """

    def __init__(self, tokenizer, length: int, prefix_token: str | None = None):
        self.tokenizer, self.length = tokenizer, length
        self.cut = 0  # requests so far that lost their beginning
        self.prefix = prefix_id(tokenizer, prefix_token)
        self.prefix_text = None if self.prefix is None else tokenizer.decode(self.prefix)

    def pairs(self, requests: list[tuple[str, str]]) -> list[Encoded]:
        """Requests in tokens, in the same order."""
        moved = [move_spaces(*request) for request in requests]
        whole = self._table(text for context, continuation in moved for text in (context, context + continuation))
        plain = self._table((continuation for context, continuation in requests if not context), special=False)
        result, cut = [], 0
        for number, (context, continuation) in enumerate(moved):
            if not requests[number][0]:
                before, after = self._after_prefix(plain[continuation])
            else:
                before = whole[context]
                after = whole[context + continuation][len(before) :]
                if not before:
                    before, after = self._after_prefix(after)
            if not 1 <= len(after) <= self.length:
                raise DataError(
                    f"request {number}: a continuation must have 1 to {self.length} tokens, but "
                    f"{requests[number][1][:60]!r} has {len(after)} after {requests[number][0][-60:]!r}"
                )
            cut += len(before) + len(after) > self.length + 1
            result.append(self.window(before, after))
        self.cut += cut
        if cut:
            log.warning(
                "%d of %d requests are longer than the model's %d tokens and lose their beginning",
                cut,
                len(requests),
                self.length,
            )
        return result

    def rolling(self, text: str, special: bool = True) -> list[Encoded]:
        """A text of any length in windows that predict each of its tokens once, with as much context as fits.

        special  let the tokenizer add its special tokens, as lm-eval does (the prefix token comes in any case)
        """
        tokens = self._table([text], special)[text]
        windows = []
        for start in range(0, len(tokens), self.length):
            before = tokens[max(0, start - self.length) : start] or (self._prefix(),)
            windows.append(self.window(before, tokens[start : start + self.length]))
        return windows

    def prompts(self, asked: list[tuple[str, int]]) -> list[tuple[int, ...]]:
        """(text, tokens to be written after it) in tokens: what does not fit is cut off at the left, with one warning.

        Raises ConfigError where what is to be written leaves no room for a prompt.
        Reference: lm-eval 0.4.13, `HFLM.generate_until`, `HFLM.tok_batch_encode`.
        """
        table = self._table((text for text, _ in asked), opening=self.tokenizer.bos_token or "")
        result, cut = [], 0
        for text, room in asked:
            if room >= self.length:
                raise ConfigError(
                    f"the tokens to be written should be fewer than the model's {self.length}, found {room}: "
                    "ask for fewer in the benchmark's or the task's settings"
                )
            tokens = table[text] or (self._prefix(),)
            cut += len(tokens) > self.length - room
            result.append(tokens[-(self.length - room) :])
        self.cut += cut
        if cut:
            log.warning("%d of %d prompts are too long for the model and lose their beginning", cut, len(asked))
        return result

    def window(self, before: tuple[int, ...], after: tuple[int, ...]) -> Encoded:
        """What the model reads to predict `after`: the last token is only predicted, the first may not fit."""
        return Encoded((*before, *after)[-(self.length + 1) :][:-1], tuple(after))

    def _after_prefix(self, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        prefix = self._prefix()
        return (tokens[:1], tokens[1:]) if tokens and tokens[0] == prefix else ((prefix,), tokens)

    def _prefix(self) -> int:
        if self.prefix is None:
            raise ConfigError(
                "the tokenizer has neither a BOS nor an EOS token to stand for an empty context: "
                "set model.prefix_token to a token of its vocabulary"
            )
        return self.prefix

    def _table(
        self, texts: Iterable[str], special: bool = True, opening: str | None = None
    ) -> dict[str, tuple[int, ...]]:
        """Each distinct text with its tokens.

        special  let the tokenizer add its special tokens, but to a text that begins with `opening`
        opening  the prefix token without; empty for none
        """
        opening = self.prefix_text if opening is None else opening
        table: dict[str, tuple[int, ...]] = {}
        wanted = dict.fromkeys(texts)
        for begun in (False, True):
            group = [text for text in wanted if begun == bool(opening and text.startswith(opening))]
            if group:
                ids = self.tokenizer(
                    group,
                    **({} if special and not begun else {"add_special_tokens": False}),
                    return_attention_mask=False,
                    verbose=False,
                )["input_ids"]
                table.update(zip(group, map(tuple, ids), strict=True))
        return table


def move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """White space at the end of the context, moved to the continuation."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def prefix_id(tokenizer, prefix_token: str | None) -> int | None:
    """The token that stands for an empty context, or None where the tokenizer has none."""
    if prefix_token is None:
        return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if prefix_token not in tokenizer.get_vocab():
        raise ConfigError(
            f"model.prefix_token must be one token of the model's vocabulary, which {prefix_token!r} "
            "is not: take one of its special tokens, or null for its BOS"
        )
    return tokenizer.get_vocab()[prefix_token]
