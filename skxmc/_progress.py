"""The one progress bar."""

import contextlib


class _Silent:
    """Stands for a progress bar where none is wanted."""

    def update(self, n=1):
        pass

    def set_postfix_str(self, text, refresh=True):
        pass


@contextlib.contextmanager
def progress(total, description, verbose):
    """Show a progress bar on standard error while a block runs.

    Parameters
    ----------
    total : int or None
        Number of steps; None where it is not known.
    description : str
        What is being done, in a word or two.
    verbose : int or bool
        0 or False: nothing is printed, and tqdm is not even imported.

    Yields
    ------
    object with ``update(n=1)`` and ``set_postfix_str(text)``
        Both may be called from several threads.

    Examples
    --------
    >>> from skxmc._progress import progress
    >>> with progress(total=3, description="labels", verbose=0) as bar:
    ...     for _ in range(3):
    ...         bar.update()
    """
    if not verbose:
        yield _Silent()
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=description) as bar:
        yield bar
