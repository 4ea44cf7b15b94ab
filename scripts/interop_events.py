"""Checks that TensorBoard's own reader finds in a run's event file what trainer_log.jsonl holds, under the HF Trainer's tags.

    python3 scripts/interop_events.py --zotune PROGRAM        (called by scripts/interop.sh tensorboard)
"""

import argparse
import json
import math
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

TAGS = {
    "train/loss": "loss",
    "train/learning_rate": "learning_rate",
    "train/projected_grad": "projected_grad",
    "train/function_evaluations": "function_evaluations",
    "train/num_input_tokens_seen": "tokens",
    "eval/loss": "dev_loss",
    "eval/accuracy": "dev_accuracy",
    "memory/peak_rss_bytes": "rss_peak_bytes",
}


def check(run):
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    log = [json.loads(line) for line in (run / "trainer_log.jsonl").read_text().splitlines()]
    for tag, name in TAGS.items():
        theirs = [(event.step, event.value) for event in events.Scalars(tag)]
        ours = [(line["step"], line[name]) for line in log if name in line]
        # The end repeats the peak memory.
        ours += [theirs[-1]] if tag == "memory/peak_rss_bytes" else []
        assert len(theirs) == len(ours) > 1, (tag, len(theirs), len(ours))
        for (step, value), (due, number) in zip(theirs, ours):
            assert step == due and math.isclose(value, number, rel_tol=1e-6, abs_tol=1e-30), (tag, step, due, value, number)
    results = json.loads((run / "all_results.json").read_text())
    assert math.isclose(events.Scalars("test/loss")[0].value, results["eval_loss"], rel_tol=1e-6)
    print("scalars:", ", ".join(sorted(events.Tags()["scalars"])))
    texts = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    config = texts["config/text_summary"][0].tensor_proto.string_val[0].decode()
    assert json.loads(config.removeprefix("```json\n").removesuffix("\n```"))["optimizer"] == "r-adazo"
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    print(len(start.hparams), "hyperparameters of", start.group_name)
    assert start.hparams["optimizer"].string_value == "r-adazo" and start.hparams["max_steps"].number_value == 600


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--zotune", required=True)
    zotune = parser.parse_args().zotune
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = [zotune, "-q", "train", "--optimizer", "r-adazo", "--max-steps", "600", "--report-to", "tensorboard"]
        command += ["--save-steps", "100", "--output-dir", str(run)]
        process = subprocess.Popen(command)
        time.sleep(4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run([zotune, "-q", "train", "--resume", str(run)], check=True, stdout=subprocess.DEVNULL)
        check(run)
    print("TensorBoard's reader finds what the log holds, after a kill too")


main()
