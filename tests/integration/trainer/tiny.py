"""Stand-ins for a configuration, a loader and a model, shared with spawned processes."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import EvaluatorType, InputType, ModelType

from recbole_choir.integration import distributed

N_USERS, N_ITEMS = 9, 13


DEFAULTS = {
    "model": "Tiny",
    "dataset": "tiny",
    "seed": 7,
    "single_spec": True,
    "MODEL_TYPE": ModelType.CONTEXT,
    "eval_type": EvaluatorType.VALUE,
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LABEL_FIELD": "label",
    "device": torch.device("cpu"),
    "learner": "adam",
    "learning_rate": 0.05,
    "weight_decay": 0.0,
    "epochs": 2,
    "eval_step": 1,
    "stopping_step": 10,
    "eval_batch_size": 64,
    "train_batch_size": 16,
    "metrics": ["AUC", "GAUC", "LogLoss"],
    "valid_metric": "GAUC",
    "valid_metric_bigger": True,
    "metric_decimal_place": 6,
    "loss_decimal_place": 4,
    "lr_schedule": "constant",
    "adagrad_initial_accumulator": 0.1,
    "gauc_weighting": "impressions",
    "eval_args": {"mode": {"valid": "labeled", "test": "labeled"}},
    "topk": [10],
    "train_neg_sample_args": {},
    "checkpoint_dir": "saved",
    "enable_amp": False,
}


class TinyConfig(dict):
    """A configuration: a missing key is None, as RecBole's."""

    def __init__(self, **values):
        super().__init__({**DEFAULTS, **values})

    def __missing__(self, key):
        return None

    def __getattr__(self, name):
        return self[name]

    @property
    def parameters(self):
        return {}

    @property
    def final_config_dict(self):
        return dict(self)

    def plain(self):
        return {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in self.items()}


def tiny_rows(n, seed):
    """Rows whose label depends on user and item."""
    g = torch.Generator().manual_seed(seed)
    user = torch.randint(1, N_USERS, (n,), generator=g)
    item = torch.randint(1, N_ITEMS, (n,), generator=g)
    noise = torch.rand(n, generator=g)
    label = ((user * item % 5 < 2).float() * 0.6 + noise * 0.6 > 0.5).float()
    return {"user_id": user, "item_id": item, "label": label, "x": noise}


class TinyLoader:
    """Batches as the real loader's: rank r holds the rows r, r + w, ..."""

    def __init__(self, rows, batch_size, shuffle=False):
        self.rows, self.batch_size, self.shuffle = rows, batch_size, shuffle
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def _order(self):
        n = len(self.rows["user_id"])
        order = torch.arange(n)
        if self.shuffle:
            order = torch.randperm(n, generator=torch.Generator().manual_seed(self.epoch))
        return order[distributed.rank() :: distributed.world_size()]

    def __len__(self):
        return -(-len(self._order()) // self._local_batch())

    def _local_batch(self):
        return self.batch_size // distributed.world_size()

    def __iter__(self):
        for index in self._order().split(self._local_batch()):
            batch = Interaction({k: v[index] for k, v in self.rows.items()})
            yield batch if self.shuffle else (batch, None, None, None)


class TinyModel(AbstractRecommender):
    """sigmoid(sum(u * v) + b_v), with what a test asks for added.

    ``exact``: weights are multiples of 1/8 and the sigmoid is (1 + z / (1 + abs(z))) / 2, so that
    no sum is rounded and every score has the same bits in whatever batch, place and processor.
    PyTorch's exp promises no such thing: its last bit depends on the place in the batch.
    """

    type = ModelType.CONTEXT
    input_type = InputType.POINTWISE

    def __init__(self, dropout=0.0, parts=1, batch_norm=False, nan_at=None, exact=False):
        super().__init__()
        self.exact = exact
        self.user = torch.nn.Embedding(N_USERS, 4)
        self.item = torch.nn.Embedding(N_ITEMS, 4)
        self.bias = torch.nn.Embedding(N_ITEMS, 1)
        self.unused = torch.nn.Linear(2, 2)  # never gets a gradient
        self.norm = torch.nn.BatchNorm1d(4) if batch_norm else torch.nn.Identity()
        self.dropout = torch.nn.Dropout(dropout)
        self.parts, self.nan_at, self.calls = parts, nan_at, 0
        self.started = []
        if exact:
            for weight in self.parameters():
                weight.data = torch.round(8 * weight.data) / 8

    def logit(self, interaction):
        u, i = interaction["user_id"], interaction["item_id"]
        hidden = self.norm(self.dropout(self.user(u)) * self.item(i))
        return hidden.sum(-1) + self.bias(i).squeeze(-1)

    def calculate_loss(self, interaction):
        logit = self.logit(interaction)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, interaction["label"])
        if self.nan_at is not None and self.calls == self.nan_at:
            loss = loss * float("nan")
        self.calls += 1
        if self.parts == 1:
            return loss
        return loss, 0.01 * self.user.weight.square().sum()

    def predict(self, interaction):
        z = self.logit(interaction)
        return (1 + z / (1 + z.abs())) / 2 if self.exact else torch.sigmoid(z)

    def on_epoch_start(self, epoch):
        self.started.append(epoch)

    def epoch_diagnostics(self):
        return {"steps_seen": float(self.calls)}
