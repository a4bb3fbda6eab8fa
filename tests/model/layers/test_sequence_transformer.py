"""The small Transformer: positions, blocks, causality, and its dropout."""

from __future__ import annotations

import pytest
import torch

from recbole_choir.model.layers.sequence_transformer import (
    ByteDropout,
    SequenceTransformer,
    recency,
)


def test_positions_count_from_the_newest() -> None:
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [False] * 4])
    assert recency(mask).tolist() == [[2, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_block_by_hand() -> None:
    """Post-norm: x <- LN(x + MHA(x)); x <- LN(x + FFN(x)), two heads of two columns."""
    torch.manual_seed(0)
    layer = SequenceTransformer(4, 3, 1, 2, 6, 0.0)
    tokens, mask = torch.randn(1, 3, 4), torch.tensor([[True, True, False]])
    x = tokens[0, :2] + layer.positions[[1, 0]]
    block = layer.blocks[0]
    q = block.attention.query(x)
    k, v = block.attention.key_value(x).chunk(2, dim=1)
    heads = []
    for h in (slice(0, 2), slice(2, 4)):
        weights = torch.softmax(q[:, h] @ k[:, h].T / 2**0.5, dim=1)
        heads.append(weights @ v[:, h])
    x = block.norms[0](x + block.attention.out(torch.cat(heads, dim=1)))
    x = block.norms[1](x + block.feed_forward(x))
    states = layer(tokens, mask)[0]
    torch.testing.assert_close(states[:2], x)
    assert torch.equal(states[2], torch.zeros(4))


def test_a_causal_state_knows_nothing_newer() -> None:
    torch.manual_seed(0)
    layer = SequenceTransformer(4, 5, 2, 1, 4, 0.0, norm_first=True, causal=True)
    tokens, mask = torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    other = tokens.clone()
    other[:, 3:] *= torch.arange(4.0)
    a, b = layer(tokens, mask), layer(other, mask)
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3:], b[:, 3:])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_the_newest_state_alone_is_the_same(causal: bool, norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = SequenceTransformer(4, 5, 2, 2, 6, 0.0, norm_first=norm_first, causal=causal)
    tokens = torch.randn(4, 5, 4)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [0]])
    newest, states = layer.newest(tokens, mask), layer(tokens, mask)
    expected = torch.stack([states[0, 4], states[1, 2], states[2, 0], torch.zeros(4)])
    torch.testing.assert_close(newest, expected)


def test_dropout_by_bytes() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 300, requires_grad=True)
    for prob, kept in ((0.5, 128), (0.1, 230)):
        layer = ByteDropout(prob)
        out = layer(x)
        torch.testing.assert_close(out.unique(), torch.tensor([0.0, 256 / kept]))
        share = (out > 0).float().mean().item()
        assert abs(share - kept / 256) < 0.005
        assert abs(out.mean().item() - 1) < 0.01
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(grad, out)
        torch.manual_seed(1)
        again = layer(x)
        torch.manual_seed(1)
        assert torch.equal(layer(x), again)
        assert layer.eval()(x) is x
    assert ByteDropout(0.0)(x) is x
    assert ByteDropout(0.5)(torch.ones(3, 0, 5)).shape == (3, 0, 5)


def test_an_older_past_does_not_move_positions() -> None:
    """A cut sequence keeps the positions of what is left: with one block of one slot, its state."""
    torch.manual_seed(0)
    layer = SequenceTransformer(4, 5, 1, 1, 4, 0.0)
    tokens = torch.randn(1, 5, 4)
    short = layer(tokens[:, 4:], torch.ones(1, 1, dtype=torch.bool))
    padded = torch.cat([tokens[:, 4:], torch.zeros(1, 4, 4)], dim=1)
    mask = torch.tensor([[True, False, False, False, False]])
    torch.testing.assert_close(layer(padded, mask)[:, :1], short)
