# SPDX-License-Identifier: Apache-2.0
"""``toyclip://toyclip.safetensors``, readable wherever Detectron2 reads a path."""

from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager

from dalnet.errors import UsageError
from dalnet.io import cache_folder, sha256

WEIGHTS = Path(__file__).resolve().parent / "toyclip.safetensors"


class ToyCLIPHandler(PathHandler):
    """Resolves ``toyclip://toyclip.safetensors`` to the file in OpenAI's layout.

    It is written where it is first asked for, to ``$DALNET_CACHE`` or ``~/.cache/dalnet``.
    """

    PREFIX = "toyclip://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        if path != self.PREFIX + WEIGHTS.name:
            raise UsageError("there is no such file", path, f"write {self.PREFIX}{WEIGHTS.name}")
        file = cache_folder() / f"toyclip-{sha256(WEIGHTS)}.safetensors"
        if not file.is_file():
            from .files import export  # brings OpenCLIP along, which few commands need

            export(WEIGHTS, file)
        return str(file)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return path == self.PREFIX + WEIGHTS.name

    _exists = _isfile

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return open(self._get_local_path(path), mode, buffering, **kwargs)


PathManager.register_handler(ToyCLIPHandler(), allow_override=True)
