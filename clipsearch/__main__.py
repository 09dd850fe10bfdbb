"""`clipsearch` and `python -m clipsearch`: the command line."""

from __future__ import annotations

import gc


def main() -> None:
    """Run the command line. Imports make no garbage worth looking for, so it is not looked for meanwhile."""
    gc.disable()
    from clipsearch.cli import main as run

    run()


if __name__ == "__main__":
    main()
