"""One training in several processes of `torch.distributed`: the labels are shared out.

Each process holds a range of the labels of each part, with what the optimiser keeps for them, and
the whole front. It computes its labels for the whole batch; the gradients of the features are added
up in the order of the processes, so that all of them have the same bits and the copies of the front
stay equal. A text encoder computes its share of the rows of a batch in each process.

All processes run the same program on the same data. What is not a label's is computed in each.
"""

import atexit
import os

import numpy as np
import torch
import torch.distributed as dist

from skxmc.io._arrays import make_compressed
from skxmc.neural._accumulation import FrontWrapper
from skxmc.neural._checkpoint import Checkpoint
from skxmc.neural._output_layer import (
    PART_ARRAYS,
    DenseGradient,
    OutputLayer,
    compensated_labels,
    dense_gradients,
    load_backend,
    rewire_parts,
    stream_seed,
    to_numpy,
)
from skxmc.ops.sparse_head import initial
from skxmc.ops.sparse_head._types import Loss, Part, State, StepResult
from skxmc.ops.topk import TopK


class Processes:
    """The processes of a training, and what they tell each other.

    Parameters
    ----------
    device : str or None
        Of this process; None is the CPU. For "cuda" without a number `torchrun` tells which one
        (``LOCAL_RANK``).

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and of all.
    device : str or None

    Raises
    ------
    RuntimeError
        If there is neither a process group of `torch.distributed` nor the environment of
        `torchrun` to make one from.

    Notes
    -----
    A process group that exists is used; else one is made, by NCCL for a GPU and Gloo for the CPU,
    that lives until the end of the program.
    """

    def __init__(self, device=None):
        if device == "cuda":
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self.device = device
        on_gpu = device is not None and torch.device(device).type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            _start("nccl" if on_gpu else "gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # where a tensor has to be, to be sent
        self._place = torch.device(device) if dist.get_backend() == "nccl" else torch.device("cpu")

    def total(self, tensor):
        """Sum over the processes, in their order: the same bits in each; of tensors or arrays."""
        is_array = isinstance(tensor, np.ndarray)
        own = torch.from_numpy(tensor) if is_array else tensor
        sent = own.detach().to(self._place).contiguous()
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(parts, sent)
        result = parts[0]
        for part in parts[1:]:
            result += part
        return result.cpu().numpy() if is_array else result.to(own.device)

    def maximum(self, number):
        """The largest of the processes' numbers."""
        tensor = torch.tensor([number], device=self._place)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def rows(self, array, bounds):
        """The rows of all processes, one below the other, of NumPy arrays or tensors.

        Parameters
        ----------
        array : array of shape (bounds[rank + 1] - bounds[rank], ...)
            Rows of this process, of any type.
        bounds : sequence of int
            First row of each process, and the number of all rows.
        """
        shape = (bounds[-1], *array.shape[1:])
        if isinstance(array, np.ndarray):
            out = np.empty(shape, dtype=array.dtype)
            flat = torch.from_numpy(out.reshape(-1).view(np.uint8)).to(self._place)
            own = torch.from_numpy(np.array(array, order="C").reshape(-1).view(np.uint8))
        else:
            flat = array.new_empty(shape, device=self._place).view(-1)
            own = array.detach().reshape(-1)
        size = len(flat) // bounds[-1] if bounds[-1] else 0
        flat[bounds[self.rank] * size : bounds[self.rank + 1] * size] = own.to(self._place)
        for rank in range(self.size):
            part = flat[bounds[rank] * size : bounds[rank + 1] * size]
            if len(part):
                dist.broadcast(part, src=rank)
        if isinstance(array, np.ndarray):
            return flat.cpu().numpy().view(array.dtype).reshape(shape)
        return flat.view(shape).to(array.device)

    def add_gradients(self, parameters):
        """Make the gradient of each parameter the sum over the processes."""
        present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        present = present.to(self._place)
        dist.all_reduce(present, dist.ReduceOp.MAX)
        for parameter, is_present in zip(parameters, present.tolist(), strict=True):
            if is_present:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradient = parameter.grad.to(self._place)
                dist.all_reduce(gradient)
                parameter.grad.copy_(gradient)

    def of_first(self, value):
        """What the first process has; any object that can be pickled."""
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self._place)
        return values[0]

    def check_equal(self, value):
        """Raise if a process has another value than the first one, for data and parameters."""
        values = [None] * self.size
        dist.all_gather_object(values, value)
        other = [rank for rank, found in enumerate(values) if found != values[0]]
        if other:
            raise ValueError(
                f"Data or parameters of process {other[0]} are not those of process 0: all "
                "processes have to call fit with the same."
            )


