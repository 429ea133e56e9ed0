# SPDX-License-Identifier: Apache-2.0
"""Write a bundle: weights, classes and config in one safetensors file, with a model card."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import save

from dalnet.checkpoint import checkpoint_hash
from dalnet.checkpoint.files import BUNDLE_FILE, INFO, read_file
from dalnet.checkpoint.info import read_info
from dalnet.documents import parse_yaml
from dalnet.errors import UsageError
from dalnet.io import atomic_write, write_text

BUNDLE_FILES = (BUNDLE_FILE, "config.yaml", "README.md")

# The hub's own error is one of the library that it talks by, which depends on its version.
_HUB_ERRORS: tuple[type[Exception], ...] = (
    HfHubHTTPError,
    HfHubHTTPError.__bases__[0],
    HFValidationError,
    OSError,
)

_CARD = """\
# {name}

A segmentation network, trained by DALNet for Detectron2 from images and the set of classes that
each shows, without masks.

- **Classes**: {classes}
- **System**: {system}, encoder {encoder}
- **Trained with**: {versions}
- **Checkpoint**: SHA-256 {sha256}

```python
from dalnet import Predictor

prediction = Predictor("PATH")("image.jpg")  # this folder, or hf-hub:OWNER/NAME
prediction.labels, prediction.overlay()
```

The file `{file}` holds the weights and, in its metadata, the classes and the whole config
as plain text; nothing is unpickled.

## License

To be named by whoever publishes the model: it depends on the images, and on the weights that the
training began with.
"""


def write_bundle(weights: Path, folder: Path) -> None:
    """Write ``model.safetensors``, ``config.yaml`` and the model card ``README.md``.

    Args:
        weights: a checkpoint that holds its config.
        folder: where the files go.

    Raises:
        UsageError: the checkpoint is unreadable or of before 0.2, or the folder not writable.
    """
    info = read_info(weights)
    # safetensors refuses tensors that share memory, and views.
    tensors = read_file(str(weights))["model"]
    state = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    with atomic_write(folder / BUNDLE_FILE) as unfinished:
        # Not by save_file, whose files only their owner may read.
        unfinished.write_bytes(save(state, {INFO: json.dumps(asdict(info)), "format": "pt"}))
    write_text(folder / BUNDLE_FILES[1], info.config)
    config = parse_yaml(info.config, weights)
    text = _CARD.format(
        name=folder.resolve().name,
        classes=", ".join(info.class_names[1:]),
        system=info.system,
        encoder=config["MODEL"].get("VIT", {}).get("NAME") or "see config.yaml",
        versions=", ".join(f"{name} {version}" for name, version in sorted(info.versions.items())),
        sha256=checkpoint_hash(str(weights)),
        file=BUNDLE_FILE,
    )
    about = ModelCardData(library_name="dalnet", pipeline_tag="image-segmentation")
    write_text(folder / BUNDLE_FILES[2], str(ModelCard(f"---\n{about}\n---\n\n{text}")))


def push_to_hub(folder: Path, name: str, files: Sequence[str] = BUNDLE_FILES) -> str:
    """Publish a bundle on the Hugging Face hub; return its address.

    Args:
        folder: what :func:`write_bundle` wrote.
        name: ``OWNER/NAME``; made if it does not exist. The user has to be logged in there.
        files: those of the folder that are published.

    Raises:
        UsageError: the hub cannot be reached, or refuses the name or the user.
    """
    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        commit = api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=[*files])
    except _HUB_ERRORS as error:
        what = f"it cannot be published on the Hugging Face hub ({type(error).__name__})"
        raise UsageError(what, name, "check name, login (hf auth login) and connection") from error
    return str(commit.repo_url)
