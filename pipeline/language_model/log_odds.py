"""Log-probabilities of a few tokens out of logits, a few rows at a time: what is looked at stays in the cache."""

import torch

# Logits that are looked at together on a CPU: 4 MB in float32. A GPU takes all there are.
BLOCK = 2**20


def log_odds(logits_PV: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(logits)[row, token] of each pair, and whether the token is the argmax of its row (of equal ones the first).

    rows, tokens  of shape [A]; rows may be in any order, and come several times
    """
    count, vocabulary = logits_PV.shape
    size = max(1, BLOCK // vocabulary) if logits_PV.device.type == "cpu" else count
    best = torch.empty(count, dtype=logits_PV.dtype, device=logits_PV.device)
    logs, buffer = best.new_empty(len(rows)), best.new_empty(min(size, count), vocabulary)
    order = rows.argsort(stable=True)
    edges = torch.arange(0, count + size, size, device=rows.device)
    counts = torch.searchsorted(rows[order], edges).diff().tolist()
    for number, (part_BV, asked) in enumerate(zip(logits_PV.split(size), order.split(counts), strict=True)):
        torch.amax(part_BV, -1, out=best[number * size : number * size + len(part_BV)])
        torch.log_softmax(part_BV, -1, out=buffer[: len(part_BV)])
        logs[asked] = buffer[rows[asked] - number * size, tokens[asked]]
    likeliest = logits_PV[rows, tokens] == best[rows]
    # Equal to the best of its row; another can be as well only where neither is likelier than not.
    doubtful = (likeliest & (logs < -0.69) & (tokens > 0)).nonzero()[:, 0]
    pairs = zip(rows[doubtful].tolist(), tokens[doubtful].tolist(), strict=True)
    before = [logits_PV[row, :token].amax() for row, token in pairs]
    if before:
        likeliest[doubtful] = torch.stack(before) < best[rows[doubtful]]
    return logs, likeliest
