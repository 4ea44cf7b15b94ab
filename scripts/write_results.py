#!/usr/bin/env python3
"""Write the tables and pictures of run folders into a document, between the marks that name them.

Run:  scripts/write_results.py RUNS DOCUMENT

A mark is a line of the document:

    <!-- results of NAME: TITLE, ...; FIGURE, ... -->

What is between it and the next line `<!-- end -->` is replaced: the commands (RUNS/NAME.command), the machine, the runs, their time and the
scores before training, the tables of RUNS/NAME/report/table.md whose titles begin with a TITLE, and the pictures RUNS/NAME/report/FIGURE.svg, which are copied to the
folder `results` beside the document. Of a folder with JSON files of `zotune eval` and `zotune probe` in place of runs, the table has a line a
file. Where RUNS has nothing of this name, the document stays as it is.
"""

import json
import pathlib
import re
import shutil
import sys

MARK = re.compile(r"^<!-- results of (\S+):([^;\n]*?)(?:;([^\n]*?))? -->\n(?s:.*?)^<!-- end -->\n", re.M)

WAYS = {
    "eval": "untrained", "eval--calibratethreshold": "a threshold on the scores",
    "eval--calibratecontent-free": "content-free calibration", "eval--num-fewshot8": "eight rows in the prompt",
    "probe": "linear probe",
}


def names(listed):
    return [name.strip() for name in (listed or "").split(",") if name.strip()]


def duration(seconds):
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def of_runs(folder):
    """Of the runs below a folder: how many, on what, how long, and the scores before training."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("cells/*/run.json"))]
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("cells/*/all_results.json"))]
    machines = sorted({f"{run['machine']['cpu']} ({run['machine']['instruction_set']})" for run in runs})
    threads = sorted({run["machine"]["threads"] for run in runs})
    seconds = sum(result["train_seconds"] for result in results)
    threads = " or ".join(map(str, threads)) + (" thread" if threads == [1] else " threads")
    count = f"{len(results)} run{'' if len(results) == 1 else 's'}"
    report = (folder / "report/table.md").read_text()
    untrained = [line[2:] for line in report.splitlines() if line.startswith("- Before training")]
    return " ".join([f"{count} of {threads} on {', '.join(machines)}, {duration(seconds)} of training in all.", *untrained])


def of_report(folder, titles):
    """The tables of a report whose titles begin with one of these."""
    parts = re.split(r"^## ", (folder / "report/table.md").read_text(), flags=re.M)[1:]
    for part in parts:
        title, body = part.split("\n", 1)
        if any(title.startswith(wanted) for wanted in titles):
            table = "\n".join(line for line in body.splitlines() if line.startswith("|"))
            yield f"{title}:\n\n{table}" if title != "Results" else table


def of_answers(folder):
    """The table of what a model gives without training."""
    lines = ["| | accuracy % (95 %) | loss | seconds | peak MiB |", "|---|---|---|---|---|"]
    for name, said in WAYS.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        found = {**result, **(result.get("calibration") or {})}
        low, high = (100 * found[end] for end in ("accuracy_low", "accuracy_high"))
        seconds = sum(result.get(key, 0) for key in ("seconds", "feature_seconds", "fit_seconds"))
        lines.append(f"| {said} | {100 * found['accuracy']:.1f} ({low:.1f} to {high:.1f}) | {found['loss']:.3f} | {seconds:.0f} | "
                     f"{result['peak_rss_bytes'] / 2**20:.0f} |")
    return "\n".join(lines)


def block(runs, document, name, titles, figures):
    folder = runs / name
    commands = (runs / f"{name}.command").read_text().splitlines()
    parts = ["\n".join(f"    {command}" for command in dict.fromkeys(commands))]
    if (folder / "report").is_dir():
        parts += [of_runs(folder), *of_report(folder, titles)]
    else:
        parts.append(of_answers(folder))
    for figure in figures:
        (document.parent / "results").mkdir(exist_ok=True)
        shutil.copy(folder / f"report/{figure}.svg", document.parent / f"results/{name}-{figure}.svg")
        parts.append(f"![{name}: {figure.replace('-', ' ')}](results/{name}-{figure}.svg)")
    return "\n\n".join(parts)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    runs, document = map(pathlib.Path, sys.argv[1:])

    def written(mark):
        name, titles, figures = mark[1], names(mark[2]), names(mark[3])
        if not (runs / f"{name}.command").exists() or not any((runs / name).glob("report/table.md" if titles else "*.json")):
            return mark[0]
        return f"{mark[0].splitlines()[0]}\n\n{block(runs, document, name, titles, figures)}\n\n<!-- end -->\n"

    text = document.read_text()
    new = MARK.sub(written, text)
    if new != text:
        document.write_text(new)


if __name__ == "__main__":
    main()
