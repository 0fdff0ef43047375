"""The card of a registered encoder: what it is, how good it is, what it was trained on, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

TEMPLATE = """# {name}

{prose}

## Results

{results}
{pictures}
## The encoder

{encoder}

A picture goes through this first (`preprocessing.json`):

{preprocessing}

## Training

{training}

The whole spec is in `spec.yaml`: `reco pretrain spec.yaml` trains it again.

## How to use it

Embeddings of a folder of pictures or of shards, from the command line:

```bash
reco embed {name}@{alias} PICTURES -o embeddings.parquet
```

The exported graph, which needs MLflow and torch only. It takes preprocessed pictures, float32 [n, 3, {size}, {size}]:

```python
import mlflow
import torch

mlflow.set_tracking_uri("{uri}")
encoder = mlflow.pytorch.load_model("models:/{name}@{alias}")
pictures = torch.zeros(4, 3, {size}, {size})  # yours, preprocessed as above
features = encoder(pictures)  # float32 [4, {feature_dim}]
```

The weights under torchvision's parameter names, without unpickling anything, for instance to fine-tune them:

```python
from pathlib import Path

from jobs.tracking.encoders import load_encoder_files
from jobs.tracking.models import fetch_encoder

folder = fetch_encoder("{name}@{alias}", "{uri}", Path("encoder"))
state_dict, config, preprocessing = load_encoder_files(folder)
```
"""


def write_card(
    *,
    name: str,
    alias: str,
    uri: str,
    prose: str,
    encoder_config: Mapping[str, object],
    preprocessing: Mapping[str, object],
    metrics: Mapping[str, float],
    training: Mapping[str, object],
    pictures: Sequence[str] = (),
) -> str:
    """Return the card in Markdown.

    Args:
        name: Registered model.
        alias: Alias the encoder is registered with.
        uri: Address of the tracking server, without credentials.
        prose: What this encoder is and how it was trained, in the words of the caller.
        encoder_config: What rebuilds the encoder.
        preprocessing: What a picture goes through, with `image_size`.
        metrics: Results by name.
        training: Run, data and spec it came from.
        pictures: Names of picture files beside the card.
    """
    return TEMPLATE.format(
        name=name,
        alias=alias,
        uri=uri,
        prose=prose.strip(),
        results=_table("metric", {key: f"{value:.4g}" for key, value in metrics.items()}) or "None were measured.",
        encoder=_table("", encoder_config),
        preprocessing=_table("", preprocessing),
        training=_table("", training),
        pictures="".join(f"\n![{Path(each).stem}]({each})\n" for each in pictures),
        size=preprocessing["image_size"],
        feature_dim=encoder_config["feature_dim"],
    )


def _table(heading: str, values: Mapping[str, object]) -> str:
    if not values:
        return ""
    rows = [f"| {key} | {_cell(value)} |" for key, value in values.items()]
    return "\n".join([f"| {heading} | value |", "|---|---|", *rows])


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
