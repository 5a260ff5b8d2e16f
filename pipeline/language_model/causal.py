"""Log-likelihoods of continuations under a causal language model, each distinct prefix computed once."""

import copy
import hashlib
import logging
import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from pipeline.errors import CheckpointError, ConfigError, SourceError
from pipeline.language_model import trie
from pipeline.language_model.encoding import Encoder
from pipeline.language_model.scorer import Scorer
from pipeline.language_model.scratch import Part, Scratch
from pipeline.language_model.trie import Encoded, Pack
from pipeline.progress import bar
from pipeline.requests import Answer, Generate, LogLikelihood, Rolling

log = logging.getLogger(__name__)

# A number may not change unless this does: partial answers of another version are not taken up.
VERSION = 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# How far a packed log-likelihood may be from the plain one before packing is given up, in nats per token asked for.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
# Tokens in a batch of rows on a CPU: more do not make its matrix products faster, only the padding longer.
CPU_BATCH = 256
# Logits alive at a time: 64 MB in float32.
LOGITS = 2**24


def load(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    tokens_per_pack: int = 2048,
    prefix_token: str | None = None,
) -> "CausalScorer":
    """A scorer for the model in a Hugging Face folder. Safetensors only, no remote code.

    device           cpu, cuda, cuda:1, ...
    dtype            float32, bfloat16 or float16: what the model computes in
    threads          of torch, for the whole process; null leaves them as they are
    tokens_per_pack  most tokens in one forward pass, padding included; a request must fit. It bounds the memory
    prefix_token     text of the token that stands for an empty context; null takes BOS, or EOS where there is none
    Raises SourceError if the folder holds no such model, CheckpointError if its weights do not fit its config,
    ConfigError if it is no causal language model or a setting is out of range.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"machine.dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    place = find_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    check_architecture(folder)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise SourceError(
            f"{folder} must hold a causal language model as safetensors with its tokenizer, but "
            f"transformers says: {str(error).splitlines()[0]}; choose another model.base"
        ) from error
    for kind in ("missing_keys", "mismatched_keys"):
        # transformers fills such a weight at random and goes on.
        if info[kind]:
            names = sorted(str(name) for name in info[kind])
            raise CheckpointError(
                f"{folder} has {len(names)} {kind.replace('_', ' ')} against its config.json, such "
                f"as {names[0]}: choose a complete checkpoint in model.base"
            )
    return CausalScorer(model.to(place), tokenizer, tokens_per_pack, prefix_token)


def find_device(device: str) -> torch.device:
    """The device of that name, if it is here."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
        return place
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"machine.device must be a device of this machine, which {device!r} is not "
            f"({str(error).splitlines()[0]}): cpu always is"
        ) from error


def check_architecture(folder: Path) -> None:
    """Raises unless config.json names a causal language model."""
    if not (folder / "config.json").is_file():
        raise SourceError(
            f"a Hugging Face model folder with a config.json was expected, but {folder} has none: check model.base"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"{folder / 'config.json'} must describe a model that transformers knows: "
            f"{str(error).splitlines()[0]}; choose another model.base"
        ) from error
    # BERT and its kin are registered as causal too: the checkpoint's own architecture decides.
    names = config.architectures or [CAUSAL.get(config.model_type, config.model_type)]
    if not set(names) & set(CAUSAL.values()):
        raise ConfigError(
            f"model.base must be a causal language model (masked and sequence-to-sequence ones cannot be "
            f"scored yet), but {folder} is a {names[0]}"
        )


