"""Studies and comparisons: what is run, its records, tests and tables."""
