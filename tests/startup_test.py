import os
import signal
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
def test_what_is_used_of_the_package_brings_tensorflow_without_a_word_and_the_package_does_not():
    program = (
        "import sys, importlib.util, l2l_tf, l2l_tf.files\n"
        # Who asks whether TensorFlow is there changes nothing.
        "assert importlib.util.find_spec('tensorflow').name == 'tensorflow'\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & sys.modules.keys()\n"
        "l2l_tf.rules.SGD(0.1); l2l_tf.load, l2l_tf.LearnedOptimizer; l2l_tf.list_rules()\n"
        "assert 'tensorflow' in sys.modules\n"
        "assert {'load', 'rules', 'training'} <= set(dir(l2l_tf))\n"
        "try:\n"
        "    l2l_tf.nothing\n"
        "except AttributeError as error:\n"
        "    print(error, file=sys.stderr)\n"
    )
    assert _standard_error(program) == "module 'l2l_tf' has no attribute 'nothing'\n"


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    import keras

    import l2l_tf

    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(l2l_tf.LearnedOptimizer(l2l_tf.load_rule("mnist_rnnprop")), "mse")
    model.save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    # By the user before or after the package, and by a part of the package, which any of them is.
    ["l2l_tf, keras", "keras, l2l_tf", "l2l_tf.training, keras"],
)
def test_a_model_is_loaded_by_a_program_that_has_imported_the_package_alone_and_quietly(
    saved_model, imports
):
    program = (
        f"import {imports}\n"
        f"model = keras.saving.load_model({str(saved_model)!r})\n"
        "assert type(model.optimizer) is l2l_tf.LearnedOptimizer\n"
    )
    said = _standard_error(program)
    assert "Error" not in said
    # Without the package, nothing drops TensorFlow's lines.
    assert said == "" or imports.startswith("keras")


@pytest.mark.slow
def test_a_command_prints_its_own_lines_alone():
    program = "import experiments.harness.common, tensorflow as tf; tf.zeros([1]) + 1"
    assert _standard_error(program) == ""


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["open(os.dup(2), 'w')", "io.StringIO()", "None"])
def test_tensorflow_is_quiet_where_standard_error_is_replaced_as_in_notebooks(tmp_path, stream):
    (tmp_path / "tensorflow.py").write_text("import os; os.write(2, b'I0000 1 a.cc:1] idle\\n')")
    program = (
        "import io, os, sys\n"
        f"sys.stderr = {stream}\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import l2l_tf, tensorflow\n"
        "os.write(2, b'mine')\n"
    )
    assert _standard_error(program) == "mine"


@pytest.mark.slow
def test_who_asks_for_tensorflows_lines_gets_them():
    lines = _standard_error("import l2l_tf, tensorflow", TF_CPP_MIN_LOG_LEVEL="0")
    assert "oneDNN custom operations are on" in lines


@pytest.mark.slow
def test_what_else_is_written_while_tensorflow_is_imported_is_passed_on(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os, sys\n"
        "os.write(2, b'I0000 1 a.cc:1] idle\\nE0000 1 a.cc:1] ill\\n')\n"
        "print('mine', file=sys.stderr)\n"
        "raise ImportError('no such library')\n"
    )
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import l2l_tf\n"
        "try:\n"
        "    import tensorflow\n"
        "except ImportError as error:\n"
        "    print(error, file=sys.stderr)\n"
    )
    assert _standard_error(program) == "E0000 1 a.cc:1] ill\nmine\nno such library\n"


@pytest.mark.slow
def test_the_last_words_of_a_tensorflow_that_aborts_are_passed_on(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\n"
        "os.write(2, b'I0000 1 a.cc:1] idle\\nF0000 1 a.cc:1] no such instruction\\n')\n"
        "os.abort()\n"
    )
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import l2l_tf, tensorflow"
    process = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"},
    )
    assert process.returncode == -signal.SIGABRT
    assert process.stderr == "F0000 1 a.cc:1] no such instruction\n"
