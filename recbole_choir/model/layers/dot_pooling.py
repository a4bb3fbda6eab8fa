"""Dot-product attention pooling and masked mean over rows of a table, without a [B, L, D] copy."""

from __future__ import annotations

from typing import Any

import torch

# Values of keys handled at once on a CPU: 2.4 MB stay in the cache and out of the allocator's
# page-faulting path, which halves the time against the whole batch at once.
CPU_CHUNK = 600_000


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the valid slots of each row; a row without any gets zeros, never NaN.

    Args:
        scores: ``[B, L]``, or any shape that the mask broadcasts to.
        mask: bool ``[B, L]``, True on valid slots.
    """
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(~mask, lowest), dim=-1) * mask


def masked_mean_weights(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``1 / n_valid`` on the valid slots of ``[B, L]``, else 0; zeros for a row without any."""
    valid = mask.to(dtype)
    return valid / valid.sum(-1, keepdim=True).clamp_min(1.0)


def _chunk(index: torch.Tensor, width: int) -> int:
    """How many rows to handle at once."""
    rows, length = index.shape
    if index.device.type != "cpu":
        return max(1, rows)
    return max(1, min(rows, CPU_CHUNK // max(1, length * width)))


def _gather(table: torch.Tensor, index: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """``table[index]`` ``[b, L, D]``, written into a buffer that every chunk uses again."""
    out = buffer[: index.numel()]
    torch.index_select(table, 0, index.reshape(-1), out=out)
    return out.view(*index.shape, table.shape[1])


class _DotPooling(torch.autograd.Function):
    """Lookup, scores, softmax and all weighted sums as one node, for H queries a row.

    Left to autograd, the backward pass makes four tensors of the keys' size ``[B, L, D]`` and
    adds them up; here they are one product of ``[B, L, 2 H + 1]`` and ``[B, 2 H + 1, D]``::

        d keys = d score (x) q + alpha (x) d s + mean (x) d m

    and the keys are looked up again instead of being kept.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, table: torch.Tensor, index: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        step = _chunk(index, table.shape[1])
        buffer = table.new_empty(step * index.shape[1], table.shape[1])
        mean = masked_mean_weights(mask, table.dtype)
        weights, pooled = [], []
        for start in range(0, max(1, index.shape[0]), step):
            rows = slice(start, start + step)
            keys = _gather(table, index[rows], buffer)  # [b, L, D]
            # Written [b, H, D] x [b, D, L]: keys x query is seven times slower on the CPU.
            scores = torch.bmm(query[rows], keys.transpose(1, 2))
            alpha = masked_softmax(scores, mask[rows].unsqueeze(1))
            both = torch.cat([alpha, mean[rows].unsqueeze(1)], dim=1)
            weights.append(both)
            pooled.append(torch.bmm(both, keys))
        both = torch.cat(weights)  # [B, H + 1, L]
        ctx.save_for_backward(query, table, index, both)
        alpha = both[:, :-1]
        ctx.mark_non_differentiable(alpha)
        return torch.cat(pooled), alpha

    @staticmethod
    def backward(
        ctx: Any, grad: torch.Tensor, _: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        query, table, index, both = ctx.saved_tensors
        n, width = table.shape
        on_cpu = index.device.type == "cpu"
        d_table = torch.zeros_like(table)
        d_query = torch.empty_like(query)
        step = _chunk(index, width)
        buffer, d_buffer = table.new_empty(2, step * index.shape[1], width)
        for start in range(0, index.shape[0], step):
            rows = slice(start, start + step)
            keys, alpha, g = _gather(table, index[rows], buffer), both[rows, :-1], grad[rows]
            d_alpha = torch.bmm(g[:, :-1], keys.transpose(1, 2))  # [b, H, L]
            # Softmax; a padded slot has alpha 0 and so gets exactly 0.
            d_score = alpha * (d_alpha - (d_alpha * alpha).sum(-1, keepdim=True))
            d_query[rows] = torch.bmm(d_score, keys)
            left = torch.cat([d_score, both[rows]], dim=1)  # [b, 2 H + 1, L]
            right = torch.cat([query[rows], g], dim=1)  # [b, 2 H + 1, D]
            d_keys = d_buffer[: keys.shape[0] * keys.shape[1]].view(keys.shape)
            torch.bmm(left.transpose(1, 2), right, out=d_keys)  # [b, L, D]
            if on_cpu:
                d_table.index_add_(0, index[rows].reshape(-1), d_keys.view(-1, width))
            else:
                # Deterministic, and not slowed down by many rows that share the padding id.
                d_table = torch.ops.aten.embedding_dense_backward(d_keys, index, n, -1, False)
        return d_query, d_table, None, None


def dot_pooling(
    query: torch.Tensor, table: torch.Tensor, index: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool ``k_j = table[index_j]`` by ``softmax_j(<q, k_j>)`` and by their mean.

    Args:
        query: ``[B, D]``, already projected and scaled, or ``[B, H, D]`` for several of them.
        table: ``[n, D]``.
        index: Integer ``[B, L]``.
        mask: bool ``[B, L]``, True on valid slots.

    Returns:
        ``[B, 2, D]`` (attention, mean) and the attention weights ``[B, L]``, which carry no
        gradient; for several queries ``[B, H + 1, D]`` and ``[B, H, L]``.
    """
    queries = query.unsqueeze(1) if query.dim() == 2 else query
    with torch.autocast(table.device.type, enabled=False):
        pooled, weights = _DotPooling.apply(queries.to(table.dtype), table, index, mask)
    return pooled, weights.squeeze(1) if query.dim() == 2 else weights
