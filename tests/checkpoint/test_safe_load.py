import pickle

import numpy as np
import pytest
import torch
from small_runs import Opens
from torch import nn

from mask_rcnn_ext.checkpoint import safe_load
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.description import load_contents
from mask_rcnn_ext.checkpoint.safe_load import load_torch
from mask_rcnn_ext.errors import UserError


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_every_protocol_load(tmp_path, protocol):
    content = {
        "model": {"weight": np.eye(2, dtype=np.float32), "bias": torch.ones(2)},
        "__author__": "someone",
        "epochs": np.float32(2),
        "note": b"bytes",
    }
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    model = nn.Linear(2, 2)
    extra = Checkpointer(model).load(str(tmp_path / "m.pkl"))
    assert torch.equal(model.weight.detach(), torch.eye(2))
    assert torch.equal(model.bias.detach(), torch.ones(2))
    assert extra["epochs"] == 2
    assert extra["note"] == b"bytes"


@pytest.mark.parametrize("suffix", ["pkl", "pth", "pyth"])
def test_malicious_file_is_refused_and_its_code_does_not_run(tmp_path, suffix):
    proof, path = tmp_path / "proof", tmp_path / f"bad.{suffix}"
    content = {"model": {"weight": Opens(proof)}, "model_state": {}, "__author__": "x"}
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=rf"bad\.{suffix}: refused, because it names \w+\.open"):
        Checkpointer(nn.Linear(2, 2)).load(str(path))
    assert not proof.exists()


def test_code_hidden_in_a_pickled_tensor_is_refused(tmp_path):
    """A tensor's storage is a pickle inside the pickle; the inner one is guarded too."""
    proof = tmp_path / "proof"

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (pickle.dumps(Opens(proof)),)

    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"model": {"weight": Storage()}, "__author__": "x"}))
    with pytest.raises(UserError, match=r"bad\.pkl"):
        Checkpointer(nn.Linear(2, 2)).load(str(path))
    assert not proof.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("noise.pth", b"no checkpoint" * 9),
        ("noise.pkl", b"no checkpoint" * 9),
        ("empty.pth", b""),
        ("empty.pkl", b""),
        ("nothing.pkl", pickle.dumps({})),
        ("no_tensors.pkl", pickle.dumps({"model": {}, "__author__": "x"})),
        ("list.pkl", pickle.dumps([1, 2])),
        ("strings.pkl", pickle.dumps({"model": {"weight": "heavy"}, "__author__": "x"})),
    ],
)
def test_unreadable_file_is_one_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        Checkpointer(nn.Linear(2, 2)).load(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("quantized", lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)),
        ("sparse", torch.Tensor.to_sparse),
        ("sparse_csr", torch.Tensor.to_sparse_csr),
        ("meta", lambda weight: weight.to("meta")),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of PyTorch: these kinds are new or old
def test_tensors_without_plain_numbers_are_refused(tmp_path, kind, change):
    torch.save({"model": {"weight": change(torch.ones(2, 2))}}, tmp_path / "m.pth")
    with pytest.raises(UserError, match=f"'weight' is a {kind} tensor, expected one of plain"):
        Checkpointer(nn.Linear(2, 2)).load(str(tmp_path / "m.pth"))


def test_what_is_no_checkpoint_is_not_called_a_broken_one(tmp_path, monkeypatch):
    path = tmp_path / "photo.pth"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))  # a JPEG
    with pytest.raises(UserError, match="not a readable checkpoint: its content is of another"):
        load_torch(str(path))

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"^cannot read .*photo\.pth: Permission denied$"):
        load_torch(str(path))


def test_a_folder_is_told_from_a_missing_file(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model_final.pth").touch()
    with pytest.raises(UserError, match=r"run is a folder, expected a file; did you mean .*run/m"):
        load_contents(tmp_path / "run")


@pytest.mark.parametrize(("version", "warned"), [((2, 9), True), ((2, 10), False)])
def test_an_older_pytorch_is_warned_of_once(version, warned, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(safe_load, "TORCH_VERSION", version)
    safe_load._warn_of_old_torch.cache_clear()
    path = str(tmp_path / "weights.pth")
    torch.save({"model": {}}, path)
    for _ in range(2):
        assert load_torch(path) == {"model": {}}
    assert caplog.text.count("PyTorch 2.9 has a known fault (CVE-2026-24747)") == warned
    safe_load._warn_of_old_torch.cache_clear()
