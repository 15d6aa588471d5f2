"""tools/predict.py a second time into the same folder: no old file contradicts the new results."""

import pytest
from predict_runs import *  # noqa: F403
from predict_runs import outputs, write_image
from small_runs import list_files


def test_a_new_prediction_leaves_no_file_that_contradicts_it(predict, tmp_path, caplog):
    out = tmp_path / "out"
    for name in ("a.png", "b.jpg", "c.png"):
        write_image(tmp_path / name)
    everything = "pictures,polygons,labels,soft,geojson"
    assert predict(tmp_path / "a.png", tmp_path / "c.png", more=["--write", everything]) == 0
    assert len(list_files(out)) == 2 * 4 + 3
    write_image(out / "pictures" / "mine.png")
    (out / "notes.txt").touch()
    with caplog.at_level("INFO"):
        assert predict(tmp_path / "b.jpg", tmp_path / "c.png", more=["--write", "labels"]) == 0
    assert f"8 file(s) of an earlier prediction are now in {out / 'earlier_runs/1'}" in caplog.text
    now = {"coco_instances_results.json", "images.json", "labels/b.jpg.png", "labels/c.png.png"}
    stale = {"coco_annotations.json", "labels/a.png.png", *(
        f"{kind}/{name}.png{end}" for name in "ac"
        for kind, end in (("pictures", ""), ("soft", ".npz"), ("geojson", ".geojson"))
    )}  # fmt: skip
    kept = {"notes.txt", "pictures/mine.png"}
    assert list_files(out) == now | kept | {f"earlier_runs/1/{name}" for name in stale}
    assert [i["file_name"] for i in outputs(tmp_path)[1]["images"]] == ["b.jpg", "c.png"]
    before = list_files(out)
    assert predict(tmp_path / "b.jpg", more=["--classes", "horse"]) == 2
    assert predict(tmp_path / "b.jpg", tmp_path / "c.png", more=["--write", "labels"]) == 0
    assert list_files(out) == before  # nothing more to move


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_input_that_the_prediction_would_replace_is_refused(
    predict, tmp_path, capsys, processes, monkeypatch, fast_start
):
    out = tmp_path / "out"
    write_image(tmp_path / "a.png")
    write_image(out / "pictures" / "own.png")
    (tmp_path / "link").symlink_to(out)
    own = (out / "pictures/own.png").read_bytes()
    more = ["--processes", processes]
    assert predict(out / "pictures/own.png", more=more) == 2  # it would get this name itself
    assert (out / "pictures/own.png").read_bytes() == own
    assert predict(tmp_path / "a.png", more=["--write", "pictures,labels"]) == 0
    before = list_files(out)
    monkeypatch.chdir(tmp_path)
    for given in ("link/labels/a.png.png", "../" + tmp_path.name + "/out/pictures/a.png"):
        capsys.readouterr()
        assert predict(given, tmp_path / "a.png", more=more) == 2
        assert "is among the files that predictions write into" in capsys.readouterr().err
    assert list_files(out) == before
    assert predict(out / "pictures/own.png", tmp_path / "a.png", more=more) == 0  # another name
