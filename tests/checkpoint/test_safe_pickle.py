"""Only what NumPy, PyTorch and Python themselves write is read; nothing else gets near memory."""

import io
import pickle
import random
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from mask_rcnn_ext.checkpoint.safe_load import load_pickle, load_torch
from mask_rcnn_ext.checkpoint.safe_pickle import unpickle
from mask_rcnn_ext.errors import UserError

F4 = np.dtype("f4")
MAKE_ARRAY, ARRAY_ARGUMENTS, _ = np.zeros(1, "f4").__reduce__()
MAKE_SCALAR = np.float32(0).__reduce__()[0]
FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
STORAGE = torch.ones(4).__reduce_ex__(2)[1][0]


class Call:
    """Pickles as the call of a function, with a state if one is given."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def array(shape, dtype, content, by_columns=False):
    return Call(MAKE_ARRAY, ARRAY_ARGUMENTS, (1, shape, dtype, by_columns, content))


def dtype(code, *state):
    return Call(np.dtype, (code, False, True), (3, *state) if state else None)


def tensor(offset, size, stride):
    arguments = (STORAGE, offset, size, stride, False, OrderedDict())
    return Call(torch._utils._rebuild_tensor_v2, arguments)


class Attributes(OrderedDict):
    """An OrderedDict with a state of the test's choice."""

    state: object = None

    def __reduce__(self):
        return OrderedDict, (), self.state


def with_state(state):
    made = Attributes()
    made.state = state
    return made


FORGED = {
    "objects": np.array([None]),
    "objects from bytes": Call(np.ndarray, ((1,), np.dtype("O"), b"AAAAAAAA")),
    "objects without references": dtype("O", "|", None, None, None, -1, -1, 0),
    "an object's address": array((1,), dtype("O8"), b"AAAAAAAA"),
    "a call of ndarray": Call(np.ndarray, ((1 << 40,), F4)),
    "a structure": np.zeros(1, [("a", "f4"), ("b", "O")]),
    "raw memory": np.zeros(1, "V8"),
    "text": np.array(["a"]),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "fields": dtype("f4", "<", None, ("a",), {"a": (F4, 0)}, 4, 1, 0),
    "a sub-array": dtype("f4", "<", (F4, (1 << 40,)), None, None, -1, -1, 0),
    "a larger item": dtype("f4", "<", None, None, None, 1 << 30, 4, 0),
    "flags": dtype("f4", "<", None, None, None, -1, -1, 63),
    "a byte order": dtype("f4", "!", None, None, None, -1, -1, 0),
    "a comma": Call(np.dtype, ("f4,O", False, True)),
    "a dtype of a dtype": Call(np.dtype, (("f4", (2,)), False, True)),
    "too few bytes": array((1 << 20,), F4, b"AAAA"),
    "too many bytes": array((1,), F4, b"AAAAAAAA"),
    "a negative side": array((-1,), F4, b""),
    "two negative sides": array((-1, -1), F4, b"AAAA"),
    "a side that is True": array((True,), F4, b"AAAA"),
    "a side that wraps": array((1 << 62, 4), F4, b""),
    "a float side": array((1.0,), F4, b"AAAA"),
    "a list of objects": array((1,), F4, [None]),
    "no state": Call(MAKE_ARRAY, ARRAY_ARGUMENTS),
    "another state": Call(MAKE_ARRAY, ARRAY_ARGUMENTS, {"base": 1}),
    "another class": Call(MAKE_ARRAY, (np.dtype, (0,), b"b")),
    "an array to start with": Call(MAKE_ARRAY, (np.ndarray, (1 << 40,), b"b")),
    "a short number": Call(MAKE_SCALAR, (np.dtype("f8"), b"AAAA")),
    "a number that is an object": Call(MAKE_SCALAR, (np.dtype("O"), [1])),
    "a short buffer": Call(FROM_BUFFER, (b"AAAA", np.dtype("f8"), (1,), "C")),
    "an order": Call(FROM_BUFFER, (b"AAAA", F4, (1,), "K")),
    "a tensor beyond its storage": tensor(0, (5,), (1,)),
    "a tensor at a wide step": tensor(0, (2,), (4,)),
    "a tensor before its storage": tensor(-1, (1,), (1,)),
    "a method for a dict": with_state({"items": 1}),
    "slots for a dict": with_state((None, {"items": 1})),
    "notes of no modules": with_state({"_metadata": 5}),
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED.keys())
def test_a_form_that_no_library_writes_is_refused(tmp_path, content):
    path = tmp_path / "forged.pkl"
    path.write_bytes(pickle.dumps({"model": {"weight": content}}, protocol=2))
    with pytest.raises(UserError, match=r"forged\.pkl: not a readable checkpoint \(.+\)"):
        load_pickle(str(path))


