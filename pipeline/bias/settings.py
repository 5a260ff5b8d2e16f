"""One sentence for a setting that a benchmark does not have."""

from pipeline.errors import ConfigError


def check(place: str, **settings: tuple) -> None:
    """Every setting (its value, what it may be) is one of its choices. Raises ConfigError that names `place`.name."""
    for name, (value, choices) in settings.items():
        if value not in choices:
            raise ConfigError(f"{name} should be {' or '.join(map(str, choices))} and is '{value}': set {place}.{name}")
