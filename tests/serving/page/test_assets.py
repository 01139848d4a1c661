"""Files of the page: found by content, packed, kept for ever, and fetched by lock file or not at all."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

from serving import api
from serving.page import assets
from tests.serving.page import scenes

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "page.css").write_text("body { color: red; }\n" * 100)
    (tmp_path / "notes.txt").write_text("not for browsers")
    return tmp_path


def test_the_version_changes_with_the_content_of_any_file(folder: Path) -> None:
    before = assets.load(folder)
    assert set(before.files) == {"page.css"}
    assert assets.load(folder).version == before.version
    (folder / "page.css").write_text("body { color: blue; }")
    assert assets.load(folder).version != before.version


def test_charts_are_there_once_both_files_are(folder: Path) -> None:
    assert not assets.load(folder).has_charts
    (folder / assets.UPLOT_JS).write_text("var uPlot")
    assert not assets.load(folder).has_charts
    (folder / assets.UPLOT_CSS).write_text(".u {}")
    assert assets.load(folder).has_charts


def test_files_are_kept_for_ever_at_the_address_of_their_version() -> None:
    edges = scenes.edges(None, allowed_hosts=None)
    with TestClient(api.build(edges)) as client:
        url = edges.static.url("page.css")
        answer = client.get(url)
        assert answer.headers["content-type"].startswith("text/css")
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-encoding"] == "gzip" and answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.content == edges.static.files["page.css"].body
        plain = client.get(url, headers={"Accept-Encoding": "gzip;q=0, br"})
        assert "content-encoding" not in plain.headers and plain.content == answer.content
        assert client.get(url, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
        other = client.get("/static/0123456789abcdef/page.css")
        assert other.status_code == 200 and other.headers["cache-control"] == "no-cache"
        for name in ("../api.py", "%2e%2e/api.py", "vendor", "nothing.js", ""):
            assert client.get(f"/static/{edges.static.version}/{name}").status_code == 404
    edges.store.close()


def test_what_is_packed_is_the_file() -> None:
    found = assets.load()
    assert {"page.css", "live.js", "list.js", "workload.js", "demo.js", "charts.js", "icon.svg"} <= set(found.files)
    assert all(gzip.decompress(one.packed) == one.body for one in found.files.values())


def test_our_modules_name_nothing_from_elsewhere() -> None:
    for path in sorted((ROOT / "serving" / "static").glob("*.*")):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "@import" not in text and "eval(" not in text, path


# --- what comes from npm ---------------------------------------------------------------------------------------------


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, on a folder of its own."""
    spec = importlib.util.spec_from_file_location("page_assets", ROOT / "tools" / "page_assets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "package-lock.json").write_text("{}")
    monkeypatch.setattr(module, "WEB", tmp_path / "web")
    monkeypatch.setattr(module, "VENDOR", tmp_path / "vendor")
    return module


def put_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program called npm, alone on the path."""
    bin = folder / "bin"
    bin.mkdir()
    (bin / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (bin / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:/usr/bin:/bin")


def test_without_npm_one_line_says_what_is_missing(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", ["page_assets.py"])
    assert tool.main() == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "npm is not installed" in said and "data tables" in said
    assert not tool.VENDOR.exists()


def test_npm_that_fails_is_quoted_and_leaves_nothing_half_done(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm(tmp_path, monkeypatch, "echo 'npm error no network' >&2; exit 1")
    assert "npm error no network" in tool.fetch()
    assert not tool.VENDOR.exists()


def test_files_and_licence_are_copied_once_per_lock_file(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "mkdir -p node_modules/uplot/dist node_modules/axe-core; touch node_modules/axe-core/axe.min.js; "
    made += "for f in dist/uPlot.iife.min.js dist/uPlot.min.css LICENSE; do echo x > node_modules/uplot/$f; done; "
    put_npm(tmp_path, monkeypatch, made + 'echo "$@" >> calls')
    assert tool.fetch() is None
    assert tool.fetch() is None
    assert {path.name for path in tool.VENDOR.iterdir()} == {*tool.COPIED.values(), tool.STAMP}
    assert "LICENSE" in " ".join(tool.COPIED.values())
    (calls,) = (tool.WEB / "calls").read_text().splitlines()
    assert calls.startswith("ci --ignore-scripts") and "--omit=dev" not in calls
    (tool.WEB / "package-lock.json").write_text('{"lockfileVersion": 3}')
    assert tool.fetch(shipped_only=True) is None
    assert "--omit=dev" in (tool.WEB / "calls").read_text()


def test_the_lock_file_pins_by_hash_and_names_no_host() -> None:
    text = (ROOT / "web" / "package-lock.json").read_text()
    packages = {name: one for name, one in json.loads(text)["packages"].items() if name}
    assert packages["node_modules/uplot"]["version"] == "1.6.32"
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    assert "resolved" not in text and "http" not in text
