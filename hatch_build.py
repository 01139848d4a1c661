"""Build hook: the web page's charts go into the wheel and the source archive; without npm one line says so."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageAssets(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return  # make setup fetches them into the working tree
        spec = importlib.util.spec_from_file_location("page_assets", Path(self.root) / "tools" / "page_assets.py")
        assert spec is not None
        assert spec.loader is not None
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        said = tool.fetch(shipped_only=True)
        if said is not None:
            self.app.display_warning(said)
