"""The program ``wsfp``, also as ``python -m wsfp_helpers``: Ctrl-C is quiet while the command line is imported."""

import signal
import sys


def main() -> None:
    """Run the command line."""
    try:
        from wsfp_helpers.cli import app

        app()
    except KeyboardInterrupt:
        print("wsfp: stopped before anything was done", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
