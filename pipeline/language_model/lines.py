"""What is to be written, in lines and in batches of lines: fixed by the requests and the limits alone."""

import dataclasses

from pipeline.errors import ConfigError
from pipeline.requests import Generate

# A prompt and its completion are at least this share of the width of their batch: the rest is padding.
LIKE = 1 / 2


@dataclasses.dataclass(frozen=True, order=True)
class Line:
    """One completion to be written, or all of them where there is no chance in it; what is not compared is not needed."""

    kind: tuple  # temperature, top_k, top_p, beams, and of beams all that they share: lines of a kind can share a batch
    length: int
    prompt: tuple[int, ...]
    asked: Generate
    sample: int
    request: int = dataclasses.field(compare=False)


def check(asked: Generate) -> None:
    """Raises ConfigError for settings that mean nothing."""
    for right, told in (
        (asked.samples >= 1, f"samples of at least 1, found {asked.samples}"),
        (asked.max_tokens >= 1, f"max_tokens of at least 1, found {asked.max_tokens}"),
        (asked.temperature >= 0, f"a temperature of 0 or more, found {asked.temperature}"),
        (asked.top_k >= 0, f"a top_k of 0 or more, found {asked.top_k}"),
        (0 < asked.top_p <= 1, f"a top_p above 0 and up to 1, found {asked.top_p}"),
        (asked.beams >= 1, f"beams of at least 1, found {asked.beams}"),
        (asked.beams == 1 or asked.temperature == 0, f"temperature 0 with beams, found {asked.temperature}"),
        (asked.beams == 1 or asked.samples <= asked.beams, f"samples up to the {asked.beams} beams, found {asked.samples}"),
        (all(asked.stop), "stop strings that are not empty"),
    ):  # fmt: skip
        if not right:
            raise ConfigError(f"generation needs {told}: change it in the benchmark's or the task's settings")


def lines(prompts: list[tuple[int, ...]], requests: list[Generate]) -> list[Line]:
    """A line for each sample, from the longest prompt to the shortest of each kind, whatever the order of the requests."""
    made = []
    for number, (prompt, asked) in enumerate(zip(prompts, requests, strict=True)):
        alike = (asked.max_tokens, asked.samples) if asked.beams > 1 else ()
        kind = (asked.temperature, asked.top_k, asked.top_p, asked.beams, *alike)
        copies = asked.samples if asked.temperature > 0 else 1
        made += [Line(kind, -len(prompt), prompt, asked, sample, number) for sample in range(copies)]
    return sorted(made)


def batches(sorted_lines: list[Line], limit: int, kept: int, most: int, padded: float = 0) -> list[list[Line]]:
    """Up to `most` lines of one kind and like length; `kept` tokens in all, those to be written and padding included.

    limit   tokens of a line, and of a batch of beam searches, which are read at once
    padded  width, in tokens, up to which a batch may hold prompts of several lengths
    Raises ConfigError where a line alone has more than `limit`.
    """
    made: list[list[Line]] = []
    narrowest = longest = 0  # tokens of a prompt and its completion, and of a completion, in the batch that grows
    for line in sorted_lines:
        own, beams = len(line.prompt) + line.asked.max_tokens, line.asked.beams
        if own * beams > limit:
            raise ConfigError(
                f"a prompt and its completion have {own * beams} tokens, but a pack may have {limit}: "
                f"set machine.tokens_per_pack to {own * beams} or more"
            )
        if made and len(made[-1]) < most and made[-1][0].kind == line.kind:
            first, completion = len(made[-1][0].prompt), max(longest, line.asked.max_tokens)
            # every row stands behind the padding that its prompt lacks, and may write to its own end
            width, least = first + completion, min(narrowest, own)
            alike = first == len(line.prompt) or (beams == 1 and width <= padded and least >= LIKE * width)
            if alike and (len(made[-1]) + 1) * width * beams <= (limit if beams > 1 else kept):
                made[-1].append(line)
                narrowest, longest = least, completion
                continue
        made.append([line])
        narrowest, longest = own, line.asked.max_tokens
    return made
