"""The demonstration's background job: a survey of the harbour, which takes some seconds and tells how far it is."""

from __future__ import annotations

import threading
import time

from realtime.publish import send_to_client_sync
from realtime.tasks import Progress

STATIONS = 40
PAUSE = 0.15
"""Seconds that the work at one station takes."""
MAX_AT_ONCE = 8
"""Surveys that one process runs at once, whoever asks."""

_boats = threading.BoundedSemaphore(MAX_AT_ONCE)


def start(client_id: str, *, pause: float = PAUSE) -> bool:
    """
    Begin a survey in a thread of its own, which tells the client its id with ``survey.started``.

    Return whether it began: not while there are too many.

    """
    if not _boats.acquire(blocking=False):
        return False
    threading.Thread(target=_sail, args=(client_id, pause), name="survey", daemon=True).start()
    return True


def _sail(client_id: str, pause: float) -> None:
    try:
        with Progress("Harbour survey", total=STATIONS) as job:
            send_to_client_sync(client_id, "survey.started", {"id": job.id})
            survey(job, pause)
    finally:
        _boats.release()


def survey(job: Progress, pause: float) -> None:
    """Sound every station; the result is how many there were, and the least depth in metres."""
    depths = []
    for station in range(1, STATIONS + 1):
        time.sleep(pause)
        depths.append(depth_at(station))
        job.advance(note=f"Station {station}: {depths[-1]} m")
        if station % (STATIONS // 4) == 0:
            job.log(f"Stations {station - STATIONS // 4 + 1} to {station}: {min(depths)} m at the least")
    job.result = {"stations": STATIONS, "least": min(depths)}


def depth_at(station: int) -> float:
    """Return the depth of the harbour at a station, in metres: a bed that looks like one."""
    return round(4.0 + (station * 37 % 23) / 2, 1)
