"""Targets of the Makefile, run as a user types them, on folders of the test's own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Far beyond what one target takes on a busy machine (minutes), so that a hang still ends.
DEADLINE_S = 900.0
# The gate's own windows are for finding a few percent, which is not what these tests are about; nor is how
# still the machine stands: in so short a window one hiccup of a busy one would make the verdict INVALID.
# One restart of the services decides: where two versions are compared the tests state limits of many times.
QUICK_GATE = {
    "TIMBERLINE_DUET_LOOKS": "[1]",
    "TIMBERLINE_DUET_WINDOW_S": "1.5",
    "TIMBERLINE_DUET_MIN_PAIRS": "10",
    "TIMBERLINE_DUET_WARMUP_PAIRS": "5",
    "TIMBERLINE_DUET_MAX_STANDSTILL_SHARE": "1",
    "TIMBERLINE_DUET_MAX_OUTSIDE_RATIO": "100",
    "TIMBERLINE_VALIDITY_MAX_MEAN_OUTSIDE_RATIO": "100",
    "TIMBERLINE_VALIDITY_MAX_OUTSIDE_P99_RATIO": "100",
    "TIMBERLINE_LATENCY_MAX_SPREAD": "100",
}


@dataclass(frozen=True)
class Made:
    """How one call of make ended; ``results`` are the JSON documents on stdout, one a stage."""

    code: int
    output: str
    log: str

    @property
    def results(self) -> list[dict[str, Any]]:
        """Every stage's summary, in order."""
        decoder, found, rest = json.JSONDecoder(), [], self.output
        while (start := rest.find("{")) >= 0:
            value, end = decoder.raw_decode(rest[start:])
            found.append(value)
            rest = rest[start + end :]
        return found

    @property
    def stages(self) -> dict[str, bool]:
        """Stage → whether it was skipped, for the stages that say so."""
        return {result["stage"]: result["skipped"] for result in self.results if "stage" in result}


@dataclass(frozen=True)
class Workshop:
    """Folders of one test and the targets that work on them."""

    folder: Path
    model: str
    models: Path = ROOT / "models"

    @property
    def data(self) -> Path:
        """The DATA folder."""
        return self.folder / "data"

    @property
    def registry(self) -> Path:
        """The REGISTRY folder."""
        return self.folder / "registry"

    def make(self, *targets: str, overrides: str = "") -> Made:
        """Run ``make TARGETS`` with the interpreter that runs the tests."""
        done = subprocess.run(
            [
                "make",
                "--no-print-directory",
                *targets,
                f"MODEL={self.model}",
                f"MODELS={self.models}",
                f"DATA={self.data}",
                f"REGISTRY={self.registry}",
                f"SET={overrides}",
                f"PY={sys.executable}",
            ],
            cwd=ROOT,
            env=QUICK_GATE | {key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Made(done.returncode, done.stdout, done.stderr)

    def made(self, *targets: str, overrides: str = "") -> Made:
        """Like `make`, and it must succeed."""
        done = self.make(*targets, overrides=overrides)
        assert done.code == 0, f"make {' '.join(targets)} ended with {done.code}\n{done.output}\n{done.log}"
        return done

    def export_here(self, *, overrides: str = "") -> None:
        """Fetch, etl, train, evaluate and export in this process, where TensorFlow is imported already.

        For tests of what the gate says of a version: three processes less, each of which would import it.
        """
        from timberline.exporter.export import export_run
        from timberline.exporter.inputs import load_inputs, load_release_settings
        from timberline.registry.store import open_store
        from timberline.training.config import load_model_config
        from timberline.training.data.etl import run_etl
        from timberline.training.data.fetch import run_fetch
        from timberline.training.evaluation.evaluate import run_evaluate
        from timberline.training.fit import run_train

        words = shlex.split(overrides)
        config = load_model_config(self.models, self.model, overrides=words)
        run_fetch(config, self.data)
        run_etl(config, self.models, self.data)
        run_train(config, self.models, self.data)
        run_evaluate(config, self.data)
        settings = load_release_settings(self.models, self.model, overrides=words, environment=os.environ)
        result = export_run(load_inputs(self.data, self.model, settings), open_store(self.registry))
        assert result.outcome == "published", result
