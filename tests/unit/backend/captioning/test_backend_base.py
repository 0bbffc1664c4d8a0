import subprocess
import sys
from importlib.util import find_spec

PROGRAM = """
import multiprocessing
from backend.captioning.backend import CaptionBackend
print(CaptionBackend.__base__.__module__, multiprocessing.get_start_method(allow_none=True))
"""
WITHOUT_PACKAGE = "import sys; sys.modules['label_studio_ml'] = None\n"


def run(program: str) -> list[str]:
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return finished.stdout.split()


def test_the_base_class_is_that_of_label_studio_ml_where_it_is_installed() -> None:
    module, start_method = run(PROGRAM)

    assert module == ("label_studio_ml.model" if find_spec("label_studio_ml") else "backend.captioning.backend_base")
    assert start_method == "None", "label-studio-ml changed how this process starts others"


def test_without_label_studio_ml_a_base_of_our_own_serves() -> None:
    assert run(WITHOUT_PACKAGE + PROGRAM) == ["backend.captioning.backend_base", "None"]