class CausalScorer(Scorer):
    """Scores (context, continuation) requests with one model.

    Requests are packed into token tries (see trie.py) and read with a mask in which a token sees only its ancestors,
    at the position of its depth. That is exact for softmax attention with positions given from outside. Whether it is
    exact for *this* model is tried on the longest requests before the others are packed; if not, or if a request is
    longer than a sliding window, plain padded batches sorted by length are used.

    Log-likelihoods agree with one plain forward pass a request to 1e-4 nats in float32, whatever the packing.
    Answers have the same bits for the same set of requests, in any order, on one machine at equal thread counts.

    model            a transformers model with a causal head; put into evaluation mode
    tokenizer        its tokenizer
    tokens_per_pack  most tokens in one forward pass, padding included
    prefix_token     see `load`
    """

    family = "causal"

    def __init__(self, model, tokenizer, tokens_per_pack: int, prefix_token: str | None = None):
        if tokens_per_pack < 1:
            raise ConfigError(f"machine.tokens_per_pack must be at least 1, not {tokens_per_pack}")
        self.model, self.tokenizer, self.tokens_per_pack = model.eval(), tokenizer, tokens_per_pack
        self.body = model.get_decoder()
        text = model.config.get_text_config()
        self.encoder = Encoder(tokenizer, length_limit(text, tokenizer), prefix_token)
        self.horizon = window(text.to_dict())
        # A layer's matrices cost about 24 H^2 operations a token (12 H^2 weights), attending to one token 4 H.
        self.attention = 1 / (6 * text.hidden_size)
        # Longest request and most tokens of the rows tried so far, branched or not.
        self._tried = {True: (0, 0), False: (0, 0)}
        self._digest: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def score(self, requests: list[tuple[str, str]], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The answers to (context, continuation) requests, in their order.

        label    of the progress bar
        scratch  a folder that keeps partial answers, for a later call with the same requests; null keeps none
        Raises DataError for a continuation without tokens, ConfigError if a request does not fit into a pack.
        """
        return self.score_tokens(self.encoder.pairs(requests), label, scratch)

    def log_likelihoods(self, requests: list[LogLikelihood], label: str, scratch: Path | None) -> list[Answer]:
        """Each continuation after its context; what stands after it cannot be read."""
        return self.score([(asked.context, asked.continuation) for asked in requests], label, scratch)

    def rolling(self, requests: list[Rolling], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The answers to whole texts of any length, each token predicted once (lm-eval's loglikelihood_rolling)."""
        return self._rolled([asked.text for asked in requests], label, scratch)

    def generate(self, requests: list[Generate], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The completions of each prompt."""
        raise ConfigError("what a model writes cannot be asked yet")

    def _rolled(self, texts: list[str], label: str = "", scratch: Path | None = None, special: bool = True):
        windows = [self.encoder.rolling(text, special) for text in texts]
        answers = iter(self.score_tokens([part for parts in windows for part in parts], label, scratch))
        joined = [[next(answers) for _ in parts] for parts in windows]
        return [
            Answer(
                math.fsum(answer.loglikelihood for answer in parts),
                all(answer.greedy for answer in parts),
                sum(answer.tokens for answer in parts),
            )
            for parts in joined
        ]

    def perplexity(self, text: str) -> float:
        """exp of the mean negative log-likelihood of a token of a text, after the prefix token; nan without tokens."""
        [answer] = self._rolled([text], "perplexity", special=False)
        if not answer.tokens:
            return math.nan
        mean = -answer.loglikelihood / answer.tokens
        return math.inf if mean > 700 else math.exp(mean)

    def score_tokens(self, encoded: list[Encoded], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The answers to requests in tokens, in their order."""
        packs = self._plan(encoded)
        kept = Scratch(scratch, self._fingerprint(encoded) if scratch else "")
        answers: list[Answer | None] = [None] * len(encoded)
        parts = [kept.read(number) for number in range(len(packs))]
        done = sum(pack.size for pack, part in zip(packs, parts, strict=True) if part is not None)
        with bar(sum(pack.size for pack in packs), label, unit="tok", done=done, scale=True) as progress:
            for number, (pack, part) in enumerate(zip(packs, parts, strict=True)):
                if part is None:
                    part = self._answer(pack)
                    kept.write(number, part)
                    progress.update(pack.size)
                for request, *answer in part:
                    answers[request] = Answer(*answer)
        return answers

    def _plan(self, encoded: list[Encoded]) -> list[Pack]:
        """The packs of the requests, after a trial of the deepest and of the largest trie."""
        rows = trie.rows(encoded, self.tokens_per_pack, self.horizon, self.attention)
        branched = [row for row in rows if row.branched]
        for size in (lambda row: row.longest, lambda row: len(row.tokens)):
            row = max(branched or rows, key=size, default=None)
            if row is None or (
                row.longest <= self._tried[row.branched][0] and len(row.tokens) <= self._tried[row.branched][1]
            ):
                continue
            fault = self._fault(row, encoded)
            if fault and branched:
                log.warning(
                    "%s does not allow packed scoring (%s): plain padded batches are used, which are slower",
                    type(self.model).__name__,
                    fault,
                )
                self.horizon = 0
                return self._plan(encoded)
            if fault:
                raise ConfigError(
                    f"model.base cannot be scored: the head of a {type(self.model).__name__} alone does "
                    f"not give its logits ({fault})"
                )
            self._tried[row.branched] = tuple(map(max, self._tried[row.branched], (row.longest, len(row.tokens))))
        return trie.packs(
            rows, min(self.tokens_per_pack, CPU_BATCH) if self.device.type == "cpu" else self.tokens_per_pack
        )

    def _fault(self, row: trie.Row, encoded: list[Encoded]) -> str:
        """What is wrong with the answers of a row, against plain forward passes; empty if nothing is."""
        try:
            packed = {request: value for request, value, _, _ in self._answer(trie.pack([row]))}
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - an architecture may refuse mask and positions in any way it likes
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        # The longest, and the one that has most strangers before it.
        for request in {max(packed, key=lambda request: len(encoded[request].inputs)), row.asked[-1][0]}:
            plain = self._alone(encoded[request])
            allowed = TOLERANCE[self.model.dtype] * len(encoded[request].targets) + 1e-6 * abs(plain)
            # A model with nan in its weights answers nan either way, and that is no fault of the packing.
            if abs(packed[request] - plain) > allowed or math.isnan(packed[request]) != math.isnan(plain):
                return f"{packed[request]:.6f} nats packed, {plain:.6f} alone"
        return ""

    @torch.inference_mode()
    def _alone(self, encoded: Encoded) -> float:
        """Log-likelihood by one plain forward pass of the whole model."""
        logits = self.model(torch.tensor([encoded.inputs], device=self.device), use_cache=False).logits
        targets = torch.tensor(encoded.targets, device=self.device)
        logs = logits[0, -len(targets) :].double().log_softmax(-1)
        return logs.gather(1, targets[:, None]).sum().item()

    @torch.inference_mode()
    def _answer(self, pack: Pack) -> Part:
        """Answers of one pack: (request, loglikelihood, greedy, tokens)."""
        outputs = self._read(pack)
        positions, rows = np.unique(pack.positions_A, return_inverse=True)
        hidden_PH = outputs.last_hidden_state.flatten(0, 1)[torch.from_numpy(positions).to(self.device)]
        rows, targets = torch.from_numpy(rows).to(self.device), torch.from_numpy(pack.targets_A).to(self.device)
        logs, greedy = [], []
        chunk = max(1, LOGITS // self.model.config.get_text_config().vocab_size)
        with self._head(outputs) as head:
            for start in range(0, len(positions), chunk):
                logits = head(hidden_PH[start : start + chunk]).float()
                # `rows` is not sorted, for several requests may ask of one position.
                here = ((rows >= start) & (rows < start + chunk)).nonzero()[:, 0]
                local = rows[here] - start
                best, choice = logits.max(-1)
                wanted = logits[local, targets[here]]
                total = best + logits.sub_(best[:, None]).exp_().sum(-1).log_()
                logs.append((here, wanted - total[local]))
                greedy.append(choice[local] == targets[here])
        order = torch.cat([here for here, _ in logs]).cpu().numpy()
        logs_A, greedy_A = np.empty(len(order)), np.empty(len(order), bool)
        logs_A[order] = torch.cat([log for _, log in logs]).double().cpu().numpy()
        greedy_A[order] = torch.cat(greedy).cpu().numpy()
        firsts = np.flatnonzero(np.diff(pack.requests_A, prepend=-1))
        return list(
            zip(
                pack.requests_A[firsts].tolist(),
                np.add.reduceat(logs_A, firsts).tolist(),
                np.logical_and.reduceat(greedy_A, firsts).tolist(),
                np.diff(firsts, append=len(logs_A)).tolist(),
                strict=True,
            )
        )

    def _read(self, pack: Pack):
        """The body's outputs for a pack. Padding comes last, where no token can see it."""
        tokens_BN = torch.from_numpy(pack.tokens_BN).to(self.device)
        if not pack.masked:
            return self.body(input_ids=tokens_BN, use_cache=False)
        index = torch.arange(tokens_BN.shape[1], device=self.device)
        ends_BN = torch.from_numpy(pack.ends_BN).to(self.device)
        sees_BNN = (index[:, None] >= index) & (index[:, None] < ends_BN[:, None, :])
        # Additive, because eager attention adds its mask; finite, because some layers multiply by it.
        dtype = self.model.dtype
        mask = torch.zeros(sees_BNN.shape, dtype=dtype, device=self.device).masked_fill_(
            ~sees_BNN, torch.finfo(dtype).min
        )
        return self.body(
            input_ids=tokens_BN,
            attention_mask=mask[:, None],
            position_ids=torch.from_numpy(pack.depths_BN).to(self.device),
            use_cache=False,
        )

    @contextmanager
    def _head(self, outputs):
        """The model's own head, for some hidden states: what it does after the body, soft caps and scales included.

        The whole model is called with a body that answers at once; calling the output matrix alone would leave out
        what some architectures do to the logits, and whole logits would not fit into memory.
        """
        body, known, usual = self.body, copy.copy(outputs), vars(self.body).get("forward")
        nothing = torch.zeros((1, 1), dtype=torch.long, device=self.device)

        def head(hidden_PH: torch.Tensor) -> torch.Tensor:
            known.last_hidden_state = hidden_PH[None]
            return self.model(input_ids=nothing, use_cache=False).logits[0]

        body.forward = lambda *_, **__: known
        try:
            yield head
        finally:
            del body.forward
            if usual is not None:  # accelerate puts its own there
                body.forward = usual

    def _fingerprint(self, encoded: list[Encoded]) -> str:
        """Of all that the answers depend on. The weights count by sums, not by bytes: a check, not an identity."""
        if self._digest is None:
            parts = [
                (
                    name,
                    tuple(tensor.shape),
                    *(torch.linalg.vector_norm(tensor, order, dtype=torch.float64).item() for order in (1, 2)),
                    tensor.sum(dtype=torch.float64).item(),
                )
                for name, tensor in self.model.named_parameters()
            ]
            self._digest = hashlib.sha256(repr((type(self.model).__name__, parts)).encode()).hexdigest()
        known = (
            VERSION,
            torch.__version__,
            self.device.type,
            str(self.model.dtype),
            torch.get_num_threads(),
            self.tokens_per_pack,
            self.horizon,
            self.attention,
            CPU_BATCH,
            LOGITS,
            self._digest,
        )
        digest = hashlib.sha256(repr(known).encode())
        for request in encoded:
            digest.update(repr(tuple(request)).encode())
        return digest.hexdigest()


def length_limit(config, tokenizer) -> int:
    """The longest input in tokens, as lm-eval's HFLM finds it: by the config, the tokenizer, or 2048."""
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    # A tokenizer without a limit reports 10^30.
    return int(tokenizer.model_max_length) if tokenizer.model_max_length < 10**9 else 2048


def window(config: dict) -> float:
    """The shortest reach of a layer in tokens, by any setting whose name says so; infinity where there is none.

    A trie may hold requests up to this length: within it, a layer with a window sees as much as one without.
    """
    if config.get("use_sliding_window") is False:
        return math.inf
    reach = [
        value
        for name, value in config.items()
        if name.endswith(("window", "window_size", "chunk_size")) and type(value) is int and value > 0
    ]
    return min(reach, default=math.inf)
