"""Compile the Triton kernels of the sparse output layer ahead of time; say what bounds them.

    python tools/compile_triton.py                  registers and spills of each kernel, by ptxas
    python tools/compile_triton.py --all            a line for each configuration, not each kernel
    python tools/compile_triton.py --sm 90          for one architecture only (80 or 90)
    python tools/compile_triton.py --quick          one configuration of each kernel
    python tools/compile_triton.py --json           each configuration as JSON
    python tools/compile_triton.py --roofline       bytes, operations, and the least time they take

No GPU is needed. The first form needs Triton and ptxas: that of PATH, or the one that Triton brings
where there is none. ``--roofline`` needs nothing but Python. The tables of docs/kernels.md are
printed by the first and the last form.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# Batch, fan-in and labels of a group for which kernels are compiled.
COLUMNS, FAN_IN, GROUP = 64, 64, 16

ARCHITECTURES = {80: "sm_80", 90: "sm_90a"}

# H100 SXM, dense, from NVIDIA's data sheet: bytes and operations a second.
H100_BYTES = 3.35e12
H100_FLOPS = {"bf16": 989e12, "tf32": 495e12, "float32": 67e12}

_POINTERS = {"float32": "*fp32", "bfloat16": "*u16", "float8": "*u8"}
_FLOATS = ("rate", "decay", "keep1", "add1", "keep2", "add2", "scale", "epsilon")


class Configuration(NamedTuple):
    """What a kernel is compiled for."""

    kernel: str
    constants: dict
    indices: str | None = "*u16"
    aligned: bool = True  # fan-in and pointers are multiples of 16
    group_size: int = GROUP

    def __str__(self):
        words = [str(value) for key, value in self.constants.items() if not _is_flag(value)]
        words += [key.lower() for key, value in self.constants.items() if value is True]
        if self.indices == "*i32":
            words.append("int32 indices")
        if not self.aligned:
            words.append("odd fan-in")
        return " ".join([self.kernel, *words])


class Compiled(NamedTuple):
    """What ptxas says of a kernel."""

    configuration: str
    sm: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int
    products: str


def configurations():
    """All configurations that are compiled, the most used of each kernel first."""
    found = []
    for precision in ("bfloat16", "float32", "float8"):
        low = precision != "float32"
        found += [
            Configuration("fixed_scores", {"PRECISION": precision}),
            Configuration("fixed_update", _update(precision, "sgd", kahan=low, skip=True)),
            Configuration("fixed_scatter", {"PRECISION": precision, "SKIP_IDLE": True}),
            Configuration("sum_by_input", _sum(precision, weighted=True, skip=True)),
        ]
        for dot in ("bf16",) if low else ("ieee", "tf32"):
            tiles = {"PRECISION": precision, "DOT": dot, "GATHERED": True}
            found += [
                Configuration("grouped_scores", tiles),
                Configuration("grouped_update", {**tiles, **_update(precision, "sgd", kahan=low)}),
                Configuration("grouped_partial", {**_only(tiles, "GATHERED"), "SKIP_IDLE": True}),
            ]
            if precision != "float8":  # the weights are no argument
                found.append(Configuration("grouped_grad_weights", {"DOT": dot, "GATHERED": True}))
    for optimizer in ("momentum", "adam"):
        for precision in _POINTERS:
            found.append(Configuration("fixed_update", _update(precision, optimizer)))
            tiles = {"DOT": "ieee" if precision == "float32" else "bf16", "GATHERED": True}
            found.append(
                Configuration("grouped_update", {**tiles, **_update(precision, optimizer)})
            )
    dense = {"PRECISION": "bfloat16", "DOT": "bf16", "GATHERED": False}
    found += [
        Configuration("grouped_scores", dense, None, group_size=64),
        Configuration(
            "grouped_update", {**dense, **_update("bfloat16", "sgd", kahan=True)}, None, True, 64
        ),
        Configuration("grouped_partial", {**_only(dense, "GATHERED"), "SKIP_IDLE": False}, None),
        Configuration("fixed_scores", {"PRECISION": "bfloat16"}, "*i32"),
        Configuration("fixed_scores", {"PRECISION": "bfloat16"}, aligned=False),
        Configuration("fixed_update", _update("bfloat16", "sgd", skip=True), aligned=False),
        Configuration(
            "grouped_scores",
            {"PRECISION": "bfloat16", "DOT": "bf16", "GATHERED": True},
            aligned=False,
        ),
        Configuration("fixed_grad_weights", {}),
        Configuration("sum_by_input", _sum("float32", weighted=False)),
        Configuration("put_positives", {}),
    ]
    for loss in ("squared_hinge", "bce"):
        found.append(Configuration("take_positives", {"LOSS": loss}))
        found.append(Configuration("negatives", {"LOSS": loss}))
    for optimizer in ("sgd", "momentum", "adam"):
        found.append(Configuration("update_bias", {"OPTIMIZER": optimizer}))
    return found


def quick_configurations():
    """One configuration of each kernel."""
    first = {}
    for configuration in configurations():
        first.setdefault(configuration.kernel, configuration)
    return list(first.values())


def _update(precision, optimizer, kahan=False, skip=False):
    return {
        "PRECISION": precision,
        "OPTIMIZER": optimizer,
        "KAHAN": kahan,
        "SKIP_IDLE": skip,
    }


def _sum(precision, weighted, skip=False):
    return {"PRECISION": precision, "WEIGHTED": weighted, "SKIP_IDLE": skip}


def _only(constants, without):
    return {key: value for key, value in constants.items() if key != without}


def _is_flag(value):
    return isinstance(value, bool)


def compile_kernel(configuration, sm):
    """Compile one configuration and return what ptxas says of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from skxmc.ops.sparse_head.triton_launch import KERNELS, launch

    kernel = KERNELS[configuration.kernel]
    fan_in = FAN_IN if configuration.aligned else FAN_IN - 1
    dot = configuration.constants.get("DOT")
    how = launch(configuration.kernel, COLUMNS, fan_in, configuration.group_size, dot)
    constants = {**configuration.constants, **how.blocks}
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        kind = constants.get(name, _kind(name, configuration))
        if name in constants or kind is None:
            signature[name] = "constexpr"
            constants.setdefault(name, None)
            continue
        signature[name] = kind
        # What Triton finds out by itself at a launch: sizes and addresses that divide by 16.
        divides = kind.startswith("*") or name == "fan_in"
        if name == "n_columns" or (divides and configuration.aligned):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=how.options)
    registers, spills = run_ptxas(
        compiled.asm["ptx"], ARCHITECTURES[sm], how.options["enable_fp_fusion"]
    )
    return Compiled(
        str(configuration),
        sm,
        registers,
        spills,
        compiled.metadata.shared,
        compiled.metadata.num_warps,
        products_of(compiled.asm["ptx"]),
    )


