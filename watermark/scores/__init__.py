"""Scores: a keyed perturbation of probabilities, values and embeddings; contexts are inputs here (docs/scores.md)."""

from watermark.scores.basis import Basis
from watermark.scores.direction import Direction, Marker
from watermark.scores.table import Table, read_table, table, write_table

__all__ = ["Basis", "Direction", "Marker", "Table", "read_table", "table", "write_table"]
