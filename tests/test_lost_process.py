"""What a collective raises where another process is lost, told as that; test_faults_of_processes.py loses some."""

import pytest

from schemas.errors import DpoError
from trainer.run.processes import lost_process


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), lost_process():
        raise RuntimeError("shapes don't fit")
    with pytest.raises(DpoError, match="no pairs"), lost_process():
        raise DpoError("no pairs: connection closed by peer")
