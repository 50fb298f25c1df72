"""What a converted network takes of a chip, and how many spikes and synaptic operations a run costs.

Open `report.py` first. It imports graph and what lies below.
"""

from fxsnn.report.activity import Activity, Meter
from fxsnn.report.from_graph import report_of
from fxsnn.report.report import Report

__all__ = [
    "Activity",
    "Meter",
    "Report",
    "report_of",
]
