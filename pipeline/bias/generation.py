"""How benchmarks let a model write: settings that they share, one request an item."""

from pipeline.errors import ConfigError
from pipeline.requests import Generate


def check(**settings) -> dict:
    """Settings of the sampling, in their ranges. Raises ConfigError that names the setting.

    samples      completions of each prompt
    max_tokens   of a completion
    temperature  of the sampling; 0 takes the likeliest token each time
    top_k        the likeliest so many tokens are drawn from; 0 = all
    top_p        the likeliest tokens that make up this probability are drawn from; 1 = all
    beams        above 1: beam search, its best `samples` completions; then temperature is 0
    draw         0, 1, 2, ...: which samples
    """
    whole = {"samples": 1, "max_tokens": 1, "top_k": 0, "beams": 1, "draw": 0}
    for name, least in whole.items():
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} should be a whole number from {least} on and is {value!r}: set bias.{name}")
    if not settings["temperature"] >= 0:
        raise ConfigError(f"temperature should be 0 or more and is {settings['temperature']!r}: set bias.temperature")
    if not 0 < settings["top_p"] <= 1:
        raise ConfigError(f"top_p should lie above 0 and up to 1 and is {settings['top_p']!r}: set bias.top_p")
    if settings["beams"] > 1 and (settings["temperature"] != 0 or settings["samples"] > settings["beams"]):
        raise ConfigError(
            f"beam search should have temperature 0 and at most as many samples as beams, and has temperature "
            f"{settings['temperature']} and {settings['samples']} samples: set bias.temperature=0 and bias.samples"
        )
    if settings["beams"] == 1 and settings["temperature"] == 0 and settings["samples"] > 1:
        raise ConfigError(
            f"without sampling every completion is the same, and {settings['samples']} are asked for: "
            "set bias.samples=1, or bias.temperature above 0, or bias.beams"
        )
    return settings


def request(item: dict) -> Generate:
    """The request of one item, whose columns are the settings and the prompt."""
    return Generate(
        item["prompt"],
        samples=int(item["samples"]),
        max_tokens=int(item["max_tokens"]),
        stop=("\n",),
        temperature=float(item["temperature"]),
        top_k=int(item["top_k"]),
        top_p=float(item["top_p"]),
        beams=int(item["beams"]),
        seed=int(item["draw"]),
    )


def whole(prompt: str, continuation: str) -> str:
    """Prompt and continuation as one text.

    With a blank before a letter or digit: many tokenizers drop the one that a text begins with, and all prompts end
    with a whole word. So a model that goes on with the prompt's last word is read as if it began another.
    """
    return prompt + (" " if continuation[:1].isalnum() else "") + continuation
