import os
import subprocess
import sys

import pytest


def _standard_error(program: str, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        stderr=subprocess.PIPE,
        text=True,
        env=kept | environment,
    )
    return process.stderr


@pytest.mark.slow
def test_the_package_is_imported_without_a_word():
    assert _standard_error("import l2l_tf; l2l_tf.list_rules()") == ""


@pytest.mark.slow
def test_a_command_prints_its_own_lines_alone():
    program = "import experiments.common, tensorflow as tf; tf.zeros([1]) + 1"
    assert _standard_error(program) == ""


@pytest.mark.slow
def test_who_asks_for_tensorflows_lines_gets_them():
    lines = _standard_error("import l2l_tf", TF_CPP_MIN_LOG_LEVEL="0")
    assert "oneDNN custom operations are on" in lines


@pytest.mark.slow
def test_what_else_is_written_while_tensorflow_is_imported_is_passed_on():
    program = (
        "import os, sys\n"
        "from types import ModuleType\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'tensorflow':\n"
        "            os.write(2, b'I0000 1 a.cc:1] idle\\nE0000 1 a.cc:1] ill\\n')\n"
        "            print('mine', file=sys.stderr)\n"
        "            raise ImportError('no such library')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "try:\n"
        "    import l2l_tf\n"
        "except ImportError as error:\n"
        "    print(error, file=sys.stderr)\n"
    )
    assert _standard_error(program) == "E0000 1 a.cc:1] ill\nmine\nno such library\n"
