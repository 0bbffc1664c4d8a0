"""`python -m tests.open_worker`: a worker that also runs the jobs of tests, each by `tests.open_job_process`."""

import sys

from tests.open_job_process import allow_jobs_of_tests
from worker.__main__ import main
from worker.queue.rq_worker import CaptionWorker

if __name__ == "__main__":
    allow_jobs_of_tests()
    CaptionWorker.job_module = "tests.open_job_process"
    sys.exit(main())
