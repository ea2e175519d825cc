"""Where the commands of the documents are played, without doing what they say.

A command is read by its program's own parser. `Stage` plays all of them through in an empty directory, where each
leaves the names of what it would make, so that a command that takes what no other makes is found.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path

import coupalign.cli
from coupalign.config import config_keys, load_config
from coupalign.data.prepare import split_by
from coupalign.files import REPOSITORY
from tests.documents import Command, usage_of

# What the reader brings, so that no command makes it.
BROUGHT = {
    "picture.png",
    "a.png",
    "street.jpg",
    "mine.jsonl",
    "configs/mine.yaml",
    "data/train2014",
    *(f"data/refer/{name}" for name in ("refcoco", "refcoco+", "refcocog", "refclef")),
    "swin_base_patch4_window7_224_22k.pth",
    "model.safetensors",
    "runs/fourth.ckpt",
}
# Programs of others, which are not looked into.
FOREIGN = {
    "source": "the shell's",
    "pip": "not ours",
    "cp": "not ours",
    "tensorboard": "not among the requirements, as the page says beside it",
}
_TAKES = (
    "checkpoint",
    "config",
    "image",
    "evaluation",
    "evaluations",
    "runs",
    "swin",
    "bert",
    "annotations",
    "images",
    "mindir_path",
    "model",
    "vocab",
)


class Parsed(BaseException):
    """Thrown by the stand-ins for a program's parsers, so that it goes no further."""

    def __init__(self, config, arguments):
        super().__init__()
        self.config, self.arguments = config, arguments


