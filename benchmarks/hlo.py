"""What a program that XLA compiled for a GPU costs at the least, from the text of its HLO."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8}
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z-]+)\((.*)$")
# What runs no kernel of its own.
FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all", "partition-id", "replica-id"}
FREE |= {"opt-barrier"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
READS_A_PART = ("slice", "dynamic-slice", "gather")
READS_ONE_FOR_ONE = ("convert", "bitcast", "reshape", "transpose", "negate")


@dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str:
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


@dataclass(frozen=True)
class Kernel:
    """A kernel: `count` is how often it runs; bytes and FLOPs are those of one run."""

    kind: str
    bytes: int
    flops: int
    shape: str
    source: str
    full_precision: bool = False  # the matrix product of float32
    count: int = 1


def kernels(text: str) -> list[Kernel]:
    """The kernels of an optimized HLO module, those of a loop as often as it runs.

    Bytes are those of a kernel's inputs and outputs. A fused computation that reads a slice of an input reads no more
    of it than that. FLOPs are those of matrix products, convolutions and fused attention.
    """
    computations, entry = _parse(text)
    return list(_walk(computations, entry, 1))


def _parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    computations, current, entry = {}, {}, ""
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif found := INSTRUCTION.match(line):
            name, shape, operation, rest = found.groups()
            inner = _up_to_closing(rest)
            operands = tuple(re.findall(r"%([\w.-]+)", inner))
            current[name] = Instruction(name, shape, operation, operands, rest[len(inner) :])
    return computations, entry


def _up_to_closing(text: str) -> str:
    depth = 1
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[:index]
    return text


def _walk(computations, name: str, count: int) -> Iterator[Kernel]:
    instructions = computations[name]
    for one in instructions.values():
        called = one.attribute(r"(?:calls|to_apply)=%?([\w.-]+)")
        if one.operation in FREE or one.operation.endswith("-done"):
            continue
        if one.operation == "while":
            trips = one.attribute(r"known_trip_count\D*(\d+)") or "1"
            yield from _walk(computations, one.attribute(r"body=%?([\w.-]+)"), count * int(trips))
        elif one.operation == "call":
            yield from _walk(computations, called, count)
        elif one.operation == "conditional":
            branches = re.findall(r"%([\w.-]+)", one.attribute(r"branch_computations=\{([^}]*)\}"))
            costs = [list(_walk(computations, branch, count)) for branch in branches]
            yield from max(costs, key=lambda found: sum(kernel.bytes * kernel.count for kernel in found), default=[])
        else:
            inner = computations.get(called, {}) if one.operation == "fusion" else {}
            yield replace(_kernel(one, instructions, inner), count=count)


def _kernel(one: Instruction, around: dict[str, Instruction], inner: dict[str, Instruction]) -> Kernel:
    kind, flops, full = one.operation, 0, False
    read = sum(size_in_bytes(around[name].shape) for name in one.operands if name in around)
    if inner:
        read = sum(_bytes_read(parameter, inner) for parameter in inner.values() if parameter.operation == "parameter")
        products = [x for x in inner.values() if x.operation == "dot"]
        flops = sum(_product_flops(x, inner) for x in products)
        full = any(_is_float32(x, inner) for x in products)
        kind = "product in a fusion" if products else "fusion"
    elif one.operation == "custom-call":
        kind = one.attribute(r'custom_call_target="([^"]+)"')
        if "conv" in kind:
            flops = _convolution_flops(one, around)
        elif "fmha" in kind or "attention_" in one.attribute(r'op_name="([^"]*)/pallas_call"'):
            flops = _attention_flops(one, around)
        elif "cublas" in kind:
            flops = _product_flops(one, around)
        full = bool(flops) and _is_float32(one, around)
    written = size_in_bytes(re.sub(r", s8\[\d+\]\{0\}", "", one.shape))  # without a library's workspace
    return Kernel(kind, read + written, flops, one.shape, one.attribute(r'op_name="([^"]*)"'), full)


def _bytes_read(parameter: Instruction, inner: dict[str, Instruction]) -> int:
    return int(size_in_bytes(parameter.shape) * min(1.0, _share_read(parameter, inner)))


def _share_read(source: Instruction, inner: dict[str, Instruction]) -> float:
    """Which share of its elements the users of an instruction in a fused computation read."""
    share, elements = 0.0, math.prod(_first(source.shape)) or 1
    users = [one for one in inner.values() if source.name in one.operands]
    if not users:  # the result of the computation
        return 1.0
    for user in users:
        if user.operation in READS_ONE_FOR_ONE:
            share += _share_read(user, inner)
        elif user.operation in READS_A_PART and user.operands[0] == source.name:
            share += math.prod(_first(user.shape)) / elements
        elif user.operation != "dynamic-update-slice" or user.operands[0] != source.name:  # which is in place
            return 1.0
    return share


def size_in_bytes(shape: str) -> int:
    return sum(BYTES.get(kind, 1) * math.prod(_dimensions(sides)) for kind, sides in SHAPE.findall(shape))


def _dimensions(sides: str) -> list[int]:
    return [int(side) for side in sides.split(",") if side]


def _first(shape: str) -> list[int]:
    found = SHAPE.search(shape)
    return _dimensions(found[2]) if found else []


def _is_float32(one: Instruction, around: dict[str, Instruction]) -> bool:
    return bool(one.operands) and around[one.operands[0]].shape.startswith("f32")


def _product_flops(one: Instruction, around: dict[str, Instruction]) -> int:
    axes = one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    axes = axes or one.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]').replace('"', "")
    left = _first(around[one.operands[0]].shape)
    return 2 * math.prod(_first(one.shape)) * math.prod(left[axis] for axis in _dimensions(axes))


def _convolution_flops(one: Instruction, around: dict[str, Instruction]) -> int:
    """Of the three products of a convolution each has as many: input, kernel and output stand where the labels say."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    if not labels or len(one.operands) < 2:
        return 0
    shapes = [_first(one.shape), _first(around[one.operands[0]].shape), _first(around[one.operands[1]].shape)]
    output, first, second = shapes
    if "BackwardFilter" in one.attributes:
        kernel, output = output, second
    elif "BackwardInput" in one.attributes:
        kernel, output = second, first
    else:
        kernel = second
    return 2 * math.prod(output) * math.prod(kernel) // kernel[labels[2].index("o")]


def _attention_flops(one: Instruction, around: dict[str, Instruction]) -> int:
    batch, queries, heads, features = _first(around[one.operands[0]].shape)
    keys = _first(around[one.operands[1]].shape)[1]
    forward = 4 * batch * heads * queries * keys * features
    return forward * 5 // 2 if re.search("Backward|attention_backward", one.attributes) else forward
