"""Packs of token tries, read by a causal model: masks and positions made, shared beginnings kept, logits taken."""

import copy
import inspect
import itertools

import numpy as np
import torch
from transformers import DynamicCache

from pipeline.language_model import packs, trie
from pipeline.language_model.log_odds import log_odds
from pipeline.language_model.packs import Pack
from pipeline.language_model.scorer import head_of
from pipeline.language_model.scratch import Part
from pipeline.language_model.trie import Encoded

# Tokens in a batch of rows on a CPU: more do not make its matrix products faster.
CPU_BATCH = 512
# Logits alive at a time: 64 MB in float32.
LOGITS = 2**24
# Roundings by which a logit may differ between two rows of a batch that are alike up to there.
AHEAD = 4
# See `near_best`.
FAR = 1e4


def body_of(model) -> torch.nn.Module:
    """What reads the tokens, without the head: transformers' own word for it, or the part of the model that takes tokens."""
    for part in (model.get_decoder(), model.base_model, *model.children()):
        if part is not model and "input_ids" in inspect.signature(part.forward).parameters:
            return part
    return model.get_decoder()


def near_best(logits: torch.Tensor) -> torch.Tensor:
    """Where logits are of account in a trial: those far below the best of their row are as good as -inf; nan is of account."""
    return ~(logits <= logits.amax(-1, keepdim=True) - FAR)


