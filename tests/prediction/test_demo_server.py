import re
import socket
import tempfile
import threading
import time

import pytest
from demo_runs import *  # noqa: F403
from demo_runs import HOSTILE, PNG, ask, run_server

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.prediction import demo_server
from mask_rcnn_ext.prediction.demo_answer import answer_upload
from mask_rcnn_ext.prediction.demo_server import DemoServer


def test_an_upload_is_answered_and_not_kept(server, demo_predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    response, answer = ask(server)
    assert response.status == 200
    assert answer.pop("seconds") > 0
    assert answer == answer_upload(demo_predictor, PNG)
    assert len(answer["objects"]) == 10
    assert list(tmp_path.iterdir()) == []


def test_the_page_needs_no_other_host_and_names_are_text(server):
    response, page = ask(server, "GET", "/?from=here")
    assert response.status == 200
    assert "//" not in re.sub(r"(?m)^\s*//.*$", "", page)  # but comments of the script
    assert HOSTILE not in page
    assert r"\u003c/script\u003e\u003cimg src=x" in page
    assert len(re.findall("<script", page)) == len(re.findall("</script", page)) == 1
    policy = response.headers["Content-Security-Policy"]
    (nonce,) = re.findall(r"script-src 'nonce-([\w-]+)';", policy)
    assert f'<script nonce="{nonce}">' in page
    assert policy.startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert "127.0.0.1" not in page


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"Origin": "http://evil.example"}, 403, "a page of another site"),
        ({"Origin": "null"}, 403, "a page of another site"),
        ({"Origin": "http://127.0.0.1:1"}, 403, "a page of another site"),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403, "this name is not known"),
        ({"Host": "localhost.evil.example", "Origin": None}, 403, "this name is not known"),
        ({"Host": "[", "Origin": None}, 403, "this name is not known"),
        ({"Host": None}, 403, "this name is not known"),
        ({"Content_Type": "text/plain"}, 415, "expected Content-Type"),
        ({"Content_Type": None}, 415, "expected Content-Type"),
        ({"Content_Length": None, "body": b""}, 411, "the request has no length"),
        ({"Content_Length": "-1", "body": b""}, 411, "the request has no length"),
        ({"Content_Length": "9" * 30, "body": b""}, 411, "the request has no length"),
        ({"path": "/other"}, 404, "there is no such page"),
        ({"method": "GET"}, 404, "there is no such page"),
        ({"method": "GET", "path": "/", "Host": "evil.example"}, 403, "this name is not known"),
        ({"method": "PUT"}, 501, "Unsupported method"),
        ({"body": b"no image"}, 400, "cannot be read as an image"),
    ],
)
def test_a_refusal_is_one_sentence(server, changed, status, says, monkeypatch):
    if status != 400:
        monkeypatch.setattr(demo_server, "answer_upload", None)  # nothing comes so far
    response, answer = ask(server, **changed)
    assert response.status == status
    assert list(answer) == ["error"]
    assert says in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize("host", ["localhost:{}", "localhost:9000", "LOCALHOST", "192.168.1.5:80"])
def test_names_of_this_machine_are_known_also_behind_a_tunnel(server, host):
    host = host.format(server.server_address[1])
    assert ask(server, Host=host, Origin=f"http://{host}")[0].status == 200
    assert ask(server, Host=host, Origin=None)[0].status == 200  # such as curl


def test_other_names_of_the_machine_are_known_only_in_a_network(demo_predictor):
    name = socket.gethostname()
    with DemoServer(port=0) as local, DemoServer("0.0.0.0", 0) as network:
        assert (local.is_local, network.is_local) == (True, False)
        assert network.url == f"http://127.0.0.1:{network.server_address[1]}/"
        assert network.knows_host(f"{name}:80")
        assert not network.knows_host("evil.example")
        assert not local.knows_host(f"{name}.example")


def test_a_file_that_is_too_large_is_refused_before_it_is_kept(server, monkeypatch):
    monkeypatch.setattr(demo_server, "MAX_BYTES", 20_000_000)
    response, answer = ask(server, body=bytes(20_000_001))
    assert response.status == 413
    assert answer == {"error": "the file has 20 MB; the demo page takes up to 20 MB"}


def test_a_failed_prediction_is_one_sentence_and_a_line_of_the_log(server, monkeypatch, caplog):
    def fail(predictor, data):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(demo_server, "answer_upload", fail)
    response, answer = ask(server)
    assert response.status == 500
    assert answer["error"].startswith("the prediction failed; the terminal")
    assert "the prediction failed (RuntimeError: out of memory)" in caplog.text
    monkeypatch.undo()
    assert ask(server)[0].status == 200


def test_one_image_at_a_time_some_wait_and_more_are_refused(server, monkeypatch):
    refused, running, most, answers = threading.Event(), [], [], []

    def predict(predictor, data):
        running.append(1)
        most.append(len(running))
        assert refused.wait(20)
        running.pop()
        return {"width": 1, "height": 1, "objects": []}

    def send():
        response, answer = ask(server)
        answers.append((response.status, answer))
        if response.status == 503:
            refused.set()

    monkeypatch.setattr(demo_server, "answer_upload", predict)
    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [503] + [200] * 5
    assert answers[0][1]["error"].startswith("other images are waiting already")
    assert max(most) == 1
    assert ask(server)[0].status == 200  # all places are free again


def test_connections_are_limited_and_a_broken_one_costs_nothing(demo_predictor, monkeypatch, capfd):
    monkeypatch.setattr(demo_server, "_CONNECTIONS", 2)
    with run_server(demo_predictor) as small:
        idle = [socket.create_connection(small.server_address) for _ in range(2)]
        with pytest.raises((ConnectionError, OSError)):
            ask(small, "GET", "/")
        for connection in idle:
            connection.sendall(
                b"POST /predict HTTP/1.0\r\nHost: localhost\r\nContent-Length: 9\r\n"
            )
            connection.close()
        end = time.monotonic() + 30
        while True:
            try:
                assert ask(small, "GET", "/")[0].status == 200
                break
            except OSError:
                assert time.monotonic() < end
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_is_no_http_is_refused(server):
    with socket.create_connection(server.server_address) as connection:
        connection.sendall(b"what?\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert b'{"error": "Bad request' in answer


def test_a_port_in_use_and_others_are_one_sentence(server):
    host, port = server.server_address
    with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 is in use.*another port"):
        DemoServer(host, port)
    with pytest.raises(UserError, match="port: expected 0 to 65535, got 65536"):
        DemoServer(port=65536)
    with pytest.raises(UserError, match=r"cannot listen at 192\.0\.2\.1, port 0: "):
        DemoServer("192.0.2.1", 0)


def test_ipv6(demo_predictor):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with run_server(demo_predictor, "::1") as v6:
        port = v6.server_address[1]
        assert v6.url == f"http://[::1]:{port}/"
        assert v6.is_local
        host = f"[::1]:{port}"
        assert ask(v6, "GET", "/", Host=host)[0].status == 200
        assert ask(v6, Host=host, Origin=f"http://{host}", body=b"x")[0].status == 400
