"""Counting prompts: which are open, how the others ended, and when there are too many failures."""

from __future__ import annotations

import math

from tqdm import tqdm

from recbole_choir.errors import ProfileError
from recbole_choir.semantic.profiles.store import Known
from recbole_choir.semantic.profiles.types import Failure, Outcome

# Fewer finished prompts than this say nothing about the share of failures.
_ENOUGH = 100


class Ledger:
    """Counts of one run, its progress bar, and the limit on failures.

    Args:
        total: Prompts of the run; None where nobody knows.
        max_failed_share: See :class:`~.settings.ProfileSettings`.
        progress: Show a bar: done, failed, rate, tokens and, where ``total`` is known, time left.
    """

    def __init__(self, total: int | None, max_failed_share: float, progress: bool) -> None:
        self.total = total
        self.max_failed_share = max_failed_share
        self.outcome = Outcome()
        self._weight: dict[bytes, int] = {}
        self._example = ""
        self._bar = tqdm(
            total=total, desc="profiles", unit="user", disable=not progress, dynamic_ncols=True
        )

    def admit(self, key: bytes) -> bool:
        """Count a prompt; whether its key is not open already."""
        self.outcome.prompts += 1
        seen = key in self._weight
        self._weight[key] = self._weight.get(key, 0) + 1
        self.outcome.duplicates += seen
        return not seen

    def is_open(self, key: bytes) -> bool:
        """Whether a key was admitted and is not settled."""
        return key in self._weight

    def settle(self, key: bytes, result: str | Failure | None) -> int:
        """Close a key: None and text are profiles. Returns how many prompts that were."""
        n = self._weight.pop(key, 0)
        if isinstance(result, Failure):
            self.outcome.failed += n
            self.outcome.failures[result.reason] += n
            self._example = f"{result.reason}: {result.detail}" if result.detail else result.reason
        else:
            self.outcome.done += n
        self._bar.update(n)
        return n

    def settle_known(self, known: Known, before: bool) -> None:
        """Close keys that the store knew before they were read, or that others answered since."""
        for key in known.done:
            n = self._settle_unasked(key, None)
            self.outcome.reused += n * before
            self.outcome.elsewhere += n * (not before)
        for key, failure in known.failed.items():
            n = self._settle_unasked(key, failure)
            self.outcome.failed_before += n * before
            self.outcome.elsewhere += n * (not before)

    def settle_left(self) -> None:
        """Count what is open as left: the run has ended."""
        n = sum(self._weight.values())
        self.outcome.left += n
        self.outcome.duplicates -= n - len(self._weight)
        self._weight.clear()

    def _settle_unasked(self, key: bytes, result: Failure | None) -> int:
        n = self.settle(key, result)
        self.outcome.duplicates -= max(0, n - 1)  # duplicates are those of a prompt asked here
        return n

    def show(self, requests: int, tokens: int) -> None:
        """Put the figures beside the bar; tqdm itself decides when to draw."""
        self.outcome.requests = requests
        self._bar.set_postfix_str(
            f"failed {self.outcome.failed}, {requests} requests, {_short(tokens)} tokens",
            refresh=False,
        )

    def check(self, at_end: bool) -> None:
        """Stop where too many prompts have failed.

        At the end the share itself counts. Before, the run stops once the limit is certain to be
        broken: more failures than all prompts together may have, or, among at least 100 finished
        ones, more than chance explains (three standard deviations).

        Raises:
            ProfileError: Too many have failed.
        """
        o = self.outcome
        finished = o.done + o.failed
        if at_end:
            broken = o.failed > self.max_failed_share * finished
        else:
            known = self.total is not None and o.failed > self.max_failed_share * self.total
            doubtful = o.failed - 3 * math.sqrt(o.failed)
            broken = known or (finished >= _ENOUGH and doubtful > self.max_failed_share * finished)
        if broken:
            reasons = ", ".join(f"{name} {n}" for name, n in o.failures.most_common(4))
            raise ProfileError(
                f"profiles: {o.failed} of {finished} users failed ({o.failed / finished:.1%}, "
                f"profile.max_failed_share is {self.max_failed_share:.1%}): {reasons}; the last: "
                f"{' '.join(self._example.split())[:200]}; what is finished is kept"
            )

    def close(self) -> None:
        """Draw the bar for the last time."""
        self._bar.close()


def _short(n: int) -> str:
    """12345678 -> 12.3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.1f}{unit}"
    return str(n)
