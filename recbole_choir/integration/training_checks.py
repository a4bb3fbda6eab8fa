"""At the end of training: did ids move, was any order learned, does attention attend?

Training can end without an error and without having learned anything: a learning rate that is too
small for the batch leaves the vectors of ids where they started, and the metrics near chance say so
to nobody who does not know what to expect. Each finding is one line in the log.
"""

from __future__ import annotations

import math
from logging import getLogger
from typing import Any, Final

import numpy as np
import torch

from recbole_choir.integration import distributed

logger = getLogger("recbole_choir")

#: Rows of a table that are compared with their start.
SAMPLE: Final = 10_000
#: Below this share of their initial length, rows have hardly moved: see :class:`TrainingChecks`.
MOVED: Final = 0.01
#: An AUC that lies within so many standard errors of .5 cannot be told from chance.
STANDARD_ERRORS: Final = 2.0
#: An attention whose mean entropy is above this share of the largest possible is a plain mean. The
#: literal dot product ends at .9998 to .99999 on public data, the default form at .7 to .9.
MEAN_ENTROPY: Final = 0.98


class TrainingChecks:
    """What is known at the start of a fit, compared with what it ends in.

    A copy of at most 10,000 rows of each id table is made before the first step; nothing is done
    per step or per epoch. The rows are spread evenly over the ids that have training rows, so that
    no random number is drawn. Compared are the norm of trained minus initial rows and the norm of
    the initial rows. The threshold is 1 %: Base on ml-100k moves them by .02 to .4 % under the
    paper's Adagrad (.01 for 1 to 10 epochs, .05 for 2), which is training without ids, by 8 to 12 %
    under Adam at .0002 and by half to their whole length at .002.

    Not compared are a fit that starts from trained vectors (``warm_start``, a resumed run), tables
    that are frozen, models without ``id_tables()`` (RecBole's own) and loaders without a dataset.

    Args:
        trainer: With ``model``, ``config``, ``start_epoch`` and ``history``.
        train_data: The training loader; its ``dataset.inter_feat`` has the ids.
    """

    def __init__(self, trainer: Any, train_data: Any) -> None:
        self.trainer = trainer
        self.starts: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # rows [k], values [k, d]
        config = trainer.config
        feat = getattr(getattr(train_data, "dataset", None), "inter_feat", None)
        if feat is None or trainer.start_epoch > 0 or config["warm_start"] is not None:
            return
        id_fields = {"user": config["USER_ID_FIELD"], "item": config["ITEM_ID_FIELD"]}
        for name, table in id_tables(trainer.model).items():
            rows = sample(feat[id_fields[name]], len(table)).to(table.device)
            self.starts[name] = rows, table.detach()[rows].clone()

    def report(self) -> None:
        """Warn of what the fit has ended in, in the first process alone."""
        if distributed.rank() != 0:
            return
        for name, share in self.moved().items():
            if share < MOVED:
                logger.warning("%s", still_line(name, share, self.trainer))
        warn_of_chance(self.trainer)
        warn_of_means(self.trainer)

    def moved(self) -> dict[str, float]:
        """Change of each table relative to its start; tables that started at zero are left out."""
        found: dict[str, float] = {}
        tables = id_tables(self.trainer.model) if self.starts and self.trainer.history else {}
        for name, (rows, start) in self.starts.items():
            if name in tables and (length := float(start.norm())) > 0:
                found[name] = float((tables[name].detach()[rows] - start).norm()) / length
        return found


def id_tables(model: Any) -> dict[str, torch.Tensor]:
    """Trained id tables of a model of this package, ``user`` and ``item`` -> ``[n_ids, d]``."""
    tables = model.id_tables() if hasattr(model, "id_tables") else {}
    return {name: table for name, table in tables.items() if table.requires_grad}


def sample(ids: torch.Tensor, n_ids: int, most: int = SAMPLE) -> torch.Tensor:
    """At most ``most`` of the distinct ids above 0, spread evenly, ascending.

    Args:
        ids: int64 ``[N]`` of the training rows.
        n_ids: Size of the vocabulary.
        most: Upper limit.

    Returns:
        int64 ``[k]``.
    """
    seen = torch.bincount(ids.flatten(), minlength=n_ids) > 0
    seen[0] = False  # padding
    rows = seen.nonzero().squeeze(1)
    if len(rows) <= most:
        return rows
    return rows[torch.arange(most, device=rows.device) * len(rows) // most]


def still_line(name: str, share: float, trainer: Any) -> str:
    """The line about a table that has hardly moved."""
    config = trainer.config
    adam = str(config["learner"]).lower() in ("adam", "adamw")
    return (
        f"{name} id vectors have hardly moved: trained minus initial is {100 * share:.2g} % of "
        f"their initial length (learner {config['learner']}, learning_rate "
        f"{config['learning_rate']:g}, epochs {len(trainer.history)}); raise learning_rate or "
        "epochs" + ("" if adam else ", or take learner: adam with learning_rate: 0.002")
    )


def auc_standard_error(n_positive: int, n_negative: int) -> float:
    """Standard error of the AUC of scores that know nothing of the labels.

    ``sqrt((n_pos + n_neg + 1) / (12 n_pos n_neg))``, of the Mann-Whitney statistic without ties.

    References:
        Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 1982; Mann
        and Whitney 1947.
    """
    return math.sqrt((n_positive + n_negative + 1) / (12 * n_positive * n_negative))


def warn_of_chance(trainer: Any) -> None:
    """Warn where the validation AUC of the best epoch cannot be told from .5.

    Needs ``AUC`` among the metrics and a validation in this fit; else there is no warning.

    Args:
        trainer: With ``best_valid_result`` and, of the last validation, ``predictions``: every
            validation is of the same rows.
    """
    auc = (trainer.best_valid_result or {}).get("auc")
    if auc is None or trainer.predictions is None:
        return
    labels = np.asarray(trainer.predictions.labels)
    n_positive = int((labels > 0).sum())
    n_negative = len(labels) - n_positive
    if not n_positive or not n_negative or not math.isfinite(auc):
        return
    error = auc_standard_error(n_positive, n_negative)
    if abs(auc - 0.5) < STANDARD_ERRORS * error:
        logger.warning(
            "validation AUC at the best epoch is %.4f, within %g standard errors of chance (.5 +- "
            "%.4f with %d positives and %d negatives): the model cannot be told from one that "
            "has learned nothing; look at features and learning_rate, or validate more rows",
            auc, STANDARD_ERRORS, STANDARD_ERRORS * error, n_positive, n_negative,
        )  # fmt: skip


def warn_of_means(trainer: Any) -> None:
    """Warn of each attention that ended as a plain mean of its sequence.

    Args:
        trainer: With ``history``, whose last entry has the model's diagnostics.
    """
    figures = trainer.history[-1].get("diagnostics", {}) if trainer.history else {}
    for key, entropy in figures.items():
        name = key.removeprefix("attention_entropy_")
        if name != key and entropy > MEAN_ENTROPY:
            logger.warning(
                "attention %s is a mean: in the last epoch its entropy was %.4f of the largest "
                "possible, its logits differed by %.2g within a row; it tells no item from another "
                "(att_type: sigmoid starts alive)",
                name, entropy, figures.get(f"attention_logit_sd_{name}", math.nan),
            )  # fmt: skip
