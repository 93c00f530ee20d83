"""``wsfp page``: a web page in which both shipped parsers run; photographs never leave it."""

import hashlib
import json
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from skimage.data import astronaut

from wsfp_helpers.common.cache import cache_dir, find
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, atomic_path, claim_folder, hold_folder, sha256_of, write_json
from wsfp_helpers.nets.trunk import load_trunk
from wsfp_helpers.parsing.export import Agreement, check_weights, export, metadata
from wsfp_helpers.parsing.light import LightParser
from wsfp_helpers.parsing.load import SHIPPED_PARSERS, load_parser

SOURCES = ASSETS / "page"
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""Of the package's file at the npm registry."""
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page takes of the package (Copyright Microsoft Corporation, MIT)."""


def write_page(out: str | Path, weights: str = "float16") -> Agreement:
    """Write the page with its networks, its runtime and an example into the folder ``out``.

    The page is static: any web server will do, and ``out/serve.py`` is one.  ``hashes.txt`` holds the SHA-256 of every
    file.  Returns how far the networks agree with Python.

    Raises:
        InputError: A package is missing, the runtime could not be fetched or has another hash, or ``out`` holds pages
            of something else.
    """
    check_weights(weights)
    out, archive = Path(out), fetch_runtime()
    trunk = load_trunk()
    parsers = {name: parser for name in SHIPPED_PARSERS if isinstance(parser := load_parser(name, trunk), LightParser)}
    with hold_folder(out):
        claim_folder(out, {"page": "wsfp"}, "a page", "*.html")
        agreement = export(parsers, out / "parsers.onnx", weights)
        write_json(out / "facts.json", json.loads(metadata(parsers, weights)["wsfp"]))
        files = {path.name: path.read_bytes() for path in SOURCES.iterdir() if path.is_file()}
        with tarfile.open(archive) as package:
            for name in RUNTIME:
                member = package.extractfile(f"package/dist/{name}")
                assert member is not None  # the hash is that of a package that has it
                files[name] = member.read()
        files["example.jpg"] = _example()
        for name, content in files.items():
            with atomic_path(out / name) as part:
                part.write_bytes(content)
        names = sorted([*files, "parsers.onnx", "facts.json"])
        with atomic_path(out / "hashes.txt") as part:
            part.write_text("".join(f"{sha256_of(out / name)}  {name}\n" for name in names), encoding="utf-8")
    return agreement


def fetch_runtime() -> Path:
    """The npm package of ONNX Runtime for browsers: found in ``$WSFP_DATA`` or the cache, else fetched with npm."""
    name = f"{PACKAGE}-{VERSION}.tgz"
    path = find(name) or cache_dir() / name
    if not path.exists():
        with TemporaryDirectory() as folder:
            print(f"npm fetches {PACKAGE} {VERSION} (Microsoft Corporation, MIT licence)", file=sys.stderr)
            command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder]
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=600)
                content = Path(folder, name).read_bytes()
            except (OSError, subprocess.SubprocessError) as error:
                raise InputError(
                    f"could not fetch {PACKAGE} {VERSION} with npm ({type(error).__name__}): install npm and check the "
                    f"network, or put {name} from another machine into {cache_dir()}"
                ) from error
        if hashlib.sha256(content).hexdigest() == SHA256:
            with atomic_path(path) as part:
                part.write_bytes(content)
            return path
        raise InputError(f"npm gave another {name} than the one that the page was tested with: try again later")
    if sha256_of(path) != SHA256:
        raise InputError(f"{path} is damaged or another file (its SHA-256 is not {SHA256}): remove it and try again")
    return path


def _example() -> bytes:
    """Eileen Collins, NASA, public domain."""
    buffer = BytesIO()
    Image.fromarray(astronaut()).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()
