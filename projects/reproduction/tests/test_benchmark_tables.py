"""The tables of docs/performance.md, by hand."""

import re

from reproduction.pages.benchmark_tables import Benchmark, benchmark_tables

from mask_rcnn_ext.report.json_records import from_json

ROW = {"case": "a", "seconds": 2.0, "ratios": [1.0, 1.0], "ratio": 1.0, "peak_mb": None}
PART = {
    "title": "Something",
    "options": {"rounds": 5},
    "machine": {"processor": "P", "cores": 2},
    "load": [0.25, 1.5],
    "rows": [
        {**ROW, "contender": "old", "verdict": "baseline", "output": ""},
        {
            **{**ROW, "contender": "new", "seconds": 0.5, "ratio": 4.0, "ratios": [3.5, 4.25]},
            **{"verdict": "4.00 times as fast", "output": "equal", "peak_mb": 1234.4},
        },
        {
            **{**ROW, "contender": "loud", "ratio": 2.0, "ratios": [1.0, 3.0]},
            **{"verdict": "too noisy: half of the ratios are between 1 and 3", "output": "equal"},
        },
        {**ROW, "contender": "once", "verdict": "no verdict: fewer than 3 rounds", "output": ""},
        {**ROW, "contender": "alone", "verdict": "alone: no room", "output": ""},
    ],
}


def test_a_part_and_what_was_not_run():
    text = re.sub(" {2,}", " ", benchmark_tables({"paste": from_json(Benchmark, PART)}))
    assert text.count("has not been run") == 13
    assert "### Something\n\n`python tools/benchmark.py paste`: rounds 5.\n" in text
    assert (
        "| case | contender | seconds | peak memory, MB | times as fast | lowest to highest | outp"
        in text
    )
    for row in (
        "| a | old | 2 | | | | |",
        "| a | new | 0.5 | 1,234 | 4.00 | 3.50 to 4.25 | equal |",
        "| a | loud | 2 | | too noisy (2.00) | 1.00 to 3.00 | equal |",
        "| a | once | 2 | | 1.00 (fewer than 3 rounds) | | |",
        "| a | alone | 2 | | alone: no room | | |",
    ):
        assert row in text, row
    assert "Processor P, cores 2; load average 0.2 at the start and 1.5 at the end." in text


def test_a_second_machine_has_a_section_of_its_own():
    part = from_json(Benchmark, PART)
    text = benchmark_tables({"inference": part, "inference_amx": part})
    assert "### Something\n" in text
    assert "### The same on a processor with AMX\n" in text
    assert "`python tools/benchmark.py inference`: rounds 5.\n" in text
    assert "`python tools/benchmark.py inference --name inference_amx`: rounds 5.\n" in text


def test_nothing_was_run():
    assert benchmark_tables(None).count("has not been run") == 14
