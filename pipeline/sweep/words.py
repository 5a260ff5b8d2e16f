"""What the terminal is told, and what a cell is called."""

from rich.console import Console
from rich.markup import escape

from pipeline import config as configuration

console = Console(stderr=True, highlight=False)


def complain(word: str, text: str, colour: str = "red") -> None:
    """One line on stderr; the text is shown as it is, brackets too."""
    console.print(f"[{colour}]{word}[/{colour}]: {escape(text)}", soft_wrap=True)


def choices(config: dict) -> dict:
    """The place of a cell in the table."""
    unit = config["merge"]
    return {
        "merge": unit["name"],
        "weight": config["weight"] if unit.get("uses_weight", True) else None,
        "model": config["model"]["name"],
        "donor": None if unit["name"] == "keep" else config["donor"]["name"],
        "debias": configuration.debias_name(config["debias"]),
        "bias": config["bias"]["name"],
        "accuracy_set": config["accuracy"]["name"],
        "seed": config["seed"],
    }


def cell_name(config: dict, swept: tuple[str, ...] = ()) -> str:
    """What a cell is called while it runs: its choices, and the values of the settings that are swept."""
    told = choices(config)
    given = config.get("overrides", {})
    head = told["merge"] if told["weight"] is None else f"{told['merge']} {told['weight']:g}"
    return " · ".join(
        [
            head,
            told["model"],
            *([told["donor"]] if told["donor"] else []),
            *([told["debias"]] if told["debias"] != "none" else []),
            told["bias"],
            told["accuracy_set"],
            *(f"{key}={given[key]}" for key in swept if key in given and key != "debias.control"),  # it has a name
        ]
    )


def say(record: dict) -> None:
    """How a cell ended, on one line."""
    row = (record["result"] or {}).get("row", {})
    told = [f"in {record['seconds']:.0f} s"]
    told += [f"{name} {row[key]:.3f}" for name, key in (("bias", "bias_score"), ("accuracy", "accuracy")) if key in row]
    told += [record["error"]] if record["error"] else []
    complain(record["status"], ", ".join(told), "green" if record["status"] in ("done", "found") else "red")
