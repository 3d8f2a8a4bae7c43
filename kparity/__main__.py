"""``python -m kparity`` is ``kparity``."""

from kparity.cli.main import main

if __name__ == "__main__":
    main()
