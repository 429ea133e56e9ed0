# SPDX-License-Identifier: Apache-2.0
"""Files that come with the package, readable wherever Detectron2 reads a path: ``dalnet://NAME``.

Importing this package registers the prefix with Detectron2's ``PathManager``, as Detectron2 does
for ``detectron2://``.
"""

from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager

from dalnet.errors import UsageError

ASSETS = Path(__file__).resolve().parent


class AssetHandler(PathHandler):
    """Resolves ``dalnet://NAME`` to the file NAME in ``dalnet/assets``; read-only."""

    PREFIX = "dalnet://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        file = self._resolve(path)
        if not file.is_file() or ASSETS not in file.parents:
            shipped = sorted(p.name for p in ASSETS.iterdir() if p.is_file() and p.suffix != ".py")
            raise UsageError(
                f"{path} is not a file that comes with DALNet; shipped are: "
                f"{', '.join(self.PREFIX + name for name in shipped) or 'none'}."
            )
        return str(file)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        if set(mode) & set("wax+"):
            raise UsageError(f"{path} belongs to the package and is not written to.")
        return open(self._get_local_path(path), mode, buffering, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return self._resolve(path).is_file()

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._resolve(path).exists()

    def _resolve(self, path: str) -> Path:
        return (ASSETS / path[len(self.PREFIX) :]).resolve()


PathManager.register_handler(AssetHandler())
