"""The chart as Helm's own engine renders it, read strictly, and what a cluster would say of the manifests.

Knows no options: those are in options.py.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate.utils
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "armoserve"
OLDEST, NEWEST = "1.27", kubernetes_validate.latest_version()
CUSTOM_RESOURCES = json.loads((Path(__file__).parent / "custom_resources.json").read_text())

Manifest = dict[str, Any]
Render = Callable[..., "Release"]


@dataclass(frozen=True, slots=True)
class Release:
    """What one installation would send to a cluster."""

    manifests: tuple[Manifest, ...]
    notes: str

    def all(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, suffix: str = "") -> Manifest:
        (found,) = [manifest for manifest in self.all(kind) if manifest["metadata"]["name"].endswith(suffix)]
        return found

    @property
    def pod(self) -> Manifest:
        return self.one("Deployment")["spec"]["template"]["spec"]

    @property
    def server(self) -> Manifest:
        (container,) = self.pod["containers"]
        return container


class StrictLoader(yaml.CSafeLoader):
    """Refuses a mapping that gives a key twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key twice among {keys}"
        return super().construct_mapping(node, deep)


def release(rendered: Mapping[str, str]) -> Release:
    files = {name.rsplit("/", 1)[-1]: text for name, text in rendered.items()}
    notes = files.pop("NOTES.txt")
    manifests = [one for text in files.values() for one in yaml.load_all(text, Loader=StrictLoader) if one]
    return Release(tuple(manifests), notes)


def check(manifest: Manifest, version: str) -> None:
    """See that a cluster of this version would take a manifest: no field unknown, none of the wrong type."""
    _check(json.dumps(manifest), version)


@cache
def _check(text: str, version: str) -> None:
    manifest = json.loads(text)
    schema = CUSTOM_RESOURCES.get(f"{manifest['apiVersion']} {manifest['kind']}")
    if schema is None:
        kubernetes_validate.validate(manifest, version, strict=True)
    else:
        jsonschema.validate(manifest, {**schema, "$defs": CUSTOM_RESOURCES["$defs"]})


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Lay values over each other as Helm does: mappings merge, all else is replaced."""
    result: dict[str, Any] = {}
    for layer in values:
        for name, value in layer.items():
            under = result.get(name)
            both = isinstance(under, Mapping) and isinstance(value, Mapping)
            result[name] = merged(under, value) if both else value
    return result
