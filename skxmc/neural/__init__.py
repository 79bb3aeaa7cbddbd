"""Neural estimators: sparse output layers, dual encoders, fine-tuned text encoders, zero-shot."""

from skxmc.neural._lmtx import LMTXClassifier
from skxmc.neural._sparse_dst import SparseDSTClassifier
from skxmc.neural._static import StaticEncoder
from skxmc.neural._teachers import ChatTeacher, TransformersTeacher
from skxmc.neural._unidec import UniDECClassifier
from skxmc.neural._xr_transformer import XRTransformerClassifier

__all__ = [
    "ChatTeacher",
    "LMTXClassifier",
    "SparseDSTClassifier",
    "StaticEncoder",
    "TransformersTeacher",
    "UniDECClassifier",
    "XRTransformerClassifier",
]
