"""ChoirRec and AKT-Rec as RecBole models."""

__version__ = "0.1.0"
