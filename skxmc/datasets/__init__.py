"""Data in: file formats, the data sets the package carries, synthetic data."""

from skxmc.datasets._bundled import load_debtags, load_emoji
from skxmc.datasets._folder import dump_folder, load_folder
from skxmc.datasets._repository import dump_xmc_repository, load_xmc_repository
from skxmc.datasets._svmlight import dump_svmlight_multilabel, load_svmlight_multilabel
from skxmc.datasets._synthetic import make_xmc_classification

__all__ = [
    "dump_folder",
    "dump_svmlight_multilabel",
    "dump_xmc_repository",
    "load_debtags",
    "load_emoji",
    "load_folder",
    "load_svmlight_multilabel",
    "load_xmc_repository",
    "make_xmc_classification",
]
