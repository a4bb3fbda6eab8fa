"""Users' interest vectors (AKT-Rec 3.1.1, Eq. 2): data, models and their training."""

from __future__ import annotations
