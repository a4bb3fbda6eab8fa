"""Names of the batch fields that this package adds to a RecBole ``Interaction``."""

from __future__ import annotations

from typing import Final

HIST_ITEMS: Final = "hist_items"  # int64 [B, L]: items of the history, oldest first, 0-padded right
HIST_LEN: Final = "hist_len"  # int64 [B]: number of valid slots
HIST_LABELS: Final = "hist_labels"  # float32 [B, L]: labels of the events (labelled history only)
USER_STATS: Final = "user_stats"  # float32 [B, p_u]: standardised as-of activity of the user
ITEM_STATS: Final = "item_stats"  # float32 [B, p_i]: standardised as-of popularity of the item
N_BUY: Final = "n_buy"  # float32 [B]: the user's positives before the row, |S_u^buy|
SNAPSHOT: Final = "snapshot"  # int64 [B]: newest snapshot strictly before the row, 0 = none
GROUP_STATS: Final = "group_stats"  # float32 [B, p_g]: as-of statistics of group x item, category
LIFTS: Final = "lifts"  # float32 [B, q]: lifts of the user's soft group for item, type, category
LIFT_MASS: Final = "lift_mass"  # name of the column of LIFTS that says how much lies behind them
OWN_SCORES: Final = "own_scores"  # float32 [B, q]: the user's own as-of scores of the item
CROSS_STATS: Final = "cross_stats"  # float32 [B, q]: as-of user cluster x item cluster statistics
