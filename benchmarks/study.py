"""The studies behind docs/results.md: three YAML files in benchmarks/studies, on the bundled models.

    python benchmarks/study.py noise --data GLUE_FOLDER --runs FOLDER

writes FOLDER/noise.yaml with the places of the models and the data filled in, runs it or goes on with it, and writes
its tables and figures beside the cells. ``encoder`` and ``language-model`` train again without the flagged rows.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from common import bundled_minilm, bundled_smollm2, machine
from undertow.cli.experiment import print_next, print_progress
from undertow.errors import UndertowError
from undertow.progress import Bars
from undertow.study.experiment import experiment
from undertow.study.figures import write_figures
from undertow.study.frames import read_frames
from undertow.study.tables import write_tables

STUDIES = Path(__file__).parent / "studies"


def fill_in(name: str, data: Path, runs: Path) -> Path:
    """The file of a study with the places of data and models in it."""
    if not data.is_dir():
        sys.exit(f"Missing: {data}. --data takes a folder with TASK/train.jsonl and TASK/validation.jsonl.")
    text = (STUDIES / f"{name}.yaml").read_text()
    places = {"DATA": str(data.resolve())}
    places |= {"MINILM": str(bundled_minilm())} if "MINILM" in text else {}
    places |= {"SMOLLM2": str(bundled_smollm2())} if "SMOLLM2" in text else {}
    for word, place in places.items():
        text = text.replace(word, place)
    runs.mkdir(parents=True, exist_ok=True)
    file = runs / f"{name}.yaml"
    file.write_text(text)
    return file


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(f.stem for f in STUDIES.glob("*.yaml")))
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder a GLUE task")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of the studies")
    asked = parser.parse_args()
    file = fill_in(asked.name, asked.data, asked.runs)
    folder, console, start = file.with_suffix(""), Console(), time.monotonic()
    try:
        state = experiment(file, folder, reporter=Bars(Console(stderr=True)))
        for write, where in ((write_tables, "tables"), (write_figures, "figures")):
            _, left = write(read_frames(folder), folder / where)
            for item in left:
                console.print(f"Left out: {item.name}, as {item.why}.", markup=False, highlight=False)
    except UndertowError as error:
        sys.exit(str(error))
    print_progress(state, console)
    print_next(state, file, folder, console)
    console.print(f"{(time.monotonic() - start) / 60:.1f} minutes on a {machine()}.", highlight=False)
    sys.exit(1 if state.failed else 0)


if __name__ == "__main__":
    main()
