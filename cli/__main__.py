"""`python -m wmark_cli` is `wmark`."""

from .main import run

if __name__ == "__main__":
    run()
