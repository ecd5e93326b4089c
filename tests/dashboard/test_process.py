"""What the operating system says of this process."""

from __future__ import annotations

from pathlib import Path

from dashboard import process


def test_resident_memory_is_that_of_a_python_process():
    resident = process.resident_bytes()
    assert resident is None or 10_000_000 < resident < 10_000_000_000


def test_resident_memory_is_pages_in_bytes(monkeypatch, tmp_path):
    statm = tmp_path / "statm"
    statm.write_text("900 50 7 1 0 3 0\n")
    monkeypatch.setattr(process, "_STATM", statm)
    assert process.resident_bytes() == 50 * process.os.sysconf("SC_PAGE_SIZE")


def test_resident_memory_is_unknown_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(process, "_STATM", Path("/nowhere/statm"))
    assert process.resident_bytes() is None
