"""Profiles written by language models: any engine, nothing lost, nothing paid for twice."""
