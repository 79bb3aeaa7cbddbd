"""The checkpoint of a training: one file, replaced atomically, in a folder of its own."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from skxmc.exceptions import CheckpointError
from skxmc.io._arrays import read_arrays, write_arrays_atomic


class Checkpoint:
    """State of a training on disk.

    Parameters
    ----------
    folder : Path
        Holds checkpoints of any fits.
    digest : str
        Of the parameters and the data: each fit has its subfolder.
    """

    def __init__(self, folder, digest):
        self.folder = Path(folder) / digest
        self.path = self.folder / "training.npz"

    def agree(self, code):
        """The largest of the numbers that the processes of a training say: here it is one."""
        return code

    def write(self, trainer):
        """Replace the checkpoint by the present state."""
        self.save(*trainer.state())

    def save(self, arrays, meta):
        """Replace the checkpoint by what `Trainer.state` returned."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays_atomic(self.path, arrays, meta=meta)

    def restore(self, trainer):
        """Set the trainer to what was written, if anything was; say whether."""
        try:
            saved = self.read()
            if saved is not None:
                trainer.load_state(*saved)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"The checkpoint {self.path} cannot be used ({error}): delete it to have the "
                "training begin anew."
            ) from error
        return saved is not None

    def read(self):
        """Arrays and meta of what was written; None where nothing was."""
        return read_arrays(self.path) if self.path.exists() else None

    def remove(self):
        """Delete it: the fit is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def fingerprint(params, data):
    """A digest of parameters and of sparse, dense or text data.

    Parameters
    ----------
    params : dict
    data : sequence of csr_array or ndarray, of numbers or texts
    """
    digest = hashlib.sha256(repr(sorted(params)).encode())
    for _, value in sorted(params.items()):
        digest.update(
            np.ascontiguousarray(value).tobytes()
            if isinstance(value, np.ndarray)
            else repr(value).encode()
        )
    for array in data:
        if array.dtype == object:  # texts
            digest.update(repr(array.tolist()).encode())
            continue
        parts = (array.indptr, array.indices, array.data) if sp.issparse(array) else (array,)
        digest.update(repr((array.shape, [part.dtype.str for part in parts])).encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:32]
