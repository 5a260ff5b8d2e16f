"""The tokens of a checkpoint, read from its tokenizer.json, and a tokenizer with more of them."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import CheckpointError

OTHER_VOCABULARIES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# What tokenizer_config.json repeats of an added token.
FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """ids: token -> id. added: token -> its entry among the added tokens. kind: BPE, Unigram, …"""

    ids: dict[str, int]
    added: dict[str, dict]
    kind: str

    @property
    def next_id(self) -> int:
        return max(self.ids.values(), default=-1) + 1


def read_tokens(folder: Path) -> Tokens | None:
    """The tokens of all kinds of tokenizer.json; None where there is no such file."""
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        tokenizer = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of token and log-probability, the id is the place
            vocabulary = {token: place for place, (token, _) in enumerate(vocabulary)}
        added = {entry["content"]: entry for entry in tokenizer.get("added_tokens") or []}
        ids = vocabulary | {token: entry["id"] for token, entry in added.items()}
        return Tokens(ids, added, tokenizer["model"].get("type") or "BPE")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} should be a tokenizer with a model and its vocab, found {error!r}: fetch the model again"
        ) from error


def same_other_vocabulary(base: Path, donor: Path, change: str) -> bool:
    """Whether a vocabulary in another format was compared, by its bytes; raises where it differs."""
    both = [name for name in OTHER_VOCABULARIES if (Path(base) / name).is_file() and (Path(donor) / name).is_file()]
    for name in both:
        hashes = [hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest()[:16] for folder in (base, donor)]
        if hashes[0] != hashes[1]:
            raise CheckpointError(
                f"the vocabularies should be the same, found {name} with sha256 {hashes[0]}… in the base {base} "
                f"and {hashes[1]}… in the donor {donor}: {change}"
            )
    return bool(both)


def grown_tokenizer(base: Path, new: Mapping[str, dict]) -> dict[str, str]:
    """The files of the base's tokenizer with added tokens: file name -> text.

    new  token -> its entry in `added_tokens`, with its new id
    Raises CheckpointError where the tokenizers library would give a token another id than its entry says: it counts on
    from the size of the vocabulary, so that ids with gaps cannot be extended.
    """
    import tokenizers

    base, files = Path(base), {}
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [*(tokenizer.get("added_tokens") or []), *new.values()]
    files["tokenizer.json"] = text = _text(tokenizer)
    read = tokenizers.Tokenizer.from_str(text)
    for token, entry in new.items():
        if (got := read.token_to_id(token)) != entry["id"]:
            raise CheckpointError(
                f"the token {token!r} should get the id {entry['id']}, found {got} when {base / 'tokenizer.json'} was read "
                "with it: its ids have gaps; say vocab=base (the base's tokens)"
            )
    if (base / "tokenizer_config.json").is_file():
        config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
        if "added_tokens_decoder" in config:
            entries = {str(entry["id"]): {key: entry[key] for key in FLAGS if key in entry} for entry in new.values()}
            config["added_tokens_decoder"] = config["added_tokens_decoder"] | entries
            files["tokenizer_config.json"] = _text(config)
    if (base / "added_tokens.json").is_file():
        added = json.loads((base / "added_tokens.json").read_text(encoding="utf-8"))
        files["added_tokens.json"] = _text(added | {token: entry["id"] for token, entry in new.items()})
    return files


def grown_config(base: Path, rows: int) -> dict[str, str]:
    """config.json with room for `rows` tokens, where the base's says fewer: file name -> text."""
    config = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))
    places = [part for part in (config, config.get("text_config")) if part and "vocab_size" in part]
    if not places or all(part["vocab_size"] >= rows for part in places):
        return {}
    for part in places:
        part["vocab_size"] = max(rows, part["vocab_size"])
    return {"config.json": _text(config)}


def _text(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
