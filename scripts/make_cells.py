"""Writes tests/fixtures/cells.json and tests/fixtures/cells/*.parquet: data files as people's tools write them, and what pandas,
Python's csv and Hugging Face's datasets read in them.

    python scripts/make_cells.py        (pandas, pyarrow, datasets)

Each text file stands in cells.json with its rows as pandas reads them (dtype=str, nothing taken for missing), checked here against what was
written and against datasets; GLUE's raw files with their rows as csv.QUOTE_NONE has them, which is how datasets read GLUE.
"""

import csv, io, json, os, pathlib, tempfile

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
OUT = pathlib.Path(__file__).parent.parent / "tests/fixtures"
TEXTS = [
    "plain", 'say "no", twice', '"all of it in quotes"', '"', '""', 'ends in "', "a\ttab", "two\nlines", "two\r\nlines", "comma, here",
    " a space in front", "a space behind ", ' "a space and a quote"', "é 日本 🎬", "back\\slash", "NA", "null", "#no comment", "1.0", "it's",
]
LABELS = ["good" if i % 2 else "bad" for i in range(len(TEXTS))]
ROWS = [{"text": t, "label": l} for t, l in zip(TEXTS, LABELS)]
FRAME = pd.DataFrame(ROWS)
CASES = []


def by_pandas(text, sep):
    frame = pd.read_csv(io.BytesIO(text), sep=sep, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    return frame.rename(columns=lambda c: str(c).strip())


def by_datasets(text, sep, ending):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x" + ending)
        open(path, "wb").write(text)
        loaded = datasets.load_dataset("csv", data_files=path, split="train", sep=sep, keep_default_na=False, encoding="utf-8-sig",
                                       cache_dir=folder)
        return [dict(row) for row in loaded]


def case(name, format, text, rows=None):
    """A file, and its rows; None: as pandas and datasets read them."""
    if rows is None:
        sep = "," if format == "csv" else "\t"
        frame = by_pandas(text, sep)
        rows = frame[["text", "label"]].to_dict("records")
        others = [{k.strip(): v for k, v in row.items()} for row in by_datasets(text, sep, "." + format)]
        assert [{c: row[c] for c in ("text", "label")} for row in others] == rows, name
        CASES.append({"name": name, "format": format, "text": text.decode(), "rows": rows, "as_written": rows == ROWS})
    else:
        CASES.append({"name": name, "format": format, "text": text.decode(), "rows": rows, "as_written": True})


def written(**options):
    return FRAME.to_csv(index=False, **options).encode()


def by_csv(**options):
    out = io.StringIO(newline="")
    writer = csv.writer(out, **options)
    writer.writerow(["text", "label"])
    writer.writerows([row["text"], row["label"]] for row in ROWS)
    return out.getvalue().encode()


case("pandas, csv", "csv", written())
case("pandas, tsv", "tsv", written(sep="\t"))
case("pandas, all quoted, csv", "csv", written(quoting=csv.QUOTE_ALL))
case("pandas, all quoted, tsv", "tsv", written(sep="\t", quoting=csv.QUOTE_ALL))
case("csv.writer, excel", "csv", by_csv())
case("csv.writer, excel-tab", "tsv", by_csv(dialect="excel-tab"))
case("Windows", "csv", "\ufeff".encode() + written(lineterminator="\r\n"))
case("an index in front", "csv", FRAME.to_csv().encode())
case("a header with spaces", "csv", b"text , label\nfine,good\nodd,bad\n")
case("empty lines", "csv", b"text,label\n\nfine,good\n\r\n\nodd,bad\n\n\n")
case("no quote begins a cell", "tsv", 'text\tlabel\nsay "no"\tgood\n5" wide\tbad\n'.encode())

# GLUE's: quotes are characters, and open ones stay open.
raw = ['"a fine film', 'so "good" it hurts', 'it "hurts', '"quoted" and on', "`` odd ''"]
text = ("text\tlabel\n" + "".join(f"{t}\tgood\n" for t in raw)).encode()
rows = [dict(row) for row in csv.DictReader(io.StringIO(text.decode(), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)]
assert [row["text"] for row in rows] == raw
case("GLUE", "tsv", text, rows)

# JSON lines.
for force in (True, False):
    text = FRAME.to_json(orient="records", lines=True, force_ascii=force).encode()
    rows = pd.read_json(io.BytesIO(text), lines=True, dtype=False).to_dict("records")
    assert rows == ROWS
    case(f"pandas, JSON lines, ascii {force}", "jsonl", text, rows)

(OUT / "cells.json").write_text(json.dumps(CASES, indent=1, ensure_ascii=False) + "\n")

# Parquet: columns of kinds that JSON has not, two columns of one name, and strings that are none.
folder = OUT / "cells"
folder.mkdir(exist_ok=True)
kinds = {
    "text": pa.array(["plain", "é 日本", "a"], pa.large_string()),
    "bytes": pa.array(["plain".encode(), "é".encode(), b""], pa.binary()),
    "class": pa.array(["good", "bad", "good"]).dictionary_encode(),
    "label": pa.array([1, 0, 1], pa.int8()),
    "small": pa.array([0.1, 1.5, -2e-7], pa.float32()),
    "half": pa.array([0.5, 1.5, None], pa.float64()),
    "flag": pa.array([True, None, False]),
}
table = pa.table(kinds)
pq.write_table(table, folder / "kinds.parquet")
back = datasets.Dataset.from_parquet(str(folder / "kinds.parquet"), cache_dir=tempfile.mkdtemp())
rows = [
    {k: v.decode() if isinstance(v, bytes) else v
     for k, v in row.items()} for i, row in enumerate(back)
]
# The number that was written: datasets hands out the f32's, widened.
for row, small in zip(rows, [0.1, 1.5, -2e-7]):
    assert abs(row["small"] - small) < 1e-7 * abs(small)
    row["small"] = small
(folder / "kinds.json").write_text(json.dumps(rows, ensure_ascii=False) + "\n")
pq.write_table(pa.Table.from_arrays([pa.array(["a", "b"]), pa.array(["good", "bad"]), pa.array(["c", "d"])], ["text", "label", "text"]),
               folder / "twice.parquet")
latin = pa.array([b"plain", "café".encode("latin-1")], pa.binary())
label = pa.array(["good", "bad"])
pq.write_table(pa.table({"text": latin, "label": label}), folder / "bytes.parquet")
marked = pa.Array.from_buffers(pa.string(), 2, latin.buffers())
pq.write_table(pa.table({"text": marked, "label": label}), folder / "marked.parquet")
pq.write_table(pa.table({"text": label, "label": label, "image": latin}), folder / "beside.parquet")
print(len(CASES), "text files;", sum(f.stat().st_size for f in folder.iterdir()), "bytes of parquet")
print([c["name"] for c in CASES if not c["as_written"]])
