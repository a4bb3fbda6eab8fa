"""The same models give the same metrics on the newest and on the oldest supported libraries.

Each environment compares itself with the committed figures; with ``PARITY_OUT=FILE`` it also
writes its own, and ``python tests/parity/compare.py NEW OLD`` compares two of them to 4 decimals.
The committed figures come from ``PARITY_OUT=new pytest -m parity`` and
``python tests/parity/compare.py new > tests/parity/expected.json``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from recbole_choir.quick_start import run

EXPECTED = Path(__file__).with_name("expected.json")
MODELS = ("LR", "FM", "DeepFM", "DCNV2", "AutoInt", "FwFM", "LightGBM", "Base", "ChoirRec")
# Other processors round sums in another order; that moves the fourth decimal by a little.
TOLERANCE = 5e-4


@pytest.mark.parity
@pytest.mark.parametrize("model", MODELS)
def test_metrics_do_not_depend_on_the_libraries(model: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    result = run(
        model,
        "ml-100k",
        config_dict={
            "epochs": 1,
            "seed": 2020,
            "train_batch_size": 1024,
            "show_progress": False,
            "quiet": True,
            "checkpoint_dir": str(tmp_path / "saved"),
            "record_dir": str(tmp_path / "records"),
            "semantic_dir": str(tmp_path / "semantic"),
            # Behaviour, not text: no encoder, so that this stays a matter of seconds.
            "semantic": {"input": "random", "n_snapshots": 2},
        },
    )
    found = {k: round(float(v), 6) for k, v in result["test_result"].items()}
    out = os.environ.get("PARITY_OUT")
    if out:
        Path(f"{out}.{model}").write_text(json.dumps(found))
    assert found == pytest.approx(json.loads(EXPECTED.read_text())[model], abs=TOLERANCE)