def _start(backend):
    if "RANK" not in os.environ:
        raise RuntimeError(
            "distributed=True needs several processes: start the program by `torchrun "
            "--nproc-per-node 2 program.py`, or call torch.distributed.init_process_group first."
        )
    dist.init_process_group(backend)
    atexit.register(_end)


def _end():
    if dist.is_initialized():
        dist.destroy_process_group()


class ShardedOutputLayer:
    """An `OutputLayer` whose labels are shared out to processes.

    Each part is cut into ranges of whole groups, one for each process, so that each has its share
    of the frequent and the rare labels. What goes in and out (targets, answers, `numpy_parts`,
    `state`) is of the whole layer and the same in all processes, and that of one process with the
    same seed, but for the rounding of sums (and the random bits of low precision).

    Parameters
    ----------
    processes : Processes
    parts : tuple of Part
        Of the whole layer, on NumPy arrays. They are copied.
    n_inputs, loss, optimizer, compensated, backend, seed, n_jobs
        As for `OutputLayer`, of the whole layer.

    Raises
    ------
    ValueError
        If a process would have no label.

    Notes
    -----
    Time of a step and memory of the optimiser's state: those of `OutputLayer` divided by the
    number of processes. A step sends the gradient of the features, 4 bytes a row and input, to each
    process. `rewire`, `parameters`, `numpy_parts` and `state` put the whole layer together in the
    main memory of each process; `rewire` needs no state for that.
    """

    def __init__(
        self,
        processes,
        parts,
        n_inputs,
        loss,
        optimizer,
        *,
        compensated=0.0,
        backend="numba",
        seed=0,
        n_jobs=None,
    ):
        self._processes, self._rank = processes, processes.rank
        self.is_silent = processes.rank > 0
        self.n_inputs, self.loss, self.seed = n_inputs, loss, seed
        self.backend, self.device = backend, processes.device
        sizes = [part.n_labels for part in parts]
        self.n_labels = sum(sizes)
        counts = compensated_labels(sizes, compensated)
        self._shards = [
            _Shard(number, first, part, optimizer, count, processes.rank, processes.size)
            for number, (part, first, count) in enumerate(
                zip(parts, np.cumsum([0, *sizes[:-1]]), counts, strict=True)
            )
        ]
        present = self._present()
        if processes.maximum(not present):
            raise ValueError(
                f"{self.n_labels} labels cannot be shared out to {processes.size} processes such "
                "that each has a group of them: start fewer processes."
            )
        # places in the whole layer of the labels of this process, and the inverse
        self._labels = np.concatenate([shard.labels for shard in present])
        self._places = np.full(self.n_labels, -1, dtype=np.int32)
        self._places[self._labels] = np.arange(len(self._labels), dtype=np.int32)
        weight = loss.positive_weight
        self._local = OutputLayer(
            tuple(shard.own_part(parts[shard.number]) for shard in present),
            n_inputs,
            Loss(loss.name, None if weight is None else weight[self._labels]),
            optimizer,
            compensated=[shard.n_compensated for shard in present],
            backend=backend,
            device=processes.device,
            seed=seed if processes.rank == 0 else stream_seed(seed, processes.rank),
            n_jobs=n_jobs,
        )

    def train_step(self, features, targets, factor, step):
        """Update the labels of this process; loss and gradient of the features are of all."""
        result = self._local.train_step(features, self._own_targets(targets), factor, step)
        loss = self._processes.total(np.array([result.loss]))
        return StepResult(float(loss[0]), self._processes.total(result.grad_features))

    def topk(self, features, k):
        """`TopK` of layer labels."""
        k = min(k, self.n_labels)
        own = self._local.topk(features, min(k, len(self._labels)))
        labels, scores = self._labels[own.labels], own.scores
        # the answers of all processes side by side, of as many as each has
        widths = np.zeros(self._processes.size, dtype=np.int64)
        widths[self._processes.rank] = labels.shape[1]
        bounds = np.concatenate([[0], np.cumsum(self._processes.total(widths))]).tolist()
        labels, scores = (self._processes.rows(array.T, bounds).T for array in (labels, scores))
        best = np.lexsort((labels, -scores), axis=1)[:, :k]
        return TopK(
            np.take_along_axis(labels, best, axis=1), np.take_along_axis(scores, best, axis=1)
        )

    def rewire(self, rewiring, n_steps, features, targets):
        """One round of pruning and growing, as in one process; the number of slots exchanged."""
        parts = self.numpy_parts()
        gradients = None
        if rewiring.grow == "gradient":
            gradients = dense_gradients(
                *(DenseGradient, load_backend("numba"), parts),
                *(to_numpy(features), targets, self.loss),
            )
        n_rewired = rewire_parts(
            parts,
            [State()] * len(parts),
            self.n_inputs,
            rewiring,
            n_steps,
            gradients,
            self.seed,
        )
        self._local.set_indices(
            [shard.own_part(parts[shard.number]).indices for shard in self._present()]
        )
        return n_rewired

    def numpy_parts(self):
        """The parts of the whole layer as NumPy arrays."""
        arrays = self.parameters()
        return tuple(
            Part(
                arrays[f"{shard.number}.weights"],
                arrays.get(f"{shard.number}.indices"),
                arrays[f"{shard.number}.bias"],
                shard.group_size,
                shard.precision,
            )
            for shard in self._shards
        )

    def parameters(self):
        """The weights of the whole layer, by name."""
        return self._whole(self._local.parameters(), PART_ARRAYS)

    def load_parameters(self, arrays):
        """Set the weights; the optimiser's state stays."""
        self._local.load_parameters(self._own(arrays))

    def state(self):
        """Weights and the optimiser's state of the whole layer, by name."""
        return self._whole(self._local.state(), PART_ARRAYS + State._fields)

    def load_state(self, arrays):
        """Go on from what `state` returned, in any number of processes."""
        self._local.load_state(self._own(arrays))

    def _present(self):
        return [shard for shard in self._shards if shard.n_labels]

    def _whole(self, arrays, names):
        """Arrays of the whole layer from those of this process."""
        local = {shard.number: number for number, shard in enumerate(self._present())}
        whole = {}
        for shard in self._shards:
            for name in names:
                if name in shard.bounds:
                    own = shard.empty[name]
                    if shard.bounds[name][self._rank] < shard.bounds[name][self._rank + 1]:
                        own = arrays[f"{local[shard.number]}.{name}"]
                    gathered = self._processes.rows(own, shard.bounds[name])
                    whole[f"{shard.number}.{name}"] = gathered
        return whole

    def _own(self, arrays):
        """Arrays of this process from those of the whole layer."""
        return {
            f"{number}.{name}": shard.own(name, arrays[f"{shard.number}.{name}"])
            for number, shard in enumerate(self._present())
            for name in shard.bounds
            if f"{shard.number}.{name}" in arrays
        }

    def _own_targets(self, targets):
        """The columns of this process: the places of its labels rise, and so the order stays."""
        columns = self._places[targets.indices]
        kept = columns >= 0
        indptr = np.concatenate([[0], np.cumsum(kept)])[targets.indptr]
        shape = targets.shape[0], len(self._labels)
        return make_compressed(targets.data[kept], columns[kept], indptr, shape)


