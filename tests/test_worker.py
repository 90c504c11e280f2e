"""The thread whose first error is kept."""

import threading

from switchover.worker import Worker


def test_it_runs_beside_and_is_waited_for() -> None:
    go_on = threading.Event()
    names: list[str] = []

    def run() -> None:
        assert go_on.wait(60)
        names.append(threading.current_thread().name)

    worker = Worker("mig/test", run)
    assert "mig/test" in [thread.name for thread in threading.enumerate()]
    assert not names
    go_on.set()
    worker.join()
    worker.join()
    assert names == ["mig/test"]
    assert worker.error is None
    assert "mig/test" not in [thread.name for thread in threading.enumerate()]


def test_its_error_is_kept() -> None:
    error = ValueError("first")

    def run() -> None:
        raise error

    worker = Worker("mig/test", run)
    worker.join()
    assert worker.error is error


def test_even_an_exit_is_kept() -> None:
    def run() -> None:
        raise SystemExit(3)

    worker = Worker("mig/test", run)
    worker.join()
    assert isinstance(worker.error, SystemExit)


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)


def test_it_does_not_hold_up_the_end_of_the_program() -> None:
    go_on = threading.Event()
    worker = Worker("mig/test", lambda: assert_set(go_on))
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "mig/test"]
    assert thread.daemon
    go_on.set()
    worker.join()
