"""Counts how large the house is, and how far it is from a command to the work.

    python scripts/figures.py [CHECKOUT]

Trains the study `smoke` of the checkout (this one, if none is named) in a temporary folder, with
its explanation and without, and counts the package's own functions and files that it enters. Needs
an environment with the package's dependencies.
"""

import ast
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

TRACED = """
import json, os, runpy, sys, threading
package, *words = sys.argv[1:]
entered, deepest = set(), []
def note(frame, event, _):
    if event != "call" or not frame.f_code.co_filename.startswith(package):
        return
    code = frame.f_code
    entered.add((code.co_filename, code.co_firstlineno, code.co_name))
    if code.co_name == "run_slice" and not deepest:
        while frame is not None:
            own = frame.f_code
            if own.co_filename.startswith(package):
                deepest.append((os.path.relpath(own.co_filename, package), own.co_name))
            frame = frame.f_back
threading.setprofile(note)
sys.setprofile(note)
sys.argv = ["mlp.sweep", "sweeps=smoke", *words]
try:
    runpy.run_module("mlp.sweep", run_name="__main__", alter_sys=True)
except SystemExit:
    pass
sys.setprofile(None)
named = {e for e in entered if e[2] != "<module>" and e[0].endswith(".py")}
print("FIGURES", json.dumps([len(named), len({e[0] for e in named}), deepest[::-1]]))
"""


def main() -> None:
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    files = list((checkout / "mlp").rglob("*.py"))
    modules = [path for path in files if path.name != "__init__.py"]
    trees = [ast.parse(path.read_text()) for path in files]
    classes = sum(isinstance(node, ast.ClassDef) for tree in trees for node in tree.body)
    lines = sum(len(path.read_text().splitlines()) for path in files)
    readme = (checkout / "README.md").read_text()
    functions, entered, path = smoke(checkout)
    alone, entered_alone, _ = smoke(checkout, "study.explain=false")
    figures = {
        "files in mlp/ (package faces not counted)": len(modules),
        "lines in mlp/": lines,
        "top-level classes": classes,
        "own calls from the command to the step loop": len(path),
        "files on that path": len({file for file, _ in path}),
        "functions that a smoke sweep enters": functions,
        "files that a smoke sweep enters": entered,
        "functions without the explanation": alone,
        "files without the explanation": entered_alone,
        "lines of the import contract": contract_lines(checkout / "pyproject.toml"),
        "lines of README.md": len(readme.splitlines()),
        "words of README.md": len(readme.split()),
    }
    for what, count in figures.items():
        print(f"{count:>7,}  {what}")
    print("the path:", " > ".join(f"{file}:{name}" for file, name in path))


def smoke(checkout: Path, *words: str) -> tuple[int, int, list[list[str]]]:
    """Functions and files entered by a smoke sweep, and the path to the step loop."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", TRACED, str(checkout / "mlp"), *words]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    functions, files, path = json.loads(line.removeprefix("FIGURES "))
    return functions, files, path


def contract_lines(file: Path) -> int:
    """Lines of pyproject.toml from the first to the last of the import linter's."""
    text = file.read_text()
    assert "importlinter" in tomllib.loads(text)["tool"]
    rest = text[text.index("[tool.importlinter]") :]
    own = []
    for line in rest.splitlines():
        if line.startswith("[") and "importlinter" not in line:
            break
        own.append(line)
    return len("\n".join(own).strip().splitlines())


if __name__ == "__main__":
    main()
