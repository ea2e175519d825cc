from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from coupalign.cli import command, option, parse_arguments
from coupalign.config import config_keys
from coupalign.errors import UserError


def parse(*argv: str, keys=None):
    return parse_arguments("About.", argv, [option("--checkpoint FILE", "model")], keys=keys)


def refused(*argv: str, keys=None) -> str:
    with pytest.raises(UserError) as caught:
        parse(*argv, keys=keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_is_an_option_in_both_spellings():
    config, args = parse(
        *("--epochs", "60", "--learning_rate=3e-4", "--swin_depths", "[1, 1, 2, 1]", "--sma=false"),
        *("--eval_splits", "val,testA", "--init_checkpoint", "", "--checkpoint", "x/best.ckpt"),
    )
    assert (config.training.epochs, config.training.learning_rate) == (60, 3e-4)
    assert (config.model.swin_depths, config.model.sma) == ((1, 1, 2, 1), False)
    assert config.evaluation.eval_splits == ("val", "testA")
    assert vars(args) == {"checkpoint": "x/best.ckpt", "config": None}


def test_of_several_files_the_last_that_sets_a_key_counts(tmp_path):
    (tmp_path / "model.yaml").write_text("epochs: 77\nthreshold: 0.4\nimage_size: 96")
    (tmp_path / "mine.yaml").write_text("epochs: 66\nthreshold: 0.3")
    files = ["--config", str(tmp_path / "model.yaml"), "--config", str(tmp_path / "mine.yaml")]
    config, _ = parse(*files, "--threshold", "0.2")
    assert (config.model.image_size, config.training.epochs, config.evaluation.threshold) == (96, 66, 0.2)


def test_arguments_that_are_refused():
    assert "--lerning_rate: did you mean --learning_rate?" in refused("--lerning_rate", "1")
    assert "--batch-size: did you mean --batch_size?" in refused("--batch-size=3")
    assert "--checkpont: did you mean --checkpoint?" in refused("--checkpont", "a")
    assert "--epoch: did you mean --epochs?" in refused("--epoch", "3")
    assert "--lr: --help lists all options" in refused("--lr", "3")
    assert "'stray'" in refused("stray")
    assert "'-c'" in refused("-c", "x.yaml")
    assert "--epochs" in refused("--epochs")
    assert "epochs is 'many': expected an integer" in refused("--epochs", "many")
    assert "no configuration file gone.yaml" in refused("--config", "gone.yaml")


def test_a_program_offers_only_the_keys_it_reads(tmp_path, capsys):
    keys = ("threshold", "model")
    (tmp_path / "all.yaml").write_text("epochs: 77\nthreshold: 0.4\nimage_size: 96")
    config, _ = parse("--config", str(tmp_path / "all.yaml"), "--image_size", "64", keys=keys)
    assert (config.evaluation.threshold, config.model.image_size, config.training.epochs) == (0.4, 64, 77)
    assert "--epochs is not used by" in refused("--epochs", "3", keys=keys)
    with pytest.raises(SystemExit):
        parse("--help", keys=keys)
    text = " ".join(capsys.readouterr().out.split())
    assert config_keys()["threshold"].help in text and "--image_size," in text
    assert config_keys()["image_size"].help not in text and "--epochs" not in text


def test_the_configuration_beside_the_checkpoint_is_used_unless_another_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("epochs: 77")
    (tmp_path / "other.yaml").write_text("epochs: 88")
    checkpoint = str(tmp_path / "best.ckpt")

    def epochs(*argv):
        return parse(*argv)[0].training.epochs

    assert epochs("--checkpoint", checkpoint) == 77
    assert epochs("--checkpoint", checkpoint, "--epochs", "99") == 99
    assert epochs("--checkpoint", checkpoint, "--config", str(tmp_path / "other.yaml")) == 88
    assert epochs("--checkpoint", str(tmp_path / "elsewhere" / "best.ckpt")) == 50
    assert parse_arguments("No checkpoint.", [])[0].training.epochs == 50


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


def test_log_messages_reach_the_terminal_only_inside_a_command(capsys):
    logger = logging.getLogger("coupalign.somewhere")

    @command
    def main(argv=None):
        logger.info("step 1")
        logger.warning("low memory")
        return main([]) if argv else 0

    assert main(["again"]) == 0
    assert capsys.readouterr() == ("step 1\n" * 2, "warning: low memory\n" * 2)
    logger.info("silent")
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_goes_away_causes_no_traceback(tmp_path):
    program = tmp_path / "talker.py"
    program.write_text(
        "from coupalign.cli import command\n@command\ndef main(argv=None):\n"
        "    for _ in range(100000):\n        print('a line')\n    return 0\nraise SystemExit(main())\n"
    )
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' '{program}' | head -n 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("a line\n", "", 141)
