"""Sequences without gaps."""

from __future__ import annotations

import torch

from recbole_choir.model.layers.left_aligned import align_left, last_valid


def test_items_move_to_the_front_in_their_order() -> None:
    ids = torch.tensor([[0, 3, 0, 1, 2], [0, 0, 0, 0, 0], [5, 5, 0, 0, 4]])
    marks = torch.tensor([[9.0, 1, 9, 2, 3], [9, 9, 9, 9, 9], [1, 2, 9, 9, 3]])
    moved, moved_marks = align_left(ids, marks)
    assert moved.tolist() == [[3, 1, 2, 0, 0], [0] * 5, [5, 5, 4, 0, 0]]
    assert moved_marks.tolist() == [[1, 2, 3, 0, 0], [0] * 5, [1, 2, 3, 0, 0]]
    states = torch.arange(15.0).view(3, 5, 1)
    assert last_valid(states, moved > 0).squeeze(1).tolist() == [2.0, 0.0, 12.0]
