"""Embedders: one thin adapter for each engine, over one pure function of (key, last ids)."""
