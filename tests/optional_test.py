import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "statement", "message"),
    [
        (
            "matplotlib",
            "import l2l_tf.reporting.figures",
            "matplotlib must be installed for figures.",
        ),
        ("PIL", "import l2l_tf.data.photos", "pillow must be installed for pictures."),
        (
            "sklearn",
            "from l2l_tf.data import datasets; datasets.load('digits')",
            "scikit-learn must be installed for the digits that come with it.",
        ),
        (
            "filelock",
            "import experiments.harness.places",
            "filelock must be installed for experiments.",
        ),
    ],
)
def test_what_needs_a_package_that_is_missing_says_how_to_install_it(package, statement, message):
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(packages=[package]) + statement],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {message} Received: no module of it. "
        "Install it with `pip install 'l2l-tf[experiments]'`."
    )


@pytest.mark.slow
def test_using_and_training_rules_needs_none_of_them():
    packages = ["matplotlib", "PIL", "sklearn", "tensorflow_datasets", "filelock"]
    program = WITHOUT.format(packages=packages) + (
        "import l2l_tf\n"
        "l2l_tf.load, l2l_tf.MetaTrainer, l2l_tf.problems, l2l_tf.reporting\n"
        "l2l_tf.load_rule('quadratic_lstm')\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.slow
def test_every_public_name_is_at_home_where_the_package_says():
    program = (
        "import importlib, l2l_tf\n"
        "assert set(l2l_tf.__all__) == set(l2l_tf._HOMES)\n"
        "for name, home in l2l_tf._HOMES.items():\n"
        "    module = importlib.import_module(home)\n"
        "    assert name in module.__all__ and getattr(module, name) is getattr(l2l_tf, name)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