class PackReader:
    """A causal model that answers one pack after the other; between them it keeps the last stem, and memory for logits."""

    def __init__(self, model):
        self.model, self.body = model, body_of(model)
        self.known = inspect.signature(model.forward).parameters
        self.forget()

    @property
    def device(self) -> torch.device:
        return self.model.device

    def forget(self) -> None:
        """Give back what is kept."""
        self._past: tuple[trie.Stem, DynamicCache] = ((), DynamicCache())
        self._room = torch.empty(0)

    @torch.inference_mode()
    def alone(self, encoded: Encoded) -> tuple[float, float]:
        """Log-likelihood by one plain forward pass of the whole model, and the sum of what each token's logits come to."""
        targets = torch.tensor(encoded.targets, device=self.device)
        asked = {"logits_to_keep": len(targets)} if "logits_to_keep" in self.known else {}
        inputs = torch.tensor([encoded.inputs], device=self.device)
        logits = self.model(inputs, use_cache=False, **asked).logits
        total, largest, chunk = 0.0, 0.0, max(1, LOGITS // logits.shape[-1])
        for logits_PV, wanted in zip(logits[0, -len(targets) :].split(chunk), targets.split(chunk), strict=True):
            logits_PV, wanted = logits_PV.double(), wanted[:, None]
            total += logits_PV.log_softmax(-1).gather(1, wanted).sum().item()
            # the best and the wanted one: others may be -inf
            largest += torch.maximum(logits_PV.amax(-1).abs(), logits_PV.gather(1, wanted)[:, 0].abs()).sum().item()
        return total, largest

    @torch.inference_mode()
    def looks_ahead(self, tokens: tuple[int, ...]) -> bool:
        """Whether what follows the first of some tokens depends on the last of them."""
        vocabulary = self.model.config.get_text_config().vocab_size
        other = next((token for token in tokens if token != tokens[-1]), (tokens[-1] + 1) % vocabulary)
        texts = torch.tensor([tokens, tokens, (*tokens[:-1], other)], device=self.device)
        one, twin, two = self.model(texts, use_cache=False).logits[:, :-1].float()
        near = near_best(one)
        one, twin, two = one[near], twin[near], two[near]
        rounding = AHEAD * torch.finfo(self.model.dtype).eps * one.abs().max() + AHEAD * (one - twin).abs().max()
        return bool((one - two).abs().max() > rounding)

    @torch.inference_mode()
    def answer(self, pack: Pack) -> Part:
        """Answers of one pack: (request, loglikelihood, greedy, tokens)."""
        outputs = self._read(pack)
        positions, rows = np.unique(pack.positions_A, return_inverse=True)
        hidden_PH = outputs.last_hidden_state.flatten(0, 1)[torch.from_numpy(positions).to(self.device)]
        rows, targets = torch.from_numpy(rows).to(self.device), torch.from_numpy(pack.targets_A).to(self.device)
        logs, greedy = [], []
        chunk = max(1, LOGITS // self.model.config.get_text_config().vocab_size)
        with head_of(self.model, self.body, outputs, self._kept(min(chunk, len(positions))), use_cache=False) as head:
            for start in range(0, len(positions), chunk):
                logits = head(hidden_PH[start : start + chunk]).float()
                # `rows` is not sorted, for several requests may ask of one position.
                here = ((rows >= start) & (rows < start + chunk)).nonzero()[:, 0]
                found, likeliest = log_odds(logits, rows[here] - start, targets[here])
                logs.append((here, found))
                greedy.append(likeliest)
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

    def _kept(self, rows: int) -> torch.Tensor | None:
        """Memory for the logits of so many rows, held until all requests are answered.

        None where the head is more than a matrix, and on a GPU, which keeps its memory itself.
        """
        matrix = self.model.get_output_embeddings()
        if self.device.type != "cpu" or type(matrix) is not torch.nn.Linear or "forward" in vars(matrix):
            return None
        size = rows * len(matrix.weight)
        if self._room.numel() < size:
            self._room = torch.empty(size, dtype=matrix.weight.dtype)
        return self._room

    def _read(self, pack: Pack):
        """The body's outputs for a pack. Padding comes last, where no token can see it."""
        if pack.stem:
            cache = self._stem(pack.stem)
            # What a layer keeps is replaced when it reads, not changed: the stem stays as it is for the next pack.
            past = copy.copy(cache)
            past.layers = list(map(copy.copy, cache.layers))
            return self._body(pack, past)
        if pack.masked:
            return self._body(pack, None)
        return self.body(input_ids=torch.from_numpy(pack.tokens_BN).to(self.device), use_cache=False)

    def _body(self, pack: Pack, past: DynamicCache | None):
        """The body's outputs with a mask, after what was read before."""
        before = past.get_seq_length() if past is not None else 0
        index = torch.arange(pack.tokens_BN.shape[1], device=self.device)
        ends_BN = torch.from_numpy(pack.ends_BN).to(self.device)
        sees_BNN = (index[:, None] >= index) & (index[:, None] < ends_BN[:, None, :])
        # Additive, because eager attention adds its mask; finite, because some layers multiply by it.
        mask = torch.zeros((*ends_BN.shape, before + len(index)), dtype=self.model.dtype, device=self.device)
        mask[..., before:].masked_fill_(~sees_BNN, torch.finfo(self.model.dtype).min)
        return self.body(
            input_ids=torch.from_numpy(pack.tokens_BN).to(self.device),
            attention_mask=mask[:, None],
            position_ids=torch.from_numpy(pack.depths_BN).to(self.device),
            past_key_values=past,
            use_cache=past is not None,
        )

    def _stem(self, stem: trie.Stem) -> DynamicCache:
        """Keys and values of a stem; what it shares with the one before is kept, the other segments are read one by one.

        They depend on the stem alone: a resumed run that reads it again finds the same bits.
        """
        known, cache = self._past
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(known, stem, strict=False)))
        length = sum(map(len, stem[:shared]))
        if not shared:
            cache = DynamicCache()
        elif shared < len(known):
            for layer in cache.layers:
                if layer.keys is not None:  # a view would hold on to all that was cut off
                    layer.keys = layer.keys[..., :length, :].clone(memory_format=torch.contiguous_format)
                    layer.values = layer.values[..., :length, :].clone(memory_format=torch.contiguous_format)
        self._past = ((), DynamicCache())  # an error on the way leaves nothing half read
        for segment in stem[shared:]:
            if length:
                self._body(packs.segment(segment, length), cache)
            else:  # a plain sequence: attention needs no mask, which is quicker
                self.body(torch.tensor([segment], device=self.device), past_key_values=cache, use_cache=True)
            length += len(segment)
        self._past = (stem, cache)
        return cache
