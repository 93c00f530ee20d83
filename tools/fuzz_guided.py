"""Feed one reader files that atheris makes, guided by the lines of code that they reach, until the time is over.

usage: python -m tools.fuzz_guided READER [SECONDS]      60 seconds by default; first: pip install atheris (Linux)

READER is one of tools/fuzz.py, which needs no atheris and feeds all of them.  What reaches new lines is kept in
build/corpus/READER/, where the next run goes on; a file that breaks the reader in tests/corpus/READER/.
"""

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["wsfp_helpers", "json", "PIL", "safetensors"]):
    from tools.fuzz import CORPUS, READERS, breaks

KEPT = Path(__file__).parents[1] / "build" / "corpus"


def main(name: str, seconds: str = "60") -> None:
    """Run the command line; atheris ends the process."""
    if name not in READERS or not seconds.isdecimal():
        sys.exit(f"expected a reader ({', '.join(READERS)}) and seconds, got {name!r} and {seconds!r}")
    place = KEPT / name
    place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(READERS[name][2]):
        (place / f"seed{number}").write_bytes(seed)

    def read(content: bytes) -> None:
        if (error := breaks(name, content)) is not None:
            path = CORPUS / name / hashlib.sha256(content).hexdigest()[:12]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            raise error

    options = [f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=8192", f"-artifact_prefix={place}/"]
    atheris.Setup([sys.argv[0], str(place), *options], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
