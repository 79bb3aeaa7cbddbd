"""Models on disk: a directory of plain arrays and one JSON file, no pickle.

Also read and written: the models of libpecos, napkinXC and omikuji.
"""

from skxmc.io._foreign import export_model, import_model
from skxmc.io._model import load_model, save_model

__all__ = ["export_model", "import_model", "load_model", "save_model"]
