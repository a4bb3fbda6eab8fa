"""The settings of TailNet."""

from __future__ import annotations

from recbole_choir.model.settings.base import WithGroupStats
from recbole_choir.settings.base import Size, setting


class TailNetSettings(WithGroupStats):
    """TailNet (Liu and Zheng, 2020, arXiv 2007.12329): a session's affinity for head and tail.

    Adds to Base: a GRU over the history, which items are tail. Leaves out: nothing; tailnet_pure
    leaves out all of Base but the item's token and the history.
    """

    tailnet_hidden: Size = setting(
        32, "width of the GRU and of the affinity", search={"choices": [16, 32, 64]}
    )
    tailnet_pure: bool = setting(
        False,
        "False: Base's logit plus the affinity; True: the affinity and a bias alone, nearer to the "
        "paper, where it is softmaxed over all items",
        shown=True,
    )
