"""Kill fits and saves at random moments and see what is left.

    python tests/robustness/kill_fits.py --estimator dismec --kills 25 --seed 0

One warm process compiles the kernels and measures; each fit is a fork of it, which fits, saves over
an older model, and is killed with SIGKILL at a random moment: half of the times in the fit, half in
the save. Then

* ``load_model`` must find at the model's path a whole model: the old or the new one;
* whatever else lies in the folder must not pass for a model other than these two: a save that is
  killed while it holds two whole directories leaves both;
* the same fit in a new process must end with the uninterrupted model, bit for bit: from the
  checkpoints where the estimator writes them, else from the beginning.

Before that, one save is killed at each of its steps in turn: whenever Python opens, makes, renames
or removes a file.

Prints one JSON line; exits with 1 if anything is wrong.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no threads of its parent
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from model_state import answers_digest, arrays_of, digest
from robustness.small_fits import FITS, with_folder
from sklearn.base import clone

from skxmc import load_model, save_model
from skxmc.exceptions import ModelFormatError


def fork(work):
    """Run ``work(tell)`` in a fork. Returns its number and the reading end of what it tells."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.close(reading)
    status = 1
    try:
        work(lambda text: os.write(writing, text.encode() + b"\n"))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finished(pid, reading):
    """What a fork told until its end; raises if it failed."""
    with os.fdopen(reading) as stream:
        lines = stream.read().split()
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"a fork ended with status {status}")
    return lines


class Job:
    """One estimator, its data, and what an uninterrupted fit of it gives."""

    def __init__(self, name):
        self.estimator, make = FITS[name]
        self.X, self.Y, self.options = make()
        self.resumes = with_folder(clone(self.estimator), "somewhere")

    def fit(self, folder, Y=None):
        estimator = clone(self.estimator)
        with_folder(estimator, folder / "checkpoints")
        return estimator.fit(self.X, self.Y if Y is None else Y, **self.options)

    def run(self, folder):
        """What a fork does, told step by step."""

        def work(tell):
            tell("fit")
            model = self.fit(folder)
            tell("save")
            save_model(model, folder / "model", overwrite=True)
            tell("saved")
            tell(digest(arrays_of(model)))
            tell(answers_digest(model, self.X))

        return work


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--estimator", choices=FITS, required=True)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    rng = random.Random(f"{args.estimator} {args.seed}")
    job = Job(args.estimator)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        report = kill_many(job, args.kills, rng, Path(root))
    report |= {"estimator": args.estimator, "seconds": round(time.perf_counter() - started, 1)}
    print(json.dumps(report))
    return 1 if report["wrong"] else 0


def kill_many(job, n_kills, rng, root):
    # the older model is of other rows; this process compiles what the forks need
    order = list(range(job.Y.shape[0]))[::-1]
    older = job.fit(root / "older", job.Y[order])
    save_model(older, root / "old-model")
    old = answers_digest(older, job.X)
    newer = job.fit(root / "warm")
    wrong = []
    names = {old: "old", answers_digest(newer, job.X): "new"}
    report = {"steps": kill_at_every_step(job, newer, names, root, wrong)}
    moments, expected = [], None
    for number in range(2):
        folder = root / f"whole-{number}"
        folder.mkdir()
        shutil.copytree(root / "old-model", folder / "model")
        pid, reading = fork(job.run(folder))
        moments.append(times_of(reading))
        lines = moments[-1].pop("lines")
        os.waitpid(pid, 0)
        if expected not in (None, lines):
            raise RuntimeError("two uninterrupted fits differ")
        expected = lines
    whole, new = expected
    if names.get(new) != "new":
        raise RuntimeError("a fit in a fork differs from one in its parent")
    seconds = {key: min(moment[key] for moment in moments) for key in ("fit", "save")}
    report |= {"kills": 0, "in_fit": 0, "in_save": 0, "checkpoints": 0, "old": 0, "new": 0}
    report |= {"fit_seconds": round(seconds["fit"], 3), "save_seconds": round(seconds["save"], 4)}
    while report["kills"] < n_kills:
        folder = root / f"kill-{report['kills']}"
        folder.mkdir()
        shutil.copytree(root / "old-model", folder / "model")
        phase = "fit" if rng.random() < 0.5 else "save"
        if not kill_at(job, folder, phase, rng.uniform(0, seconds[phase])):
            shutil.rmtree(folder)
            continue  # it was quicker
        report["kills"] += 1
        report[f"in_{phase}"] += 1
        report["checkpoints"] += any((folder / "checkpoints").rglob("*.npz"))
        found = what_is_there(job, folder, names, wrong)
        if found is not None:
            report[found] += 1
        lines = finished(*fork(job.run(folder)))
        if lines[-2:] != [whole, new]:
            wrong.append(f"kill {report['kills']} in {phase}: the next fit gives another model")
        if job.resumes and any((folder / "checkpoints").rglob("*.npz")):
            wrong.append(f"kill {report['kills']} in {phase}: the next fit left checkpoints")
        if what_is_there(job, folder, names, wrong) != "new":
            wrong.append(f"kill {report['kills']} in {phase}: the next save did not replace it")
        shutil.rmtree(folder)
    return {**report, "wrong": wrong}


def times_of(reading):
    """Seconds of fit and save of a fork, and the lines after them."""
    at = {}
    with os.fdopen(reading) as stream:
        for key in ("fit", "save", "saved"):
            if stream.readline().strip() != key:
                raise RuntimeError("an uninterrupted fit failed")
            at[key] = time.perf_counter()
        lines = stream.read().split()
    return {"fit": at["save"] - at["fit"], "save": at["saved"] - at["save"], "lines": lines}


def kill_at(job, folder, phase, delay):
    """Kill a fork so long after the phase began; False if it was done before."""
    pid, reading = fork(job.run(folder))
    with os.fdopen(reading) as stream:
        while stream.readline().strip() not in (phase, ""):
            pass
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        told = stream.read().split()
    _, status = os.waitpid(pid, 0)
    done = "saved" if phase == "save" else "save"
    return os.WIFSIGNALED(status) and done not in told


def kill_at_every_step(job, model, names, root, wrong):
    """Kill a save before its first step, its second and so on; returns how many steps there are."""
    step = 0
    while True:
        folder = root / f"step-{step}"
        folder.mkdir()
        shutil.copytree(root / "old-model", folder / "model")

        def work(tell, last=step, folder=folder):
            done = 0

            def count(event, arguments):
                nonlocal done
                if event == "open" or event.startswith(("os.", "shutil.")):
                    done += 1
                    if done == last + 1:  # not again for os.kill itself
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            save_model(model, folder / "model", overwrite=True)

        pid, reading = fork(work)
        os.close(reading)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status)
        if not killed and status:
            raise RuntimeError(f"a save ended with status {status}")
        found = what_is_there(job, folder, names, wrong)
        if found is None or (not killed and found != "new"):
            wrong.append(f"a save killed at step {step} left {found}")
        shutil.rmtree(folder)
        if not killed:
            return step
        step += 1


def what_is_there(job, folder, known, wrong):
    """Which model is at the path; notes anything else that passes for a model."""
    found = None
    for path in [folder, *folder.rglob("*")]:
        if "checkpoints" in path.parts:
            continue
        try:
            model = load_model(path)
        except (ModelFormatError, OSError):
            if path == folder / "model":
                wrong.append("no whole model is at the path of the model")
            continue
        name = known.get(answers_digest(model, job.X))
        if name is None:
            wrong.append(f"{path.relative_to(folder)} passes for a model and is none of them")
        elif path == folder / "model":
            found = name
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
