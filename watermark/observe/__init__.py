"""Observations: what a suspect shows, as cells (window, token) with weights that know nothing of the key.

`rules` holds the validity rules, and nothing else has them; `text` reads answers, `readings` log-probabilities;
`weights` says how much each cell counts.
"""

from watermark.observe.readings import Reading, observe_readings
from watermark.observe.rules import MINIMUM_CELLS
from watermark.observe.stages import Stage
from watermark.observe.store import (
    counted_records,
    counted_windows,
    filter_ledger,
    load_cells,
    save_cells,
    served_in,
    served_windows,
)
from watermark.observe.text import Observations, Sample, observe

__all__ = [
    "MINIMUM_CELLS",
    "Observations",
    "Reading",
    "Sample",
    "Stage",
    "counted_records",
    "counted_windows",
    "filter_ledger",
    "load_cells",
    "observe",
    "observe_readings",
    "save_cells",
    "served_in",
    "served_windows",
]
