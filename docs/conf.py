"""
Sphinx settings.
"""

from __future__ import annotations

import re
from pathlib import Path

_source = (Path(__file__).resolve().parents[1] / "txmongokit" / "__init__.py").read_text()
_version = re.search(r'(?m)^__version__ = "(.+)"$', _source)
assert _version is not None

project = "txmongokit"
author = "the txmongokit authors"
copyright = "2026, the txmongokit authors"
release = version = _version.group(1)
exclude_patterns = ["_build"]
html_theme = "alabaster"
nitpicky = True
