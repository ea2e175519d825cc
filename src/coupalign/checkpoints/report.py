"""Report of a conversion: the use of every tensor, and the origin of every parameter."""

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
    """The use of the tensors of one file.

    Attributes:
        source: The file.
        naming: Naming scheme of its tensors.
        used: For each tensor its parameter and what was done to it ("" for nothing).
        ignored: For each other tensor the reason why it is not used.
    """

    source: Source
    naming: Naming
    used: dict[str, tuple[str, str]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """One line with counts."""
        changed = sum(bool(done) for _, done in self.used.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(self.ignored.values()).items())
        return (
            f"{self.source.path}: {len(self.source.tensors)} tensors with names of {self.naming.label}, "
            f"{len(self.used)} used{f' ({changed} resized or cut)' if changed else ''}, {len(self.ignored)} ignored"
            f"{f' ({reasons})' if reasons else ''}"
        )


@dataclass(frozen=True)
class Report:
    """The result of a conversion.

    Attributes:
        output: The written checkpoint.
        taken: The use of each file.
        shapes: Shapes of all parameters of the model by name.
    """

    output: Path
    taken: list[Taken]
    shapes: dict[str, tuple[int, ...]]

    @property
    def file(self) -> Path:
        """Path of the full report."""
        return self.output.with_name(f"{self.output.name}.report.txt")

    def summary(self) -> str:
        """A line for each file, one for parameters that keep random weights, one for the written checkpoint."""
        filled = self._filled()
        lines = [taken.summary() for taken in self.taken]
        random = [f"{module} ({count})" for module, count in self._random().items()]
        if random:
            lines.append(f"random weights in {', '.join(random)}")
        numbers = f"{_numbers(self.shapes[name] for name in filled):,} of {_numbers(self.shapes.values()):,} numbers"
        lines.append(
            f"{self.output}: {len(filled)} of {len(self.shapes)} parameters, {numbers}; details in {self.file}"
        )
        return "\n".join(lines)

    def text(self) -> str:
        """All tensors of the files and all parameters of the model, each once."""
        lines = [self.summary()]
        for taken in self.taken:
            lines += ["", f"{taken.source.path} (sha256 {sha256(taken.source.path)})"]
            if taken.source.beside:
                lines.append(f"other content, not read: {', '.join(taken.source.beside)}")
            for name, tensor in taken.source.tensors.items():
                if name in taken.used:
                    parameter, done = taken.used[name]
                    use = f"-> {parameter}{f', {done}' if done else ''}"
                else:
                    use = f"ignored: {taken.ignored[name]}"
                lines.append(f"  {name} {tensor.dtype} {_shape(tensor.shape)} {use}")
        lines += ["", "parameters of the model"]
        for name, origin in self._filled().items():
            lines.append(f"  {name} {_shape(self.shapes[name])} <- {origin}")
        lines += [f"  {module}: {count} parameters with random weights" for module, count in self._random().items()]
        return "\n".join(lines) + "\n"

    def _filled(self) -> dict[str, str]:
        """Parameters with values from the files and the names of their tensors, in the order of the model."""
        origins: dict[str, list[str]] = {}
        for taken in self.taken:
            for tensor, (parameter, _) in taken.used.items():
                origins.setdefault(parameter, []).append(tensor)
        return {name: ", ".join(origins[name]) for name in self.shapes if name in origins}

    def _random(self) -> dict[str, int]:
        """Number of parameters of each module without a value from the files."""
        filled = self._filled()
        return dict(Counter(name.split(".")[0] for name in self.shapes if name not in filled))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _numbers(shapes) -> int:
    return sum(math.prod(shape) for shape in shapes)