class Stage:
    """An empty directory in which commands are played: parsed, and what they would make left there as empty files.

    Args:
        monkeypatch: puts stand-ins into the programs, and makes the directory the working directory.
    """

    def __init__(self, directory: Path, monkeypatch):
        self.monkeypatch = monkeypatch
        monkeypatch.chdir(directory)
        for name in BROUGHT:
            self._leave(name)

    def play(self, command: Command) -> list[str]:
        """Does as `command` says. Returns: what it takes that is not there. Raises: UserError, AssertionError."""
        words = list(command.words)
        while re.match(r"\w+=", words[0]):
            words.pop(0)
        program, *arguments = words
        if program in FOREIGN:
            return []
        if program == "bash":
            return self._script(*arguments)
        if program == "msrun":
            place = next(i for i, word in enumerate(arguments) if word.endswith(".py"))
            return self._program(arguments[place], arguments[place + 1 :])
        if program == "ascend310_infer/build/coupalign":
            source = (REPOSITORY / "ascend310_infer/src/options.cc").read_text(encoding="utf-8")
            options = dict(zip(*[iter(arguments)] * 2))
            assert all(f'{{"{name[2:]}",' in source for name in options), options
            return self._missing(options["--mindir_path"], options["--image"], options["--vocab"])
        assert Path(program).name == "python", f"{program} is no program that is known here"
        if arguments[0] == "-c":
            compile(arguments[1], "command", "exec")
            return []
        if arguments[0] == "-m":
            return self._module(REPOSITORY / f"{arguments[1].replace('.', '/')}.py", arguments[2:])
        if arguments[0].startswith("deploy/"):
            return self._module(REPOSITORY / arguments[0], arguments[1:])
        return self._program(arguments[0], arguments[1:])

    def _program(self, script: str, arguments: Sequence[str]) -> list[str]:
        """A program at the root, by its own parser."""
        module = importlib.import_module(script.removesuffix(".py"))

        def parsed(description, argv, add=None, subcommand="", base=None):
            raise Parsed(*coupalign.cli.parse_arguments(description, argv, add, subcommand))

        def own_parsed(*given):
            raise Parsed(None, coupalign.cli.parse_own_arguments(*given))

        for name, stand_in in (("parse_arguments", parsed), ("parse_own_arguments", own_parsed)):
            if hasattr(module, name):
                self.monkeypatch.setattr(module, name, stand_in)
        try:
            module.main.__wrapped__(list(arguments))
        except Parsed as result:
            config, args = result.config, result.arguments
        takes = [
            value
            for name in _TAKES
            if name in vars(args)
            for value in _listed(getattr(args, name))
            if value is not None
        ]
        makes = [value for name in ("output", "file_name") if (value := getattr(args, name, None))]
        program = Path(script).stem
        if program == "prepare_data":
            if args.annotations and args.annotations.suffix != ".jsonl":
                split_by(config.data.dataset, args.split_by)
            made = Path(args.output or config.data.data_dir)
            makes = [made / "meta.json", made / "source/images/val_000002.png"]
        elif program in ("train", "eval", "data_card", "study"):
            takes.append(config.data.data_dir)
        if program == "train":
            takes += [
                path
                for path in (config.training.init_checkpoint, config.training.resume)
                if path not in ("", "never", "auto")
            ]
            makes = [f"{config.run.output_dir}/{name}" for name in ("best.ckpt", "last.ckpt", "step_00001000.ckpt")]
            config.save(Path(config.run.output_dir, "config.yaml"))
        if program == "eval":
            output = args.output or f"{config.run.output_dir}/eval"
            makes = [f"{output}/{split}.json" for split in config.evaluation.eval_splits]
        if program == "study":
            takes.append(args.study)
            makes += [
                f"{config.run.output_dir}/{row}/1/{name}"
                for row in ("full", "uni")
                for name in ("best.ckpt", "curve.csv", "eval/val.json")
            ]
            config.save(Path(config.run.output_dir, "full/1/config.yaml"))
        self._leave(*makes)
        return self._missing(*takes)

    def _module(self, file: Path, arguments: Sequence[str]) -> list[str]:
        """A program whose imports take long: its options as they stand in its source."""
        source = file.read_text(encoding="utf-8")
        options = set(re.findall(r'add_argument\("(--\w+)"', source))
        if "parse_arguments(" in source:
            options |= {"--config", *(f"--{key}" for key in config_keys())}
        given = [word.partition("=")[0] for word in arguments if word.startswith("--")]
        assert set(given) <= options, f"{file.name} has no {set(given) - options}"
        following = dict(zip(arguments, arguments[1:]))
        if file.stem == "random_checkpoint":
            self._leave(f"{following['--output_dir']}/best.ckpt")
        taken = [following[f"--{name}"] for name in _TAKES if f"--{name}" in following]
        return self._missing(*(name for name in taken if not name.isdigit()))  # some count images

    def _script(self, script: str, *arguments: str) -> list[str]:
        name, usage = Path(script).name, usage_of(script)
        if name == "run_tests.sh":
            return self._missing(*(word for word in arguments if not word.startswith("-")))
        if name in ("run_standalone_train.sh", "run_distribute_train.sh"):
            needed = re.search(rf"{name} ((?:[A-Z_]+ ?)+)", usage)[1].split()
            given = dict(zip(needed, arguments, strict=False))
            given = {
                key: {"CONFIG": "default_config.yaml", "DATA_DIR": "data/refcoco"}.get(value, value)
                for key, value in given.items()
            }
            keys = list(arguments[len(needed) :])
            for option in ("--nodes", "--node_rank", "--master", "--time_out"):
                if option in keys:
                    assert option in usage
                    del keys[keys.index(option) : keys.index(option) + 2]
            if "DEVICE" in arguments:  # the usage itself
                return []
            keys += ["--data_dir", given["DATA_DIR"], "--device_target", given["DEVICE"]]
            return self._program("train.py", ["--config", given["CONFIG"], *keys])
        if name == "run_study.sh":
            study, data, output, *others = arguments
            return self._program("study.py", ["--study", study, "--data_dir", data, "--output_dir", output, *others])
        if name == "run_infer_310.sh":
            graph, config, data = arguments[:3]
            keys = [word for word in arguments[3:] if word not in ("CPU", "Ascend", "0")]
            keys += ["--config", config, "--data_dir", data]
            return self._missing(graph) + self._program("postprocess.py", keys)
        assert all(word in usage for word in arguments), f"{script} takes {usage}"
        if name == "quickstart.sh":
            run = "runs/quickstart"
            load_config("configs/refshapes_tiny.yaml", {"output_dir": run}).save(Path(run, "config.yaml"))
            self._leave(f"{run}/best.ckpt", *(f"{run}/eval/{split}.json" for split in ("val", "testA", "testB")))
        if name == "set_up_lite.sh":
            self._leave(".lite/cpp/mindspore_lite/include")
        return []

    def _leave(self, *names: str | Path) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            if not Path(name).suffix:
                Path(name).mkdir(exist_ok=True)
            elif not Path(name).exists():
                Path(name).write_text("seed: 42")  # a file of any other kind is not looked into

    def _missing(self, *names: str | Path) -> list[str]:
        return [str(name) for name in names if not Path(name).exists() and not (REPOSITORY / name).exists()]


def _listed(value):
    return value if isinstance(value, list) else [value]
