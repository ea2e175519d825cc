from __future__ import annotations

import os
import subprocess
import sys

import pytest

from coupalign.cli import command, parse_arguments
from coupalign.config import config_keys
from coupalign.errors import UserError
from coupalign.files import REPOSITORY


def parse(*argv: str):
    return parse_arguments("About.", argv, lambda parser: parser.add_argument("--checkpoint"))


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_is_an_option_in_both_spellings():
    config, args = parse(
        "--epochs",
        "60",
        "--learning_rate=3e-4",
        "--swin_depths",
        "[1, 1, 2, 1]",
        "--sma=false",
        "--eval_splits",
        "val,testA",
        "--init_checkpoint",
        "",
        "--checkpoint",
        "x/best.ckpt",
    )
    assert (
        config.training.epochs,
        config.training.learning_rate,
        config.model.swin_depths,
        config.model.sma,
        config.evaluation.eval_splits,
    ) == (60, 3e-4, (1, 1, 2, 1), False, ("val", "testA"))
    assert vars(args) == {"checkpoint": "x/best.ckpt", "config": None}


def test_arguments_that_are_refused():
    assert "--lerning_rate: did you mean --learning_rate?" in refused("--lerning_rate", "1")
    assert "--batch-size: did you mean --batch_size?" in refused("--batch-size=3")
    assert "--checkpont: did you mean --checkpoint?" in refused("--checkpont", "a")
    assert "--epoch: did you mean --epochs?" in refused("--epoch", "3")
    assert "'stray'" in refused("stray")
    assert "'-c'" in refused("-c", "x.yaml")
    assert "--epochs" in refused("--epochs")
    assert "epochs must be an integer, but is 'many'" in refused("--epochs", "many")
    assert "no configuration file gone.yaml" in refused("--config", "gone.yaml")


def test_the_configuration_beside_the_checkpoint_is_used_unless_another_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("epochs: 77")
    (tmp_path / "other.yaml").write_text("epochs: 88")
    checkpoint = str(tmp_path / "best.ckpt")
    assert parse("--checkpoint", checkpoint)[0].epochs == 77
    assert parse("--checkpoint", checkpoint, "--epochs", "99")[0].epochs == 99
    assert parse("--checkpoint", checkpoint, "--config", str(tmp_path / "other.yaml"))[0].epochs == 88
    assert parse("--checkpoint", str(tmp_path / "elsewhere" / "best.ckpt"))[0].epochs == 50
    assert parse_arguments("No checkpoint.", [])[0].epochs == 50


def test_help_explains_every_key_and_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage:") and "About." in text and "config.yaml beside the checkpoint" in text
    for key in config_keys().values():
        assert f"--{key.name} " in text
        assert key.help.replace(" ", "") in text.replace(" ", "")
    assert "(default: 2,2,18,2)" in text and "(default: true)" in text


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (UserError("no file x:\n  make it"), 2, "error: no file x: make it\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_command_turns_errors_into_one_line(error, status, printed, capsys):
    @command
    def main(argv=None):
        raise error

    assert main([]) == status
    assert capsys.readouterr() == ("", printed)


def test_command_leaves_bugs_and_results_alone():
    @command
    def main(argv=None):
        return 1 // int(argv[0])

    assert main(["1"]) == 1
    with pytest.raises(ZeroDivisionError):
        main(["0"])


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    program = tmp_path / "talker.py"
    program.write_text(
        "from coupalign.cli import command\n@command\ndef main(argv=None):\n"
        "    for _ in range(100000):\n        print('a line')\n    return 0\nraise SystemExit(main())\n"
    )
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' '{program}' | head -n 1; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("a line\n", "", 141)


@pytest.mark.parametrize("program", ["eval.py", "predict.py", "export.py"])
def test_programs_answer_help_and_mistakes_from_anywhere_without_mindspore(program, tmp_path):
    def run(*argv):
        return subprocess.run(
            [sys.executable, "-X", "importtime", str(REPOSITORY / program), *argv],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("--help")
    assert done.returncode == 0 and "--checkpoint" in done.stdout
    assert "mindspore" not in done.stderr
    done = run("--checkpoint", "x.ckpt", "--image", "x.png", "--expression", "x", "--epochz", "3")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: unknown option --")
    assert os.listdir(tmp_path) == []
