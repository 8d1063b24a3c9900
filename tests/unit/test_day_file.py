"""The log file of a day: whole lines from many processes, old days gone, no room no harm."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from jobserver.day_file import DAY, DayFile

NOON = 20_000 * DAY + DAY // 2  # 2024-10-04


def content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_each_day_has_its_file_and_old_ones_go(tmp_path: Path) -> None:
    now = [float(NOON)]
    file = DayFile(tmp_path / "made", clock=lambda: now[0])
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "combined-2024-09-19.log").touch()
    (tmp_path / "made" / "combined-2024-09-20.log").touch()
    (tmp_path / "made" / "access-2024-01-01.log").touch()
    file.write("one\n")
    now[0] += DAY // 2 - 1
    file.write("two\n")
    now[0] += 1
    file.write("three\n")
    file.close()
    assert content(tmp_path / "made") == {
        "access-2024-01-01.log": "",
        "combined-2024-10-04.log": "one\ntwo\n",
        "combined-2024-10-05.log": "three\n",
    }


def write_many(directory: Path, name: str, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    now = [float(NOON)]
    file = DayFile(directory, clock=lambda: now[0])
    for number in range(2000):
        now[0] += 60  # through midnight
        file.write(f"{name} {number} {name * (number % 3000)}\n")


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    writers = [
        context.Process(target=write_many, args=(tmp_path, name, barrier)) for name in "abcd"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = "".join(text for _, text in sorted(content(tmp_path).items())).splitlines()
    found: dict[str, list[int]] = {name: [] for name in "abcd"}
    for line in lines:
        name, number, text = line.split(" ")
        assert text == name * (int(number) % 3000)
        found[name].append(int(number))
    assert found == {name: list(range(2000)) for name in "abcd"}
    assert len(content(tmp_path)) > 1


def test_a_directory_that_cannot_be_is_told_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [float(NOON)]
    (tmp_path / "file").touch()
    file = DayFile(tmp_path / "file" / "logs", clock=lambda: now[0])
    for _ in range(3):
        assert file.write("lost\n") == 5
        now[0] += 10
    assert capsys.readouterr().err.count("takes no lines: Not a directory") == 1
    (tmp_path / "file").unlink()
    now[0] += 10
    file.write("kept\n")
    file.close()
    assert content(tmp_path / "file" / "logs") == {"combined-2024-10-04.log": "kept\n"}


FULL = """
import resource, signal, sys
from pathlib import Path
from jobserver.day_file import DayFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (12, resource.RLIM_INFINITY))
file = DayFile(Path(sys.argv[1]))
for number in range(4):
    file.write(f"line {number}\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.write("room again\\n")
"""


def test_a_full_disk_costs_the_lines_that_found_no_room_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    (text,) = content(tmp_path).values()
    assert text.splitlines() == ["line 0", "line ", "room again"]
    assert done.stderr.count("takes no lines") == 1
