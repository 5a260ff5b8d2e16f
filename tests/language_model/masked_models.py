"""Tiny random masked models with tokenizers of their kinds, made on the spot."""

from functools import cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.language_model.plain_text import TEXT

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# transformers class -> settings of its config and the kind of its tokenizer
ALL = {
    "Bert": (SIZES, "wordpiece"),
    "Roberta": (SIZES | {"max_position_embeddings": 65}, "bytes"),
    "Albert": (SIZES | {"embedding_size": 16}, "pieces"),
    "DistilBert": (
        {
            "dim": 32,
            "hidden_dim": 48,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": 64,
            "initializer_range": 0.25,
            "pad_token_id": 0,
        },
        "wordpiece",
    ),
    "ModernBert": (
        SIZES | {"cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 2, "local_attention": 16},
        "bytes",
    ),
    "Electra": (SIZES | {"embedding_size": 16}, "wordpiece"),
    "FNet": (
        {key: value for key, value in SIZES.items() if key != "num_attention_heads"} | {"type_vocab_size": 2},
        "pieces",
    ),
}


@cache
def tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """WordPiece in lower case as BERT's, byte-level BPE as RoBERTa's, pieces that hold their space as ALBERT's."""
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, show_progress=False)
    if kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=320, special_tokens=SPECIAL, show_progress=False)
    elif kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        made = Tokenizer(models.BPE(unk_token="[UNK]"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator([TEXT], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        unk_token="[UNK]",
    )


@cache
def model(name: str) -> transformers.PreTrainedModel:
    """A random model of one architecture, always the same one."""
    config = getattr(transformers, f"{name}Config")(vocab_size=320, **ALL[name][0])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = getattr(transformers, f"{name}ForMaskedLM")(config).eval()
        for part, parameter in made.named_parameters():
            if part.endswith("bias"):  # zero where a model is new: an error in the head would not show
                torch.nn.init.normal_(parameter, std=0.3)
    return made


def scorer(name: str, limit: int = 512):
    from pipeline.language_model.masked import MaskedScorer

    return MaskedScorer(model(name), tokenizer(ALL[name][1]), limit)
