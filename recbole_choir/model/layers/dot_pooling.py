"""Attention pooling by dot products and masked mean over rows of a table, no [B, L, D] copy."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

# Values of keys handled at once on a CPU: 2.4 MB stay in the cache and out of the allocator's
# page-faulting path, which halves the time against the whole batch at once.
CPU_CHUNK = 600_000


class Scoring(NamedTuple):
    """How a dot product becomes a weight: ``softmax_j`` or ``sigmoid`` of ``<q, k_j> c_j + b``.

    Attributes:
        normalise: Softmax over the valid slots; False: a sigmoid of each slot alone.
        scale: ``c`` ``[n, H]`` of each row of the table and query, such as one over the key's
            norm; None: 1.
        bias: ``b`` ``[H]``; None: 0. A softmax does not see it.
    """

    normalise: bool = True
    scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None


#: Softmax of plain dot products.
SOFTMAX = Scoring()


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


def _weights(
    dots: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    mask: torch.Tensor,
    normalise: bool,
) -> torch.Tensor:
    """Attention weights ``[b, H, L]`` of dot products, exactly 0 where the mask is False."""
    scores = dots if scale is None else dots * scale
    if normalise:
        return masked_softmax(scores, mask.unsqueeze(1))
    if bias is not None:
        scores = scores + bias.unsqueeze(1)
    return torch.sigmoid(scores) * mask.unsqueeze(1)


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


def _scale_of(scale: torch.Tensor | None, index: torch.Tensor) -> torch.Tensor | None:
    """``c`` ``[b, H, L]`` of the slots."""
    if scale is None:
        return None
    return scale.index_select(0, index.reshape(-1)).view(*index.shape, -1).transpose(1, 2)


def _add_rows(total: torch.Tensor, index: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``total`` ``[n, D]`` with the rows ``[b, L, D]`` added at ``index``."""
    if total.device.type == "cpu":
        return total.index_add_(0, index.reshape(-1), rows.reshape(-1, total.shape[1]))
    # Deterministic, and not slowed down by many rows that share the padding id.
    return torch.ops.aten.embedding_dense_backward(
        rows.contiguous(), index, total.shape[0], -1, False
    )


