"""Models on disk: a directory of plain arrays and one JSON file, no pickle."""

from skxmc.io._model import load_model, save_model

__all__ = ["load_model", "save_model"]