def _kind(name, configuration):
    """Type of an argument, None for an array that this configuration does not have."""
    constants = configuration.constants
    precision = constants.get("PRECISION", "float32")
    optimizer = constants.get("OPTIMIZER", "sgd")
    kinds = {
        "features_ptr": "*bf16" if constants.get("DOT") == "bf16" else "*fp32",
        "weights_ptr": _POINTERS[precision],
        "indices_ptr": configuration.indices,
        "momentum_ptr": None if optimizer == "sgd" else "*fp32",
        "second_ptr": "*fp32" if optimizer == "adam" else None,
        "compensation_ptr": "*u16" if constants.get("KAHAN") else None,
        "active_ptr": "*i8",
        "labels_ptr": "*i32",
        "slots_ptr": "*i32",
        "starts_ptr": "*i32",
        "first_offset": "i64",
    }
    if configuration.kernel in ("take_positives", "put_positives"):
        kinds["rows_ptr"] = "*i32"
    if not constants.get("WEIGHTED", True):
        kinds |= {"weights_ptr": None, "active_ptr": None}
    if name in kinds:
        return kinds[name]
    if name.endswith("_ptr"):
        return "*fp32"
    return "fp32" if name in _FLOATS else "i32"


def products_of(ptx):
    """Say which instructions multiply tiles: of tensor cores (wgmma, mma), or none of them."""
    return next((name for name in ("wgmma", "mma") if f"{name}." in ptx), "fma")