class _DotPooling(torch.autograd.Function):
    """Lookup, scores, weights and all weighted sums as one node, for H queries a row.

    Left to autograd, the backward pass makes four tensors of the keys' size ``[B, L, D]`` and
    adds them up; here they are one product of ``[B, L, 2 H + 1]`` and ``[B, 2 H + 1, D]``::

        d keys = d dot (x) q + alpha (x) d s + mean (x) d m

    and the keys are looked up again instead of being kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        table: torch.Tensor,
        scale: torch.Tensor | None,
        bias: torch.Tensor | None,
        index: torch.Tensor,
        mask: torch.Tensor,
        normalise: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        step = _chunk(index, table.shape[1])
        buffer = table.new_empty(step * index.shape[1], table.shape[1])
        mean = masked_mean_weights(mask, table.dtype)
        all_dots, weights, pooled = [], [], []
        for start in range(0, max(1, index.shape[0]), step):
            rows = slice(start, start + step)
            keys = _gather(table, index[rows], buffer)  # [b, L, D]
            # Written [b, H, D] x [b, D, L]: keys x query is seven times slower on the CPU.
            dots = torch.bmm(query[rows], keys.transpose(1, 2))
            c = _scale_of(scale, index[rows])
            alpha = _weights(dots, c, bias, mask[rows], normalise)
            both = torch.cat([alpha, mean[rows].unsqueeze(1)], dim=1)
            weights.append(both)
            pooled.append(torch.bmm(both, keys))
            if scale is not None:
                all_dots.append(dots)
        both = torch.cat(weights)  # [B, H + 1, L]
        kept = torch.cat(all_dots) if all_dots else None
        ctx.save_for_backward(query, table, scale, index, both, kept)
        ctx.normalise, ctx.has_bias = normalise, bias is not None
        alpha = both[:, :-1]
        ctx.mark_non_differentiable(alpha)
        return torch.cat(pooled), alpha

    @staticmethod
    def backward(
        ctx: Any, grad: torch.Tensor, _: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        query, table, scale, index, both, dots = ctx.saved_tensors
        width, n_queries = table.shape[1], query.shape[1]
        d_table, d_query = torch.zeros_like(table), torch.empty_like(query)
        d_scale = None if scale is None else torch.zeros_like(scale)
        d_bias = query.new_zeros(n_queries) if ctx.has_bias else None
        step = _chunk(index, width)
        buffer, d_buffer = table.new_empty(2, step * index.shape[1], width)
        for start in range(0, index.shape[0], step):
            rows = slice(start, start + step)
            keys, alpha, g = _gather(table, index[rows], buffer), both[rows, :-1], grad[rows]
            d_alpha = torch.bmm(g[:, :-1], keys.transpose(1, 2))  # [b, H, L]
            # A padded slot has alpha 0 and so gets exactly 0.
            if ctx.normalise:
                d_score = alpha * (d_alpha - (d_alpha * alpha).sum(-1, keepdim=True))
            else:
                d_score = alpha * (1 - alpha) * d_alpha
                if d_bias is not None:
                    d_bias += d_score.sum((0, 2))
            d_dot = d_score
            if scale is not None and d_scale is not None:
                d_dot = d_score * _scale_of(scale, index[rows])
                of_scale = (d_score * dots[rows]).transpose(1, 2)  # [b, L, H]
                d_scale = _add_rows(d_scale, index[rows], of_scale)
            d_query[rows] = torch.bmm(d_dot, keys)
            left = torch.cat([d_dot, both[rows]], dim=1)  # [b, 2 H + 1, L]
            right = torch.cat([query[rows], g], dim=1)  # [b, 2 H + 1, D]
            d_keys = d_buffer[: keys.shape[0] * keys.shape[1]].view(keys.shape)
            torch.bmm(left.transpose(1, 2), right, out=d_keys)  # [b, L, D]
            d_table = _add_rows(d_table, index[rows], d_keys)
        return d_query, d_table, d_scale, d_bias, None, None, None


def _plain(
    query: torch.Tensor,
    table: torch.Tensor,
    index: torch.Tensor,
    mask: torch.Tensor,
    scoring: Scoring,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, in operations that every exporter knows."""
    keys = table[index]  # [B, L, D]
    c = None if scoring.scale is None else scoring.scale[index].transpose(1, 2)
    dots = query @ keys.transpose(1, 2)
    alpha = _weights(dots, c, scoring.bias, mask, scoring.normalise)
    mean = masked_mean_weights(mask, table.dtype).unsqueeze(1)
    return torch.cat([alpha, mean], dim=1) @ keys, alpha.detach()


def dot_pooling(
    query: torch.Tensor,
    table: torch.Tensor,
    index: torch.Tensor,
    mask: torch.Tensor,
    scoring: Scoring = SOFTMAX,
    fused: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool ``k_j = table[index_j]`` by attention weights of ``<q, k_j>`` and by their mean.

    Args:
        query: ``[B, D]``, already projected and scaled, or ``[B, H, D]`` for several of them.
        table: ``[n, D]``.
        index: Integer ``[B, L]``.
        mask: bool ``[B, L]``, True on valid slots.
        scoring: From dot products to weights.
        fused: One node with a backward pass of its own. False: the same values by plain
            operations, for exporters, which cannot see into the node.

    Returns:
        ``[B, 2, D]`` (attention, mean) and the attention weights ``[B, L]``, which carry no
        gradient; for several queries ``[B, H + 1, D]`` and ``[B, H, L]``. A row without a valid
        slot gets zeros.
    """
    queries = query.unsqueeze(1) if query.dim() == 2 else query
    if not fused:
        pooled, weights = _plain(queries, table, index, mask, scoring)
    else:
        with torch.autocast(table.device.type, enabled=False):
            pooled, weights = _DotPooling.apply(
                queries.to(table.dtype),
                table,
                scoring.scale,
                scoring.bias,
                index,
                mask,
                scoring.normalise,
            )
    return pooled, weights.squeeze(1) if query.dim() == 2 else weights