@pytest.mark.skipif(torch.__version__ < "2.6", reason="PyTorch reads no NumPy values then")
@pytest.mark.parametrize(
    "name", ["objects", "a call of ndarray", "flags", "too few bytes", "text", "a short number"]
)
def test_the_same_form_in_a_file_of_torch_is_refused(tmp_path, name):
    path = tmp_path / "forged.pth"
    torch.save({"model": {"weight": FORGED[name]}}, path)
    with pytest.raises(UserError, match=r"forged\.pth: not a readable checkpoint \(.+\)"):
        load_torch(str(path))


def test_the_state_of_a_function_stays(tmp_path):
    """A pickle may set attributes of whatever it names; here that would change later readings."""
    path = tmp_path / "forged.pkl"
    path.write_bytes(b"\x80\x02cnumpy\ndtype\n(N}X\x08\x00\x00\x00__init__K\x01sub.")
    with pytest.raises(UserError, match="not a readable"):
        load_pickle(str(path))
    assert np.array_equal(load_bytes(pickle.dumps(np.eye(2))), np.eye(2))


def test_a_number_in_the_file_takes_no_memory():
    """The unpickler in C would make room for 4 billion entries: 64 GB."""
    assert load_bytes(b"\x80\x02]r\xff\xff\xff\xff.") == []


def nest(depth: int = 60) -> bytes:
    """Return the code of a tuple with 2 ** depth entries, from tuples of the same tuple twice."""
    code = b"K\x01\x85q\x00"
    for i in range(depth):
        code += b"h%c\x86q%c" % (i, i + 1)
    return code


F4_CODE = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
ENDLESS = {
    "a key": b"}%sK\x01s.",
    "keys": b"}(%sK\x01u.",
    "a key of a new dict": b"(%sK\x01d.",
    "a key in a list": b"}]%sa\x85K\x01s.",
    "an ordered key": b"ccollections\nOrderedDict\n]%sK\x01\x86a\x85R.",
    "a member": b"\x8f(%s\x90.",
    "a member of a frozenset": b"(%s\x91.",
    "a type": b"cnumpy\ndtype\n%s\x85R.",
    "a type with keys": b"cnumpy\ndtype\n}K\x01%ss\x85R.",
    "the state of a type": F4_CODE + b"%sb.",
    "an encoding": b"c_codecs\nencode\nU\x01a%s\x86R.",
    "a shape": b"cnumpy.core.numeric\n_frombuffer\n(B\x04\x00\x00\x00aaaa"
    + F4_CODE
    + b"%sU\x01CtR.",
    "a box mode": b"cdetectron2.structures.boxes\nBoxMode\n%s\x85R.",
    "a new object": b"ccollections\nOrderedDict\n%s\x85\x81.",
    "an object in text": b"(%sicollections\nOrderedDict\n.",
    "an object by class": b"(ccollections\nOrderedDict\n%so.",
}


def write_torch(path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS.keys())
def test_keys_and_arguments_without_end_are_refused(code):
    """Each would be looked at for years, in a file of 400 bytes."""
    with pytest.raises(pickle.UnpicklingError, match="keys or arguments with too many entries"):
        load_bytes(b"\x80\x02" + code.replace(b"%s", nest()))


@pytest.mark.parametrize("code", [b"}%sK\x01s.", b"cbuiltins\nset\n]%sa\x85R."])
def test_a_file_of_torch_without_end_is_refused(tmp_path, code):
    write_torch(tmp_path / "a.pth", b"\x80\x02" + code.replace(b"%s", nest()))
    with pytest.raises(UserError, match="keys or arguments with too many entries"):
        load_torch(str(tmp_path / "a.pth"))


def test_an_old_file_of_torch_without_end_is_refused(tmp_path):
    whole = io.BytesIO()
    torch.save({"weight": 5}, whole, _use_new_zipfile_serialization=False)
    content = whole.getvalue()
    assert content.count(b"K\x05") == 1
    (tmp_path / "good.pth").write_bytes(content)
    assert load_torch(str(tmp_path / "good.pth")) == {"weight": 5}
    (tmp_path / "a.pth").write_bytes(content.replace(b"K\x05", b"}" + nest() + b"K\x05s"))
    with pytest.raises(UserError, match="keys or arguments with too many entries"):
        load_torch(str(tmp_path / "a.pth"))


def test_a_tuple_without_end_is_read_as_a_value(tmp_path):
    write_torch(tmp_path / "a.pth", b"\x80\x02}U\x01a%ss." % nest())
    assert len(load_torch(str(tmp_path / "a.pth"))) == 1