def run_ptxas(ptx, architecture, fusion):
    """Assemble PTX with the options that Triton uses; return registers and bytes spilled."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx)
        options = ["-v", "--regAllocOptLevel=2"] + ([] if fusion else ["--fmad=false"])
        done = subprocess.run(
            [find_ptxas(), *options, f"-arch={architecture}", file, "-o", Path(folder) / "out"],
            capture_output=True,
            text=True,
            check=True,
        )
    said = done.stdout + done.stderr
    registers = int(re.search(r"Used (\d+) registers", said)[1])
    stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said).groups()
    return registers, int(stores) + int(loads)


def find_ptxas():
    """Path of ptxas: of PATH, else the one that Triton brings."""
    found = shutil.which("ptxas")
    if found is None:
        import triton

        found = triton.knobs.nvidia.ptxas.path
    return found


# --- rooflines ------------------------------------------------------------------------------------

# Labels of the two shapes; batch and fan-in as above, 16,384 inputs.
SHAPES = (670_091, 3_000_000)
INPUTS = 16_384
SLICE = 65_536  # labels of a slice, as in triton_.py

# Bytes of a weight, and of what is read and written beside it in an update.
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "float8": 1}
STATE_BYTES = {"sgd": 0, "momentum": 8, "adam": 16}


class Work(NamedTuple):
    """What a kernel has to do for a whole layer, at least.

    Attributes
    ----------
    kernel : str
    n_bytes : float
        Each array read or written once. Margins and features may come from the cache instead.
    flops : float
    gathered : float
        Bytes fetched by index, from the caches: features, or gradients of the margins.
    peak : {"bf16", "tf32", "float32"}
    """

    kernel: str
    n_bytes: float
    flops: float
    gathered: float
    peak: str

    @property
    def intensity(self):
        """Operations for each byte."""
        return self.flops / self.n_bytes

    @property
    def seconds(self):
        """Time on an H100 at least: of memory or of arithmetic."""
        return max(self.n_bytes / H100_BYTES, self.flops / H100_FLOPS[self.peak])

    @property
    def bound(self):
        """What takes this time."""
        by_memory = self.n_bytes / H100_BYTES >= self.flops / H100_FLOPS[self.peak]
        return "memory" if by_memory else "arithmetic"


def work(kernel, n_labels, precision="bfloat16", optimizer="sgd", dot="bf16", group=GROUP):
    """Return the `Work` of a kernel for a layer of fixed fan-in, or of groups of labels."""
    slots, groups = n_labels * FAN_IN, n_labels / group
    w = WEIGHT_BYTES[precision]
    margins = n_labels * COLUMNS * 4
    features = INPUTS * COLUMNS * 4
    gradient = 2 * features * -(-n_labels // SLICE)  # read and written in each slice
    products = 2 * slots * COLUMNS
    fixed_gather, grouped_gather = slots * COLUMNS * 4, groups * FAN_IN * COLUMNS
    grouped_gather *= 2 if dot == "bf16" else 4
    grouped_features = features / 2 if dot == "bf16" else features
    indices, shared_indices = 2 * slots, 2 * groups * FAN_IN
    update = slots * (2 * w + STATE_BYTES[optimizer])
    partial = groups * FAN_IN * COLUMNS * 4
    peak = "float32" if dot == "ieee" else dot
    bias, flags = 4 * n_labels, n_labels
    rows = {
        "fixed_scores": (slots * w + indices + bias + margins + features, products, fixed_gather),
        "fixed_update": (update + indices + flags + margins + features, products, fixed_gather),
        "fixed_grad_weights": (slots * 4 + indices + margins + features, products, fixed_gather),
        "fixed_scatter": (slots * w + indices + margins + gradient, products, fixed_gather),
        "sum_by_input": (slots * (w + 4) + flags + margins + gradient, products, fixed_gather),
        "grouped_scores": (
            *(slots * w + shared_indices + bias + margins + grouped_features, products),
            grouped_gather,
        ),
        "grouped_update": (
            *(update + shared_indices + flags + margins + grouped_features, products),
            grouped_gather,
        ),
        "grouped_grad_weights": (
            *(slots * 4 + shared_indices + margins + grouped_features, products),
            grouped_gather,
        ),
        "grouped_partial": (slots * w + flags + margins + partial, products, 0),
        "sum_by_input (groups)": (
            *(partial + 4 * groups * FAN_IN + gradient, groups * FAN_IN * COLUMNS),
            partial,
        ),
        "negatives": (2 * margins + 5 * n_labels, 4 * n_labels * COLUMNS, 0),
        "update_bias": (margins + 8 * n_labels, n_labels * COLUMNS, 0),
    }
    on_tensor_cores = kernel.startswith("grouped")
    return Work(kernel, *rows[kernel], peak if on_tensor_cores else "float32")


FIXED_STEP = ("fixed_scores", "negatives", "sum_by_input", "fixed_update", "update_bias")
GROUPED_STEP = (
    *("grouped_scores", "negatives", "grouped_partial", "sum_by_input (groups)"),
    *("grouped_update", "update_bias"),
)
OTHERS = ("fixed_grad_weights", "fixed_scatter", "grouped_grad_weights")


def roofline_tables():
    """The tables of docs/kernels.md: each kernel, and whole training steps."""
    lines = [
        "| kernel | bytes an element | flops an element | flops a byte | gathered, bytes an element"
        " | bound by | " + " | ".join(f"L = {n:,}, µs" for n in SHAPES) + " |",
        "|---|---|---|---|---|---|" + "---|" * len(SHAPES),
    ]
    for kernel in dict.fromkeys((*FIXED_STEP, *GROUPED_STEP, *OTHERS)):
        one, two = (work(kernel, n) for n in SHAPES)
        slots = SHAPES[0] * FAN_IN
        lines.append(
            f"| `{kernel}` | {one.n_bytes / slots:.1f} | {one.flops / slots:.0f} "
            f"| {one.intensity:.1f} | {one.gathered / slots:.0f} | {one.bound} "
            f"| {one.seconds * 1e6:,.0f} | {two.seconds * 1e6:,.0f} |"
        )
    lines += [
        "",
        "| training step | weights | optimiser | products | "
        + " | ".join(f"L = {n:,}, ms" for n in SHAPES)
        + " | gathered, GB |",
        "|---|---|---|---|" + "---|" * len(SHAPES) + "---|",
    ]
    cases = [
        ("fixed fan-in", FIXED_STEP, "float32", "momentum", "ieee"),
        ("fixed fan-in", FIXED_STEP, "bfloat16", "sgd", "bf16"),
        ("fixed fan-in", FIXED_STEP, "float8", "sgd", "bf16"),
        ("groups of 16", GROUPED_STEP, "float32", "momentum", "ieee"),
        ("groups of 16", GROUPED_STEP, "float32", "momentum", "tf32"),
        ("groups of 16", GROUPED_STEP, "bfloat16", "sgd", "bf16"),
        ("groups of 16", GROUPED_STEP, "float8", "sgd", "bf16"),
    ]
    for layout, kernels, precision, optimizer, dot in cases:
        all_work = [
            [work(kernel, n, precision, optimizer, dot) for kernel in kernels] for n in SHAPES
        ]
        times = " | ".join(f"{sum(w.seconds for w in works) * 1e3:.2f}" for works in all_work)
        gathered = sum(w.gathered for w in all_work[0]) / 1e9
        products = "float32" if layout == "fixed fan-in" else dot
        lines.append(
            f"| {layout} | {precision} | {optimizer} | {products} | {times} | {gathered:.1f} |"
        )
    return lines


def register_table(results, key):
    """One line for each ``key(result)``: the ranges over its configurations."""
    groups = {}
    for result in results:
        groups.setdefault(key(result), {}).setdefault(result.sm, []).append(result)
    machines = sorted({result.sm for result in results})
    heads = [f"sm_{sm}: {what}" for sm in machines for what in ("registers", "spills", "products")]
    lines = [f"| kernel | configurations | {' | '.join(heads)} |"]
    lines.append("|---" * (2 + len(heads)) + "|")
    for name, found in groups.items():
        cells = [f"`{name}`", str(len(found[machines[0]]))]
        for sm in machines:
            registers = sorted({r.registers for r in found[sm]})
            low, high = registers[0], registers[-1]
            cells.append(str(low) if low == high else f"{low} to {high}")
            cells.append(str(max(r.spill_bytes for r in found[sm])))
            cells.append(", ".join(sorted({r.products for r in found[sm]})))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(arguments):
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sm", type=int, choices=ARCHITECTURES, action="append")
    parser.add_argument("--quick", action="store_true", help="one configuration of each kernel")
    parser.add_argument("--all", action="store_true", help="a line for each configuration")
    parser.add_argument("--json", action="store_true", help="the results as JSON")
    parser.add_argument("--roofline", action="store_true", help="bytes, operations, least times")
    options = parser.parse_args(arguments)
    if options.roofline:
        print("\n".join(roofline_tables()))
        return 0
    sys.path.insert(0, str(ROOT))
    chosen = quick_configurations() if options.quick else configurations()
    machines = options.sm or ARCHITECTURES
    results = [compile_kernel(choice, sm) for sm in machines for choice in chosen]
    if options.json:
        print(json.dumps([result._asdict() for result in results]))
    else:
        width = None if options.all else 1
        print(
            "\n".join(register_table(results, lambda r: " ".join(r.configuration.split()[:width])))
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