class _Shard:
    """Which labels of a part a process has.

    Parameters
    ----------
    number : int
        Of the part.
    start : int
        Place of its first label in the layer.
    part : Part
        The whole one.
    optimizer : Optimizer
    n_compensated : int
        Labels of the part with Kahan compensation, the first ones.
    rank, size : int
        Number of this process and of all.

    Attributes
    ----------
    n_labels : int
    labels : int32 array of shape (n_labels,)
        Places in the layer.
    n_compensated : int
    bounds : dict of str to list of int
        For each array of the part and its state the first row of each process, and their number.
    empty : dict of str to ndarray
        These arrays without rows.
    """

    def __init__(self, number, start, part, optimizer, n_compensated, rank, size):
        self.number, self.group_size, self.precision = number, part.group_size, part.precision
        self._rank = rank
        n_groups = -(-part.n_labels // part.group_size)
        groups = np.linspace(0, n_groups, size + 1).astype(np.int64)
        labels = np.minimum(groups * part.group_size, part.n_labels)
        compensated = np.minimum(labels, n_compensated)
        self.labels = (start + np.arange(labels[rank], labels[rank + 1])).astype(np.int32)
        self.n_labels = len(self.labels)
        self.n_compensated = int(compensated[rank + 1] - compensated[rank])
        group = _rows_of_part(part, 0, min(part.group_size, part.n_labels))
        state = initial.new_state(group, optimizer, min(n_compensated, group.n_labels))
        arrays = {name: getattr(group, name) for name in PART_ARRAYS} | state._asdict()
        rows = {"indices": groups, "compensation": compensated}
        self.empty = {name: array[:0] for name, array in arrays.items() if array is not None}
        self.bounds = {name: rows.get(name, labels).tolist() for name in self.empty}

    def own(self, name, array):
        """The rows of this process of an array of the whole part."""
        return array[self.bounds[name][self._rank] : self.bounds[name][self._rank + 1]]

    def own_part(self, part):
        """Copy of the labels of this process of the whole part."""
        own = {
            name: np.array(self.own(name, getattr(part, name)))
            for name in PART_ARRAYS
            if name in self.bounds
        }
        return part._replace(**own)


def _rows_of_part(part, first, stop):
    return part._replace(
        weights=part.weights[first:stop],
        indices=None if part.indices is None else part.indices[:1],
        bias=part.bias[first:stop],
    )


class RowParallelFront(FrontWrapper):
    """A text encoder that computes its share of the rows of a batch in each process.

    Features are those of all rows in each process, and parameters stay equal: their gradients are
    summed before each update.

    Parameters
    ----------
    front : TextFront
        The same in each process.
    processes : Processes
    """

    def __init__(self, front, processes):
        super().__init__(front)
        self._processes = processes
        self._bounds = None

    def forward(self, batch, *, training, seed=0):
        """Features of a batch."""
        rank = self._processes.rank
        if rank:
            seed = stream_seed(seed, rank)
        own = self._own(batch)
        features = self.front.forward(own, training=training, seed=seed)
        return self._processes.rows(features, self._bounds)

    def transform(self, X):
        """Features of rows for prediction."""
        own = self._own(X)
        return self._processes.rows(self.front.transform(own), self._bounds)

    def _own(self, X):
        n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
        self._bounds = np.linspace(0, n_rows, self._processes.size + 1).astype(int).tolist()
        return X[self._rows]

    @property
    def _rows(self):
        rank = self._processes.rank
        return slice(self._bounds[rank], self._bounds[rank + 1])

    def backward(self, gradient):
        """Add the gradient of the parameters, given that of the last features."""
        self.front.backward(gradient[self._rows])

    def step(self, learning_rate):
        """Update the parameters by the gradients of all processes."""
        if self.front.trainable:
            self._processes.add_gradients(list(self.front.module.parameters()))
        self.front.step(learning_rate)


class SharedCheckpoint(Checkpoint):
    """A checkpoint of all processes, in one file that the first one writes and reads.

    Parameters
    ----------
    folder, digest
        As for `Checkpoint`.
    processes : Processes
    """

    def __init__(self, folder, digest, processes):
        super().__init__(folder, digest)
        self._processes = processes

    def agree(self, code):
        """The largest of the numbers that the processes say."""
        return self._processes.maximum(code)

    def save(self, arrays, meta):
        """Replace the checkpoint; all processes wait for it, since the end of one ends them all."""
        if self._processes.rank == 0:
            super().save(arrays, meta)
        self._processes.maximum(0)

    def read(self):
        """What was written; the same in all processes, and so is an error."""
        found = error = None
        if self._processes.rank == 0:
            try:
                found = super().read()
            except (ValueError, TypeError, KeyError, AttributeError) as caught:
                error = str(caught)
        found, error = self._processes.of_first((found, error))
        if error is not None:
            raise ValueError(error)
        return found

    def remove(self):
        """Delete it: the fit is complete."""
        if self._processes.rank == 0:
            super().remove()