def test_a_short_file_takes_no_memory(tmp_path):
    """bytearray(n) and Tensor(n) make n zeros, and so does a compressed file."""
    with pytest.raises(EOFError):
        load_bytes(b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little") + b"abc.")
    for name in (b"builtins\nbytearray", b"torch\nTensor", b"torch\nFloatTensor"):
        write_torch(tmp_path / "a.pth", b"\x80\x02c%s\nJ\x00\x00\x00\x08\x85R." % name)
        with pytest.raises(UserError, match="memory of a number of bytes"):
            load_torch(str(tmp_path / "a.pth"))
    torch.save({"model": torch.zeros(4096)}, tmp_path / "b.pth")
    with (
        zipfile.ZipFile(tmp_path / "b.pth") as given,
        zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in given.namelist():
            packed.writestr(name, given.read(name))
    with pytest.raises(UserError, match=r"compressed, which torch\.save does not do"):
        load_torch(str(tmp_path / "c.pth"))


def test_values_of_a_dict_are_set_in_dicts_only():
    tensor = pickle.dumps(torch.ones(2), 2)[:-1]
    with pytest.raises(pickle.UnpicklingError, match="entries for a Tensor"):
        load_bytes(tensor + b"K\x00K\x01s.")
    with pytest.raises(pickle.UnpicklingError, match="entries for a Tensor"):
        load_bytes(tensor + b"(K\x00K\x01u.")


def test_entries_may_be_as_many_as_the_file_is_long():
    arrays = [np.zeros(64, "u1") for _ in range(12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mask_rcnn_ext.checkpoint.safe_pickle._FREE_ENTRIES", 0)
        assert len(load_bytes(pickle.dumps(arrays))) == 12


def load_bytes(content: bytes):
    return unpickle(io.BytesIO(content))


def make_content() -> dict:
    shared = np.arange(6, dtype=">i2").reshape(2, 3)
    weights = OrderedDict(weight=torch.arange(8.0)[1::2], bias=torch.nn.Parameter(torch.ones(2)))
    weights._metadata = OrderedDict({"": {"version": 2}})
    return {
        "model": weights,
        "arrays": [shared, (shared, np.asfortranarray(np.eye(3, dtype="f4")))],
        "numbers": [np.float32(2.5), np.int64(-1), np.bool_(True), 1, 2.5, None, 1 << 70],
        "empty": np.zeros((0, 4), "f4"),
        "kinds": [np.ones(2, code) for code in "?bhilqBHILQefdFD"],
        "dtype": np.dtype("<f8"),
        "text": "é",
        "bytes": b"\xff\x00",
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_what_the_libraries_write_comes_back(protocol, module):
    given = make_content()
    content = pickle.dumps(given, protocol)
    if protocol < 4:  # later, the length of the name is in front of it
        content = content.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", module)
    found = load_bytes(content)
    assert found["model"]["weight"].tolist() == [1, 3, 5, 7]
    assert found["model"]["bias"].tolist() == [1, 1]
    assert found["model"]._metadata == given["model"]._metadata
    first, (second, columns) = found["arrays"]
    assert first is second
    assert first.dtype == ">i2"
    for one, two in [
        (first, given["arrays"][0]),
        (columns, given["arrays"][1][1]),
        (found["empty"], given["empty"]),
        *zip(found["kinds"], given["kinds"], strict=True),
    ]:
        assert type(one) is np.ndarray
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)
        one[:] = 0  # writable, of its own memory
    assert found["numbers"] == given["numbers"]
    assert [type(value) for value in found["numbers"]] == [type(v) for v in given["numbers"]]
    for name in ("dtype", "text", "bytes"):
        assert found[name] == given[name]


def test_a_pickle_of_python_2_comes_back():
    """Its texts are bytes, and its truth values are numbers."""
    content = (
        b"\x80\x02}U\x05blobs}U\x01w"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08\x00\x00\x80\x3f\x00\x00\x80\xbftbss."
    )
    found = load_bytes(content)["blobs"]["w"]
    assert found.dtype == np.float32
    assert found.tolist() == [1, -1]


def test_content_that_holds_itself_is_read_once():
    content: list = [np.ones(1)]
    content.append(content)
    found = load_bytes(pickle.dumps(content))
    assert found[1] is found
    assert found[0].tolist() == [1]
    for _ in range(60):  # 2 ** 60 entries if each was looked at
        content = (content, content)
    assert len(load_bytes(pickle.dumps(content))) == 2


def find_arrays(content) -> list:
    if isinstance(content, dict):
        return [array for value in content.values() for array in find_arrays(value)]
    if isinstance(content, list | tuple):
        return [array for value in content for array in find_arrays(value)]
    return [content] if isinstance(content, np.ndarray | np.generic) else []


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_damaged_file_is_an_error_or_numbers(tmp_path, protocol):
    """Bytes are changed, cut out and doubled at random; what can be read can be computed with."""
    rng, path = random.Random(protocol), tmp_path / "damaged.pkl"
    whole = pickle.dumps(make_content(), protocol)
    read = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            if rng.random() < 0.7:
                content[place] = rng.choice([rng.randrange(256), *b"Rb.0(t", content[place] ^ 1])
            else:
                content[place : place + rng.randint(0, 8)] = content[place : place + 4] * 2
        path.write_bytes(content)
        try:
            found = load_pickle(str(path))
        except UserError:
            continue
        read += 1
        for values in find_arrays(found):
            assert values.dtype.kind in "biufc"
            values.sum()
    assert read > 3
