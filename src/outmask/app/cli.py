"""``outmask``: the arguments of every command, and what becomes of errors.

Exit codes: 0 done; 1 some inputs failed, each named on standard error, the others done; 2 bad usage or bad input, one
line on standard error; 130 interrupted. Commands import what they need when they run, so that help comes at once.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from outmask.app import BAD_USAGE, DONE, INTERRUPTED
from outmask.errors import OutmaskError

_MODEL_HELP = "bundled name, folder, checkpoint or exported file, or hub id"
_MODELS_HELP = f"{_MODEL_HELP}; several are an ensemble"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    Args:
        argv: the arguments after ``outmask``; by default the process's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        # Ended from outside, a run still removes what it keeps for its own time only.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
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

    demo = command("demo", "Run the bundled model on a drawn scene, offline, and write pictures of the result.")
    demo.add_argument("--out", default="outmask-demo", metavar="DIR", help="folder for the pictures")

    predict = command("predict", "Score the pixels of images: files, folders (searched through) and quoted globs.")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="images, folders or globs")
    predict.add_argument("--model", default="street", metavar="M[,M...]", help=_MODELS_HELP)
    predict.add_argument(
        "--task",
        choices=["anomaly", "semantic", "panoptic"],
        default="anomaly",
        help="anomaly writes scores; semantic also class ids, with unknown above the threshold; panoptic also segments",
    )
    predict.add_argument("--score", default="eam", help="anomaly score; see outmask list scores")
    predict.add_argument(
        "--threshold", type=float, metavar="T", help="scores above it are unknown; by default the model's own, if any"
    )
    predict.add_argument(
        "--refine",
        action="store_true",
        help="lower the scores in confident masks of stuff that is no ground (Mask2Anomaly)",
    )
    predict.add_argument("--flip", action="store_true", help="average with the mirrored image; twice the time")
    predict.add_argument(
        "--unknown",
        choices=["preferred_mask", "mining", "components", "negative_class"],
        help="how --task panoptic finds unknown objects (default: preferred_mask); mining, and negative_class of "
        "models that have learned that class, need no threshold",
    )
    predict.add_argument(
        "--window",
        metavar="PX|HEIGHTxWIDTH",
        help="see images through overlapping windows of this size, each resized for the model like an image of its "
        "own; by default only where the model would get more than 8 megapixels. For --task panoptic, a window that "
        "covers the image",
    )
    predict.add_argument(
        "--runtime",
        choices=["onnxruntime", "openvino"],
        help="run in this instead of PyTorch; a model that outmask export did not write is exported first",
    )
    predict.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    predict.add_argument("--resume", action="store_true", help="skip images whose results are there already")

    evaluate = command(
        "evaluate", "Measure scores on a benchmark: pixels, and components, classes or objects where it has them."
    )
    evaluate.add_argument("--benchmark", required=True, metavar="B", help="see outmask list benchmarks")
    evaluate.add_argument("--root", required=True, metavar="DIR", help="folder that holds the benchmark")
    evaluate.add_argument("--split", metavar="S", help="which part of it; by default the one that papers report")
    evaluate.add_argument("--model", default="street", metavar="M[,M...]", help=_MODELS_HELP)
    evaluate.add_argument(
        "--predictions",
        metavar="DIR",
        help="instead of a model: NAME_score.npy, NAME.npy or NAME.hdf5 of anybody's, or COCO's panoptic.json",
    )
    evaluate.add_argument("--score", metavar="S[,S...]", help="scores, all evaluated in one pass (default: eam)")
    evaluate.add_argument(
        "--threshold", type=float, metavar="T", help="also measure what lies above it; by default the model's own"
    )
    evaluate.add_argument(
        "--refine",
        action="store_true",
        help="lower the scores in confident masks of stuff that is no ground (Mask2Anomaly)",
    )
    evaluate.add_argument("--flip", action="store_true", help="average with the mirrored image; twice the time")
    evaluate.add_argument(
        "--unknown",
        metavar="U[,U...]",
        help="measure the model's segments instead, with unknown objects found by preferred_mask, mining, components "
        "or negative_class",
    )
    evaluate.add_argument("--emulate", choices=["float16"], help="also measure what rounding the scores would cost")
    evaluate.add_argument(
        "--border", type=int, metavar="PX", help="also measure false positives this close to class borders"
    )
    evaluate.add_argument("--out", metavar="DIR", help="keep the score maps here, so that --resume can go on")
    evaluate.add_argument("--resume", action="store_true", help="go on where the evaluation in --out was interrupted")
    evaluate.add_argument("--json", metavar="FILE", help="also write the numbers here")
    evaluate.add_argument("--html", metavar="FILE", help="also write a page with curves and pictures here")
    evaluate.add_argument(
        "--anomaly-id", type=int, metavar="N", help="label value of anomalies, for the benchmark folder (default: 1)"
    )

    calibrate = command("calibrate", "Choose thresholds on validation data and store them in the model's config.json.")
    calibrate.add_argument("--model", required=True, metavar="DIR", help=_MODEL_HELP)
    calibrate.add_argument("--score", default="eam", metavar="S[,S...]", help="scores to choose a threshold for")
    calibrate.add_argument(
        "--rule", default="tpr95", help="tpr95: find 95 % of the anomalies; fpr5: 5 % false alarms; f1: best pixel F1"
    )
    calibrate.add_argument("--benchmark", metavar="B", help="validation data: a benchmark")
    calibrate.add_argument("--root", metavar="DIR", help="its folder")
    calibrate.add_argument("--split", metavar="S", help="its split")
    calibrate.add_argument(
        "--config", metavar="RECIPE", help="validation data: a recipe's validation images with pasted objects"
    )
    calibrate.add_argument("--data_root", metavar="DIR", help="folder of the recipe's datasets")
    calibrate.add_argument("--out", metavar="DIR", help="write the model with its thresholds here instead")

    fit = command("fit", "Let detectors learn from the training set, and store what they learned in the model.")
    fit.add_argument("--model", required=True, metavar="DIR", help="model folder")
    fit.add_argument(
        "--detector", default="sml,mahalanobis,react", metavar="D[,D...]", help="detectors that have statistics"
    )
    fit.add_argument("--config", required=True, metavar="RECIPE", help="the recipe that the model was trained by")
    fit.add_argument("--data_root", metavar="DIR", help="folder of the recipe's datasets")
    fit.add_argument("--images", type=int, metavar="N", help="so many training images at random (default: all)")

    export = command("export", "Write a model, with its scores, as a file that onnxruntime or OpenVINO runs alone.")
    export.add_argument("file", metavar="FILE", help="what to write: .onnx, or .xml with its .bin beside it")
    export.add_argument("--model", default="street", metavar="M", help=_MODEL_HELP)
    export.add_argument("--format", choices=["onnx", "openvino"], required=True, help="whose file")
    export.add_argument("--score", default="eam", metavar="S[,S...]", help="scores that the file computes")
    export.add_argument(
        "--size", metavar="HEIGHTxWIDTH", help="for one image of this size only (default: any number and size)"
    )
    export.add_argument(
        "--int8", metavar="DIR", help="compute in 8 bits where it costs little; ranges are taken from images in DIR"
    )

    submit = command("submit", "Write what the server of a test with hidden labels takes.")
    submit.add_argument(
        "--benchmark",
        required=True,
        metavar="B",
        help="smiyc_anomaly21, smiyc_obstacle21 or lost_and_found (HDF5), or fishyscapes (a container's entry point)",
    )
    submit.add_argument("--root", required=True, metavar="DIR", help="folder of the benchmark; of fishyscapes: /input")
    submit.add_argument("--model", default="street", metavar="M[,M...]", help=_MODELS_HELP)
    submit.add_argument("--score", default="eam", help="anomaly score; see outmask list scores")
    submit.add_argument("--method", metavar="NAME", help="the method's name in the submission (default: outmask)")
    submit.add_argument("--out", required=True, metavar="DIR", help="folder of the submission; of fishyscapes: /output")
    submit.add_argument("--resume", action="store_true", help="go on where the submission in --out was interrupted")

    bench = command("bench", "Measure speed and memory against peers, in one run, with the difference of the outputs.")
    bench.add_argument(
        "what",
        choices=["speed", "scores", "deformable", "growth", "gpu", "metrics", "train"],
        help="what to measure; gpu needs a CUDA device",
    )
    bench.add_argument("--json", metavar="FILE", help="also write the numbers here")
    bench.add_argument(
        "--markdown", metavar="FILE", help="also put the table into this document, after its <!-- bench NAME -->"
    )

    train = command("train", "Train a model by a recipe, resumable at any time; see outmask train --help.")
    train.add_argument(
        "--config", required=True, metavar="RECIPE", help="YAML, or see list recipes; keys can be set as --key value"
    )

    ablate = command(
        "ablate", "Train and measure a grid of recipes and seeds; killed, the same command goes on where it was."
    )
    ablate.add_argument("--config", required=True, metavar="GRID", help="YAML: seeds, benchmarks, rows, tables")
    ablate.add_argument(
        "--data_root", required=True, metavar="DIR", help="folder of the recipes' datasets and the benchmarks"
    )
    ablate.add_argument("--out", required=True, metavar="DIR", help="folder of the runs, ROW/seed-N, and the report")
    ablate.add_argument("--rows", metavar="R[,R...]", help="only these rows, and what they start from")
    ablate.add_argument("--seeds", metavar="N[,N...]", help="only these seeds of the grid's")

    reproduce = command(
        "reproduce", "Make the papers' comparisons: small models trained and measured on scenes that are drawn here."
    )
    reproduce.add_argument("what", choices=["world"], help="the synthetic world; needs no data")
    reproduce.add_argument(
        "--out", metavar="DIR", help="folder of the scenes, runs and report (default: runs/world, or runs/world_quick)"
    )
    reproduce.add_argument(
        "--quick", action="store_true", help="few iterations, few images, one seed: shows that everything works"
    )
    reproduce.add_argument("--rows", metavar="R[,R...]", help="only these rows, and what they start from")
    reproduce.add_argument("--seeds", metavar="N[,N...]", help="only these seeds")

    flow = command("flow", "Train a normalising flow on a recipe's known scenes: a source of patches to paste.")
    flow.add_argument("--config", required=True, metavar="RECIPE", help="the recipe whose training images it learns")
    flow.add_argument("--data_root", metavar="DIR", help="folder of the recipe's datasets")
    flow.add_argument("--out", required=True, metavar="DIR", help="folder of the flow: root of a source of kind flow")
    flow.add_argument("--iterations", type=int, default=5000, metavar="N", help="of training (default: 5000)")
    flow.add_argument("--patch", type=int, default=64, metavar="PX", help="side of a training patch (default: 64)")
    flow.add_argument("--resume", action="store_true", help="continue the training in --out from its last checkpoint")

    list_ = command("list", "Say what there is.")
    list_.add_argument("what", choices=["models", "scores", "benchmarks", "recipes"], help="what to list")
    return parser


def _demo(out: str) -> int:
    from outmask.app.demo import demo

    return demo(out)


def _predict(**options: Any) -> int:
    if "torch" not in sys.modules:
        # Its threads, waiting for each other actively, would take the cores that reading and writing need.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from outmask.app.predict import predict

    return predict(**options)


def _evaluate(**options: Any) -> int:
    from outmask.app.measure import measure

    return measure(**options)


def _calibrate(**options: Any) -> int:
    from outmask.app.calibration import calibration

    return calibration(**options)


def _fit(**options: Any) -> int:
    from outmask.app.fitting import fitting

    return fitting(**options)


def _export(**options: Any) -> int:
    from outmask.app.exporting import exporting

    return exporting(**options)


def _submit(**options: Any) -> int:
    from outmask.app.submitting import submitting

    return submitting(**options)


def _bench(**options: Any) -> int:
    from outmask.app.bench.command import bench

    return bench(**options)


def _train(arguments: list[str]) -> int:
    from outmask.training.run import main as train

    print(f"trained model: {train(arguments)}")
    return DONE


def _ablate(**options: Any) -> int:
    from outmask.app.ablate import ablate

    return ablate(**options)


def _reproduce(**options: Any) -> int:
    from outmask.app.reproduce import reproduce

    return reproduce(**options)


def _flow(**options: Any) -> int:
    from outmask.app.flow import flow

    return flow(**options)


def _list(what: str) -> int:
    from outmask.app.listing import listing

    return listing(what)


_COMMANDS: dict[str, Callable[..., int]] = {
    "demo": _demo,
    "predict": _predict,
    "evaluate": _evaluate,
    "calibrate": _calibrate,
    "fit": _fit,
    "export": _export,
    "submit": _submit,
    "bench": _bench,
    "train": _train,
    "flow": _flow,
    "ablate": _ablate,
    "reproduce": _reproduce,
    "list": _list,
}


def _version() -> str:
    from outmask import __version__

    return __version__


def _joined_negative_numbers(arguments: list[str]) -> list[str]:
    """``--threshold -3e-05`` as ``--threshold=-3e-05``: argparse takes such a number for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and _NEGATIVE_NUMBER.fullmatch(argument.lower()):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


_NEGATIVE_NUMBER = re.compile(r"-((\d+\.?\d*|\.\d+)e[-+]?\d+|inf|nan)")


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


_POSITIONAL = {"paths": "PATH", "file": "FILE", "what": "what to list, measure or reproduce"}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
