"""Log-probabilities of a few tokens out of logits, a few rows at a time: what is looked at stays in the cache."""

import torch

# Logits that are looked at together on a CPU: 2 MB in float32. A GPU takes all there are.
BLOCK = 2**19


def log_odds(logits_PV: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(logits)[row, token] of each pair, and whether the token is the argmax of its row (of equal ones the first).

    rows, tokens  of shape [A]; rows may be in any order, and come several times
    """
    count, vocabulary = logits_PV.shape
    size = max(1, BLOCK // vocabulary) if logits_PV.device.type == "cpu" else count
    best = torch.empty(count, dtype=logits_PV.dtype, device=logits_PV.device)
    sums, buffer = torch.empty_like(best), logits_PV.new_empty(min(size, count), vocabulary)
    # torch.log_softmax takes half the time on a CPU, but its exp is off by 1e-5, mostly to one side.
    for part_BV, top, total in zip(logits_PV.split(size), best.split(size), sums.split(size), strict=True):
        torch.amax(part_BV, -1, out=top)
        torch.sub(part_BV, top[:, None], out=buffer[: len(part_BV)]).exp_()
        torch.sum(buffer[: len(part_BV)], -1, out=total)
    wanted = logits_PV[rows, tokens]
    logs = wanted - best[rows] - sums[rows].log()
    if logits_PV.device.type != "cpu":
        return logs, logits_PV.argmax(-1)[rows] == tokens
    likeliest = wanted == best[rows]
    # argmax is slow on a CPU. Equal to the best of its row is the token; another can be, too, only where neither is
    # likelier than not.
    doubtful = (likeliest & (logs < -0.69) & (tokens > 0)).nonzero()[:, 0]
    pairs = zip(rows[doubtful].tolist(), tokens[doubtful].tolist(), strict=True)
    before = [logits_PV[row, :token].amax() for row, token in pairs]
    if before:
        likeliest[doubtful] = torch.stack(before) < best[rows[doubtful]]
    return logs, likeliest
