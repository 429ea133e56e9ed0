# SPDX-License-Identifier: Apache-2.0
"""Files that come with the package, readable wherever Detectron2 reads a path.

``dalnet://NAME`` is a file of this folder, ``dalnet://configs/NAME.yaml`` a recipe. Importing this
package registers the prefix with Detectron2's ``PathManager``, as Detectron2 does for
``detectron2://``.
"""

from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager

from dalnet.errors import UsageError

ASSETS = Path(__file__).resolve().parent
CONFIGS = ASSETS.parent / "configs"


class AssetHandler(PathHandler):
    """Resolves ``dalnet://`` to the files of the package; read-only."""

    PREFIX = "dalnet://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        file = self._resolve(path)
        if file is None or not file.is_file():
            shipped = ", ".join(self.PREFIX + name for name in self._shipped(path))
            raise UsageError("no such file comes with DALNet", path, f"there are {shipped}")
        return str(file)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        if set(mode) & set("wax+"):
            raise UsageError("it belongs to the package, which is not written to", path)
        return open(self._get_local_path(path), mode, buffering, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        file = self._resolve(path)
        return file is not None and file.is_file()

    def _exists(self, path: str, **kwargs: Any) -> bool:
        file = self._resolve(path)
        return file is not None and file.exists()

    def _shipped(self, path: str) -> list[str]:
        """Return the names of the recipes, or of the other files, whichever ``path`` is about."""
        if path.startswith(f"{self.PREFIX}configs/"):
            return sorted(f"configs/{p.relative_to(CONFIGS)}" for p in CONFIGS.rglob("*.yaml"))
        return sorted(p.name for p in ASSETS.iterdir() if p.is_file() and p.suffix != ".py")

    def _resolve(self, path: str) -> Path | None:
        """Return the place of a path; None if it leads out of the package's two folders."""
        name = path[len(self.PREFIX) :]
        folder, name = (CONFIGS, name[8:]) if name.startswith("configs/") else (ASSETS, name)
        file, folder = (folder / name).resolve(), folder.resolve()
        return file if folder in file.parents else None


PathManager.register_handler(AssetHandler())
