"""
Write the lists anew::

    python -m tests.exports --txmongo /opt/venv-tx/bin/python \\
        --pymongo python --seed txmongo-15.2.1.txt

Each driver is looked at in its own environment, which a Python there names;
what is left out keeps its list.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.exports import seed

HERE = Path(__file__).resolve().parent


def write(described: dict[str, Any]) -> None:
    """
    Write one driver's list: one line for each name, in order.
    """
    driver, version, names = described["driver"], described["version"], described["names"]
    lines = [f"  {json.dumps(name)}: {json.dumps(names[name])}" for name in sorted(names)]
    text = (
        f'{{"driver": "{driver}", "version": "{version}", "names": {{\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )
    path = HERE / f"{driver}-{version}.json"
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: {len(names)} names")


def main() -> None:
    """
    Write the lists that are asked for.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.exports", description=__doc__)
    parser.add_argument("--txmongo", help="a Python that has TxMongo")
    parser.add_argument("--pymongo", help="a Python that has PyMongo")
    parser.add_argument("--seed", type=Path, help="TxMongo 15.2.1's documentation as text")
    arguments = parser.parse_args()
    for driver in ("txmongo", "pymongo"):
        python = getattr(arguments, driver)
        if python:
            command = [python, str(HERE / "introspection.py"), driver]
            found = subprocess.run(command, check=True, capture_output=True)
            write(json.loads(found.stdout))
    if arguments.seed:
        write(seed.describe(arguments.seed.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
