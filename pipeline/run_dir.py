"""A run's folder: every path name in it, its records, and writes that a crash cannot tear.

```
<output_dir>/.cache/    what tasks derive from their data; shared by runs, safe to delete
<output_dir>/<name>/
  config.yaml           the resolved configuration
  base/                 the untrained model (made here when it is the tiny one) and its report
  cot/                  train.parquet rejected.jsonl journal/ manifest.json README.md
  <stage>/              stage.json metrics.jsonl alarms.jsonl start/ checkpoint-*/ final/ best/ logs/ evaluation.json
                        predictions.jsonl report/ occlusion/
  report/               index.html summary.md summary.json model_card.md *.png tables/
```

A phase is complete when its record (`stage.json`, or `manifest.json` for cot) says ``"status": "complete"``; it is written last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

BASE = "base"
COT = "cot"


RECORDS = ("stage.json", "manifest.json")
"""Names of the files whose ``"status": "complete"`` says that a phase is done."""


def in_order_of_deletion(folder: Path) -> list[Path]:
    """Return what lies in a phase's folder, its record first: without one, what a killed deletion leaves counts for nothing."""
    return sorted(folder.iterdir(), key=lambda path: path.name not in RECORDS) if folder.exists() else []


class RunDir:
    """Path names of one run.

    Args:
        output_dir: the folder runs are kept in.
        name: the run's name.
    """

    def __init__(self, output_dir: str | Path, name: str) -> None:
        self.root = Path(output_dir) / name
        self.cache = Path(output_dir) / ".cache"
        """Files tasks derive from their data (drawn scenes, images taken out of parquet files), shared by all runs here."""

    @property
    def cot(self) -> Path:
        return self.root / COT

    @property
    def report(self) -> Path:
        return self.root / "report"

    def phase(self, name: str) -> Path:
        """Return folder of a phase: base, cot, or a stage's full name."""
        return self.root / name

    def record_path(self, name: str) -> Path:
        """Return the file whose ``"status": "complete"`` says that a phase is done."""
        return self.phase(name) / RECORDS[name == COT]

    def record(self, name: str) -> dict[str, Any] | None:
        """Return a phase's record, or None when there is none yet.

        Raises:
            UserError: when the file is no JSON object; records are written atomically, so something else wrote it.
        """
        path = self.record_path(name)
        try:
            record = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{path} is not a record (a JSON object); delete it, or add --clean {name}")
        return record

    def final(self, name: str) -> Path:
        """Return the checkpoint a stage hands over."""
        return self.phase(name) / "final"
