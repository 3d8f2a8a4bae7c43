"""``kparity``, and ``python -m kparity``, which is the same."""

from kparity.host import signals

signals.heed(at_once=True)  # an interrupt while the others are imported has no traceback

from kparity.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
