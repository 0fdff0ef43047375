"""Pictures a second of `reco embed` with one and two workers, against the loop one would write without it.

    python -m benchmarks.embed --json embed.json
    python -m benchmarks.embed --pictures 5000 --encoder resnet50 --image-size 224

The plain side opens each file with Pillow, resizes and crops it there, and gives batches of 128 to the same encoder,
with PyTorch's own threads. Both sides are whole commands over the same JPEG files, and each round runs every side once,
so that a machine that slows down slows all of them. What a command takes for a single picture (imports, and Ray where
there is more than one worker) is measured as well, and left out of the second figure.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.measure import spread
from jobs.embedding.encoder import load_encoder
from jobs.reco import build_encoder
from jobs.tracking.files import CONFIG, PREPROCESSING, WEIGHTS, sha256

BATCH = 128
CROP = 0.875
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    arguments = _parse()
    if arguments.plain:
        plain(Path(arguments.plain[0]), Path(arguments.plain[1]), Path(arguments.plain[2]))
        return
    with tempfile.TemporaryDirectory(prefix="reco-bench-embed-") as temporary:
        folder = Path(temporary)
        encoder = make_encoder(folder / "encoder", arguments.encoder, arguments.image_size)
        photos = make_photos(folder / "photos", arguments.pictures, arguments.side)
        one = make_photos(folder / "one", 1, arguments.side)
        sides = {"plain loop": [sys.executable, "-m", "benchmarks.embed", "--plain"]}
        for workers in (1, 2):
            name = "reco embed, 1 worker" if workers == 1 else f"reco embed, {workers} workers"
            sides[name] = ["--workers", str(workers)]
        starts = {name: timed(name, sides[name], encoder, one, folder) for name in sides}
        walls: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(arguments.runs):
            for name, words in sides.items():
                walls[name].append(timed(name, words, encoder, photos, folder))
        found = [np.load(folder / f"{name}.npy") for name in sides]
    report = {
        "what": "pictures a second, whole commands and without their start",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "pictures": arguments.pictures,
        "jpeg side": arguments.side,
        "encoder": arguments.encoder,
        "image size": arguments.image_size,
        "least cosine between plain and ours": least_cosine(found[0], found[1]),
        "1 and 2 workers equal": bool(np.array_equal(found[1], found[2])),
        "sides": {
            name: {
                "start_s": starts[name],
                "wall_s": walls[name],
                "per_s": [arguments.pictures / wall for wall in walls[name]],
                "per_s_without_start": [(arguments.pictures - 1) / (wall - starts[name]) for wall in walls[name]],
            }
            for name in sides
        },
    }
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def timed(name: str, words: list[str], encoder: Path, photos: Path, folder: Path) -> float:
    """Seconds that one side takes over a folder."""
    out = folder / f"{name}.npy"
    if words[0] == sys.executable:
        command = [*words, str(encoder), str(photos), str(out)]
    else:
        command = [sys.executable, "-m", "jobs.embed", str(encoder), str(photos), "--out", str(out)]
        command += ["--home", str(folder / "home"), *words]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return time.perf_counter() - start


@torch.no_grad()
def plain(encoder: Path, photos: Path, out: Path) -> None:
    """The loop one would write: file by file, Pillow, batches of 128."""
    module, preprocessing = load_encoder(encoder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device)
    size = int(str(preprocessing["image_size"]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    features, batch = [], []
    paths = sorted(photos.iterdir())
    for number, path in enumerate(paths, start=1):
        picture = Image.open(path).convert("RGB")
        short = min(picture.size)
        scaled = [round(side * size / CROP / short) for side in picture.size]
        picture = picture.resize((scaled[0], scaled[1]), Image.Resampling.BILINEAR)
        left, top = ((side - size) // 2 for side in scaled)
        pixels = torch.from_numpy(np.array(picture.crop((left, top, left + size, top + size))))
        batch.append((pixels.permute(2, 0, 1) / 255 - mean) / std)
        if len(batch) == BATCH or number == len(paths):
            features.append(module(torch.stack(batch).to(device)).cpu().numpy())
            batch = []
    np.save(out, np.concatenate(features))


def make_encoder(folder: Path, name: str, size: int) -> Path:
    """An untrained encoder's files: what it computes takes as long as a trained one's."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    module = build_encoder(name)
    save_file(module.state_dict(), folder / WEIGHTS)
    config = {"name": name, "stem": "imagenet", "width": 64, "feature_dim": module.feature_dim}
    (folder / CONFIG).write_text(json.dumps(config | {"sha256": sha256(folder / WEIGHTS)}))
    prepared = {"image_size": size, "crop_fraction": CROP, "mean": MEAN, "std": STD}
    (folder / PREPROCESSING).write_text(json.dumps(prepared))
    return folder


def make_photos(folder: Path, count: int, side: int) -> Path:
    """JPEG files of smooth noise with grain, 4 : 3."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side * 4 // 3, side), Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 6, smooth.shape)
        file = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        (folder / f"{number:06d}.jpg").write_bytes(file.getvalue())
    return folder


def least_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / lengths).min())


def show(report: dict[str, object]) -> None:
    sides = report["sides"]
    assert isinstance(sides, dict)
    print(f"{report['pictures']} JPEGs of {report['jpeg side']} pixels, {report['encoder']} at {report['image size']}")
    print(f"{report['machine']}, {report['device']}")
    print(f"{'':24}{'start':>8}   {'pictures/s':24}{'without start':24}")
    base = statistics.median(sides["plain loop"]["per_s_without_start"])
    for name, side in sides.items():
        steady = side["per_s_without_start"]
        ratio = statistics.median(steady) / base
        print(f"{name:24}{side['start_s']:6.1f} s   {spread(side['per_s']):24}{spread(steady):24}{ratio:.2f}×")
    print(f"least cosine between plain and ours: {report['least cosine between plain and ours']:.5f}")
    print(f"1 and 2 workers equal to the last bit: {report['1 and 2 workers equal']}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--side", type=int, default=300, help="short side of the JPEG files")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain", nargs=3, metavar=("ENCODER", "PICTURES", "OUT"), help="run the plain side alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
