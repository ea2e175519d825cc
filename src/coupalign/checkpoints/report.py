"""What became of every tensor of a conversion's files, and where every parameter of the model comes from."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from coupalign.checkpoints.naming import Naming
from coupalign.checkpoints.source import Source
from coupalign.files import sha256


@dataclass
class Taken:
    """A file, and what became of its tensors.

    Attributes:
        used: tensor -> parameter it is in, and what was done to it ("" for nothing).
        ignored: tensor -> why it is not used.
    """

    source: Source
    naming: Naming
    used: dict[str, tuple[str, str]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        changed = sum(bool(done) for _, done in self.used.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(self.ignored.values()).items())
        return (
            f"{self.source.path}: {len(self.source.tensors)} tensors with {self.naming.label} names, "
            f"{len(self.used)} used{f' ({changed} resized or cut)' if changed else ''}, {len(self.ignored)} ignored"
            f"{f' ({reasons})' if reasons else ''}"
        )


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        output: the checkpoint written.
        taken: the files read.
        shapes: of all parameters of the model, by name.
    """

    output: Path
    taken: list[Taken]
    shapes: dict[str, tuple[int, ...]]

    @property
    def file(self) -> Path:
        """Where the full text is kept."""
        return self.output.with_name(f"{self.output.name}.report.txt")

    def summary(self) -> str:
        """A line for each file, one for what starts at random, one for what was written."""
        filled = self._filled()
        lines = [taken.summary() for taken in self.taken]
        random = [f"{module} ({count})" for module, count in self._random().items()]
        if random:
            lines.append(f"at random start {', '.join(random)}")
        numbers = f"{_numbers(self.shapes[name] for name in filled):,} of {_numbers(self.shapes.values()):,} numbers"
        lines.append(
            f"{self.output}: {len(filled)} of {len(self.shapes)} parameters, {numbers}; every tensor is in {self.file}"
        )
        return "\n".join(lines)

    def text(self) -> str:
        """Every tensor of the files once, and every parameter of the model; what starts at random module by module."""
        lines = [self.summary()]
        for taken in self.taken:
            lines += ["", f"{taken.source.path} (sha256 {sha256(taken.source.path)})"]
            if taken.source.beside:
                lines.append(f"beside the tensors, not read: {', '.join(taken.source.beside)}")
            for name, tensor in taken.source.tensors.items():
                if name in taken.used:
                    parameter, done = taken.used[name]
                    fate = f"-> {parameter}{f', {done}' if done else ''}"
                else:
                    fate = f"ignored: {taken.ignored[name]}"
                lines.append(f"  {name} {tensor.dtype} {_shape(tensor.shape)} {fate}")
        lines += ["", "parameters of the model"]
        for name, origin in self._filled().items():
            lines.append(f"  {name} {_shape(self.shapes[name])} <- {origin}")
        lines += [f"  {module}: {count} parameters start at random" for module, count in self._random().items()]
        return "\n".join(lines) + "\n"

    def _filled(self) -> dict[str, str]:
        """Parameters that have a value, with the tensors it comes from, in the model's order."""
        origins: dict[str, list[str]] = {}
        for taken in self.taken:
            for tensor, (parameter, _) in taken.used.items():
                origins.setdefault(parameter, []).append(tensor)
        return {name: ", ".join(origins[name]) for name in self.shapes if name in origins}

    def _random(self) -> dict[str, int]:
        """How many parameters of each module have no value from the files."""
        filled = self._filled()
        return dict(Counter(name.split(".")[0] for name in self.shapes if name not in filled))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _numbers(shapes) -> int:
    return sum(math.prod(shape) for shape in shapes)
