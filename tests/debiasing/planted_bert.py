"""A tiny BERT that was taught, on the spot, which of two pronouns goes with which words."""

import itertools
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pipeline import config
from pipeline.debiasing import pairs, tuning
from pipeline.recipe.identity import place_of, sentences_of

STEREOTYPES = {"he": ["slow", "deep"], "she": ["small", "old"]}
OTHER = {"he": "she", "she": "he"}
VERBS = ["is", "was", "has", "does"]
OTHERS = ["his", "their", "a", "the", "of", "and", "very", "not", "so", "more"]


def biased_scorer():
    """A model that has learnt `he is slow`, `she is old` and the like; each time a new copy."""
    from pipeline.language_model.load import load

    return load(Path(taught().name), device="cpu", threads=1, prefix_token=None)


def staged(name: str, changed: dict, folder: Path, precision: str = "float32") -> tuple[dict, dict, Path]:
    """The stage of a debiasing with its default pairs, some of its settings changed: (its settings, its summary, its folder)."""
    from pipeline.stages import debias

    unit = config.debiasing(name, changed)
    declared = config.stereotypes(unit["data"])
    made, scratch = folder / "made", folder / "scratch"
    made.mkdir(parents=True)
    scratch.mkdir()
    training = {key: unit[key] for key in ("epochs", "batch_size", "max_length", "scope")}
    summary = debias.tune(
        made,
        model=Path(taught().name),
        pairs=sentences_of(declared, unit),
        method=config.debias_method(unit),
        training=training | ({} if precision == "float32" else {"precision": precision}),
        selection=None,
        seed=0,
        prefix_token=None,
        where={"pairs": place_of({"data": None, "store": str(folder)}, declared["files"])},
        machine={"device": "cpu", "threads": 1, "tokens_per_pack": 2048},
        scratch=scratch,
    )
    return unit, summary, made


@cache
def taught() -> TemporaryDirectory:
    """The folder of the model. Its vocabulary is written out: one that a trainer makes is in another order each time."""
    special, letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "abcdefghijklmnopqrstuvwxyz"
    words = [*STEREOTYPES, *(word for each in STEREOTYPES.values() for word in each), *VERBS, *OTHERS]
    vocabulary = [
        *special,
        ".",
        *words,
        *(each for each in letters if each not in words),
        *(f"##{letter}" for letter in letters),
    ]
    raw = Tokenizer(
        models.WordPiece(vocab={token: number for number, token in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {f"{token[1:-1].lower()}_token": token for token in special}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **named, model_max_length=512)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.25,
        pad_token_id=0,
    )
    model = transformers.BertForMaskedLM(config).eval()
    whole, masked = [], []
    for (pronoun, words), verb in itertools.product(STEREOTYPES.items(), VERBS):
        for word in words:
            whole += [f"{pronoun} {verb} {word}."] * 2
            masked += [f"[MASK] {verb} {word}.", f"{pronoun} {verb} [MASK]."]
    shown, wanted = (tokenizer(texts, return_tensors="pt", padding=True).input_ids for texts in (masked, whole))
    hidden, seen = shown == tokenizer.mask_token_id, (shown != tokenizer.pad_token_id).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        logits = model(input_ids=shown, attention_mask=seen).logits
        loss = torch.nn.functional.cross_entropy(logits[hidden], wanted[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = TemporaryDirectory()
    model.save_pretrained(folder.name)
    tokenizer.save_pretrained(folder.name)
    return folder


def token_pairs(scorer) -> list[pairs.TokenPair]:
    """Each sentence that was learnt, against the one with the other pronoun."""
    made = []
    for (pronoun, words), verb in itertools.product(STEREOTYPES.items(), VERBS):
        for word in words:
            texts = [f"{each} {verb} {word}." for each in (pronoun, OTHER[pronoun])]
            made.append(pairs.masked(*scorer.sentences(texts, 64), scorer.mask))
    return made


@torch.no_grad()
def of_words(scorer) -> float:
    """Mean of |log p(word | he) - log p(word | she)| at the mask after either, in nats."""
    words = scorer.tokenizer.convert_tokens_to_ids([word for each in STEREOTYPES.values() for word in each])
    apart = []
    for verb in VERBS:
        he, she = (scorer.tokenizer(f"{each} {verb} [MASK].", return_tensors="pt").input_ids for each in STEREOTYPES)
        logs = [scorer.model(input_ids=ids).logits[ids == scorer.mask][0].log_softmax(-1)[words] for ids in (he, she)]
        apart.append((logs[0] - logs[1]).abs().mean().item())
    return sum(apart) / len(apart)


def tuned(scorer, method, epochs: int, scratch=None, fails: int | None = None) -> list[dict]:
    """The records of a tuning on the planted sentences; it dies at the `fails`-th measurement."""
    measured = []

    def measure(_) -> dict[str, float]:
        measured.append(1)
        if len(measured) == fails:
            raise KeyboardInterrupt
        return {"bias": of_words(scorer), "perplexity": 1.0, "meaningful": 1.0}

    records, _ = tuning.tune(
        scorer.model,
        method.prepare(scorer, token_pairs(scorer)),
        method,
        epochs=epochs,
        batch_size=8,
        seed=0,
        measure=measure,
        choose=tuning.last,
        scratch=scratch,
    )
    return records
