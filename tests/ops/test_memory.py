"""Arrays on pages of their own."""

import sys

import numpy as np
import pytest

from skxmc.ops._memory import new_zeros

STATUS = "/proc/self/status"


@pytest.mark.parametrize("huge_pages", [False, True])
@pytest.mark.parametrize("shape", [0, 5, (0, 3), (3, 7), 1 << 18, (3, 1 << 20)])
@pytest.mark.parametrize("dtype", ["f4", np.int64, bool])
def test_zeros_that_can_be_written(shape, dtype, huge_pages):
    array = new_zeros(shape, dtype, huge_pages=huge_pages)
    assert array.shape == np.zeros(shape).shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.size == 0 or array.ctypes.data % 64 == 0
    assert not array.any()
    array[...] = 1
    assert array.all()


def test_a_part_keeps_its_memory():
    part = new_zeros(1 << 20, np.float32)[-3:]
    part[:] = 2
    other = [new_zeros(1 << 20, np.float32) for _ in range(4)]
    assert part.tolist() == [2, 2, 2]
    assert not any(array.any() for array in other)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_goes_back():
    def resident_kb():
        with open(STATUS) as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    before = resident_kb()
    arrays = [new_zeros(1 << 22, np.float32) for _ in range(4)]  # 64 MiB
    for array in arrays:
        array.fill(1)
    assert resident_kb() > before + 50_000
    del arrays, array
    assert resident_kb() < before + 10_000
