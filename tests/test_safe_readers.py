"""Nothing outside `checkpoint.safe_pickle` reads a format that can run code."""

import ast

import pytest
from support import REPO

# A call of these is safe with this keyword only; None: never.
READERS = {
    "torch.load": "weights_only=True",
    "np.load": "allow_pickle=False",
    **dict.fromkeys(("pickle.load", "pickle.loads", "pickle.Unpickler", "pd.read_pickle")),
    **dict.fromkeys(("dill.load", "dill.loads", "joblib.load", "marshal.loads", "shelve.open")),
    **dict.fromkeys(("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec")),
    # detectron2 unpickles the files.
    **dict.fromkeys(("load_proposals_into_dataset", "build_detection_train_loader")),
}
FILES = [
    path
    for folder in ("mask_rcnn_ext", "tools", "projects")
    for path in sorted((REPO / folder).rglob("*.py"))
    # The plain loop runs detectron2 as it is, with a config without proposal files.
    if "tests" not in path.parts and path.name != "plain_loop.py"
]


def find_unsafe_calls(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {ast.unparse(keyword) for keyword in node.keywords}
            # With a config and a name, detectron2 reads the proposal files of the config.
            by_config = name == "build_detection_test_loader" and len(node.args) > 1
            unsafe = by_config or (name in READERS and READERS[name] not in keywords)
            if unsafe or "allow_unsafe=True" in keywords:
                found.append(ast.unparse(node))
            if any(keyword.arg == "proposal_files" for keyword in node.keywords):
                found.append(ast.unparse(node))
    return found


def test_no_reader_runs_code():
    calls = {str(path): find_unsafe_calls(path.read_text(encoding="utf-8")) for path in FILES}
    assert len(calls) > 150
    assert {path: found for path, found in calls.items() if found} == {}


@pytest.mark.parametrize(
    "call",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "pickle.load(file)",
        "yaml.load(text, yaml.Loader)",
        "get_detection_dataset_dicts(names, proposal_files=files)",
    ],
)
def test_an_unsafe_call_is_found(call):
    assert find_unsafe_calls(call) == [call]
