"""What RecBole's own context-aware models must do here as ours do: real rows, real batches.

The same checks as ``tests/model/test_every_model.py``, as far as they apply: these models read no
history, and the libraries of trees are not trained by steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_choir.datasets import ensure_atomic_files
from recbole_choir.integration import (
    ChoirConfig,
    create_dataset,
    create_model,
    data_preparation,
)
from recbole_choir.integration.registry import known_models

ZOO = sorted(name for name, kind in known_models().items() if kind == "context")
B = 64

Make = Callable[[str], Any]


def config_of(name: str) -> ChoirConfig:
    settings = {"show_progress": False, "quiet": True, "train_batch_size": B, "seed": 3}
    return ChoirConfig(model=name, dataset="ml-100k", config_dict=settings)


@pytest.fixture(scope="module")
def data() -> Any:
    ensure_atomic_files(config_of("LR"))
    dataset = create_dataset(config_of("LR"))
    dataset.build_splits()
    return dataset


@pytest.fixture(scope="module")
def batches(data: Any) -> list[Interaction]:
    """Two batches of training rows, and one of test rows."""
    train, _, test = data_preparation(config_of("LR"), data)
    loader = iter(train)
    held_out = next(iter(test))[0]
    return [next(loader), next(loader), rows(held_out, torch.arange(B))]


@pytest.fixture
def make(data: Any) -> Make:
    def make(name: str) -> Any:
        torch.set_num_threads(1)
        config = config_of(name)
        config["numerical_features"] = data.config["numerical_features"]  # as in a run: one config
        init_seed(config["seed"], True)
        return create_model(config, data)

    return make


def rows(batch: Interaction, index: torch.Tensor) -> Interaction:
    return Interaction({k: v[index] for k, v in batch.interaction.items()})


def loss_of(model: Any, batch: Interaction) -> torch.Tensor:
    torch.manual_seed(1)  # the same dropout at every call
    loss = model.calculate_loss(batch)
    return torch.stack(loss).sum() if isinstance(loss, tuple) else loss


def scores(model: Any, batch: Interaction) -> torch.Tensor:
    """``[B]``; RecBole's DSSM has no dimension for a single row, its KD_DAGFM one too many."""
    return model.predict(batch).reshape(-1)


def trained(model: Any, batches: list[Interaction]) -> Any:
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for batch in batches[:2]:
        optimiser.zero_grad()
        loss_of(model, batch).backward()
        optimiser.step()
    return model.eval()


def state_of(model: Any) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ZOO)
def test_scores_belong_to_their_rows(name: str, make: Make, batches: list[Interaction]) -> None:
    model, batch = trained(make(name), batches), batches[2]
    before = state_of(model)
    with torch.no_grad():
        together = scores(model, batch)
        alone = torch.cat([scores(model, rows(batch, torch.tensor([i]))) for i in range(B)])
        order = torch.randperm(B, generator=torch.Generator().manual_seed(2))
        shuffled = scores(model, rows(batch, order))
        other = Interaction({**batch.interaction, "label": 1 - batch["label"]})
        relabelled = scores(model, other)
    assert together.shape == (B,)
    assert together.unique().numel() > B // 4
    # 1e-5: matrix products of another size may add in another order
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-5)
    assert torch.equal(relabelled, together), "the label reaches a score"
    assert same_state(before, state_of(model)), "evaluation changes the model"


@pytest.mark.parametrize("name", ZOO)
def test_unknown_users_and_items_score(name: str, make: Make, batches: list[Interaction]) -> None:
    model, batch = trained(make(name), batches), batches[2]
    nothing = torch.zeros(B, dtype=torch.long)
    with torch.no_grad():
        unknown = Interaction({**batch.interaction, "user_id": nothing, "item_id": nothing})
        assert torch.isfinite(scores(model, unknown)).all()


@pytest.mark.parametrize("name", ZOO)
def test_same_seed_same_bits_saved_and_loaded(
    name: str, make: Make, batches: list[Interaction], tmp_path: Path
) -> None:
    first, second = (trained(make(name), batches) for _ in range(2))
    assert same_state(state_of(first), state_of(second))
    torch.save(first.state_dict(), tmp_path / "model.pt")
    fresh = make(name).eval()
    with torch.no_grad():
        assert not torch.equal(scores(fresh, batches[2]), scores(first, batches[2]))
        fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        assert torch.equal(scores(fresh, batches[2]), scores(first, batches[2]))


@pytest.mark.parametrize("name", ZOO)
def test_a_step_lowers_the_loss(name: str, make: Make, batches: list[Interaction]) -> None:
    model = make(name).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.001)
    before = loss_of(model, batches[0])
    before.backward()
    optimiser.step()
    assert loss_of(model, batches[0]).item() < before.item()
