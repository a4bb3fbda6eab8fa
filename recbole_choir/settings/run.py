"""The keys of a run that RecBole does not have: data, history, semantic table, training, output.

RecBole's own keys keep RecBole's meaning; where this package wants another default, it stands in
``properties/overall.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from recbole_choir.settings.base import (
    Names,
    Positive,
    Settings,
    Size,
    Weight,
    setting,
)

Injectable = Literal[
    "group_id", "group_attr", "group_seq", "group_stats", "lifts", "own_scores", "activity"
]


class RunSettings(Settings):
    """The keys of every run, whichever model it trains."""

    # Evaluation
    gauc_weighting: Literal["impressions", "positives", "uniform"] = setting(
        "impressions",
        "a user's weight in GAUC: its rows, its positives, or one each; users with one class only "
        "are left out and counted",
        "C23",
    )
    low_activity_share: Annotated[float, Field(gt=0, lt=1)] = setting(
        0.55,
        "share of users, those with the fewest training rows, called low-activity",
        "paper 5.1",
    )
    tail_user: dict[str, float] = setting(
        {"count": 5},
        "tail users: fewer training rows than count, or, with {quantile: 0.85}, that share of the "
        "users; dense data want the quantile",
        "AKT-Rec 4.1.1",
    )
    tail_item: dict[str, float] = setting({"count": 10}, "the same for items", "AKT-Rec 4.1.1")

    # Roles of the dataset's fields
    user_attr_fields: Names | None = setting(
        None, "user attributes that models see; null: every loaded field of .user but the id"
    )
    item_attr_fields: Names | None = setting(
        None, "item attributes that models see; null: every loaded field of .item but the id"
    )
    numeric_attr_fields: Names | None = setting(
        None,
        "token attributes that are plain numbers, such as an age: read as float fields, so that a "
        "group's value is the members' mean and the model embeds it as a number, the user's and "
        "the group's by one vector; standardised for our models, in [0, 1] for RecBole's own, "
        "which get them as numerical_features",
        "paper 4.3.2",
    )
    context_fields: Names | None = setting(
        None,
        "fields of .inter that models may read; the rating, the label and the time are never among "
        "them by default",
    )
    category_field: str | None = setting(
        None,
        "item field, token or token_seq, that counts as category in profiles, group sequences and "
        "statistics",
    )
    title_field: str | None = setting(
        None, "text column of .item, for profiles and text inputs; no model sees it"
    )
    user_share: Annotated[float, Field(ge=0, le=1)] = setting(
        1.0,
        "a share of the users, decided by a hash of each id: a smaller study of the same kind of "
        "users; rows, attributes and past of the others are left out, also from popularity and "
        "statistics; a larger share holds the smaller ones",
    )
    user_share_seed: int = setting(2020, "another seed chooses other users")
    time_unit: Literal["s", "ms", "us", "ns"] = setting(
        "s", "unit of the times in the files; everything here counts in seconds"
    )
    own_data: dict[str, Any] | None = setting(
        None, "your own files: what each column is (docs/datasets.md)"
    )
    raw_data_path: str | None = setting(
        None, "folder with the datasets' raw files; also the variable RECBOLE_CHOIR_DATA"
    )
    inject: Annotated[list[Injectable], Field()] = setting(
        [], "fields of groups and activity given to a model of RecBole's zoo"
    )

    # History and statistics, all strictly before the row
    history_length: Size = setting(50, "newest positives given to a model, L")
    history_scope: Literal["auto", "all", "train"] = setting(
        "auto",
        "all: every earlier event; train: training rows only; auto: all with order TO, train with "
        "RO",
    )
    history_file: str | None = setting(
        None,
        "suffix of an atomic file with positives that are no rows, such as purchases of what was "
        "not shown (history: <dataset>.history with user, item and time); they belong to "
        "histories, to what is counted of users and to the semantic table, never to rates of "
        "items, losses or metrics",
    )
    labelled_history: bool = setting(
        False, "also gather all earlier labelled events with their labels"
    )
    sampled_negatives: bool | None = setting(
        None,
        "whether rows with label 0 were drawn, not shown; null: as the manifest of the dataset's "
        "adapter says, shown without one; models that read negative feedback then take positives "
        "only, and their record says so",
    )
    stats_clip: Positive | None = setting(
        4.0,
        "largest absolute value, in standard deviations, of a standardised statistic of a user, an "
        "item, a group or a pair of clusters, as of a row and as of a snapshot alike; null: no "
        "clip. A user without events has a missing recency, which counts as the longest that "
        "training saw: up to 15 standard deviations on ml-100k. Flags are not clipped; lifts of "
        "soft groups and own scores have a clip of their own, 6",
    )
    group_stats: bool = setting(
        False, "as-of group x item and group x category statistics; not in the paper"
    )
    group_stats_prior: Positive = setting(20.0, "m, pseudo-exposures of the lift")
    cluster_sequence_length: Size = setting(
        50, "L_c: items of a user cluster's sequence for one top-level code", "A17"
    )
    cluster_min_support: Size = setting(
        3, "members that must have chosen such an item: two others for each", "A17"
    )
    lift_fields: Names | None = setting(
        None,
        "item fields that soft groups' lifts are about, the item itself apart; null: the category",
    )
    lift_prior: Annotated[float, Field(ge=1e-6)] = setting(
        300.0, "m, pseudo-purchases at the population's share in a lift of soft groups"
    )
    lift_refresh_days: Positive | None = setting(
        None, "count purchases for lifts afresh every so many days; null: at each snapshot"
    )
    lift_mass: bool = setting(
        True, "with the lifts, how much lies behind them; variant soft's gate reads it too"
    )

    # The semantic table
    semantic_table: str | None = setting(
        "auto", "auto: build what the model needs and reuse it; none; or a folder"
    )
    semantic_recipe: str = setting(
        "embedded", "a name in properties/semantic or a YAML file", shown=True
    )
    semantic: dict[str, Any] | None = setting(
        {}, "entries that replace those of the recipe, such as {input: behaviour}"
    )
    semantic_dir: str = setting("saved/semantic", "where tables are kept and found again")

    # Training
    training: str | None = setting(
        None,
        "a name among the model's training_presets: its keys win over the dataset's; null: the "
        "dataset's and overall.yaml's",
    )
    training_presets: dict[str, Any] = setting(
        {}, "name -> training keys, such as ChoirRec's paper", shown=True
    )
    lr_schedule: Literal["constant", "linear", "exponential"] = setting(
        "linear", "of every step, from learning_rate to lr_final"
    )
    lr_final: Weight | None = setting(
        0.0001, "a few per cent of the start; steadier over seeds than a constant rate"
    )
    embedding_decay: Weight | None = setting(
        0.0003,
        "weight decay of id and attribute embeddings, RecBole's own models' too; null: as "
        "weight_decay. Search it first: its best value differs by a factor of 100 between datasets",
        "ours, docs/core.md",
        search={"low": 1.0e-8, "high": 1.0, "log": True, "zero": 0.15},
    )
    embedding_decay_form: Literal["l2", "lazy"] = setting(
        "l2",
        "l2: the learner's own; lazy: in closed form for rows that a step skips",
        "ours, docs/core.md",
    )
    adagrad_initial_accumulator: Weight = setting(0.1, "TensorFlow's default", "C7")
    resume: str | None = setting(
        None, "checkpoint to go on from: <name>-last.pth in checkpoint_dir"
    )
    warm_start: str | dict[str, Any] | None = setting(
        None,
        "checkpoint, model, or {model: M, key: value, ..} trained first, to start from",
        shown=True,
    )
    nproc: Size = setting(1, "processes on this machine, GPU or CPU")

    # Output
    record_dir: str = setting("saved/records", "one JSON record a run")
    run_name: str | None = setting(None, "name of the run in tables; null: the model's")
    save_predictions: bool = setting(False, "keep the test rows' scores next to the record (.npz)")
    tensorboard: bool = setting(False, "write TensorBoard's files")
    quiet: bool = setting(False, "no table at the end")
    trust_pickle: bool = setting(
        False, "load a checkpoint that holds Python objects: only one that you made yourself"
    )

    @field_validator("tail_user", "tail_item")
    @classmethod
    def _one_way_to_say_tail(cls, value: dict[str, float]) -> dict[str, float]:
        (key, number), *more = [*value.items()] or [("", 0.0)]
        whole = key == "count" and number >= 0 and number == int(number)
        if more or not (whole or (key == "quantile" and 0 <= number <= 1)):
            raise ValueError("{count: c} or {quantile: q}")
        return value

    def contradictions(self) -> Iterator[str]:
        """A schedule needs where it ends."""
        if self.lr_schedule == "constant":
            return
        if self.lr_final is None:
            yield f"lr_final: expected a number for lr_schedule '{self.lr_schedule}', got none"
        elif self.lr_schedule == "exponential" and self.lr_final == 0:
            yield f"lr_final: expected a number above 0, got {self.lr_final}"
