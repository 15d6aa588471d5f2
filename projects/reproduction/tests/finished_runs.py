"""What a finished training leaves in its folder, and what a refused call says and leaves."""

import json


def leave_training(run, metrics, **info):
    """Write the config and the results of a run, the same metrics for boxes and masks."""
    cfg = run.config()
    cfg.merge_from_list(["OUTPUT_DIR", str(run.folder), "SEED", str(run.seed)])
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.yaml").write_text(cfg.dump())
    content = {"bbox": metrics, "segm": metrics, "run": info}
    (run.folder / "results.json").write_text(json.dumps(content))
    return cfg


def check_refusal(code, message, capsys, folder):
    """Check that a call ended with one line that says why, and left nothing in the folder."""
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(folder.iterdir()) == []
