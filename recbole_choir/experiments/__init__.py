"""``recbole-choir compare``: models on datasets, tuned alike, over seeds, with their controls."""
