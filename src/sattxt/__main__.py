"""``python -m sattxt`` is the ``sattxt`` command."""

from __future__ import annotations

from sattxt.cli import main

if __name__ == "__main__":
    main()
