"""The process of one job, which may be a job of a test; see worker/queue/job_process.py."""

import sys

from worker.queue.job_process import main
from worker.queue.our_jobs import OUR_FUNCTIONS

JOBS_OF_TESTS = {
    "math.sqrt",
    "tests.integration.held_jobs.held",
    "tests.integration.held_jobs.held_training",
    "tests.integration.held_jobs.talkative",
}


def allow_jobs_of_tests() -> None:
    OUR_FUNCTIONS.update(JOBS_OF_TESTS)


if __name__ == "__main__":
    allow_jobs_of_tests()
    main(*sys.argv[1:])
