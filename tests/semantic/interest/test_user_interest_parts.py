"""The parts of the input ``interest``: samples by hand, Eq. 2, categories, attributes, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.interest.categories import category_targets
from recbole_choir.semantic.interest.data import draw
from recbole_choir.semantic.interest.diagnostics import category_hits, interest_loss
from recbole_choir.semantic.interest.history import (
    Histories,
    held_out_users,
    newest,
    ranges,
    read_histories,
    windows,
)
from recbole_choir.semantic.interest.network import InterestNetwork, _bias
from recbole_choir.semantic.interest.training import Stored, read_stored, write_stored
from recbole_choir.semantic.interest.transformer import AttributeCoder

ITEMS = np.array([f"i{i}" for i in range(9)], object)


def histories_of(rows: list[tuple[str, str, float]], users: list[str] | None = None) -> Histories:
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(label=1)
    users = users or sorted(set(events["user_id"]))
    frames = Frames(events, pd.DataFrame({"user_id": users}), pd.DataFrame({"item_id": ITEMS}))
    return read_histories(frames, ITEMS)


def test_histories_by_hand() -> None:
    got = histories_of(
        [("b", "i2", 1.0), ("a", "i0", 5.0), ("a", "i1", 3.0), ("b", "i3", 2.0), ("b", "zz", 1.0)],
        ["c", "b", "a"],
    )
    assert got.user_ids.tolist() == ["a", "b", "c"]
    assert got.first.tolist() == [0, 2, 4, 4]
    assert got.item.tolist() == [1, 0, 2, 3]  # zz has no vector
    assert got.known.tolist() == [0, 1, 2, 3]


def test_a_basket_is_predicted_from_what_came_before_it() -> None:
    rows = [("a", f"i{i}", t) for i, t in enumerate([1.0, 2.0, 2.0, 2.0, 3.0])]
    got = histories_of(rows)
    assert got.known.tolist() == [0, 1, 1, 1, 4]
    # which order the basket has depends on a hash of user and item, not on that of the ids
    others = {tuple(histories_of([(u, i, t) for _, i, t in rows]).item) for u in "abcdefgh"}
    assert len(others) > 1


def test_windows_by_hand() -> None:
    # seven events, length 4: stride 2, a prediction sees 3 to 4 events where there are as many
    got = windows(histories_of([("a", f"i{i}", float(i)) for i in range(7)]), 4)
    assert got.target.tolist() == [0, 2, 4, 6, 7]
    assert got.begin.tolist() == [0, 0, 1, 3]
    assert got.end.tolist() == [1, 3, 5, 6]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.integers(0, 12)), max_size=60),
    st.integers(1, 9),
)
def test_every_event_is_predicted_once_from_what_lies_strictly_before(
    rows: list[tuple[int, int, int]], length: int
) -> None:
    got = histories_of([(f"u{u}", f"i{i}", float(t)) for u, i, t in rows], ["u0", "u1", "u2", "u3"])
    cut = windows(got, length)
    assert cut.n_targets.sum() == len(got.item)
    event, window = ranges(cut.target[:-1], cut.target[1:])
    assert event.tolist() == list(range(len(got.item)))
    user = got.user
    for e, w in zip(event, window, strict=True):
        begin, end = cut.begin[w], got.known[e]
        assert got.first[user[e]] <= begin <= end <= cut.end[w]
        assert end - begin <= length
        assert (got.time[begin:end] < got.time[e]).all()
        earlier = end - got.first[user[e]]
        assert end - begin >= min(earlier, length - max(1, length // 2) + 1)
    assert (cut.end - cut.begin <= length).all()
    begin, end = newest(got, length)
    assert ((end - begin) == np.minimum(np.diff(got.first), length)).all()


def test_held_out_users_are_a_tenth_by_id() -> None:
    ids = np.array([f"u{i}" for i in range(200)], object)
    rows = np.arange(200)
    got = held_out_users(ids, rows, 0)
    assert len(got) == 20
    order = np.random.default_rng(0).permutation(200)
    again = held_out_users(ids[order], rows, 0)
    assert set(ids[order][again]) == set(ids[got])
    assert set(held_out_users(ids, rows, 1)) != set(got)
    assert len(held_out_users(ids, rows[:2], 0)) == 1
    assert len(held_out_users(ids, rows[:1], 0)) == 0


def test_drawn_units_have_no_more_targets_than_asked() -> None:
    counts = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    units = np.arange(8)
    assert draw(units, counts, None, 0).tolist() == units.tolist()
    assert draw(units, counts, 31, 0).tolist() == units.tolist()
    got = draw(units, counts, 12, 0)
    assert 0 < counts[got].sum() <= 12
    assert len(draw(units[5:6], counts, 2, 0)) == 1  # never none


def test_eq_2_by_hand() -> None:
    e_hat = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    e_t = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]])
    logits = torch.tensor([[0.0, 0.0, np.log(2.0)], [1.0, 1.0, 1.0], [5.0, 0.0, 0.0]])
    classes = torch.tensor([[2, -1], [0, 1], [-1, -1]])
    got = interest_loss(e_hat, e_t, logits, classes)
    # softmax of the first row: 1/4, 1/4, 1/2; of the second: thirds, shared by two categories
    expected = [-0.6 + np.log(2.0), 1.0 + np.log(3.0), -1.0]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)
    no_classes = interest_loss(e_hat, e_t, logits[:, :0], classes)
    np.testing.assert_allclose(no_classes.numpy(), [-0.6, 1.0, -1.0], rtol=1e-6)
    hits, asked = category_hits(logits, classes)
    assert (float(hits), float(asked)) == (2.0, 2.0)


def test_categories_of_training_alone_are_targets() -> None:
    items = pd.DataFrame(
        {"item_id": ["i0", "i1", "i2", "i3"], "category": [["b", "a"], ["b"], ["c"], []]}
    )
    got = category_targets(items, np.array(["i0", "i1", "i2", "i3"], object), np.array([0, 1, 1]))
    assert got.names.tolist() == ["a", "b"]
    assert got.classes.tolist() == [[0, 1], [1, -1], [-1, -1], [-1, -1]]
    bare = category_targets(items[["item_id"]], ITEMS[:4], np.array([0]))
    assert bare.names.tolist() == []
    assert bare.classes.shape == (4, 0)


def test_attributes_by_hand() -> None:
    users = pd.DataFrame(
        {"user_id": list("abcd"), "sex": ["F", "M", None, "F"], "age": [20.0, 40.0, np.nan, 30.0]}
    )
    coder = AttributeCoder.fit(users)
    assert coder.values == {"sex": ["F", "M"]}
    assert coder.n_codes == 3
    later = pd.DataFrame(
        {"user_id": list("xyz"), "sex": ["M", "X", None], "age": [30.0, np.nan, 1e9]}
    )
    got = coder.encode(later)
    assert got.code.tolist() == [[2], [0], [0]]  # X is new: as good as missing
    np.testing.assert_allclose(got.number, [[0.0], [0.0], [3.0]])
    assert got.present.tolist() == [[1.0], [0.0], [1.0]]
    assert got.any_known.tolist() == [True, False, True]
    assert AttributeCoder.fit(users[["user_id"]]).encode(later).any_known.tolist() == [False] * 3


def network(**options: Any) -> InterestNetwork:
    torch.manual_seed(0)
    given = {"width": 8, "layers": 2, "heads": 2, "length": 5, "dropout": 0.0, **options}
    return InterestNetwork(item_dim=4, n_classes=3, n_codes=2, n_numbers=1, **given).eval()


def test_no_position_sees_a_later_one() -> None:
    net = network()
    with torch.no_grad():
        net.item_score.weight.normal_()
    x = torch.randn(3, 5, 4)
    other = x.clone()
    other[:, 3:] = 9.0
    nobody = (torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, 1), torch.zeros(3, 1))
    shorter = net(x[:, :2], *nobody)
    one, two = net(x, *nobody), net(other, *nobody)
    for i in range(2):  # hidden states and averages
        assert torch.equal(one[i][:, :4], two[i][:, :4])
        assert not torch.allclose(one[i][:, 4:], two[i][:, 4:])
        torch.testing.assert_close(shorter[i], one[i][:, :3])  # padding is nothing
    # attributes reach every position
    somebody = (torch.ones(3, 1, dtype=torch.long), torch.ones(3, 1), torch.ones(3, 1))
    assert ((net(x, *somebody)[0] - one[0]).abs().sum(dim=-1) > 1e-6).all()


def test_training_starts_from_the_average_of_the_history() -> None:
    net = network()
    with torch.no_grad():
        net.prior.copy_(torch.tensor([8.0, 0.0, 0.0, 4.0]))
    x = torch.randn(2, 3, 4)
    nobody = (torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1), torch.zeros(2, 1))
    hidden, average = net(x, *nobody)
    e_hat, logits = net.heads(hidden[:, 3], average[:, 3])
    torch.testing.assert_close(e_hat, (net.prior + x.sum(dim=1)) / 4)
    torch.testing.assert_close(net.heads(hidden[:, 0], average[:, 0])[0], net.prior.expand(2, 4))
    assert logits.shape == (2, 3)


def test_position_is_counted_from_the_reader() -> None:
    recency = torch.randn(2, 7)  # length 5
    bias = _bias(recency, 4)
    assert torch.equal(bias[:, 3, 1], recency[:, 3])  # two steps back
    assert torch.equal(bias[:, 2, 2], recency[:, 1])  # the reader itself
    assert torch.equal(bias[:, 2, 0], recency[:, 0])  # the start token
    assert torch.equal(bias[:, 3, 2], bias[:, 2, 1])
    assert torch.isinf(bias[:, 1, 2]).all()
    with pytest.raises(ConfigError, match="expected a divisor of width 8, got 3"):
        network(heads=3)


def test_files_are_whole_or_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a" / "weights.safetensors"
    stored = Stored({"x": torch.arange(6.0).view(2, 3)}, {"loss": float("nan"), "n": 2})
    write_stored(path, "key", stored)
    shapes = {"x": (2, 3)}
    got = read_stored(path, "key", shapes)
    assert got is not None
    assert torch.equal(got.tensors["x"], stored.tensors["x"])
    assert got.values["n"] == 2
    assert got.values["loss"] != got.values["loss"]
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]
    assert read_stored(path, "another key", shapes) is None
    assert read_stored(path, "key", {"x": (3, 2)}) is None
    assert read_stored(path, "key", {"y": (2, 3)}) is None
    assert read_stored(tmp_path / "none", "key", shapes) is None
    path.write_bytes(path.read_bytes()[:-5])
    assert read_stored(path, "key", shapes) is None
