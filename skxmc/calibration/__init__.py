"""Probabilities that mean what they say."""

from skxmc.calibration._calibrator import IsotonicXMCCalibrator

__all__ = ["IsotonicXMCCalibrator"]
