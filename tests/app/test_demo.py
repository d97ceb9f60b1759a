"""``outmask demo``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import outmask.app.demo
from outmask.app.cli import main
from outmask.app.scene import draw_scene


@pytest.fixture(autouse=True)
def small_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outmask.app.demo, "draw_scene", lambda: draw_scene((90, 160)))


def test_demo_writes_its_pictures_and_says_where(
    segmenter: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures"
    assert main(["demo", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert str(out / "demo.png") in captured.out
    assert "AP" in captured.out
    names = ["demo.png", "scene.jpg", "scene_overlay.jpg", "scene_score.npy", "scene_score.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    combined = np.asarray(Image.open(out / "demo.png"))
    assert combined.shape == (180, 320, 3)
    heat = np.asarray(Image.open(out / "scene_score.png"))
    np.testing.assert_array_equal(combined[130:180, 0:160], heat[40:90])  # below the panel's title


def test_demo_without_its_model_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from outmask.errors import OutmaskError

    def load(name: str) -> None:
        raise OutmaskError(f"unknown model {name!r}")

    monkeypatch.setattr(outmask, "load", load, raising=False)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "outmask: unknown model 'street'\n"
    assert not (tmp_path / "out").exists()
