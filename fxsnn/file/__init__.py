"""The network file: written, read, verified.

Open `document.py` first, which writes; `rebuilding.py` reads, with `body.py` for what spikes, what `schema_check.py`,
`structure.py` and `tail.py` let through; docs/FILE.md describes it. It imports graph and what lies below.
"""

from fxsnn.file.document import described, target_data
from fxsnn.file.golden import Golden, Verification, compared, golden_arrays, require_none
from fxsnn.file.packing import pack_codes, unpack_codes
from fxsnn.file.rebuilding import Rebuilt, completed, difference, rebuilt
from fxsnn.file.schema_check import DAMAGED, require_schema
from fxsnn.file.writable import unwritable

__all__ = [
    "DAMAGED",
    "Golden",
    "Rebuilt",
    "Verification",
    "compared",
    "completed",
    "described",
    "difference",
    "golden_arrays",
    "pack_codes",
    "rebuilt",
    "require_none",
    "require_schema",
    "target_data",
    "unpack_codes",
    "unwritable",
]
