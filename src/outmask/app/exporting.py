"""``outmask export``: a model as a file for onnxruntime or OpenVINO, compared with the model before it is done."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from outmask.app import DONE
from outmask.app.arguments import check_file, image_size, score_names
from outmask.app.terminal import progress_bar, say, tell
from outmask.checkpoints import ModelBundle, load_bundle
from outmask.data.images import find_images, read_image
from outmask.data.world import World
from outmask.errors import OutmaskError
from outmask.export import TOLERANCE, compare, export, is_exported, open_exported
from outmask.export.files import check_path

if TYPE_CHECKING:
    from outmask.export import Format, Parity, Size

# NNCF's own default is 300; activations' ranges settle with far fewer.
_CALIBRATION_IMAGES = 100
# A masked decoder looks where a logit is at least 0, and which masks is a decision that rounding can turn: on one of
# so many scenes it should not, and a graph that computes something else differs on all.
_INPUTS = ((384, 512), (320, 448), (256, 512))


def exporting(
    file: str,
    model: str,
    format: Format,
    score: str,
    size: str | None,
    int8: str | None,
) -> int:
    """Write ``model`` to ``file`` with scores given as ``a,b,c``; prints what differs and returns the exit code.

    ``int8`` is a folder of images to take the ranges of values from.

    Raises:
        OutmaskError: where it can't be written, or computes something else than the model; the file is not there then.
    """
    path, names = Path(file), score_names(score)
    check_path(path, format)
    check_file("FILE", file)
    fixed = None if size is None else image_size("--size", size)
    if is_exported(model):
        raise OutmaskError(f"--model {model} is an exported file already: name the model that it was made of")
    tell(f"loading {model}")
    bundle = load_bundle(model)
    calibration = [] if int8 is None else _calibration(int8, bundle, fixed)
    # Beside its place until it is known to be right: a file of that name is right.
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".partial") as folder:
        beside = Path(folder) / path.name
        tell(f"exporting {model} to {file}")
        export(bundle, beside, format, names, fixed, calibration)
        tell("comparing it with the model")
        parity = _compared(bundle, beside, fixed, exact=not calibration)
        for written in sorted(Path(folder).iterdir()):  # OpenVINO's weights before the file that needs them
            written.replace(path.parent / written.name)
    for name, difference in parity.differences.items():
        say(f"{name:<20} largest difference {difference:.1e}")
    shape = "any batch, height and width" if fixed is None else f"one image of {fixed[0]}x{fixed[1]}"
    say(f"{file}: {'int8' if calibration else 'float32'}, {shape}")
    return DONE


def _compared(bundle: ModelBundle, path: Path, fixed: Size | None, exact: bool) -> Parity:
    exported = open_exported(path)
    found = []
    for number, size in enumerate(_INPUTS):
        pixels = bundle.preprocessing.normalise(_scene(number, fixed or size))
        found.append(compare(bundle.model, exported, pixels))
        if not exact or found[-1].worst <= TOLERANCE:
            return found[-1]
    best = min(found, key=lambda parity: parity.worst)
    worst = max(best.differences, key=lambda name: best.differences[name])
    raise OutmaskError(
        f"the exported model computes something else: {worst} differs by {best.differences[worst]:.1e}, "
        f"more than {TOLERANCE:.0e}; nothing was written"
    )


def _scene(number: int, size: Size) -> Tensor:
    import torch

    return torch.from_numpy(World("t6", "test").scene(number, size).image).permute(2, 0, 1)[None].float()


def _calibration(folder: str, bundle: ModelBundle, fixed: Size | None) -> Sequence[Tensor]:
    """Normalised pixels of images that are spread evenly over a folder."""
    images = [path for path, _ in find_images([folder])]
    step = max(1, len(images) // _CALIBRATION_IMAGES)
    chosen = images[::step][:_CALIBRATION_IMAGES]
    with progress_bar() as bar:
        pixels = [bundle.preprocessing(read_image(path)) for path in bar.track(chosen, description="calibrate")]
    if fixed is not None and any(tuple(one.shape[2:]) != fixed for one in pixels):
        raise OutmaskError(
            f"--int8 {folder}: its images are not {fixed[0]}x{fixed[1]} after resizing, which --size asks for"
        )
    return pixels
