"""The command line ``skxmc``: fit, predict, evaluate, calibrate, inspect, serve.

A thin layer: ``_app`` has the commands, ``_data`` reads files, ``_store`` keeps models with the
names of their labels, ``_estimators`` makes estimators of options, ``_errors`` has the exit codes.
"""

import sys

__all__ = ["main"]


def main(arguments=None):
    """Run the command line and end the process with its exit code.

    Parameters
    ----------
    arguments : list of str or None, default=None
        Without the name of the program; None takes those of the process.

    Raises
    ------
    SystemExit
        Always, with the exit code: see `skxmc._cli._errors`.
    """
    try:
        import typer  # noqa: F401
    except ImportError:
        print(
            "skxmc: the command line needs typer: pip install 'skxmc[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from skxmc._cli._app import run

    sys.exit(run(sys.argv[1:] if arguments is None else arguments))
