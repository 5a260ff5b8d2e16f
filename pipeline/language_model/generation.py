"""What a causal model writes: batched over requests and samples, each token of a prompt read once.

How a batch is read says passes.py. Samples of a prompt share what was read of it, and prompts that begin alike (solved
examples before each question) share their beginning. Trials (trials.py) show whether the model allows batches of several
lengths or shared beginnings, and both together. Where none is allowed, a batch holds prompts of one length, each read
whole, and no mask is given; nor are positions, but where a model counts anew from every token that it is given (Bamba):
others count from elsewhere than 0 (RoBERTa). That is exact for every architecture.
"""

import logging
import math
from contextlib import ExitStack

import torch

from pipeline.language_model.kept import left, with_room
from pipeline.language_model.lines import Line
from pipeline.language_model.passes import Passes
from pipeline.language_model.sampling import choose, uniforms
from pipeline.language_model.scorer import FEW, few_rows
from pipeline.language_model.trials import Trials
from pipeline.requests import Generate

log = logging.getLogger(__name__)

# A text may not change unless this does: partial answers of another version are not taken up.
VERSION = 9
# Tokens that a batch has room for from the start, unless it writes fewer.
AHEAD = 64


class Writer:
    """Writes completions with one model.

    model      a transformers model with a causal head, in evaluation mode
    tokenizer  its tokenizer
    limit      most tokens in one forward pass
    start      what a forward pass costs besides its tokens, in tokens
    turns      tokens beyond which the model takes all positions in another way (LongRoPE): what was kept is then read anew
    EOS is the tokenizer's, or any that generation_config.json names; what else that file says of generation is not used.
    """

    def __init__(self, model, tokenizer, limit: int, start: float = 0, turns: float = math.inf):
        self.model, self.tokenizer, self.turns = model, tokenizer, turns
        self.passes = Passes(model, limit, start)
        self.trials = Trials(self.passes)
        declared = getattr(model, "generation_config", None)
        named = getattr(declared, "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])}
        self.ends = sorted(end for end in ends if end is not None)
        unused = {
            name: value
            for name, none in (("repetition_penalty", 1.0), ("no_repeat_ngram_size", 0), ("suppress_tokens", None))
            if (value := getattr(declared, name, None)) not in (None, none)
        }
        if unused:
            log.warning("generation_config.json asks for %s, which is not applied to what the model writes", unused)

    @torch.inference_mode()
    def write(self, batch: list[Line]) -> list[tuple]:
        """The completions of a batch of `batches`: (request, sample, tokens, text) of each."""
        if batch[0].asked.beams > 1:
            return self._search(batch)
        with ExitStack() as stack:
            return self._write(batch, stack)

    def _write(self, batch: list[Line], stack: ExitStack) -> list[tuple]:
        prompts = sorted({line.prompt for line in batch}, key=lambda prompt: (-len(prompt), prompt))
        logits, cache, mask = self.passes.read(prompts, self.trials.shared(prompts))
        place = {prompt: number for number, prompt in enumerate(prompts)}
        cache = with_room(cache, min(AHEAD, max(line.asked.max_tokens for line in batch)))  # before there are more rows
        rows = [place[line.prompt] for line in batch]  # of the logits, too: samples share those of their prompt
        mask = self.passes.select(rows, cache, mask)
        numbers = [uniforms(line.asked, line.sample) if line.asked.temperature > 0 else None for line in batch]
        written: list[list[int]] = [[] for _ in batch]
        going, few = list(range(len(batch))), False
        while True:
            step = len(written[going[0]])
            wanted = [numbers[line] is not None and numbers[line][step] for line in going]
            for line, token in zip(going, choose(logits, batch[0].asked, wanted, rows), strict=True):
                written[line].append(token)
            out = {at for at, line in enumerate(going) if self._ended(batch[line].asked, written[line])}
            if len(out) == len(going):
                break
            if out:
                stay = left(len(going), out)
                mask = self.passes.select(stay, cache, mask)
                going = [going[at] for at in stay]
            rows = range(len(going))
            if len(going) < FEW.stop and not few:  # lines only end: there will not be more of them
                stack.enter_context(few_rows(self.model))
                few = True
            length = len(prompts[0]) + step
            if length == self.turns or not self.passes.keeps:  # prompts of several lengths end before
                logits, cache, mask = self.passes.read([batch[line].prompt + tuple(written[line]) for line in going], 0)
                cache = with_room(cache)
            else:
                logits, cache, mask = self.passes.next([written[line][-1] for line in going], cache, mask, length)
        return [
            (line.request, line.sample, len(tokens), self._text(tokens, line.asked.stop))
            for line, tokens in zip(batch, written, strict=True)
        ]

    def _ended(self, asked: Generate, tokens: list[int]) -> bool:
        if tokens[-1] in self.ends or len(tokens) == asked.max_tokens:
            return True
        if not asked.stop:
            return False
        text = self.tokenizer.decode(tokens)
        return any(stop in text for stop in asked.stop)

    def _text(self, tokens: list[int], stop: tuple[str, ...]) -> str:
        """Without EOS and special tokens, up to the first stop string: one after the other, as lm-eval cuts."""
        if tokens and tokens[-1] in self.ends:
            tokens = tokens[:-1]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        for each in stop:
            text = text.split(each)[0]
        return text

    def _search(self, batch: list[Line]) -> list[tuple]:
        """Beam search by transformers; its completions are cut at stop strings afterwards. All prompts have one length."""
        asked, length = batch[0].asked, len(batch[0].prompt)
        prompts = torch.tensor([line.prompt for line in batch], device=self.model.device)
        found = self.model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            use_cache=self.passes.keeps,  # of another kind of cache than transformers' own, not all may follow the beams
            num_beams=asked.beams,
            num_return_sequences=asked.samples,
            do_sample=False,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            max_new_tokens=asked.max_tokens,
            max_length=None,
            eos_token_id=self.ends or None,
            pad_token_id=self.ends[0] if self.ends else 0,
        )[:, length:].tolist()
        made = []
        for number, tokens in enumerate(found):
            line = batch[number // asked.samples]
            end = next((at + 1 for at, token in enumerate(tokens) if token in self.ends), len(tokens))
            text = self._text(tokens[:end], line.asked.stop)
            made.append((line.request, number % asked.samples, end, text))
        return made
