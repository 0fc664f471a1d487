"""The service's job workers: each runs jobs as they come."""

import threading

from sqlalchemy import select

from psi.errors import VesicaError

from .. import log
from ..access.scope import Home
from ..storage.tables import jobs as rows
from .jobs import Jobs, JobState

LOOK_SECONDS = 0.5  # between two looks while another process runs a job: nothing tells that it died


def run_jobs(home: Home, stop: threading.Event) -> None:
    """Run jobs as they come, until `stop` is set and the home's bell rings."""
    jobs = Jobs(home)
    with home.bell.event(rows) as rung:
        while True:
            rung.clear()
            if stop.is_set():
                return
            try:
                job = jobs.claim_next()
                seconds = LOOK_SECONDS if job is None and _others_run(home) else home.bell.seconds
            except VesicaError as error:
                log.warning("jobs wait", code=error.code)
                job, seconds = None, LOOK_SECONDS
            if job is None:
                rung.wait(seconds)
            else:
                jobs.execute(job)


def _others_run(home: Home) -> bool:
    elsewhere = (rows.c.state == JobState.RUNNING, rows.c.owner != home.process.name)
    with home.read() as tx:
        return tx.execute(select(rows.c.id).where(*elsewhere).limit(1)).first() is not None
