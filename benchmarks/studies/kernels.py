"""What a program that XLA compiled for a GPU will do there, counted from its text: kernels, bytes moved, operations, a floor.

A kernel is an instruction that a GPU launches something for: a fusion, a library's convolution or product, a copy. Its bytes
are those of what it reads and writes, each once, as if nothing stayed in a cache between two kernels. Its operations are two
for every multiply-accumulate of convolutions and products; what else it computes is not counted. Its floor is the longer of
two times: that of its bytes at the memory's full speed, and that of its operations at the peak of tensor cores. What a cache
of 50 MB keeps from one kernel to the next goes below it, at a small batch by about a half; kernels that are too small to fill
the GPU are far above it.

What is not known before a program runs: which algorithm cuDNN takes for a convolution. It counts as one kernel, without the
copies that some algorithms make.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

# Bytes of an element, by what XLA calls its type.
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
_BYTES |= {"u64": 8, "f64": 8, "c64": 8}
# What a GPU launches nothing for.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "opt-barrier", "partition-id"}
_FREE |= {"replica-id", "copy-done", "async-done", "async-update"}
# What runs other computations, each once as it is counted here.
_CALLS = {"call", "while", "conditional", "async-start"}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (\([^=]*?\)|\S+) ([\w-]+)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
# As a product says it, or as the settings of a library's call do.
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)')
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)|branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Gpu:
    """What a GPU can do at most.

    Attributes:
        name: as NVIDIA calls it.
        bandwidth: bytes a second of its memory.
        peaks: operations a second of tensor cores, by the type of what they multiply; float32 as TF32, XLA's default.
    """

    name: str
    bandwidth: float
    peaks: Mapping[str, float]


# Dense peaks and bandwidths of NVIDIA's data sheets, SXM modules.
_HOPPER = {"f32": 494.7e12, "bf16": 989.4e12, "f16": 989.4e12}
GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 3.35e12, _HOPPER),
    "h200": Gpu("NVIDIA H200 141GB HBM3e", 4.8e12, _HOPPER),
}


@dataclass(frozen=True)
class Kernel:
    """One launch: the instruction's name, the bytes it moves, and its operations by the type of what is multiplied."""

    name: str
    moved: int
    operations: Mapping[str, float]

    def seconds(self, gpu: Gpu) -> float:
        """The least time that it takes."""
        computing = sum(count / gpu.peaks.get(kind, gpu.peaks["f32"]) for kind, count in self.operations.items())
        return max(self.moved / gpu.bandwidth, computing)


@dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    what: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """The names of what it reads."""
        return re.findall(r"%([\w.-]+)", self.rest.partition(")")[0])

    @property
    def called(self) -> list[str]:
        """The names of the computations in it."""
        found = [name for one, many in _CALLED.findall(self.rest) for name in (one, *many.split(","))]
        return [name.strip().removeprefix("%") for name in found if name.strip()]


def kernels_of(text: str) -> list[Kernel]:
    """The kernels of a compiled program, in order; the body of a loop counts once.

    Args:
        text: of the program, `jax.stages.Compiled.as_text()`.

    Raises:
        ValueError: if the text holds no program.
    """
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError("expected the text of a compiled program, received one without an entry computation")
    return list(_kernels(computations, entry))


def _computations(text: str) -> tuple[dict[str, dict[str, _Instruction]], str | None]:
    """By name the instructions of each computation, by their names; and the name of the entry."""
    computations, entry, now = {}, None, {}
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            now = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif found := _INSTRUCTION.match(line):
            now[found[1]] = _Instruction(*found.groups())
    return computations, entry


def _kernels(computations: Mapping, name: str) -> Iterator[Kernel]:
    instructions = computations[name]
    for each in instructions.values():
        if each.what in _CALLS:
            for called in each.called:
                yield from _kernels(computations, called)
        elif each.what not in _FREE:
            read = dict.fromkeys(each.operands)
            moved = _size(each.shape) + sum(_size(instructions[operand].shape) for operand in read if operand in instructions)
            operations: dict[str, float] = {}
            for kind, count in _operations(computations, instructions, each):
                operations[kind] = operations.get(kind, 0.0) + count
            yield Kernel(each.name, moved, operations)


def _operations(computations: Mapping, around: Mapping, each: _Instruction) -> Iterator[tuple[str, float]]:
    """The types and numbers of operations of an instruction, those inside of a fusion included."""
    if each.what == "fusion":
        for called in each.called:
            for inner in computations[called].values():
                yield from _operations(computations, computations[called], inner)
    operands = [around[name].shape for name in each.operands if name in around]
    if "dim_labels" in each.rest and len(operands) > 1:
        yield _convolution(each, operands)
    elif (each.what == "dot" or "gemm" in each.rest.partition("custom_call_target=")[2][:40]) and len(operands) > 1:
        kind, left = _parsed(operands[0])[0]
        contracted = _CONTRACTED.search(each.rest)
        axes = [int(axis) for axis in contracted[1].replace('"', "").split(",")] if contracted else [len(left) - 1]
        yield kind, 2.0 * math.prod(_parsed(each.shape)[0][1]) * math.prod(left[axis] for axis in axes)


def _convolution(each: _Instruction, operands: Sequence[str]) -> tuple[str, float]:
    """Twice the multiply-accumulates: those of the forward convolution that it is, or is a gradient of."""
    (kind, first), (_, second), (_, result) = (_parsed(shape)[0] for shape in (*operands[:2], each.shape))
    outputs, kernel = result, second
    if "BackwardInput" in each.rest:
        outputs = first
    elif "BackwardFilter" in each.rest:
        outputs, kernel = second, result
    labels = re.search(r"dim_labels=\w+_(\w+)->", each.rest)[1]
    return kind, 2.0 * math.prod(outputs) * math.prod(kernel) / kernel[labels.index("o")]


def _parsed(shape: str) -> list[tuple[str, list[int]]]:
    """The types and sizes of an array, or of all arrays of a tuple."""
    return [(kind, [int(n) for n in sizes.split(",") if n]) for kind, sizes in _SHAPE.findall(shape) if kind in _BYTES]


def _size(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple."""
    return sum(_BYTES[kind] * math.prod(sizes) for kind, sizes in _parsed(shape))
