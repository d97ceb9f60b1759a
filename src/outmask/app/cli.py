"""``outmask``: the arguments of every command, and what becomes of errors.

Exit codes: 0 done; 1 some inputs failed, each named on standard error, the others done; 2 bad usage or bad input, one
line on standard error; 130 interrupted. Commands import what they need when they run, so that help comes at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from outmask.app import BAD_USAGE, DONE, INTERRUPTED
from outmask.errors import OutmaskError

_MODEL_HELP = "bundled name, folder, checkpoint file or hub id"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    Args:
        argv: the arguments after ``outmask``; by default the process's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except OutmaskError as error:
        print(f"outmask: {_one_line(error)}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("outmask: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["train"]:
        # A recipe's keys are the training's own: its parser reads everything that follows.
        return _train(arguments[1:])
    try:
        options = _parser().parse_args(_joined_negative_numbers(arguments))
    except ArgumentError as error:
        raise OutmaskError(_usage_error(error, arguments)) from error
    if options.command is None:
        raise OutmaskError(f"expected a command: {', '.join(_COMMANDS)}; see outmask --help")
    from outmask.app.terminal import log_on_stderr

    with log_on_stderr():
        return _COMMANDS[options.command](**options[options.command].as_dict())


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="outmask",
        description="Open-set segmentation with mask transformers: what in a street scene was the model never taught?",
        exit_on_error=False,
        allow_abbrev=False,
        version=_version(),
    )
    commands = parser.add_subcommands(dest="command", required=False, metavar="COMMAND")

    def command(name: str, help_: str) -> ArgumentParser:
        subparser = ArgumentParser(description=help_, exit_on_error=False, allow_abbrev=False)
        commands.add_subcommand(name, subparser, help=help_)
        return subparser

    demo = command("demo", "Run the bundled model on an embedded scene, offline, and write pictures of the result.")
    demo.add_argument("--out", default="outmask-demo", metavar="DIR", help="folder for the pictures")

    predict = command("predict", "Score the pixels of images: files, folders (searched through) and quoted globs.")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="images, folders or globs")
    predict.add_argument("--model", default="street", help=_MODEL_HELP)
    predict.add_argument(
        "--task",
        choices=["anomaly", "semantic"],
        default="anomaly",
        help="anomaly writes scores; semantic also class ids, with unknown above the threshold",
    )
    predict.add_argument("--score", default="eam", help="anomaly score; see outmask list scores")
    predict.add_argument(
        "--threshold", type=float, metavar="T", help="scores above it are unknown; by default the model's own, if any"
    )
    predict.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    predict.add_argument("--resume", action="store_true", help="skip images whose results are there already")

    evaluate = command("evaluate", "Measure scores on a benchmark: AP, FPR95, FPR90 and AUROC over all pixels.")
    evaluate.add_argument("--benchmark", required=True, metavar="B", help="see outmask list benchmarks")
    evaluate.add_argument("--root", required=True, metavar="DIR", help="folder that holds the benchmark")
    evaluate.add_argument("--model", default="street", help=_MODEL_HELP)
    evaluate.add_argument("--score", default="eam", metavar="S[,S...]", help="scores, all evaluated in one pass")
    evaluate.add_argument("--json", metavar="FILE", help="also write the numbers here")
    evaluate.add_argument(
        "--anomaly-id", type=int, metavar="N", help="label value of anomalies, for the benchmark folder (default: 1)"
    )

    train = command("train", "Train a model by a recipe, resumable at any time; see outmask train --help.")
    train.add_argument("--config", required=True, metavar="RECIPE", help="YAML; its keys can be set as --key value")

    list_ = command("list", "Say what there is.")
    list_.add_argument("what", choices=["models", "scores", "benchmarks", "recipes"], help="what to list")
    return parser


def _demo(out: str) -> int:
    from outmask.app.demo import demo

    return demo(out)


def _predict(**options: Any) -> int:
    from outmask.app.predict import predict

    return predict(**options)


def _evaluate(**options: Any) -> int:
    from outmask.app.measure import measure

    return measure(**options)


def _train(arguments: list[str]) -> int:
    from outmask.training.run import main as train

    print(f"trained model: {train(arguments)}")
    return DONE


def _list(what: str) -> int:
    from outmask.app.listing import listing

    return listing(what)


_COMMANDS: dict[str, Callable[..., int]] = {
    "demo": _demo,
    "predict": _predict,
    "evaluate": _evaluate,
    "train": _train,
    "list": _list,
}


def _version() -> str:
    from outmask import __version__

    return __version__


def _joined_negative_numbers(arguments: list[str]) -> list[str]:
    """``--threshold -3e-05`` as ``--threshold=-3e-05``: argparse takes such a number for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and re.fullmatch(r"-(\d+\.?\d*|\.\d+)e[-+]?\d+", argument.lower()):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _usage_error(error: ArgumentError, arguments: list[str]) -> str:
    """An argument error as one line in the user's terms, with where to read on."""
    message = _one_line(error)
    name = next((argument for argument in arguments if argument in _COMMANDS), "")
    message = re.sub(
        r"Parser key \"(\w+)\": Expected an? <class '(\w+)'>\. Got value: ",
        lambda match: f"argument --{match[1].replace('_', '-')}: expected {match[2]}, got ",
        message,
    )
    if name:
        message = re.sub(rf"\b{name}\.(\w+)", lambda match: _POSITIONAL.get(match[1], f"--{match[1]}"), message)
    return f"{message}; see outmask {name + ' ' if name else ''}--help"


_POSITIONAL = {"paths": "PATH", "what": "what to list"}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
