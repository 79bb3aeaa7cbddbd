"""``python -m skxmc``: the command line."""

from skxmc._cli import main

if __name__ == "__main__":
    main()
