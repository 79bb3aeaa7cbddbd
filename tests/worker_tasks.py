"""Tasks of the tests of `Workers`; the processes that run them import little."""

import os
import threading
import time

import sklearn

from skxmc._parallel import Workers, effective_n_jobs


def place(task, offset):
    return task + offset, os.getpid(), threading.get_ident()


def nap(task, seconds):
    time.sleep(seconds)
    return task


def fail(task, worst):
    if task == worst:
        raise LookupError(f"task {task}")
    return task


def die_with(task, worst):
    if task == worst:
        os._exit(1)
    return task


def total(task, array):
    return task * float(array.sum()), array.flags.writeable


def inside(task):
    workers = Workers()
    results = list(workers.map(pow, [1, 2, 3], 2))
    return workers.remote, effective_n_jobs(), results, sklearn.get_config()["working_memory"]


def process(task):
    time.sleep(0.3)
    return os.getpid()
