import os
import re
import signal
import threading
import time
import urllib.request

import pytest
import serve as tool  # tools/ is on the path
from predict_runs import *  # noqa: F403

from mask_rcnn_ext.prediction.demo_server import DemoServer


def arguments(folder, *more) -> list[str]:
    weights = ["--weights", str(folder / "model_final.pth")]
    return ["--config-file", str(folder / "config.yaml"), *weights, "--device", "cpu", *more]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_shown_until_a_signal(run_folder, capfd, number):
    shown = []

    def look_and_stop() -> None:
        said = ""
        for _ in range(600):
            time.sleep(0.05)
            said += capfd.readouterr().out
            # The whole line: print writes its end apart, which would come after this read.
            if found := re.search(r"^(http://127\.0\.0\.1:\d+/) shows the page.*\n", said, re.M):
                with urllib.request.urlopen(found[1], timeout=20) as response:
                    shown.append(response.read().decode())
                break
        if shown:  # else the page never came, and nothing here would take the signal
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=look_and_stop)
    thread.start()
    code = tool.main(arguments(run_folder, "--port", "0"))
    thread.join()
    assert code == 0
    assert "cow" in shown[0]
    assert "model_final.pth" in shown[0]
    out, err = capfd.readouterr()
    assert out == "ended\n"
    assert "Traceback" not in err


def test_a_used_port_ends_before_the_model_is_loaded(capsys):
    with DemoServer(port=0) as other:
        port = str(other.server_address[1])
        assert tool.main(["--config-file", "no_such.yaml", "--port", port]) == 2
    assert capsys.readouterr().err.startswith(f"error: port {port} of 127.0.0.1 is in use")


def test_a_network_is_warned_of(run_folder, capsys, monkeypatch):
    monkeypatch.setattr(DemoServer, "serve", lambda self, predictor: None)
    assert tool.main(arguments(run_folder, "--port", "0", "--host", "0.0.0.0")) == 0
    assert "every machine that reaches this one can use the page" in capsys.readouterr().out


@pytest.mark.parametrize("given", [[], ["model_final.pth", "--weights", "other.pth"]])
def test_no_model_or_two_are_an_error(capsys, given):
    assert tool.main(given) == 2
    assert capsys.readouterr().err.startswith("error: expected one model: a file such as")
