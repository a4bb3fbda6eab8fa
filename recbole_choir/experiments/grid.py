"""The grid of a study's cell: every point is a trial, and validation alone chooses."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recbole_choir.experiments.plan import Cell
from recbole_choir.experiments.pruning import Rule
from recbole_choir.experiments.search_spaces import Space
from recbole_choir.experiments.tuning import Trial, best_of, validation


def points(space: Space) -> list[dict[str, Any]]:
    """All points of a space of choices, the last key changing first."""
    values = (dimension.choices for dimension in space.values())
    return [dict(zip(space, point)) for point in itertools.product(*values)]


class Grid:
    """The trials of one cell; nothing is kept but the records, from which they are told again.

    Args:
        cell: Its space has choices alone.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self._points = points(cell.space)
        self.trials = len(self._points)
        self._proposed: list[Trial] = []

    def all(self) -> list[Trial]:
        """The trials so far, in order."""
        return list(self._proposed)

    def propose(self) -> Trial | None:
        """The next trial; none when all are proposed."""
        number = len(self._proposed)
        if number == self.trials:
            return None
        trial = Trial(number, self._points[number], None, "open")
        self._proposed.append(trial)
        return trial

    def rule(self, number: int) -> Rule:
        """Every point is run whole."""
        return Rule()

    def tell(self, number: int, record: Mapping[str, Any]) -> None:
        """Tell the result of a trial from its record; only its validation is read."""
        value = validation(record, self.cell.metric)
        state = "failed" if value is None else "complete"
        self._proposed[number] = replace(self._proposed[number], value=value, state=state)

    def best(self) -> Trial | None:
        """The trial with the best validation metric, the earliest of equals; none if all failed."""
        return best_of(self._proposed, self.cell.larger)
